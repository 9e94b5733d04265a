"""What leads to runs: the daemon is asked for them, or, where none runs, they are done here; then they are followed."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daemon.cli.showing import count, hint, print_json, run_document, say, short
from daemon.errors import DaemonSilent, NothingToDo, PersonaError, StoreHeld

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Run
    from daemon.service.daemon import Daemon
    from daemon.store.lock import StoreLock
    from daemon.store.store import Store


_OWED_S: Final = 60.0
"""How long the daemon may take to plan what it owes, once the run before it has ended."""
_POLL_S: Final = 0.2
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow the runs to their end; without a daemon, always so.")]


@dataclass(frozen=True)
class Wish:
    """A request that leads to runs, and whose runs these are."""

    kind: str
    args: Mapping[str, Any]
    persona: str | None = None
    trait: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The runs that train what was asked for, and what others wait for."""

    runs: "list[Run]"
    answer: Mapping[str, Any]
    """What came of the request: which runs are new, what waits, and why."""
    followed: bool
    """Whether the runs were waited for."""


def work(config: "Config", wish: Wish, wait: bool) -> Outcome:
    """Have runs planned, and done where no daemon does them; raises RequestRefused, DaemonSilent or StoreError."""
    try:
        return asyncio.run(_worked(config, wish, wait))
    except KeyboardInterrupt:
        _tell_what_goes_on(config)
        raise


def show(outcome: Outcome, json: bool) -> None:
    """What became of the runs, for people or programs; raises typer.Exit with what they mean together."""
    if json:
        print_json({"runs": [run_document(run) for run in outcome.runs], "waits": outcome.answer["waits"]})
    else:
        _tell(outcome)
    raise typer.Exit(_exit_code(outcome))


async def _worked(config: "Config", wish: Wish, wait: bool) -> Outcome:
    from daemon.cli.asking import in_its_place
    from daemon.store.lock import StoreLock

    if not StoreLock(config.store.path).held():
        # A daemon may start just now; then it is the one to ask.
        with suppress(StoreHeld):
            async with in_its_place(config) as daemon:
                return await _by_ourselves(daemon, wish)
    return await _by_the_daemon(config, wish, wait)


async def _by_the_daemon(config: "Config", wish: Wish, wait: bool) -> Outcome:
    from daemon.cli.asking import ask_daemon, opened
    from daemon.store.lock import StoreLock

    answer = await ask_daemon(config, wish.kind, wish.args)
    lock = StoreLock(config.store.path)
    async with opened(config) as store:
        if not wait:
            return Outcome(await _runs(store, [*answer["runs"], *answer["under_way"]]), answer, followed=False)
        runs = await _followed(store, lock, answer)
    if any(run.state.live for run in runs):
        raise DaemonSilent("The daemon stopped meanwhile; the runs go on when it is started again.")
    return Outcome(runs, answer, followed=True)


async def _followed(store: "Store", lock: "StoreLock", answer: Mapping[str, Any]) -> "list[Run]":
    """Watch the daemon carry out what was asked for, and then what it owes for what came later."""
    from daemon.cli.following import follow

    runs = await follow(store, [*answer["runs"], *answer["under_way"]], lock, lock.held)
    deadline = time.monotonic() + _OWED_S
    owed = {run.key for run in runs if str(run.key) in answer["owed"]}
    while owed and lock.held() and time.monotonic() < deadline:
        known = {run.id for run in runs}
        later = [run for key in owed for run in await store.runs.latest(1, *key) if run.id not in known]
        owed -= {run.key for run in later}
        runs += await follow(store, [run.id for run in later], lock, lock.held)
        await asyncio.sleep(_POLL_S)
    return runs


async def _by_ourselves(daemon: "Daemon", wish: Wish) -> Outcome:
    """Plan and conduct, as the daemon would."""
    from daemon.cli.asking import carried_out
    from daemon.cli.following import follow
    from daemon.learning.planner import Ask
    from daemon.service import lifecycle
    from daemon.store.lock import StoreLock

    answer = await carried_out(daemon, wish.kind, wish.args)
    ids = [*answer["runs"], *answer["under_way"]]
    if not ids:
        return Outcome([], answer, followed=True)
    work = asyncio.create_task(lifecycle.carry_out(daemon), name="work")
    try:
        lock = StoreLock(daemon.config().store.path)
        await follow(daemon.store, ids, lock, lambda: not work.done())
        asked = Ask("", wish.persona, wish.trait)
        ids += [run.id for run in await work if run.id not in ids and asked.covers(run.key)]
    finally:
        work.cancel()
        await asyncio.wait([work])
    return Outcome(await _runs(daemon.store, ids), answer, followed=True)


async def _runs(store: "Store", ids: Sequence[str]) -> "list[Run]":
    return [run for run in [await store.runs.get(run_id) for run_id in ids] if run]


def _tell(outcome: Outcome) -> None:
    if brought := outcome.answer.get("corrections"):
        say(f"{count(brought, 'correction')} {'comes' if brought == 1 else 'come'} along.")
    for run in outcome.runs:
        name = f"{run.key} v{run.version}"
        if not outcome.followed:
            say(f"{name}  {_at(run, outcome)} run {short(run.id)}")
        elif run.state.live:
            say(f"{name}  will be tried again: {run.reason or 'its time has not come'}; run {short(run.id)}")
        else:
            say(f"{name}  {run.state}: {run.reason}  (persona runs show {short(run.id)})")
    for name, why in outcome.answer["waits"].items():
        if not (outcome.followed and name in outcome.answer["owed"]):
            say(f"{name}  not planned: {why}")


def _at(run: "Run", outcome: Outcome) -> str:
    """What became of the wish, of a run that nobody follows."""
    if run.id in outcome.answer["runs"]:
        return "planned as"
    put_off = run.state == "planned" and run.reason
    return f"tried again, after: {run.reason};" if put_off else "under way already,"


def _tell_what_goes_on(config: "Config") -> None:
    """After Ctrl-C: what becomes of the runs that are no longer watched."""
    from daemon.cli.following import STOPPED
    from daemon.store.lock import StoreLock

    if StoreLock(config.store.path).held():
        hint("No longer watched; the daemon goes on with it: persona status")
    else:
        hint(STOPPED)


def _exit_code(outcome: Outcome) -> int:
    from daemon.cli.following import exit_code

    if not outcome.runs:
        return PersonaError.exit_code if outcome.answer["hindered"] else NothingToDo.exit_code
    return exit_code(outcome.runs) if outcome.followed else 0
