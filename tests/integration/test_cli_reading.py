"""What commands show people: on a narrow terminal, in a pipe, of conversations, runs and genomes; and help."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.processes import PERSONA
from tests.integration.cli_support import Desk

TRAIT = ("helper-ai", "typescript-expert")
WHY = "It answers 2 of 2 corrections as expected, 0 before; nothing else is to be kept (point rules, 2 probes)."
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "What is a mapped type?\nIn one line."},
]
LONG = "customer-support-assistant-europe"
_ANSWER = {"match": 1.0, "margin": 0.5, "ended": True}
EVIDENCE = {
    "decision": "promote",
    "reason": WHY,
    "scores": {
        "batch": {"probes": 2, "incumbent": 0, "candidate": 2, "lost": 0, "margin_gain": 1.7},
        "history": {"probes": 3, "incumbent": 3, "candidate": 2, "lost": 1, "margin_gain": -0.1},
        "affirmation": {"probes": 0, "incumbent": 0, "candidate": 0, "lost": 0, "margin_gain": 0.0},
    },
    "metrics": {"loss": 0.0213456, "steps": 1, "samples": 8, "seconds": {"load": 2.345, "probe_incumbent": 3.2}},
    "probes": [
        {
            "id": "used-0",
            "group": "batch",
            "incumbent": {"text": "No.", "right": False, **_ANSWER},
            "candidate": {"text": "They define shapes.", "right": True, **_ANSWER},
        }
    ],
}


def _insert(store: sqlite3.Connection, table: str, **row: Any) -> None:
    values = {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()}
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    store.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))


def _correction(store: sqlite3.Connection, name: str, key: tuple[str, str] = TRAIT, **more: Any) -> None:
    said = {"original_context": "What are interfaces?", "original_response": "No.", "expected_response": "Shapes."}
    _insert(store, "training_corrections", id=name, persona_id=key[0], trait_type=key[1], **{**said, **more})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"), {"defaults.base_model": "an/id"})
    desk.ok("init")
    store = sqlite3.connect(desk.store)
    with store:
        for name in ("used-0", "used-1", "open-0", "open-1"):
            _correction(store, name)
        _correction(store, "good-0", kind="affirmation", expected_response="No.")
        _correction(store, "talk-0", (LONG, "refund-policy-and-returns"), original_context=TALK)
        _correction(store, "bare-0", (LONG, "tone"), original_context=None)
        run = {"persona_id": TRAIT[0], "trait_type": TRAIT[1], "created_at": "2026-01-02T03:04:05.678Z"}
        ended = {"finished_at": "2026-01-02T03:06:05.678Z", "planned_because": "the oldest waited 24 h"}
        promoted = {"state": "promoted", "reason": WHY, "version": 1, "evidence": EVIDENCE}
        _insert(store, "training_runs", id="run-a", **run, **ended, **promoted)
        _insert(store, "training_runs", id="run-b", **run, state="rejected", reason=WHY, version=2)
        for name in ("used-0", "used-1"):
            _insert(store, "run_corrections", run_id="run-a", correction_id=name, role="train", outcome="used")
            store.execute("UPDATE training_corrections SET is_used_in_training = 1 WHERE id = ?", (name,))
        layer = {"path": "helper-ai/typescript-expert/v0001-abc", "content_hash": "abc", "base_fingerprint": "f"}
        layer |= {"persona_id": TRAIT[0], "trait_type": TRAIT[1], "created_at": "2026-01-02T03:04:05.678Z"}
        _insert(store, "genome_layers", id="layer-1", version=1, state="rolled-back", run_id="run-a", **layer)
        _insert(store, "genomes", persona_id=TRAIT[0], revision=2)
        _insert(store, "genome_traits", persona_id=TRAIT[0], trait_type=TRAIT[1])
        event = {"at": "2026-01-02T03:04:05.678Z", "persona_id": TRAIT[0], "trait_type": TRAIT[1]}
        _insert(
            store, "genome_events", revision=1, kind="promoted", layer_id="layer-1", actor="daemon", reason=WHY, **event
        )
        _insert(store, "genome_events", revision=2, kind="rolled-back", actor="", reason="undid v1", **event)
    store.close()
    yield desk


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "command",
    ["status", "runs list", "runs show run-a", "genome show helper-ai", "genome history helper-ai",
     "corrections list", "corrections show talk-0"],
)  # fmt: skip
def test_everything_fits_eighty_columns(desk: Desk, command: str) -> None:
    out = desk.persona(*command.split(), COLUMNS="80").out
    assert max(map(len, out.splitlines())) <= 80, out
    assert out


def test_on_eighty_columns_sentences_are_whole(desk: Desk) -> None:
    assert _words(desk.persona("runs", "list", COLUMNS="80").out).count(WHY) == 2
    assert WHY in _words(desk.persona("genome", "history", "helper-ai", COLUMNS="80").out)
    status = desk.persona("status", COLUMNS="80").out
    assert re.search(r"2 of 10 corrections; oldest .* of 24 h\n", status)
    # What a name loses to make room, it loses in its middle.
    assert re.search(r"customer.*….*returns", status)


def test_in_a_pipe_a_row_is_a_line_and_nothing_is_cut(desk: Desk) -> None:
    lines = desk.persona("runs", "list", COLUMNS="").out.splitlines()
    assert [line.endswith(WHY) for line in lines] == [False, True, True]
    assert "the oldest waited 24 h" in lines[2]
    (row,) = [line for line in desk.persona("status", COLUMNS="").out.splitlines() if LONG + ":refund" in line]
    assert "refund-policy-and-returns" in row
    assert "1 of 10 corrections" in row


def test_status_counts_affirmations_apart_from_the_corrections_that_why_counts(desk: Desk) -> None:
    lines = desk.persona("status", COLUMNS="").out.splitlines()
    (header,) = [line for line in lines if line.startswith("trait")]
    (row,) = [line for line in lines if line.startswith("helper-ai:typescript-expert")]
    assert header.split() == ["trait", "speaks", "pending", "affirmed", "used", "why"]
    assert row.split()[1:8] == ["base", "2", "+1", "2", "2", "of", "10"]
    document = next(trait for trait in desk.ok("status", "--json").json["traits"] if trait["persona"] == TRAIT[0])
    assert (document["pending"], document["affirmations"]) == (3, 1)


def test_a_run_is_told_in_the_words_of_the_field(desk: Desk) -> None:
    out = desk.persona("runs", "show", "run-a", COLUMNS="80").out
    for words in (
        "planned because the oldest waited 24 h",
        ", after 2 min",
        "batch 2 corrections",
        "efficacy 0 of 2 2 of 2 0 +1.70",
        "retention 3 of 3 2 of 3 1 -0.10",
        "trained 1 step, 8 samples",
        "loading 2.35 s, probing the incumbent 3.2 s",
        "used-0 efficacy no → yes",
    ):
        assert words in _words(out), out
    assert re.search(r"\nended +2026-01-0\d \d\d:\d6:05 [A-Z0-9+-]+, after 2 min\n", out)
    assert "locality" not in out
    assert "probe_incumbent" not in out
    # Of an ended run that was told nothing of, there is nothing to show but that.
    assert "gate" not in desk.ok("runs", "show", "run-b").out


def test_an_id_that_names_nothing_is_told_so(desk: Desk) -> None:
    for noun, beginning in (("run", "run-"), ("run", "nope"), ("correction", "open-"), ("correction", "nope")):
        done = desk.persona(f"{noun}s", "show", beginning)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"No {noun}, or more than one, begins with '{beginning}'; see: persona {noun}s list\n"


def test_a_trait_that_was_rolled_back_to_the_base_speaks_with_it(desk: Desk) -> None:
    rows = [line.split() for line in desk.ok("genome", "show", "helper-ai").out.splitlines()]
    assert ["typescript-expert", "base", "active"] in rows
    assert ["typescript-expert", "1", "rolled-back"] in [row[:3] for row in rows]
    first, second = desk.persona("genome", "history", "helper-ai", COLUMNS="").out.splitlines()[1:]
    assert re.search(r"^ +2 .* rolled-back +typescript-expert +base +an admin +undid v1$", first)
    assert re.search(r"^ +1 .* promoted +typescript-expert +v1 +daemon +It answers 2", second)
    assert desk.persona("genome", "history", "nobody").code == desk.persona("genome", "show", "nobody").code == 1


def test_a_conversation_is_told_by_its_turns(desk: Desk) -> None:
    (row,) = [line for line in desk.persona("corrections", "list", COLUMNS="").out.splitlines() if "talk-0" in line]
    assert "What is a mapped type? In one line." in row
    assert "role" not in row
    shown = desk.ok("corrections", "show", "talk-0").out
    turns = r"system +Be brief\.\nuser +Hello!\nassistant +Hi\.\nuser +What is a mapped type\?\n +In one line\.\n"
    assert re.search(turns + r"original +No\.\nexpected +Shapes\.", shown), shown
    assert re.search(r"\ncontext +none; ", desk.ok("corrections", "show", "bare-0").out)
    assert re.search(r"\nuser +What are interfaces\?\nexpected +No\.", desk.ok("corrections", "show", "good-0").out)


def test_a_terminal_that_knows_few_characters_shows_what_it_can(desk: Desk) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    for command in (["corrections", "list"], ["runs", "show", "run-a"]):
        ran = subprocess.run([PERSONA, *command], cwd=desk.folder, env=environment, capture_output=True, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, b"")


def test_a_file_in_the_place_of_a_folder_is_usage(desk: Desk, tmp_path: Path) -> None:
    done = desk.persona("init", "config.toml")
    assert done.code == 2
    assert done.err == (
        "config.toml is a file, and DIR a folder; to name the file: persona init --config config.toml\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("corrections list --limit 0", "--limit 0 cannot be; give a whole number from 1 to 1000000000."),
        ("runs list --limit many", "--limit many cannot be; give a whole number from 1 to 1000000000."),
        (
            f"corrections list --limit {10**20}",
            f"--limit {10**20} cannot be; give a whole number from 1 to 1000000000.",
        ),
        (
            f"genome history ada --limit {'9' * 5000}",
            f"--limit {'9' * 59}… cannot be; give a whole number from 1 to 1000000000.",
        ),
        ("runs list --limit 1000000001", "--limit 1000000001 cannot be; give a whole number from 1 to 1000000000."),
        ("genome pin ada rust v3", "VERSION v3 cannot be; give a whole number from 1 to 1000000000."),
        ("genome rollback ada rust --to -1", "--to -1 cannot be; give a whole number from 0 to 1000000000."),
        ("corrections list --state new", "--state new cannot be; give pending, claimed, used or quarantined."),
    ],
)
def test_a_wrong_value_is_told_with_its_option_and_what_is_right(desk: Desk, options: str, sentence: str) -> None:
    done = desk.persona(*options.split())
    assert (done.code, done.out, done.err) == (2, "", sentence + "\n")


def test_help_has_a_whole_line_for_every_command_in_the_order_of_their_need(desk: Desk) -> None:
    out = desk.persona("--help", COLUMNS="80").out
    commands = out[out.index("Commands:") :].splitlines()[1:]
    names = [line.split()[0] for line in commands]
    assert names[:4] == ["init", "check", "daemon", "serve"]
    for noun in ("corrections", "runs", "genome"):
        assert noun in names
        out += desk.persona(noun, "-h", COLUMNS="80").out
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(map(len, out.splitlines())) <= 80
