"""What is known of a job before its first question: its examples as tokens, what is trained, and how it fits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded, encode
from daemon.training.engine.fitting import Fitted, beyond, fitted, holding, work
from daemon.training.engine.job import Group, Job, Recipe
from daemon.training.engine.loop import Material
from daemon.training.engine.memory import NothingFits, Work
from daemon.training.engine.methods import lacks_for
from daemon.training.engine.policy import Plan, goes_on, plan, to_train
from daemon.training.engine.report import JobFailed
from daemon.training.engine.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, and how."""

    rows: list[Encoded]
    plan: Plan
    work: Work
    way: Fitted


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job on its base; `task` is None when nothing of the batch can be trained on."""

    base: Base
    sequences: list[Encoded]
    unusable: dict[str, str]
    """By id, why examples were left out."""
    task: Task | None

    @property
    def needs_four_bits(self) -> bool:
        """Whether the base has to be loaded again, in four bits, for the batch to fit."""
        return self.task is not None and self.task.way.fit.four_bits and not self.base.four_bits


def prepare(job: Job, base: Base) -> Prepared:
    """Read and plan a job; what this machine could never train on is left out; raises JobFailed."""
    sequences, unusable = encode(base, job.examples)
    try:
        return Prepared(base, sequences, unusable, _task(job, base, sequences))
    except NothingFits as error:
        left_out = _beyond(job, base, sequences)
        if not left_out:
            raise _refused(error, base) from error
    sequences = [row for row in sequences if row.example.id not in left_out]
    try:
        return Prepared(base, sequences, unusable | left_out, _task(job, base, sequences))
    except NothingFits as error:
        raise _refused(error, base) from error


def material(
    job: Job, base: Base, task: Task, around: Surroundings, every: Sequence[Encoded]
) -> tuple[Material, Plan, Fitted]:
    """What a task learns from, with all that holds it, how, and how it fits; raises JobFailed.

    every: what is asked before and after.
    """
    around = around if task.plan.held else Surroundings([], [], [])
    learnt = Material([*task.rows, *around.rewordings], around.anchors)
    planned = task.plan.of(learnt.rows)
    try:
        asked = work(base, learnt, [*around.rewordings, *every], planned, _told(job, planned))
        asked = holding(base, asked, around.anchors, planned.held)
        return learnt, planned, fitted(base, asked, job.memory_gb, can_quantise=False)
    except NothingFits as error:
        raise _refused(error, base) from error


def system_prompt(rows: Sequence[Encoded]) -> str:
    """The system prompt that most examples begin with; nothing, if that is none."""
    firsts = [row.example.messages[0] for row in rows]
    found = Counter(first["content"] if first["role"] == "system" else "" for first in firsts)
    return found.most_common(1)[0][0]


def _task(job: Job, base: Base, sequences: Sequence[Encoded]) -> Task | None:
    rows = to_train(job.recipe, sequences)
    if not any(row.example.group is Group.BATCH for row in rows):
        return None  # a layer that is there already has nothing to show for itself then, either
    planned = _plan(job, base, rows)
    asked = work(base, Material(rows), sequences, planned, _told(job, planned))
    return Task(rows, planned, asked, fitted(base, asked, job.memory_gb, can_quantise=not lacks_for("qlora")))


def _told(job: Job, planned: Plan) -> Recipe:
    """The recipe, with the incumbent's rank where training goes on from it."""
    try:
        rank = lora.rank_of(job.incumbent) if planned.continues and job.incumbent else job.recipe.rank
    except (OSError, ValueError, KeyError, TypeError):
        return job.recipe  # what is wrong with the layer is said when it is loaded
    return replace(job.recipe, rank=rank)


def _plan(job: Job, base: Base, rows: Sequence[Encoded]) -> Plan:
    width = base.model.get_input_embeddings().embedding_dim
    new = sum(row.example.group is Group.BATCH for row in rows)
    on = job.incumbent and goes_on(len(rows), job.relearnt) and lora.has_shape(job.incumbent, job.recipe)
    try:
        return plan(job.recipe, len(rows), cast(int, width), new if on else None).of(rows)
    except ValueError as error:
        raise JobFailed(str(error), False) from error


def _beyond(job: Job, base: Base, sequences: Sequence[Encoded]) -> dict[str, str]:
    """By id, what becomes of examples that are too long for this machine, however little else is done on it."""
    rows = to_train(job.recipe, sequences)
    trained = {row.example.id for row in rows}
    planned = _plan(job, base, rows)
    found = beyond(base, sequences, trained, planned, _told(job, planned), job.memory_gb)
    return {example: _too_much(why) for example, why in found.items()}


def _too_much(why: NothingFits) -> str:
    way = "raise that" if why.limited else "take a smaller base model"
    return f"{why}, for its {why.longest:,} tokens; insert it again, shorter, or {way} and release it"


def _refused(error: NothingFits, base: Base) -> JobFailed:
    """What is said of a batch that has to wait for memory."""
    coarser = lacks_for("qlora") and not base.four_bits
    smaller = "take a smaller base model" + (', or set method = "qlora"' if coarser else "")
    way = "raise it, or shorten the example" if error.limited else smaller
    return JobFailed(f"{error}, for a longest example of {error.longest:,} tokens; {way}", True, True)
