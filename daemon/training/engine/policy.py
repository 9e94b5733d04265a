"""How much to train, on what, at which rate, and when it is enough: every number of the two policies is here.

"fixed" is the requirement's schedule. "until-learned" starts from the base over everything the trait has learnt, and
stops as soon as greedy decoding is sure of every answer (LocFT's union; rates as in "LoRA Without Regret").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from daemon.training.engine.batches import Encoded
from daemon.training.engine.job import Group, Recipe
from daemon.training.engine.objectives import Objective

LEAD = 2.0
"""Nats by which an answer token has to lead all others before it is trained no more."""
SURE = 1.0
"""Nats by which every answer token has to lead at a look for training to end; half of LEAD, so that it is reached."""
CLEAR, PATIENCE = 0.3, 3
"""Looks in a row after which a smaller lead is enough too: some tokens lead by no more, however long one trains."""
FOR_EACH = 2
"""How many questions a base makes up for each of its anchors; the others only tell how else something is asked."""
FEW_ANCHORS = 64
"""How many anchors a base makes up, once, where its own decoding is slow."""
AROUND, AROUND_EARLIER, FEW_AROUND = 20, 8, 5
"""How many questions about each correction are put to the base, which it may take for the same; few where slow."""
TRAINED, REHEARSED, YOUNG = 8, 3, 16
"""Of each correction, how many rewordings are trained while it is new, and later; how many earlier ones count as new.

A young layer has little to say in other words, and loses much of it with each that is not said again.
"""
WRITTEN = 8
"""For how many new corrections questions are written towards the base's answer: each takes some seconds on a CPU."""
PULL, BACK = 2.0, 3.0
"""Weight of the anchors' KL beside the answers' loss, at first; how many times as much it is while all settles."""
ROWS = 12
"""Rows of a minibatch from which on anchors pull with all that weight; with its square for fewer.

Few rows drag little along, and where much holds them they are learnt without the words that mean the same.
"""
HELD = 12
"""Anchors held at a step: they have to be met more often than answers, for nothing else shows what drifts away."""
QUIET = 10.0
"""Weight of what an adapter adds over usual inputs, beside the answers' loss, at first."""
CAREFUL = 2
"""By how much a second try is slower, and held more."""
SETTLING = 60
"""Most steps, under a falling rate, in which what is learnt settles: what drifted on the way is drawn back."""
FIRM = 1.0
"""Nats by which every answer token still leads in a layer that is made as small as may be."""
SMALLEST, HALVINGS = 0.25, 6
"""Least factor that a layer is scaled by, and how often the interval is halved in which the right one is sought."""
STUMBLES = 8
"""Times that training may go back to its best state before it is given up."""
LOOK = 16
"""Steps from one look to the next, at least, unless everything was seen to be learnt meanwhile."""
STALLS = 2
"""Looks without progress before the rate is changed."""
RELEARNT = 256
"""Examples up to which a layer is always learnt anew from the base."""
WATCHED = 64
"""Earlier examples that are trained beside a batch where training goes on from the incumbent."""
SHARES = 16
"""Most minibatches per epoch: many examples make larger ones, never longer epochs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one job's training will be; `look_every` 0 means that nobody looks before the end."""

    continues: bool
    """Start from the incumbent's weights, not from the base."""
    batch_size: int
    steps: int
    rate: float
    warmup: int
    seed: int
    objective: Objective = field(default_factory=Objective)
    look_every: int = 0
    held: int = 0
    """How many of the base's own answers hold it at each step where nothing is corrected."""
    watched: int = 0
    """How many earlier examples are trained, if not all; all are looked at before the end."""
    quiet: float = 0.0
    """Weight of what the adapter adds over inputs that the base's modules usually get."""

    def of(self, rows: Sequence[Encoded]) -> "Plan":
        """The same for these rows, examples and their rewordings: many make larger minibatches."""
        if not self.look_every:
            return self
        earlier = sum(row.example.group in (Group.HISTORY, Group.AFFIRMATION) for row in rows)
        trained = len(rows) - max(0, earlier - self.watched)
        return replace(self, batch_size=max(self.batch_size, math.ceil(trained / SHARES)))

    def looks_after(self, step: int) -> bool:
        """Whether it is time to look at what is learnt."""
        return self.look_every > 0 and (step % self.look_every == 0 or step == self.steps)


