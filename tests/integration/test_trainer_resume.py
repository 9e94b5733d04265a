"""A killed child's successor goes on from the checkpoint, and reaches the same adapter, bit for bit."""

import io
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.errors import TrainerFailed
from daemon.training.engine.checkpoint import Checkpoint
from daemon.training.engine.job import Event, Finished, Job, Step
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from daemon.training.local import ChildLimits, LocalTrainer
from tests.integration.training_support import CORRECTIONS, UPSTREAM, job, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)
OFTEN = 1e-9
"""Seconds between two checkpoints: one after every step."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


def recipe(policy: str, objective: str) -> dict[str, object]:
    return {"policy": policy, "objective": objective, "max_steps": 24, "epochs": 24, "batch_size": 2}


async def killed_at(asked: Job, step: int) -> None:
    """Train in a real child, and kill it as soon as it has done a step."""
    trainer = LocalTrainer(ChildLimits(nice=0))
    with pytest.raises(TrainerFailed, match="SIGKILL"):
        async with aclosing(trainer.train(asked)) as events:
            async for event in events:
                if isinstance(event, Step) and event.step == step:
                    assert trainer._child is not None
                    os.kill(trainer._child.pid, signal.SIGKILL)
    await trainer.close()


async def trained(asked: Job) -> tuple[list[int], bytes]:
    """The steps that a fresh child reports, and the weights it leaves."""
    trainer = LocalTrainer(ChildLimits(nice=0))
    steps = []
    events: AsyncGenerator[Event, None] = trainer.train(asked)
    async for event in events:
        if isinstance(event, Step):
            steps.append(event.step)
        if isinstance(event, Finished):
            assert event.trained
    await trainer.close()
    return steps, (Path(asked.out) / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(("policy", "objective", "threads"), [("until-learned", "sft", 2), ("fixed", "dpo", 1)])
async def test_a_killed_training_ends_in_the_same_adapter(
    base: Path, tmp_path: Path, policy: str, objective: str, threads: int
) -> None:
    told = recipe(policy, objective)
    whole = job(base, tmp_path / "whole" / "1", recipe=told, checkpoint_every=OFTEN, threads=threads)
    steps, expected = await trained(whole)
    first = replace(whole, out=str(tmp_path / "killed" / "1"))
    await killed_at(first, 9)
    # How often it is saved may have been changed meanwhile.
    second = replace(first, attempt=2, out=str(tmp_path / "killed" / "2"), checkpoint_every=60)
    resumed, found = await trained(second)
    assert 1 < resumed[0] <= 11 and resumed == steps[resumed[0] - 1 :]
    assert found == expected
    assert sorted(path.name for path in (tmp_path / "killed" / "2").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_what_changed_meanwhile_is_trained_from_the_start(base: Path, tmp_path: Path) -> None:
    asked = job(base, tmp_path / "run" / "1", recipe=recipe("fixed", "sft"), checkpoint_every=OFTEN)
    Worker(Reporter(io.StringIO())).do(asked)
    stream = io.StringIO()
    other = replace(asked, out=str(tmp_path / "run" / "2"), examples=[replace(CORRECTIONS[0], expected="The sea.")])
    Worker(Reporter(stream)).do(other)
    assert '"step": 1,' in stream.getvalue()


def test_a_training_goes_on_although_nothing_can_be_saved(base: Path, tmp_path: Path) -> None:
    asked = job(base, tmp_path / "run" / "1", recipe=recipe("fixed", "sft"), checkpoint_every=OFTEN)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.new").write_text("in the way")
    assert Worker(Reporter(io.StringIO())).do(asked).trained
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    mine = Checkpoint(tmp_path / "checkpoint", "mine", 1.0)
    assert mine.read() is None
    mine.write({}, {"step": 3})
    assert mine.read() == ({}, {"step": 3})
    assert Checkpoint(mine.folder, "another's", 1.0).read() is None
    (mine.folder / "state.safetensors").write_bytes(b"half")
    assert mine.read() is None
    mine.write({}, {"step": 4})
    assert mine.read() == ({}, {"step": 4})
    # Killed between the two renamings, the one before is there still.
    mine.folder.rename(mine.folder.with_suffix(".old"))
    assert mine.read() == ({}, {"step": 4})
    mine.write({}, {"step": 5})
    assert mine.read() == ({}, {"step": 5})
    shutil.rmtree(mine.folder)
    assert mine.read() is None and list(tmp_path.iterdir()) == []
