"""Event lines, and signs of life that are neither missing nor too many."""

import io
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from daemon.errors import TrainerFailed
from daemon.training.engine import report
from daemon.training.engine.__main__ import _broken
from daemon.training.engine.job import Alive, Answer, Failed, Finished, Group, Job, Probe, event_line, parse_event
from daemon.training.engine.report import Reporter
from scripts.processes import PATIENCE_S
from tests.integration.training_support import CORRECTIONS, job


def test_a_sign_of_life_is_given_at_most_once_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    said = Reporter(stream)
    told = []
    for now in (100.0, 100.5, 100.99, 101.0, 101.5, 103.0, 103.9, 104.1):
        monkeypatch.setattr(report, "time", SimpleNamespace(monotonic=lambda now=now: now))
        before = len(stream.getvalue())
        said.alive("probing")
        told += [now] if len(stream.getvalue()) > before else []
    assert told == [100.0, 101.0, 103.0, 104.1]
    assert {parse_event(line) for line in stream.getvalue().splitlines()} == {Alive("probing")}


def test_a_thread_gives_signs_of_life_while_a_call_lasts() -> None:
    heard = threading.Event()

    class Stream(io.StringIO):
        def flush(self) -> None:
            heard.set()

    stream = Stream()
    with Reporter(stream).beating("loading"):
        assert heard.wait(PATIENCE_S)
    assert parse_event(stream.getvalue().splitlines()[0]) == Alive("loading")


def test_jobs_and_events_survive_their_line() -> None:
    asked = job(Path("/base"), Path("/out"), CORRECTIONS, incumbent="/layer")
    assert Job.parse(asked.line()) == asked
    answer = Answer("grün\n", True, 1.0, 2.5)
    for event in (
        Finished(True, [Probe("a", Group.BATCH, answer, answer), Probe("b", Group.HISTORY, answer)], {"loss": 0.5}),
        Failed("no", False),
    ):
        line = event_line(event)
        assert "\n" not in line and parse_event(line) == event


def test_a_failure_keeps_its_sentence_and_its_verdict_between_processes() -> None:
    failure = pickle.loads(pickle.dumps(TrainerFailed("It broke.", False)))
    assert (str(failure), failure.retry, TrainerFailed("x").retry) == ("It broke.", False, True)


def test_running_out_of_memory_is_told_from_other_breakage() -> None:
    cpu = RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    for error in (cpu, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()):
        assert "ran out of memory" in _broken(error).reason
        assert _broken(error).blameless
    assert _broken(KeyError("x")) == Failed("the training broke: KeyError: 'x'")
    assert _broken(OSError("full")).blameless
