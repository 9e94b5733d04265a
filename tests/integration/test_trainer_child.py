"""The child by itself: what goes in at standard input, what comes out at standard output, and when it leaves."""

import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from daemon.training.engine.job import Failed, Finished, parse_event
from scripts.processes import TRAINING_S
from tests.integration.training_support import CORRECTIONS, job, tiny_base
from tests.processes import started


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


def child(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A child of this process."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "daemon.training.engine", *arguments]
    return started(*command, stdin=pipe, stdout=pipe, stderr=pipe)


def test_speaks_events_only_survives_bad_lines_and_leaves_when_its_input_ends(base: Path, tmp_path: Path) -> None:
    lines = [
        "this is no job",
        '{"run": "r", "examples": [], "recipe": {"rank": 8}, "colour": "red"}',
        "[]",
        job(base, tmp_path / "out", CORRECTIONS[:1]).line(),
        job(base, tmp_path / "out", CORRECTIONS[:1]).line(),
    ]
    with child() as process:
        said, complaints = process.communicate("\n".join(lines) + "\n", timeout=TRAINING_S)
    assert process.returncode == 0
    events = [parse_event(line) for line in said.splitlines()]
    ends = [event for event in events if isinstance(event, Failed | Finished)]
    assert [type(event) for event in ends] == [Failed, Failed, Failed, Finished, Failed]
    assert all("job line cannot be read" in event.reason for event in ends[:3] if isinstance(event, Failed))
    assert isinstance(ends[4], Failed) and "exists already" in ends[4].reason
    assert not any(isinstance(event, Failed) and event.retry for event in ends)
    for row in CORRECTIONS[:1]:
        assert row.expected not in complaints and row.messages[-1]["content"] not in complaints


def test_leaves_when_nobody_asks_for_long_enough() -> None:
    with child("--idle-timeout", "0.3") as process:
        assert process.wait(timeout=TRAINING_S) == 0


def test_refuses_to_work_for_a_parent_that_is_gone() -> None:
    with child("--parent", "1") as process:
        assert process.wait(timeout=TRAINING_S) == 1
        assert process.stderr and "the parent process is gone" in process.stderr.read()
