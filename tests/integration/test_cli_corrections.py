"""`persona corrections`: rows in and out, reviews of a served persona, and what is refused."""

import json
import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon.store.writers import DEFAULTS
from scripts.processes import PERSONA
from tests.integration.cli_support import Desk

NAME = "1 to 128 of a-z 0-9 . _ -, with no dot in front"
AFFIRM = "an answer that was right is --kind affirmation."
ROW = {"persona_id": "ada", "trait_type": "rust", "original_response": "no", "expected_response": "yes"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.ok("init")
    return desk


def _add(desk: Desk, *options: str) -> str:
    return desk.ok(
        "corrections", "add", "--persona", "ada", "--trait", "rust", "--expected", "yes", *options
    ).out.strip()


def test_a_correction_is_added_listed_shown_and_exported(desk: Desk) -> None:
    context = "[bold]What[/bold] \x1b[31mnow?"
    added = _add(desk, "--original", "no", "--context", context, "--severity", "0.9", "--reason", "too short")
    (row,) = [row for row in desk.ok("corrections", "list", "--json").json if row["id"] == added]
    assert (row["state"], row["severity"], row["original_context"]) == ("pending", 0.9, context)
    shown = desk.ok("corrections", "show", added[:10])
    assert "[bold]What[/bold]" in shown.out
    assert "\x1b" not in shown.out
    assert desk.ok("corrections", "show", added, "--json").json["corrected_by"]
    exported = [json.loads(line) for line in desk.ok("corrections", "export", "--persona", "ada").out.splitlines()]
    assert added in {row["id"] for row in exported}
    assert added[:8] in desk.ok("corrections", "list", "--trait", "rust").out
    assert desk.ok("corrections", "list", "--persona", "nobody", "--json").json == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"--original": " yes\n"}, f"--original and --expected say the same; {AFFIRM}"),
        ({"--persona": "a b"}, "--persona 'a b' cannot be; give 1 to 128 of A-Z a-z 0-9 . _ -, with no dot in front."),
        ({"--trait": "Rust"}, f"--trait 'Rust' cannot be; give {NAME}."),
        ({"--trait": "t" * 129}, f"--trait '{'t' * 59}…' cannot be; give {NAME}."),
        ({"--expected": " "}, "--expected '' cannot be; give a text that is not blank."),
        ({"--reason": "\udcff"}, "--reason '?' cannot be; give a text in UTF-8."),
        ({"--severity": "7"}, "--severity 7 cannot be; give a number from 0 to 1."),
        ({"--severity": "nan"}, "--severity nan cannot be; give a number from 0 to 1."),
        ({"--severity": "abc"}, "--severity abc cannot be; give a number from 0 to 1."),
        ({"--kind": "praise"}, "--kind praise cannot be; give correction or affirmation."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_option_and_what_is_right(
    desk: Desk, options: dict[str, str], sentence: str
) -> None:
    given = {"--persona": "ada", "--trait": "x", "--expected": "yes", "--original": "no", **options}
    done = desk.persona("corrections", "add", *(word for pair in given.items() for word in pair))
    assert (done.code, done.out, done.err) == (2, "", sentence + "\n")
    assert desk.ok("corrections", "list", "--trait", "x", "--json").json == []


def test_a_good_answer_is_affirmed_without_an_original(desk: Desk) -> None:
    missing = desk.persona("corrections", "add", "--persona", "a", "--trait", "x", "--expected", "y")
    assert (missing.code, "--kind affirmation" in missing.err) == (2, True)
    added = _add(desk, "--kind", "affirmation", "--original", "yes")
    assert desk.ok("corrections", "show", added, "--json").json["kind"] == "affirmation"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_good_rows_of_a_file_go_in_and_bad_ones_are_named(desk: Desk, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        talk = {**ROW, "id": "talk", "original_context": [{"role": "user", "content": "hi"}]}
        lines = [json.dumps(talk), "", "no json", json.dumps({**ROW, "severity": 3}), json.dumps({**ROW, "typo": 1})]
    else:
        header = "id,persona_id,trait_type,original_response,expected_response,severity,original_context"
        lines = [
            header,
            "sheet,ada,rust,no,yes,0.5,",
            "s3,ada,,no,yes,,",
            "s4,ada,rust,no,yes,high,",
            "a,b,c,d,e,f,g,h",
        ]
    file.write_text("\n".join(lines), encoding="utf-8-sig")
    done = desk.persona("corrections", "import", str(file), "--json")
    assert done.code == 1
    assert done.json["imported"] == 1
    assert [refused["line"] for refused in done.json["refused"]] == [3, 4, 5]
    sentences = [refused["error"] for refused in done.json["refused"]]
    assert any("severity is a number from 0 to 1" in sentence for sentence in sentences)
    row = desk.ok("corrections", "show", "talk" if kind == "jsonl" else "sheet", "--json").json
    assert row["source"] == "import"
    assert row["original_context"] == ('[{"role": "user", "content": "hi"}]' if kind == "jsonl" else None)
    again = desk.persona("corrections", "import", str(file))
    assert again.out == "0 rows imported, 1 was there already, 3 refused.\n"


def test_what_a_writer_leaves_out_is_what_the_store_makes_of_it(desk: Desk) -> None:
    with closing(sqlite3.connect(desk.store)) as store, store:
        store.row_factory = sqlite3.Row
        store.execute(f"INSERT INTO training_corrections ({', '.join(ROW)}) VALUES (?, ?, ?, ?)", tuple(ROW.values()))
        row = dict(store.execute("SELECT * FROM training_corrections ORDER BY rowid DESC LIMIT 1").fetchone())
    told = {"id", "source", "corrected_at", "received_at", "is_used_in_training", "quarantined_reason", *ROW}
    assert {name: value for name, value in row.items() if name not in told} == DEFAULTS


def test_a_number_without_measure_spoils_its_line_alone(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    wrong: list[dict[str, Any]] = [
        {"severity": 10**400},
        {"severity": 1e400},
        {"is_sensitive": 10**400},
        {"is_sensitive": 1e400},
    ]
    file.write_text("".join(json.dumps({**ROW, **more}) + "\n" for more in [*wrong, {"id": "measured"}]))
    done = desk.persona("corrections", "import", str(file), "--json")
    assert (done.code, done.json["imported"]) == (1, 1)
    assert [refused["line"] for refused in done.json["refused"]] == [1, 2, 3, 4]
    assert done.json["refused"][0]["error"] == "severity is a number from 0 to 1."
    assert desk.ok("corrections", "show", "measured", "--json").json["state"] == "pending"


def test_an_empty_file_is_nothing_to_do_and_a_missing_one_a_failure(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert desk.persona("corrections", "import", str(tmp_path / "empty.jsonl")).code == 3
    assert desk.persona("corrections", "import", str(tmp_path / "none.jsonl")).code == 1


def test_an_export_is_imported_elsewhere_as_it_was(desk: Desk, tmp_path: Path) -> None:
    _add(desk, "--original", "no", "--sensitive", "--context", "ä 🙂")
    other = Desk(tmp_path)
    other.ok("init")
    desk.ok("corrections", "export", "-o", str(tmp_path / "all.jsonl"))
    other.ok("corrections", "import", str(tmp_path / "all.jsonl"))
    assert other.ok("corrections", "export").out == desk.ok("corrections", "export").out


def test_what_was_imported_already_is_nothing_to_do(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{**ROW, "persona_id": "again", "id": f"again-{number}", "severity": 1} for number in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert desk.ok("corrections", "import", str(file)).out == "2 rows imported.\n"
    assert desk.persona("corrections", "import", str(file), "--json").json == {"imported": 0, "known": 2, "refused": []}
    exported = tmp_path / "exported.jsonl"
    desk.ok("corrections", "export", "--persona", "again", "-o", str(exported))
    # What the daemon writes into a row does not make it another one.
    with sqlite3.connect(desk.store) as store:
        store.execute("UPDATE training_corrections SET quarantined_reason = 'bad' WHERE id = 'again-0'")
    store.close()
    for known in (file, exported):
        done = desk.persona("corrections", "import", str(known))
        assert (done.code, done.err) == (3, f"2 rows of {known} were there already; nothing is new.\n")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert desk.ok("corrections", "import", str(file)).out == "1 row imported, 2 were there already.\n"
    changes: list[dict[str, Any]] = [{"expected_response": "other"}, {"persona_id": "else"}, {"room_id": "r"}]
    file.write_text("".join(json.dumps({**row, **new}) + "\n" for row, new in zip(rows, changes, strict=True)))
    done = desk.persona("corrections", "import", str(file))
    assert (done.code, done.out) == (1, "0 rows imported, 3 refused.\n")
    assert "line 1: there is another row with this id, and rows do not change; leave the id out" in done.err


def test_a_file_without_ids_is_there_once_however_often_it_is_imported(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{**ROW, "persona_id": "nameless", "original_context": context} for context in ("one?", "two?")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert desk.ok("corrections", "import", str(file)).out == "2 rows imported.\n"
    assert desk.persona("corrections", "import", str(file)).code == 3
    file.write_text(json.dumps({**rows[0], "expected_response": "later"}) + "\n")
    assert desk.ok("corrections", "import", str(file)).out == "1 row imported.\n"


def test_a_sheet_is_known_again_too(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    header = "id,persona_id,trait_type,original_response,expected_response,severity,is_sensitive,corrected_at"
    file.write_text(f"{header}\nsheet-1,ada,rust,no,yes,0.50,1,2026-01-02\nsheet-2,ada,rust,no,yes,,,\n")
    desk.ok("corrections", "import", str(file))
    assert desk.persona("corrections", "import", str(file)).code == 3


def test_a_file_of_another_kind_is_refused_in_few_words(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(bytes(range(256)) * 40)
    for file, lines in ((tmp_path / "picture.png", 40), (desk.folder / "config.toml", 100)):
        done = desk.persona("corrections", "import", str(file))
        assert done.code == 1
        told = done.err.splitlines()
        assert len(told) == 12
        assert told[0] == f"{file}, line 1: it is no JSON."
        assert (more := re.fullmatch(r"… and (\d+) more", told[10])) and int(more[1]) >= lines - 10
        assert told[11].startswith("What is expected: one JSON object per line, or a .csv with a header; persona_id")
        assert re.fullmatch(r"0 rows imported, \d+ refused\.\n", done.out)
    assert len(desk.persona("corrections", "import", str(desk.folder / "config.toml"), "--json").json["refused"]) > 100


def test_a_reader_that_leaves_early_is_no_failure_of_ours(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text((json.dumps({**ROW, "persona_id": "many", "expected_response": "yes" * 200}) + "\n") * 500)
    desk.ok("corrections", "import", str(file))
    for command in ("corrections export", "corrections list --limit 400 --json", "corrections list --limit 400"):
        shell = f"'{PERSONA}' {command} | head -n 1"
        ran = subprocess.run(["sh", "-c", shell], cwd=desk.folder, capture_output=True, text=True, timeout=60)
        assert ran.stderr == ""
        assert len(ran.stdout.splitlines()) == 1


def test_quarantined_rows_are_released_by_id_or_by_trait(desk: Desk) -> None:
    ids = [_add(desk, "--original", "no") for _ in range(3)]
    with sqlite3.connect(desk.store) as store:
        store.executemany(
            "UPDATE training_corrections SET quarantined_reason = 'bad' WHERE id = ?", [(i,) for i in ids]
        )
    store.close()
    assert len(desk.ok("corrections", "list", "--persona", "ada", "--state", "quarantined", "--json").json) == 3
    assert "  bad" in desk.ok("corrections", "list", "--persona", "ada", "--state", "quarantined").out
    assert desk.ok("corrections", "release", ids[0][:12]).out == "1 correction released.\n"
    assert desk.ok("corrections", "release", "--persona", "ada", "--json").json == {"released": 2}
    for options, whose in (
        ("--persona ada", "ada"), ("--trait none", "the trait none"), ("--persona ada --trait rust", "ada:rust")
    ):  # fmt: skip
        nothing = desk.persona("corrections", "release", *options.split())
        assert nothing.code == 3
        assert nothing.err == f"Nothing of {whose} is quarantined; see: persona corrections list --state quarantined\n"
    assert desk.persona("corrections", "release", ids[0]).code == 1
    assert desk.persona("corrections", "release").code == 2


def test_what_a_rollback_set_aside_is_released_by_its_version(desk: Desk) -> None:
    ids = [_add(desk, "--original", "no") for _ in range(3)]
    with sqlite3.connect(desk.store) as store:
        store.executemany(
            "UPDATE training_corrections SET quarantined_reason = ? WHERE id = ?",
            [(f"rolled back with v{version}", row) for version, row in zip((1, 12, 2), ids, strict=True)],
        )
    store.close()
    trait = ("corrections", "release", "--persona", "ada", "--trait", "rust")
    nothing = desk.persona(*trait, "--version", "3", "--version", "4")
    assert (nothing.code, nothing.err.split(";")[0]) == (
        3,
        "Nothing of ada:rust is quarantined since v3 or v4 was undone",
    )
    assert desk.ok(*trait, "--version", "1", "--version", "2", "--json").json == {"released": 2}
    still = {row["id"] for row in desk.ok("corrections", "list", "--state", "quarantined", "--json").json}
    assert still & set(ids) == {ids[1]}, "12 is another version than 1 and 2"
    assert desk.persona("corrections", "release", "--persona", "ada", "--version", "1").code == 2


class _Served(BaseHTTPRequestHandler):
    """Answers every chat as a persona would."""

    asked: list[dict[str, Any]]
    answers: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        said = self.answers.pop(0) if self.answers else f"answer {len(self.asked)}"
        answer = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> list[str]:
    """What is answered first, in turn."""
    return []


@pytest.fixture
def served(desk: Desk, answers: list[str]) -> Iterator[list[dict[str, Any]]]:
    asked: list[dict[str, Any]] = []
    handler = type("Served", (_Served,), {"asked": asked, "answers": answers})
    with HTTPServer(("127.0.0.1", desk.port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def test_a_review_affirms_the_good_and_corrects_the_bad(desk: Desk, served: list[dict[str, Any]]) -> None:
    prompts = desk.folder / "prompts.txt"
    prompts.write_text("one\n\ntwo\nthree\nfour\nfive\n")
    said = "good\nwhat?\nb\nsay this\ns\nb\n\nq\n"
    done = desk.ok("corrections", "review", "ada", "review", "--from", str(prompts), said=said)
    assert "1 affirmed, 1 corrected." in done.out
    assert [ask["model"] for ask in served] == ["ada:review"] * 5
    bad, good = desk.ok("corrections", "list", "--trait", "review", "--json").json
    assert (good["kind"], good["original_context"], good["expected_response"]) == ("affirmation", "one", "answer 1")
    assert (bad["kind"], bad["original_response"], bad["expected_response"]) == ("correction", "answer 2", "say this")
    assert {good["source"], bad["source"]} == {"review"}
    # Without prompts, what was corrected is asked again, the latest first; nobody answering means leaving.
    desk.ok("corrections", "review", "ada", "review")
    assert served[-1]["messages"][-1] == {"role": "user", "content": "two"}


@pytest.mark.usefixtures("served")
def test_a_review_writes_an_answer_as_it_was_said_and_prints_it_clean(desk: Desk, answers: list[str]) -> None:
    said = "one\r\ntwo\x1b[31m"
    answers += [said, said]
    prompts = desk.folder / "prompts.txt"
    prompts.write_text("a\nb\n")
    done = desk.ok("corrections", "review", "ada", "raw", "--from", str(prompts), said="good enough\ng\nb\nno\n")
    assert "one�\ntwo�[31m" in done.out and "\x1b" not in done.out
    bad, good = desk.ok("corrections", "list", "--trait", "raw", "--json").json
    assert good["original_response"] == good["expected_response"] == said
    assert (bad["original_response"], bad["expected_response"]) == (said, "no")


@pytest.mark.usefixtures("served")
def test_a_correction_that_says_what_was_said_is_asked_for_again(desk: Desk, answers: list[str]) -> None:
    answers += ["Here.\n", "a\x1bb"]
    prompts = desk.folder / "prompts.txt"
    prompts.write_text("where?\nwhat?\n")
    typed = "b\nHere. \nThere.\nb\na�b\n\n"
    done = desk.ok("corrections", "review", "ada", "same", "--from", str(prompts), said=typed)
    assert "0 affirmed, 1 corrected." in done.out
    assert done.out.count("That is what it said; if it was right, skip it now and call it good.") == 2
    (row,) = desk.ok("corrections", "list", "--trait", "same", "--json").json
    assert (row["original_response"], row["expected_response"]) == ("Here.\n", "There.")


@pytest.mark.usefixtures("served")
def test_an_answer_that_cannot_be_written_ends_no_review(desk: Desk, answers: list[str]) -> None:
    answers += ["\ud800", " "]
    prompts = desk.folder / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\n")
    done = desk.ok("corrections", "review", "ada", "unwritable", "--from", str(prompts), said="g\ng\ng\n")
    assert "1 affirmed, 0 corrected." in done.out
    assert done.err.splitlines() == [
        "Not written: original_response is not valid UTF-8.",
        "Not written: expected_response is text and not blank.",
    ]
    assert len(desk.ok("corrections", "list", "--trait", "unwritable", "--json").json) == 1


def test_ctrl_c_in_a_review_tells_what_was_done_so_far(desk: Desk, served: list[dict[str, Any]]) -> None:
    prompts = desk.folder / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    process = subprocess.Popen(
        [PERSONA, "corrections", "review", "ada", "interrupted", "--from", str(prompts)],
        cwd=desk.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever started these tests may have had it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("g\n")
    process.stdin.flush()
    said = ""
    while said.count("[q]uit? ") < 2:
        letter = process.stdout.read(1)
        assert letter, said
        said += letter
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "\n1 affirmed, 0 corrected.\n", "")
    assert len(desk.ok("corrections", "list", "--trait", "interrupted", "--json").json) == 1


def test_a_review_says_in_plain_words_what_is_in_its_way(desk: Desk, tmp_path: Path) -> None:
    review = ("corrections", "review", "ada", "rust", "--from")
    done = desk.persona(*review, str(tmp_path / "none.txt"))
    assert (done.code, done.err) == (
        1, f"The prompts in {tmp_path / 'none.txt'} cannot be read: No such file or directory.\n"
    )  # fmt: skip
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    assert desk.persona(*review, str(tmp_path / "picture.png")).err.endswith("cannot be read: it is no UTF-8 text.\n")
    (tmp_path / "prompts.txt").write_text("one\n")
    assert "(connection refused)" in desk.persona(*review, str(tmp_path / "prompts.txt")).err


def test_a_review_without_a_server_or_prompts_says_so(desk: Desk) -> None:
    _add(desk, "--original", "no")
    done = desk.persona("corrections", "review", "ada", "rust")
    assert done.code == 75
    assert "persona serve" in done.err
    assert desk.persona("corrections", "review", "ada", "unheard-of").code == 3
