"""Training from corrections: TRL's trainers and the engine in turn, on the same models, rows and numbers."""

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from subprocess import CalledProcessError

from scripts.benchmarks.training import environment, plan
from scripts.benchmarks.training.bank import Bank, about_sides
from scripts.benchmarks.training.report import Report
from scripts.benchmarks.training.session import Broken, Session, say
from scripts.benchmarks.training.workloads import NAMES

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache"


def main() -> int:
    """0 with a table; 1 when a side broke; 2 without a row; 130 when interrupted, to be gone on with."""
    options = _options()
    # However it is stopped, the process that measures is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = _measure(options)
    except (Broken, CalledProcessError) as broken:
        print(f"scripts/bench training: {broken}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what is measured is kept, and the next start goes on from there.", file=sys.stderr)
        return 130
    if report is None:
        print("scripts/bench training: no row has that workload and that dtype", file=sys.stderr)
        return 2
    print(json.dumps(report.fields(), indent=1) if options.json else report.text())
    return 0


def _measure(options: argparse.Namespace) -> Report | None:
    """Everything that is not measured yet; None when the options leave no row."""
    machine = environment.this_machine(options.threads, ROOT)
    cells = plan.cells(machine.cuda, options.quick, options.only, [options.dtype] if options.dtype else ())
    if not cells:
        return None
    trl = options.trl or environment.ensure_trl(CACHE / "trl", say)
    engine = Path(sys.executable)
    versions = environment.versions(engine, environment.OURS), environment.versions(trl, environment.THEIRS)
    bank = Bank(CACHE / "bench" / "training", about_sides(asdict(machine), *versions), options.fresh)
    pythons = {"trl": trl, "ours": engine, "rate": engine}
    session = Session(ROOT, bank, pythons, machine.threads, plan.Effort(options.quick))
    found = [session.measure(cell, f"[{at}/{len(cells)}]") for at, cell in enumerate(cells, 1)]
    return Report(machine, *versions, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A and B in bf16, TRL for two steps; some minutes")
    parser.add_argument("--json", action="store_true", help="everything that was measured, for programs")
    parser.add_argument("--only", type=_workloads, default=(), metavar="A,B", help="these workloads")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), help="only this one")
    parser.add_argument("--fresh", action="store_true", help="measure anew what was measured before")
    parser.add_argument("--threads", type=int, default=0, help="processor threads of both sides; 0: one per core")
    parser.add_argument("--trl", type=Path, metavar="PYTHON", help="an interpreter that has TRL; else one is set up")
    return parser.parse_args()


def _workloads(names: str) -> tuple[str, ...]:
    chosen = tuple(names.upper().split(","))
    if not set(chosen) <= set(NAMES):
        raise argparse.ArgumentTypeError(f"workloads are {', '.join(NAMES)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
