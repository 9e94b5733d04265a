"""What the daemon costs while nothing happens, beside a process that keeps the training libraries loaded."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from scripts.processes import free_port, running

LOADED = "import torch, transformers, peft; print('ready', flush=True); import time; time.sleep(3600)"


@dataclass(frozen=True)
class Cost:
    """Resident memory in MB (10⁶ bytes), and share of one core in per cent."""

    process: str
    resident_mb: float
    cpu_percent: float


def measure(name: str, pid: int, seconds: float) -> Cost:
    """Watch a process for a while; its memory is that at the end."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    used = (after.user + after.system) - (before.user + before.system)
    return Cost(name, round(process.memory_info().rss / 1e6, 1), round(100 * used / seconds, 2))


def main() -> None:
    """Measure both, one after the other."""
    parser = argparse.ArgumentParser(prog="scripts/bench idle", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 seconds instead of 60")
    parser.add_argument("--json", action="store_true", help="everything that was measured, for programs")
    options = parser.parse_args()
    seconds = 10.0 if options.quick else 60.0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.toml").write_text(f"[serve]\nport = {free_port()}\n")
        with running(Path(folder), "daemon") as (daemon,):
            daemon.wait_for("daemon.ready")
            time.sleep(2)
            costs = [measure("persona daemon", daemon.process.pid, seconds)]
    with subprocess.Popen([sys.executable, "-c", LOADED], stdout=subprocess.PIPE) as loaded:
        assert loaded.stdout is not None
        loaded.stdout.readline()
        costs.append(measure("python with torch, transformers and peft", loaded.pid, min(seconds, 10.0)))
        loaded.kill()
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return
    table = Table("idle process", "resident, MB", f"CPU over {seconds:.0f} s, % of a core")
    for cost in costs:
        table.add_row(cost.process, f"{cost.resident_mb:.1f}", f"{cost.cpu_percent:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
