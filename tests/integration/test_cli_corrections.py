"""`persona corrections`: rows in and out, reviews of a served persona, and what is refused."""

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.processes import PERSONA
from tests.integration.cli_support import Desk

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


def test_what_the_store_refuses_is_told_in_its_words(desk: Desk) -> None:
    done = desk.persona("corrections", "add", "--persona", "a b", "--trait", "x", "--expected", "y", "--original", "z")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("persona_id: 1 to 128 of")
    assert desk.persona("corrections", "add", "--persona", "a", "--trait", "x", "--expected", "y").code == 2
    assert desk.persona("corrections", "show", "nope").code == 1


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
    assert "There is a row with this id already." in again.err
    assert "0 rows imported, 4 refused." in again.out


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
    assert len(desk.ok("corrections", "list", "--state", "quarantined", "--json").json) == 3
    assert desk.ok("corrections", "release", ids[0][:12], "--json").json == {"released": 1}
    assert desk.ok("corrections", "release", "--persona", "ada", "--json").json == {"released": 2}
    nothing = desk.persona("corrections", "release", "--persona", "ada")
    assert nothing.code == 3
    assert desk.persona("corrections", "release", ids[0]).code == 1
    assert desk.persona("corrections", "release").code == 2


class _Served(BaseHTTPRequestHandler):
    """Answers every chat as a persona would."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        answer = json.dumps({"choices": [{"message": {"content": f"answer {len(self.asked)}"}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(desk: Desk) -> Iterator[list[dict[str, Any]]]:
    asked: list[dict[str, Any]] = []
    with HTTPServer(("127.0.0.1", desk.port), type("Served", (_Served,), {"asked": asked})) as server:
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


def test_a_review_without_a_server_or_prompts_says_so(desk: Desk) -> None:
    _add(desk, "--original", "no")
    done = desk.persona("corrections", "review", "ada", "rust")
    assert done.code == 75
    assert "persona serve" in done.err
    assert desk.persona("corrections", "review", "ada", "unheard-of").code == 3
