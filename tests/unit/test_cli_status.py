"""The page of `persona status`: what it says of runs and runtimes, with a daemon and without."""

import io
from typing import Any

import pytest
from rich.console import Console

from daemon.cli.status import page

RUN = {
    "id": "r1", "persona": "ada", "trait": "rust", "state": "training", "version": 1, "attempt": 1,
    "purpose": "learn", "corrections": 5,
    "reason": None, "step": None, "steps": None, "loss": None, "eta_s": None, "learnt": None,
    "tokens_s": None, "memory_gb": None, "again_in_s": 0, "doing": None,
}  # fmt: skip
RUNTIME = {
    "name": "embedded", "kind": "embedded", "persona": "ada", "desired": 2, "observed": 1, "state": "converging",
    "error": None,
}  # fmt: skip


def shown(daemon: str, **run: Any) -> str:
    """The page over one run and one runtime."""
    about = {"state": daemon, "pid": None, "since": None, "version": "0"}
    document = {"daemon": about, "traits": [], "runs": [RUN | run], "genomes": [], "runtimes": [RUNTIME]}
    out = io.StringIO()
    Console(file=out, width=120).print(page(document))
    return " ".join(out.getvalue().split())


def test_nobody_closes_a_difference_while_no_daemon_runs() -> None:
    assert "embedded ada converging 1 → 2" in shown("ready")
    down = shown("stopped")
    assert "embedded ada not looked at 1 → 2" in down and "converging" not in down


@pytest.mark.parametrize(
    ("daemon", "run", "words"),
    [
        ("ready", {}, "training 5 corrections"),
        ("stopped", {}, "training waits for a daemon; 5 corrections"),
        ("ready", {"attempt": 2, "reason": "interrupted"}, "training attempt 2; the one before: interrupted"),
        ("ready", {"purpose": "relearn", "corrections": 0}, "training what it had learnt"),
        ("ready", {"doing": "looking around"}, "training 5 corrections, looking around"),
        (
            "ready",
            {"attempt": 2, "reason": "interrupted", "doing": "loading llama"},
            "training attempt 2; loading llama; the one before: interrupted",
        ),
        (
            "ready",
            {"state": "rejected", "doing": "planning", "step": 3, "steps": 40, "loss": 0.5},
            "3/40, loss 0.5, looking for who is to blame",
        ),
        ("ready", {"doing": "training", "step": 1, "steps": 4, "loss": 0.5}, "1/4, loss 0.5"),
        ("ready", {"doing": "measuring drift", "step": 4, "steps": 4, "loss": 0.5}, "4/4, loss 0.5, measuring drift"),
        ("ready", {"state": "planned", "attempt": 2, "reason": "out of memory"}, "planned out of memory"),
        (
            "ready",
            {"state": "planned", "attempt": 2, "reason": "out of memory", "again_in_s": 234},
            "planned out of memory; tried again in 4 min",
        ),
        (
            "stopped",
            {"state": "planned", "attempt": 2, "reason": "out of memory", "again_in_s": 234},
            "planned waits for a daemon; out of memory",
        ),
        ("stopped", {"state": "planned"}, "planned waits for a daemon; 5 corrections"),
        ("ready", {"attempt": 2, "reason": "interrupted", "step": 1, "steps": 4, "loss": 0.5}, "1/4, loss 0.5"),
    ],
)
def test_of_a_run_without_figures_it_says_what_it_is_at(daemon: str, run: dict[str, Any], words: str) -> None:
    assert f"{words} runtime" in shown(daemon, **run)


def test_of_a_training_it_says_how_far_how_fast_and_how_large() -> None:
    step = {"step": 3, "steps": 40, "loss": 0.25, "eta_s": 12.0, "learnt": 0.5, "tokens_s": 3210.4, "memory_gb": 0.94}
    assert "3/40, loss 0.25, 50% learnt, ≤ 12 s, 3,210 tokens/s, 0.9 GiB" in shown("ready", **step)