def goes_on(examples: int, relearnt: int) -> bool:
    """Whether "until-learned" goes on from the incumbent, where there is one that it can go on from.

    To learn all examples anew holds best, and costs as much as there are: beyond RELEARNT it is done each time that
    they have doubled, so that a batch costs the same on average however many there were.
    relearnt: how many examples there were when the incumbent, or the one it came of, was learnt from the base; 0: who
    knows.
    """
    return RELEARNT < examples < 2 * relearnt


def plan(recipe: Recipe, examples: int, width: int, going_on: int | None = None) -> Plan:
    """The plan for a number of examples on a base model of `width` hidden units; raises ValueError.

    going_on: how many of them are of the batch, where training goes on from the incumbent.
    """
    if recipe.policy == "fixed":
        steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
        return Plan(True, recipe.batch_size, steps, recipe.learning_rate, 0, recipe.seed, _objective(recipe, None))
    if recipe.policy == "until-learned":
        care = CAREFUL if recipe.careful else 1
        return Plan(
            continues=going_on is not None,
            batch_size=recipe.batch_size,
            steps=recipe.max_steps,
            rate=start_rate(width) / care,
            warmup=5,
            seed=recipe.seed,
            objective=_objective(recipe, LEAD),
            look_every=LOOK,
            held=HELD * care,
            watched=WATCHED if going_on is not None else examples,
            quiet=QUIET * care,
        )
    raise ValueError(f"policy {recipe.policy!r} is unknown; take until-learned or fixed")


def anchor_count(most: int, parameters: int, device: str) -> int:
    """How many anchors a base of this size makes up; a model of half a billion takes half a minute for few on a CPU."""
    return min(most, FEW_ANCHORS) if _slow(parameters, device) else most


@dataclass(frozen=True, slots=True)
class Effort:
    """How far training looks around."""

    new: int
    """Questions about each new correction that are put to the base."""
    earlier: int
    """The same of each earlier one."""
    rehearsed: int
    """Rewordings of each earlier one, at most, that are trained."""
    written: int
    """New corrections, at most, that questions are written for: those first that fewest were found for."""


