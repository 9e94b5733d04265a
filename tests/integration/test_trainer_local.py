"""The parent's side against real children: events, every way to break, and nobody left behind."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from daemon.errors import TrainerFailed
from daemon.training.engine.job import Alive, Event, Finished, Job, Loaded, Step
from daemon.training.local import ChildLimits, LocalTrainer
from daemon.training.trainer import Trainer
from tests.integration.training_support import CORRECTIONS, endless, job, tiny_base
from tests.processes import gone, started

LIMITS = ChildLimits(nice=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
async def trainer() -> AsyncIterator[LocalTrainer]:
    local = LocalTrainer(LIMITS)
    yield local
    await local.close()
    assert not children()


def children() -> list[psutil.Process]:
    """Trainer children of this process, zombies too."""
    return [child for child in psutil.Process().children(recursive=True) if _trains(child)]


def _trains(child: psutil.Process) -> bool:
    try:
        return child.status() == psutil.STATUS_ZOMBIE or "daemon.training.engine" in child.cmdline()
    except psutil.NoSuchProcess:
        return False


async def all_of(trainer: Trainer, asked: Job) -> list[Event]:
    async with aclosing(trainer.train(asked)) as events:
        return [event async for event in events]


async def at_first_word(trainer: Trainer, asked: Job, then: Callable[[], None]) -> None:
    """Follow a job, and do something once when its child is there and speaks."""
    await at_first(object, trainer, asked, then)


async def at_first(kind: type, trainer: Trainer, asked: Job, then: Callable[[], None]) -> None:
    """Follow a job, and do something once when its child says something of a kind."""
    done = False
    async with aclosing(trainer.train(asked)) as events:
        async for event in events:
            if isinstance(event, kind) and not done:
                done = True
                then()


async def test_one_warm_child_does_job_after_job(trainer: LocalTrainer, base: Path, tmp_path: Path) -> None:
    first = await all_of(trainer, job(base, tmp_path / "1"))
    (child,) = children()
    assert [type(event) for event in first if not isinstance(event, Alive | Step)] == [Loaded, Finished]
    assert isinstance(first[-1], Finished) and first[-1].trained
    assert any(isinstance(event, Step) for event in first)

    with pytest.raises(TrainerFailed, match="base model /nowhere cannot be loaded") as failure:
        await all_of(trainer, job(Path("/nowhere"), tmp_path / "2"))
    assert failure.value.retry is True

    waiting = [all_of(trainer, job(base, tmp_path / name, CORRECTIONS[:1])) for name in "34"]
    both = await asyncio.gather(*waiting)
    assert all(isinstance(events[-1], Finished) for events in both)
    assert children() == [child]

    child.kill()
    assert gone(child.pid)
    assert isinstance((await all_of(trainer, job(base, tmp_path / "5", CORRECTIONS[:1])))[-1], Finished)
    assert children() != [child]


async def test_closing_the_generator_ends_the_child_at_once(trainer: LocalTrainer, base: Path, tmp_path: Path) -> None:
    async with aclosing(trainer.train(endless(base, tmp_path / "out"))) as events:
        async for event in events:
            if isinstance(event, Step):
                break
        assert len(children()) == 1
    assert not children()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("while_it", [Alive, Step])
async def test_a_cancelled_task_ends_the_child_within_two_seconds(
    trainer: LocalTrainer, base: Path, tmp_path: Path, while_it: type
) -> None:
    speaks = asyncio.Event()
    task = asyncio.create_task(at_first(while_it, trainer, endless(base, tmp_path / "out"), speaks.set))
    await speaks.wait()
    task.cancel()
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not children()


async def test_a_killed_child_is_a_failure_that_may_be_tried_again(
    trainer: LocalTrainer, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainerFailed, match=r"ended by SIGKILL.*memory") as failure:
        await at_first_word(trainer, endless(base, tmp_path / "out"), lambda: children()[0].kill())
    assert failure.value.retry and not children()


async def test_silence_is_noticed_and_the_child_does_not_survive_it(
    trainer: LocalTrainer, base: Path, tmp_path: Path
) -> None:
    def freeze() -> None:
        (child,) = children()
        frozen.append(child.pid)
        child.send_signal(signal.SIGSTOP)
        # Only now, for until now it may be silent for as long as a busy machine makes it.
        object.__setattr__(trainer.limits, "heartbeat", 1.0)

    frozen: list[int] = []
    trainer.limits = ChildLimits(nice=0)
    with pytest.raises(TrainerFailed, match=r"said nothing for heartbeat = 1 s"):
        await at_first_word(trainer, endless(base, tmp_path / "out"), freeze)
    assert not psutil.pid_exists(frozen[0])


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (ChildLimits(timeout=1.5, nice=0), r"longer than timeout = 1.5 s"),
        (ChildLimits(max_memory_gb=0.01, nice=0), r"GiB of memory, more than max_memory_gb = 0.01"),
    ],
)
async def test_a_limit_ends_the_job_and_is_named(
    trainer: LocalTrainer, base: Path, tmp_path: Path, limits: ChildLimits, sentence: str
) -> None:
    trainer.limits = limits
    with pytest.raises(TrainerFailed, match=sentence) as ended:
        await all_of(trainer, endless(base, tmp_path / "out"))
    # Corrections are not to blame for a limit on memory; for one on time they may be.
    assert ended.value.blameless is (limits.max_memory_gb > 0)
    assert not children()


def test_a_child_leaves_when_its_parent_is_killed(base: Path, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from daemon.training.engine.job import Job\n"
        "from daemon.training.local import ChildLimits, LocalTrainer\n"
        "async def main():\n"
        "    trainer = LocalTrainer(ChildLimits(nice=0))\n"
        "    async for event in trainer.train(Job.parse(sys.stdin.readline())):\n"
        "        print(trainer._child.pid, 'torch' in sys.modules, flush=True)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script]
    with started(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin and parent.stdout
        parent.stdin.write(endless(base, tmp_path / "out").line() + "\n")
        parent.stdin.flush()
        pid, torch_is_there = parent.stdout.readline().split()
        assert torch_is_there == "False"
        assert psutil.pid_exists(int(pid))
        parent.kill()
    assert gone(int(pid))
