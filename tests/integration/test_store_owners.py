"""Who may do what with the store's files: others read, and whoever may not is told so in a sentence."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import which
from sqlite3 import connect

import pytest

from scripts.processes import PATIENCE_S
from tests.integration.store_support import a_store, execute, write

ROOT = Path(__file__).parents[2]
# To root no mode means anything; without its capabilities it is a user like others.
HUMBLE = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
USE = """
import asyncio, sys
from pathlib import Path
from daemon.errors import PersonaError
from daemon.store.store import open_store

async def use():
    async with open_store(Path(sys.argv[1])) as store:
        print([backlog.pending for backlog in await store.corrections.backlog()])
        await store.database.require_writable()
        print("It can be written.")

try:
    asyncio.run(use())
except PersonaError as error:
    print(error)
"""


@pytest.fixture
async def filled(path: Path) -> Path:
    """A store with one correction in it, that nobody has open."""
    async with a_store(path):
        write(path, "one")
    return path


@pytest.fixture
def modes(filled: Path) -> Iterator[Path]:
    """The same; whatever becomes of its modes, it can be removed."""
    yield filled
    filled.parent.chmod(0o700)


def use(path: Path) -> list[str]:
    """What a program says that reads the store, and then asks whether it could write."""
    if HUMBLE and which(HUMBLE[0]) is None:
        pytest.skip("as root this needs setpriv")
    command = [*HUMBLE, sys.executable, "-c", USE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_its_owner_reads_and_writes(modes: Path) -> None:
    assert use(modes) == ["[1]", "It can be written."]


def test_whoever_may_only_read_the_file_reads(modes: Path) -> None:
    modes.chmod(0o440)
    read, refused = use(modes)
    assert read == "[1]"
    assert refused == (
        f"The store {modes} cannot be written (attempt to write a readonly database);"
        " see to who owns it and its directory."
    )


def test_whoever_may_not_write_the_directory_reads_while_somebody_has_the_store_open(modes: Path) -> None:
    with closing(connect(modes)) as daemon:
        daemon.execute("INSERT INTO admin_requests (kind) VALUES ('train')")
        for file in modes.parent.iterdir():
            file.chmod(0o440)
        modes.parent.chmod(0o550)
        read, refused = use(modes)
        assert read == "[1]" and "cannot be written" in refused
    (refused,) = use(modes)
    assert refused == (
        f"Whoever may not write in the directory of the store {modes} cannot open it, unless somebody else has it open"
        " (attempt to write a readonly database); start the daemon, or see to who owns the directory."
    )
    modes.parent.chmod(0o700)
    modes.chmod(0o640)
    assert execute(modes, "SELECT count(*) FROM training_corrections") == [(1,)]


def test_whoever_may_not_read_the_file_is_told(modes: Path) -> None:
    modes.chmod(0)
    (refused,) = use(modes)
    assert refused.startswith(f"The store {modes} cannot be opened (unable to open database file); see to who owns it")


def test_whoever_may_not_enter_the_directory_is_told(modes: Path) -> None:
    modes.parent.chmod(0)
    (refused,) = use(modes)
    assert refused == (
        f"The store's directory {modes.parent} cannot be entered (Permission denied);"
        " see to who owns it, or set store.url."
    )
