"""Files that others write: heard of soon, looked at now and then besides, for events can be missed."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

from daemon.config.settings import Config
from daemon.service.state import LiveConfig

_STEP_MS: Final = 400
"""How often the file watcher's thread looks for events: soon enough for people, seldom enough to idle."""
_DEBOUNCE_MS: Final = 800


async def changes(folder: Path, names: Collection[str], config: Callable[[], Config]) -> AsyncIterator[None]:
    """File events of some names in a folder, and the slow beat of the config besides, until cancelled."""
    while True:
        beat = config().service.beat
        events = awatch(
            folder,
            watch_filter=lambda _change, path: Path(path).name in names,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=int(beat * 1000),
            yield_on_timeout=True,
            recursive=False,
        )
        async with aclosing(events):
            async for _ in events:
                yield
                if config().service.beat != beat:
                    break


async def saved(live: LiveConfig) -> AsyncIterator[None]:
    """Whenever config.toml is another file than the one that was last read."""
    source = live().source
    async for _ in changes(source.parent, {source.name}, live):
        if live.stale():
            yield