def effort(plan: Plan, earlier: int, parameters: int, device: str) -> Effort:
    """How far a base of this size is looked around on, where so many corrections were learnt before."""
    young = earlier <= YOUNG
    rehearsed = TRAINED if young else REHEARSED
    if _slow(parameters, device):
        return Effort(FEW_AROUND, 0 if plan.continues else FEW_AROUND // 4, rehearsed, 0)
    around = AROUND if young else AROUND_EARLIER
    # What is written is only trained, and only by who is held.
    return Effort(AROUND, 0 if plan.continues else around, rehearsed, WRITTEN if plan.held else 0)


def _slow(parameters: int, device: str) -> bool:
    return device == "cpu" and parameters > 100_000_000


def start_rate(width: int) -> float:
    """Ten times full fine-tuning's rate, larger for narrower models; halved or raised later as the loss asks.

    Twice as fast, a narrow model learns in a few steps less, and lets more drift.
    """
    return min(1e-3, 5e-4 * math.pow(2000 / width, 0.78))


def to_train(recipe: Recipe, sequences: Sequence[Encoded]) -> list[Encoded]:
    """What a policy trains: the batch alone, or the union without what the batch corrects anew."""
    batch = [sequence for sequence in sequences if sequence.example.group is Group.BATCH]
    if recipe.policy == "fixed":
        return batch
    answered = {tuple(sequence.prompt) for sequence in batch}
    rest = [sequence for sequence in sequences if sequence.example.group in (Group.HISTORY, Group.AFFIRMATION)]
    return batch + [sequence for sequence in rest if tuple(sequence.prompt) not in answered]


def still_open(look: "Look") -> list[int]:
    """Which rows are to be trained until the next look: the likelihood of the others counts no more."""
    rows = range(len(look.leads))
    return [row for row in rows if look.leads[row] < LEAD] or list(rows)


def _objective(recipe: Recipe, lead: float | None) -> Objective:
    if recipe.objective not in ("sft", "dpo", "orpo"):
        raise ValueError(f"objective {recipe.objective!r} is unknown; take sft, dpo or orpo")
    return Objective("" if recipe.objective == "sft" else recipe.objective, recipe.beta, lead)


@dataclass(frozen=True, slots=True)
class Look:
    """What the model would say at one moment: per trained example the loss and the smallest lead, nats."""

    losses: list[float]
    leads: list[float]

    @property
    def loss(self) -> float:
        """Mean loss per answer token."""
        return sum(self.losses) / len(self.losses)

    @property
    def right(self) -> float:
        """Share of the answers that greedy decoding would say."""
        return sum(lead > 0 for lead in self.leads) / len(self.leads)

    @property
    def lead(self) -> float:
        """Nats by which the least certain answer token leads; greedy decoding says everything if it is > 0."""
        return min(self.leads)

    def better(self, other: "Look | None") -> bool:
        """Whether more is right, or as much at a lower loss."""
        return other is None or (self.right, -self.loss) > (other.right, -other.loss)


class Pace:
    """The learning rate of one training: it warms up, halves after a spike, and rises when nothing moves any more."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pull = PULL * min(1.0, plan.batch_size / ROWS) ** 2
        self.settled = 0
        """The step after which a training that has learnt everything has settled; 0: it still learns."""
        self._settling = 0
        self._factor = 1.0
        self._lowest = math.inf
        self._stalls = 0
        self._clear = 0

    def state(self) -> list[float]:
        """What `resumed` needs."""
        return [self._pull, self._factor, self._lowest, self._stalls, self._clear, self.settled, self._settling]

    def resumed(self, state: list[float]) -> None:
        """Go on where another one stopped."""
        self._pull, self._factor, self._lowest = state[:3]
        self._stalls, self._clear, self.settled, self._settling = map(int, state[3:])

    @property
    def pull(self) -> float:
        """Weight of the anchors' KL beside the answers' loss."""
        return self._pull * (BACK if self.settled else 1.0)

    def rate(self, step: int) -> float:
        """The rate for optimizer step number `step`, from 1."""
        left = (self.settled - step + 1) / self._settling if self.settled else 1.0
        return self._plan.rate * self._factor * left * min(1.0, step / max(1, self._plan.warmup))

    def settle(self, step: int) -> None:
        """Everything is learnt: let the rate fall to nothing, over as many steps as that took, or fewer."""
        self._settling = min(SETTLING, step)
        self.settled = step + self._settling

    def learn_on(self) -> None:
        """It was not learnt for good: go on as before."""
        self.settled, self._clear = 0, 0

    def slow(self) -> None:
        """Halve the rate: the last steps made things worse."""
        self._factor /= 2
        self._stalls = 0

    def enough(self, look: Look) -> bool:
        """Whether every answer is learnt, and not by a hair; to be asked once per look."""
        self._clear = self._clear + 1 if look.lead >= CLEAR else 0
        return look.lead >= SURE or self._clear >= PATIENCE

    def worse(self, look: Look) -> bool:
        """Whether the loss has left its lowest value far behind; one that no longer falls changes the rate.

        It is raised while most is unlearnt. When only the last answers hover, it is lowered against the noise of small
        minibatches, and the anchors pull less: one of them may be what holds an answer back.
        """
        if look.loss > 2 * self._lowest + 0.5:
            return True
        self._stalls = 0 if look.loss < 0.98 * self._lowest else self._stalls + 1
        if self._stalls >= STALLS:
            self._stalls = 0
            if look.right < 0.5:
                self._factor = min(4.0, 1.5 * self._factor)
            else:
                self._factor *= 0.8
                self._pull /= 2
        self._lowest = min(self._lowest, look.loss)
        return False
