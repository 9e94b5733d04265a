"""Texts of strangers on a terminal."""

import io
import json
import sys
import time

import pytest

from daemon.cli.showing import count, cut, json_text, moment, plain
from daemon.domain import Run, RunState, TraitKey


def test_a_text_neither_colours_nor_moves_anything() -> None:
    assert plain("a\x1b[31mb\x07\x9bc\rd") == "a�[31mb��c�d"
    assert plain("two\nlines, ä 🙂") == "two\nlines, ä 🙂"


def test_a_text_is_cut_to_one_line() -> None:
    assert cut("a\n b\t c") == "a b c"
    assert cut("x" * 100, 10) == "x" * 9 + "…"
    assert cut(None) == ""


def test_counts_and_moments_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [count(number, "row") for number in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert moment(1_800_000_000) == "2027-01-15 09:00:00 CET"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_survives_every_encoding_and_every_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    document = {"text": "ä 🙂 \udcff \x00"}
    print(json_text(document), flush=True)
    assert json.loads(out.buffer.getvalue().decode(encoding)) == document


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([RunState.PROMOTED, RunState.SATISFIED], 0),
        ([RunState.PROMOTED, RunState.REJECTED], 4),
        ([RunState.REJECTED, RunState.FAILED], 1),
        ([RunState.CANCELLED], 1),
        ([RunState.PLANNED], 1),
    ],
)
def test_runs_that_were_waited_for_have_one_exit_code(states: list[RunState], code: int) -> None:
    from daemon.cli.following import exit_code

    runs = [Run("id", TraitKey("ada", "rust"), state, "", 1, 1, 0, 0, 0.0) for state in states]
    assert exit_code(runs) == code
