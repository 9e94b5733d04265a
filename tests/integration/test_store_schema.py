"""The store behaves towards other programs as the schema promises: literally, and in sentences."""

import sqlite3
import subprocess
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

from daemon.domain import Purpose
from daemon.errors import StoreError, StoreNewer
from daemon.store import schema
from daemon.store.store import open_store

FIVE = (
    "INSERT INTO training_corrections (persona_id, trait_type, original_context, original_response, expected_response)"
)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A fresh store's file."""
    async with open_store(tmp_path / "store" / "persona.db", create=True):
        pass
    return tmp_path / "store" / "persona.db"


def sqlite(path: Path, sql: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sqlite3", "-cmd", ".timeout 60000", path, sql], capture_output=True, text=True, check=False)


def test_five_columns_are_enough_for_the_command_line(path: Path) -> None:
    done = sqlite(path, f"{FIVE} VALUES ('helper-ai', 'typescript-expert', 'What?', 'I don''t know', 'Shapes.')")
    assert (done.returncode, done.stderr) == (0, "")
    row = sqlite(path, "SELECT length(id), severity, kind, source, is_used_in_training FROM training_corrections")
    assert row.stdout.strip() == "32|0.5|correction|explicit|0"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("'../x', 't', 'c', 'o', 'e'", "persona_id: 1 to 128 of A-Z a-z 0-9 . _ -, no leading dot"),
        ("'p', 'Trait', 'c', 'o', 'e'", "trait_type: 1 to 128 of a-z 0-9 . _ -, no leading dot"),
        ("'p', 't', 'c', 'o', '  '", "expected_response is text and not blank"),
        ("'p', 't', x'00ff', 'o', 'e'", "original_context is text"),
        ("'p', 't', 'c', NULL, 'e'", "NOT NULL constraint failed: training_corrections.original_response"),
    ],
)
def test_a_bad_row_is_refused_with_a_sentence(path: Path, values: str, sentence: str) -> None:
    done = sqlite(path, f"{FIVE} VALUES ({values})")
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE training_corrections SET expected_response = 'x'", "a correction does not change"),
        ("DELETE FROM training_corrections", "corrections are kept; use: persona forget"),
        ("UPDATE training_corrections SET is_used_in_training = 1", "is_used_in_training is the daemon's to set"),
    ],
)
def test_a_row_is_kept_as_it_was_written(path: Path, statement: str, sentence: str) -> None:
    sqlite(path, f"{FIVE} VALUES ('p', 't', 'c', 'o', 'e')")
    assert sentence in sqlite(path, statement).stderr


def test_a_row_is_born_unused(path: Path) -> None:
    statement = FIVE.replace("expected_response)", "expected_response, is_used_in_training)")
    assert "the daemon's to set" in sqlite(path, f"{statement} VALUES ('p', 't', 'c', 'o', 'e', 1)").stderr


async def test_models_and_migrations_agree(path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        found = compare_metadata(context, SQLModel.metadata)
        return [change for change in found if "index" not in str(change[0]) and "fk" not in str(change[0])]

    async with open_store(path) as store, store.database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_newer_store_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreNewer, match=r"version 9999, newer than this program.*upgrade"):
        async with open_store(path, create=True):
            pass


async def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"There is no store at .*persona init"):
        async with open_store(tmp_path / "none.db"):
            pass


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text(
        "these are notes, and long enough to be looked at as a header of a database file\n" * 9
    )
    with pytest.raises(StoreError, match="is not a SQLite database"):
        async with open_store(tmp_path / "notes.db", create=True):
            pass


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"directory .* cannot be made"):
        async with open_store(tmp_path / "file" / "store" / "persona.db", create=True):
            pass


async def test_opening_again_migrates_nothing(path: Path) -> None:
    sqlite(path, f"{FIVE} VALUES ('p', 't', 'c', 'o', 'e')")
    async with open_store(path, create=True) as store:
        assert [backlog.pending for backlog in await store.corrections.backlog()] == [1]


async def test_a_store_of_the_first_version_is_brought_to_this_one(tmp_path: Path) -> None:
    old = tmp_path / "store" / "persona.db"
    old.parent.mkdir()
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    with create_engine(f"sqlite:///{old}").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        columns = "id, persona_id, trait_type, state, created_at"
        values = "'r', 'ada', 'rust', 'promoted', '2026-01-01T00:00:00Z'"
        connection.exec_driver_sql(f"INSERT INTO training_runs ({columns}) VALUES ({values})")
    async with open_store(old, create=True) as store:
        run = await store.runs.get("r")
        assert run and (run.purpose, dict(run.task)) == (Purpose.LEARN, {})
