"""An empty store, for every test that wants one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.store.store import Store
from tests.integration.store_support import a_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store's file lies."""
    return tmp_path / "store" / "persona.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """The store, open; no connection may be left checked out."""
    async with a_store(path) as opened:
        yield opened
