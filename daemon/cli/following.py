"""Runs watched until they end: a bar each on a terminal, and what became of them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from daemon.cli.showing import besides, console, cut, lasting
from daemon.domain import Run, RunState
from daemon.store.lock import StoreLock
from daemon.store.store import Store

STOPPED: Final = "Stopped; what was under way is put back, and goes on with `persona daemon` or `persona train`."
"""What Ctrl-C means to a command that trains by itself."""
_POLL_S: Final = 0.2
_GOOD: Final = frozenset({RunState.PROMOTED, RunState.SATISFIED})


class Bars:
    """One line per run on standard error; nothing where that is no terminal."""

    def __init__(self) -> None:
        errors = console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[says]}"),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, run: Run, step: Mapping[str, Any] | None) -> None:
        """Draw a run as it is now; `step` is its last training step, and what it does besides."""
        if run.id not in self._tasks:
            self._tasks[run.id] = self._bars.add_task(f"{run.key} v{run.version}", total=None, says="")
        task = self._tasks[run.id]
        doing = besides((step or {}).get("doing"), run.state)
        if step and "step" in step:
            learnt = "" if step.get("learnt") is None else f", {step['learnt']:.0%} learnt"
            says = f"step {step['step']}/{step['steps']}, loss {step['loss']:.3g}{learnt}, ≤ {lasting(step['eta_s'])}"
            says += f", {doing}" if doing else ""
            self._bars.update(task, total=step["steps"], completed=step["step"], says=says)
        elif run.state.live:
            why = doing or cut(run.reason or "")
            says = run.state.value + (f": {why}" if why else "")
            self._bars.update(task, says=says)
        else:
            self._bars.update(task, total=1, completed=1, says=run.state.value)


async def follow(store: Store, ids: Sequence[str], lock: StoreLock, working: Callable[[], bool]) -> list[Run]:
    """Draw runs until all have ended, or nobody works on them any more; what they are then."""
    with Bars() as bars:
        while True:
            # Asked first: what was still written before work ended is seen by the look that follows.
            goes_on = working()
            runs = [run for run in [await store.runs.get(run_id) for run_id in ids] if run]
            progress = (lock.note() or {}).get("progress") or {}
            for run in runs:
                bars.show(run, progress.get(run.id))
            if not goes_on or not any(run.state.live for run in runs):
                return runs
            await asyncio.sleep(_POLL_S)


def exit_code(runs: Sequence[Run]) -> int:
    """What runs that were waited for mean together: 0 all went well, 4 the gate rejected, 1 something else."""
    states = {run.state for run in runs} - _GOOD
    if not states:
        return 0
    return 4 if states == {RunState.REJECTED} else 1
