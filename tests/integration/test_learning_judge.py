"""A judge behind an OpenAI-compatible API: what it is shown, what its word changes, and what happens without it."""

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.domain import RunState
from daemon.training.engine.job import Group
from tests.integration.learning_support import School, a_school
from tests.integration.store_support import write


@dataclass
class Model:
    """Rewords by adding a word; takes answers for the same whose letters are."""

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    fails: bool = False
    raw: bytes | None = None
    """Sent as it is, instead of what it says."""
    trickles: bool = False
    """It sends the beginning of an answer, and then a blank again and again."""
    words: str | None = None
    """What it says where it is to say something in other words."""

    def say(self, asked: dict[str, Any]) -> str:
        self.seen.append(asked)
        instruction, text = (turn["content"] for turn in asked["messages"])
        if "JSON list" in instruction and self.words is not None:
            return self.words
        if "JSON list" in instruction:
            return "Here you are: " + json.dumps([text, f"Please: {text}", f"{text} Tell me."])
        first, second = (part.partition(": ")[2] for part in text.split("\n\n")[1:])
        letters = [[letter for letter in answer.casefold() if letter.isalpha()] for answer in (first, second)]
        return "Yes." if letters[0] == letters[1] else "No."


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if made.fails:
                self.send_error(400)
                return
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": made.say(asked)}}
            answer = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": asked["model"],
                "choices": [choice],
            }
            body = made.raw or json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if body.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):
                while made.trickles:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


@pytest.fixture
async def school(tmp_path: Path, model: Model) -> AsyncIterator[School]:
    async with a_school(tmp_path) as opened:
        opened.configure(PERSONA_JUDGE__URL=model.url, PERSONA_JUDGE__MODEL="judge-1")
        yield opened


async def test_the_batch_is_asked_in_its_words_too(school: School, model: Model) -> None:
    write(school.path, "one", "two")
    await school.learn()
    asked = [one for one in school.trainer.jobs[0].examples if one.group is Group.REWORDING]
    assert [(one.id, one.messages[-1]["content"], one.expected) for one in asked] == [
        ("one~said0", "Please: What is one?", "It is ONE."),
        ("one~said1", "What is one? Tell me.", "It is ONE."),
        ("two~said0", "Please: What is two?", "It is TWO."),
        ("two~said1", "What is two? Tell me.", "It is TWO."),
    ]
    assert {each["model"] for each in model.seen} == {"judge-1"}


async def test_an_answer_that_means_what_is_expected_is_right(school: School, model: Model) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome, school.trainer.says = "worse", {"one": "it is one", "two": "It is TWO!"}
    run = await school.learn()
    assert run.state is RunState.PROMOTED, run.reason
    assert run.evidence["metrics"]["judged"] == {"asked": 4, "agreed": 2}, "and two that mean nothing of the sort"
    assert run.evidence["scores"]["batch"]["candidate"] == 2


async def test_an_answer_that_means_something_else_is_wrong(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome, school.trainer.says = "worse", {"one": "It is two."}
    assert (await school.learn()).state is RunState.REJECTED


async def test_a_judge_that_does_not_answer_holds_nothing_up(school: School, model: Model) -> None:
    write(school.path, "one", "two")
    model.fails = True
    with capture_logs() as logs:
        assert (await school.learn()).state is RunState.PROMOTED
    silent = [log for log in logs if log["event"] == "judge.silent"]
    assert silent and silent[0]["asked"] == 2 and "400" in silent[0]["reason"]


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>Sign in</html>",
        b"{",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": ["no text"]}}]}',
        b"[" * 100_000,
    ],
)
async def test_a_reply_that_is_none_holds_nothing_up(school: School, model: Model, raw: bytes) -> None:
    write(school.path, "one", "two")
    model.raw = raw
    with capture_logs() as logs:
        assert (await school.learn()).state is RunState.PROMOTED
    silent = [log for log in logs if log["event"] == "judge.silent"]
    assert silent and silent[0]["reason"] == "what it answers is no chat completion"


async def test_a_reply_that_never_ends_holds_nothing_up(school: School, model: Model) -> None:
    write(school.path, "one", "two")
    model.trickles = True
    school.configure(PERSONA_JUDGE__URL=model.url, PERSONA_JUDGE__MODEL="judge-1", PERSONA_JUDGE__TIMEOUT="1s")
    try:
        with capture_logs() as logs:
            assert (await school.learn()).state is RunState.PROMOTED
    finally:
        model.trickles = False
    assert {log["reason"] for log in logs if log["event"] == "judge.silent"} == {"it does not answer in judge.timeout"}


@pytest.mark.parametrize(
    ("words", "asked"), [("[" * 100_000 + "]", []), ('["\\ud83d", 7, "one?", ""]', ["one?"]), ("No.", [])]
)
async def test_other_words_that_are_none_are_not_asked(
    school: School, model: Model, words: str, asked: list[str]
) -> None:
    write(school.path, "one", "two")
    model.words = words
    assert (await school.learn()).state is RunState.PROMOTED
    examples = school.trainer.jobs[0].examples
    assert [one.messages[-1]["content"] for one in examples if one.group is Group.REWORDING] == 2 * asked


async def test_another_judge_is_asked_anew_and_the_same_one_is_not(school: School, model: Model) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome, school.trainer.says = "worse", dict.fromkeys(("one", "two"), "No.")
    await school.learn()
    seen = len(model.seen)
    assert len({json.dumps(asked) for asked in model.seen}) == seen, "the second try asks nothing that was asked"
    school.configure(PERSONA_JUDGE__URL=model.url, PERSONA_JUDGE__MODEL="judge-2")
    await school.learn()
    assert len(model.seen) == 2 * seen


async def test_invariant_8_what_may_be_sensitive_is_shown_to_no_other_machine(school: School, model: Model) -> None:
    write(school.path, "one", is_sensitive=0)
    write(school.path, "two", is_sensitive=1)
    write(school.path, "three")
    # An address that leads here, but that no rule calls this machine's own.
    school.configure(PERSONA_JUDGE__URL=model.url.replace("127.0.0.1", "0.0.0.0"), PERSONA_JUDGE__MODEL="judge-1")
    school.trainer.outcome, school.trainer.says = "worse", dict.fromkeys(("one", "two", "three"), "No.")
    await school.learn()
    assert len(model.seen) == 1, "none of the answers is shown, which may recite what is sensitive"
    shown = {turn["content"] for asked in model.seen for turn in asked["messages"] if turn["role"] == "user"}
    assert any("What is one?" in text for text in shown)
    assert not any("two" in text.casefold() or "three" in text.casefold() for text in shown)
