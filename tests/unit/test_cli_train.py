"""What `persona train` says of a run that it does not follow."""

import pytest

from daemon.cli.work import Outcome, _tell
from daemon.domain import Run, RunState, TraitKey


@pytest.mark.parametrize(
    ("state", "reason", "planned", "words"),
    [
        (RunState.PLANNED, None, ["r1"], "planned as run r1"),
        (RunState.PLANNED, None, [], "under way already, run r1"),
        (RunState.TRAINING, "out of memory", [], "under way already, run r1"),
        (RunState.PLANNED, "out of memory", [], "tried again, after: out of memory; run r1"),
    ],
)
def test_a_run_that_waited_for_its_next_attempt_is_told_from_one_that_goes_on(
    state: RunState, reason: str | None, planned: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(
        "r1", TraitKey("ada", "rust"), state, "asked", 1, attempt=1, fence=1, failures=0, created=0, reason=reason
    )
    _tell(Outcome([run], {"runs": planned, "waits": {}}, followed=False))
    assert capsys.readouterr().out.split("  ", 1)[1].strip() == words
