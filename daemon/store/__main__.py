"""`python -m daemon.store FILE`: create or migrate a store, in a process whose memory goes with it."""

import asyncio
import sys
from pathlib import Path

from daemon.errors import StoreError
from daemon.store.store import open_store


async def _migrate(path: Path) -> None:
    async with open_store(path, create=True):
        pass


try:
    asyncio.run(_migrate(Path(sys.argv[1])))
except StoreError as error:
    # Whoever started us says it: standard error is for what nobody foresaw.
    print(error)
    sys.exit(error.exit_code)
