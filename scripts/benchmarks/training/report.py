"""The whole answer: where and with what it was measured, the table, and how each side was run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

from scripts.benchmarks.training import plan, settings
from scripts.benchmarks.training.environment import Machine
from scripts.benchmarks.training.rows import Spread, matrix_rates, rows
from scripts.benchmarks.training.session import ENVIRONMENT, Found
from scripts.benchmarks.training.settings import VARIANTS
from scripts.benchmarks.training.table import align, render
from scripts.benchmarks.training.workloads import workload

NOTES = {
    "~": "~: reckoned from a part of the training, {cuts}.",
    "wall": "Wall: median (least–most) of the training alone, in a process that has loaded its base model; for D with"
    " the pass for the reference.",
    "E": "E: wall from the start of a process, imports and loading included. TRL: one process that trains all traits in"
    " turn, and a process for each as a cron job would do it. The engine: the trainer"
    " child, fed job lines, with its probes; it chooses its dtype by itself.",
    "rate": "Of the matrix rate: 4 × parameters of the layers × distinct tokens / wall, over the matrix rate.",
    "peak": "Peak: most resident memory of the process on a CPU, libraries included; most allocated memory on a GPU.",
    "loss": "Loss: mean per answer token, for D of the preferred answers and with DPO's added, over the whole set, for"
    " E over every fifth trait; measured on the saved adapter, in one way for both sides.",
}
WIDTH = 120


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found, and what it was found on."""

    machine: Machine
    engine: Mapping[str, str]
    trl: Mapping[str, str]
    """Versions of the two sides."""
    found: Sequence[Found]

    def text(self) -> str:
        """For people."""
        return "\n\n".join([self._head(), render(rows(self.found)), self._settings(), self._notes()])

    def fields(self) -> dict[str, Any]:
        """For programs: seconds, bytes, operations per second."""
        return {
            "measured": self._dates(),
            "machine": asdict(self.machine),
            "versions": {"engine": dict(self.engine), "trl": dict(self.trl)},
            "matrix_rates": {dtype: asdict(rate) for dtype, rate in matrix_rates(self.found).items()},
            "rows": [asdict(row) for row in rows(self.found)],
            "measurements": [asdict(found) for found in self.found],
        }

    def _head(self) -> str:
        machine = self.machine
        first, last = self._dates()
        lines = [["measured", f"{first} to {last}"]]
        lines += [["machine", f"{machine.device}, {machine.cores} cores, {_bf16(machine)}"]]
        lines += [["engine", _versions(self.engine)], ["TRL", _versions(self.trl)]]
        waiting = f"GOMP_SPINCOUNT={ENVIRONMENT['GOMP_SPINCOUNT']}"
        lines += [["both", f"{machine.threads} threads, {waiting}"], ["", _training()]]
        side = settings.MATRIX["cuda" if machine.cuda else "cpu"]
        for dtype, rate in matrix_rates(self.found).items():
            lines += [["matrix rate", f"{dtype} {_gigaflops(rate)}, best product of {side} × {side}"]]
        return align(lines, 2)

    def _settings(self) -> str:
        """How TRL was run, and how long it would have taken with its other settings."""
        lines = [["", "TRL's best settings", f"seconds, reckoned from {plan.TUNED} steps"]]
        told = set[tuple[str, str]]()
        for found in self.found:
            cell = found.cell
            if (cell.workload, cell.dtype) not in told:
                told.add((cell.workload, cell.dtype))
                tried = (f"{variant} {kept.measured.whole:.0f}" for variant, kept in found.trials.items())
                name = "E, as for A" if cell.workload == "E" else cell.workload
                lines.append([f"{name}, {cell.dtype}", VARIANTS[found.variant].says, ", ".join(tried)])
        return align(lines, 3)

    def _notes(self) -> str:
        names = list(dict.fromkeys(found.cell.workload for found in self.found))
        sides = [side for row in rows(self.found) for side in (row.theirs, row.ours) if side]
        cuts = " or ".join(dict.fromkeys(side.cut for side in sides if side.cut))
        shown = {"wall", "loss", "rate", "peak"} | ({"~"} if cuts else set()) | ({"E"} if "E" in names else set())
        notes = [f"{name}: {workload(name).says}." for name in names]
        notes += [note.format(cuts=cuts) for key, note in NOTES.items() if key in shown]
        return "\n".join(fill(note, WIDTH, subsequent_indent="  ") for note in notes)

    def _dates(self) -> tuple[str, str]:
        """The first and the last measurement, in UTC."""
        kept = [
            one.at
            for found in self.found
            for one in (*found.rates, *found.trials.values(), *found.theirs, *found.ours, *found.crons)
        ]
        return min(kept), max(kept)


def _bf16(machine: Machine) -> str:
    if machine.cuda:
        return "GPU"
    return f"bf16 native ({machine.native})" if machine.native else "bf16 not native"


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _training() -> str:
    return (
        f"LoRA rank {settings.RANK}, alpha {settings.ALPHA}, {settings.TARGETS}; AdamW {settings.LEARNING_RATE:g}"
        f" constant, batch {settings.BATCH}, {settings.EPOCHS} epochs, seed {settings.SEED}"
    )


def _gigaflops(rate: Spread) -> str:
    middle, low, high = (f"{value / 1e9:,.0f}" for value in (rate.median, rate.low, rate.high))
    return f"{middle} GFLOP/s (median; {low}–{high} in {rate.count} looks)" if rate.count > 1 else f"{middle} GFLOP/s"
