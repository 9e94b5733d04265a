"""How a command has something changed: it asks the daemon, or, where none runs, does it under the daemon's lock."""

import asyncio
import contextlib
import getpass
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from daemon.config.settings import Config
from daemon.domain import AdminRequest
from daemon.errors import DaemonSilent, RequestRefused, StoreHeld
from daemon.store.failures import as_sentences
from daemon.store.lock import StoreLock
from daemon.store.store import Store, open_store

if TYPE_CHECKING:
    from daemon.service.daemon import Daemon

Result = Mapping[str, Any]
PATIENCE_S: Final = 30.0
"""How long the daemon may take to answer."""
_POLL_S: Final = 0.05


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Store]:
    """The store as it is, whoever else uses it; raises StoreError."""
    with as_sentences(config.store.path):
        async with open_store(config.store.path) as store:
            yield store


async def personas(store: Store, config: Config) -> set[str]:
    """Every persona that anyone ever heard of: by the config, by a correction, or by its genome."""
    return {*config.personas, *await store.corrections.personas(), *await store.genomes.personas()}


@asynccontextmanager
async def in_its_place(config: Config) -> "AsyncIterator[Daemon]":
    """A daemon that does only what this command asks; raises StoreHeld when a real one runs."""
    # Reading commands, which are most, start without all that a daemon is made of.
    from daemon.service import lifecycle
    from daemon.service.logs import configure_logs

    # What a log would tell, the command itself tells.
    configure_logs(config.log.model_copy(update={"level": "error"}))
    with as_sentences(config.store.path):
        async with opened(config):
            # There is a store: a command that changes something creates none.
            pass
        async with lifecycle.holding(config) as daemon:
            yield daemon


async def ask(config: Config, kind: str, args: Result, patience: float = PATIENCE_S) -> Result:
    """What came of a request; raises RequestRefused, DaemonSilent or StoreError."""
    if not StoreLock(config.store.path).held():
        # A daemon may start just now; then it is the one to ask.
        with contextlib.suppress(StoreHeld):
            async with in_its_place(config) as daemon:
                return await carried_out(daemon, kind, args)
    return await ask_daemon(config, kind, args, patience)


async def ask_daemon(config: Config, kind: str, args: Result, patience: float = PATIENCE_S) -> Result:
    """What the daemon that holds the store answers; a request that it does not take up in time is withdrawn."""
    lock = StoreLock(config.store.path)
    async with opened(config) as store:
        request = await store.requests.ask(kind, args, who())
        deadline = time.monotonic() + patience
        while (answer := await store.requests.get(request)) and answer.state in ("asked", "begun"):
            silent = time.monotonic() > deadline
            gone = not lock.held()
            # Withdrawn, so that asking again does not do it twice; what was begun is waited for.
            if (silent or gone) and await store.requests.withdraw(request, "withdrawn: nobody answered"):
                raise DaemonSilent(_silence(lock, None if gone else patience))
            if gone and answer.state == "begun":
                raise DaemonSilent(_interrupted())
            await asyncio.sleep(_POLL_S)
    return _result(answer)


async def carried_out(daemon: "Daemon", kind: str, args: Result) -> Result:
    """Write a request down and answer it ourselves, so that one log tells of everything; raises RequestRefused."""
    request = await daemon.store.requests.ask(kind, args, who())
    await daemon.admin.serve()
    return _result(await daemon.store.requests.get(request))


def who() -> str:
    """The user who asks, by name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _result(answer: AdminRequest | None) -> Result:
    if answer is None or answer.state == "refused":
        result = answer.result if answer else None
        raise RequestRefused(str((result or {}).get("error", "The request was refused.")))
    return answer.result or {}


def _interrupted() -> str:
    return "The daemon stopped while it did this; start it, and see `persona status` for whether it was done."


def _silence(lock: StoreLock, patience: float | None) -> str:
    pid = (lock.note() or {}).get("pid", "unknown")
    if patience is None:
        return f"The daemon (pid {pid}) stopped before it answered, and the request was withdrawn; try again."
    return (
        f"The daemon (pid {pid}) has not answered within {patience:.0f} s, and the request was withdrawn;"
        " see its log, or try again."
    )
