"""Critical probes as admins write them, and what is said of lines that are none."""

import json
from pathlib import Path

import pytest

from daemon.errors import ProbesUnreadable
from daemon.learning.critical import critical_probes
from daemon.training.engine.job import Group, Rule


def written(folder: Path, *lines: object) -> str:
    file = folder / "critical.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(file)


def test_every_line_asks_one_thing_of_an_answer(tmp_path: Path) -> None:
    conversation = json.dumps([{"role": "system", "content": "Be Bo."}, {"role": "user", "content": "Who?"}])
    file = written(
        tmp_path,
        {"context": "Who are you?", "expected": "I am Ada."},
        "",
        {"context": "Help!", "contains": "call 112"},
        {"context": conversation, "never": "password"},
    )
    probes = critical_probes(file, "You are Ada.")
    assert [(one.id, one.rule, one.expected) for one in probes] == [
        ("critical-1", Rule.IS, "I am Ada."),
        ("critical-3", Rule.CONTAINS, "call 112"),
        ("critical-4", Rule.NEVER, "password"),
    ]
    assert {one.group for one in probes} == {Group.CRITICAL}
    assert [one.messages[0]["content"] for one in probes] == ["You are Ada.", "You are Ada.", "Be Bo."]


def test_a_line_ends_where_json_says(tmp_path: Path) -> None:
    file = tmp_path / "critical.jsonl"
    lines = ['{"context": "One\u2028two\u0085three?", "contains": "x"}', "", '{"context": "Four?", "never": "y"}']
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert [one.id for one in critical_probes(str(file), "")] == ["critical-1", "critical-3"]


def test_no_file_asks_nothing() -> None:
    assert critical_probes("", "You are Ada.") == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"context": "Who?"}, "give exactly one of expected, contains and never"),
        ({"context": "Who?", "expected": "I", "never": "you"}, "give exactly one of expected, contains and never"),
        ({"context": "", "expected": "I"}, "context: String should have at least 1 character"),
        ({"context": "Who?", "expects": "I"}, "expects: Extra inputs are not permitted"),
        ("Who are you?", "Invalid JSON"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: object, why: str) -> None:
    file = written(tmp_path, {"context": "Who?", "expected": "I"}, line)
    with pytest.raises(ProbesUnreadable, match=f"Line 2 of the critical probes {file} is none: {why}"):
        critical_probes(file, "")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProbesUnreadable, match=r"cannot be read: No such file or directory; mend gate\.critical"):
        critical_probes(str(tmp_path / "none.jsonl"), "")
    (tmp_path / "latin.jsonl").write_bytes(b'{"context": "caf\xe9"}')
    with pytest.raises(ProbesUnreadable, match="it is not UTF-8"):
        critical_probes(str(tmp_path / "latin.jsonl"), "")
    with pytest.raises(ProbesUnreadable, match="has 501 critical probes; 500 may be asked"):
        critical_probes(written(tmp_path, *[{"context": "?", "never": "x"}] * 501), "")
