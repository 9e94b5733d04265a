"""Whoever holds the store's lock publishes what was promoted, and begins a stop whatever else fails."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from daemon.config.settings import Config
from daemon.genome import genome_file
from daemon.service import lifecycle
from daemon.store.lock import StoreLock
from daemon.store.store import Store
from scripts.processes import running
from tests.integration.cli_support import Desk
from tests.integration.serve_support import until
from tests.integration.store_support import a_store, promoted


@pytest.fixture
def config(tmp_path: Path, path: Path) -> Config:
    """Over the store of the tests; a stop that it begins is over before the grace is."""
    file = tmp_path / "config.toml"
    file.write_text(f"[store]\nurl = 'sqlite:///{path}'\n[service]\ngrace = '1h'\n", encoding="utf-8")
    return Config.load(file, {})


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """Open beside that of the daemon."""
    async with a_store(path) as opened:
        yield opened


def published(config: Config) -> int:
    """The revision that the server is told of; 0 for none."""
    file = genome_file.genome_path(Path(config.layers.directory), "ada")
    return genome_file.read(file).revision if file.exists() else 0


async def test_what_an_interrupted_command_promoted_is_published_by_the_next(
    config: Config, store: Store, path: Path
) -> None:
    await promoted(store, path, "one")
    async with lifecycle.holding(config):
        assert published(config) == 1


async def test_who_is_interrupted_after_a_promotion_publishes_it_before_leaving(
    config: Config, store: Store, path: Path
) -> None:
    with suppress(InterruptedError):
        async with lifecycle.holding(config):
            await promoted(store, path, "one")
            assert published(config) == 0
            raise InterruptedError
    assert published(config) == 1


async def test_what_an_admin_has_changed_while_others_train_is_published_at_once(
    config: Config, store: Store, path: Path
) -> None:
    await promoted(store, path, "one")
    async with lifecycle.holding(config) as daemon, lifecycle._answering(daemon):
        await store.requests.ask("rollback", {"persona": "ada", "trait": "rust"}, "me")

        async def told() -> bool:
            return published(config) == 2

        await until(told)


@pytest.fixture
def full_log() -> Iterator[None]:
    """A log on a disk that is full."""
    before = structlog.get_config()
    with suppress(OSError), Path("/dev/full").open("w") as log:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        yield
        structlog.configure(**before)


@pytest.mark.usefixtures("full_log", "store")
async def test_invariant_12_a_stop_begins_though_nothing_can_be_written(config: Config) -> None:
    async with lifecycle.holding(config) as daemon:
        with pytest.raises(OSError, match="No space left on device"):
            lifecycle._handlers(daemon)[signal.SIGTERM]()
        assert daemon.wakes.stop.is_set() and daemon.note.values["state"] == "draining"


async def test_the_status_that_a_signal_asks_for_is_logged_at_every_level(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"log.level": "error"})
    desk.ok("init")
    lock = StoreLock(desk.store)
    with running(tmp_path, "daemon") as (daemon,):

        async def ready() -> bool:
            return lock.held() and (lock.note() or {}).get("state") == "ready"

        async def told() -> bool:
            # It may be ready a moment before it hears.
            daemon.process.send_signal(signal.SIGUSR2)
            return bool(daemon.events("daemon.status"))

        await until(ready)
        await until(told)
        assert daemon.events("daemon.ready") == []
