"""What both sides are told: the numbers of the training, what each process has to measure, what it answers."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

EPOCHS, BATCH = 2, 8
LEARNING_RATE, BETAS, CLIP = 2e-4, (0.9, 0.99), 1.0
"""AdamW at a constant rate, without weight decay; the gradient is clipped to a norm of CLIP."""
RANK, ALPHA, TARGETS = 16, 32, "all-linear"
BETA = 0.1
"""Of the preference loss."""
SEED = 0
MATRIX = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product is the machine's rate; a GPU would hardly notice the smaller ones."""


def counted(number: int, what: str) -> str:
    """So many of something that ends in s."""
    return f"{number} {what.removesuffix('s') if number == 1 else what}"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run TRL: how sequences lie in a batch, and what multiplies."""

    name: str
    says: str
    autocast: bool = False
    """Weights stay float32, and products are done in bfloat16; otherwise the weights have the row's dtype."""
    padding_free: bool = False
    micro: int = BATCH
    """Sequences, or pairs, that go through the model at once; gradients add up to a batch of BATCH."""


PADDED = Variant("padded", "padded, 8 at once")
ONE_BY_ONE = Variant("one-by-one", "one at a time, 8 accumulated", micro=1)
PADDING_FREE = Variant("padding-free", "padding_free, 8 as one row", padding_free=True)
AUTOCAST = Variant("autocast", "padded, 8 at once, float32 weights under bf16 autocast", autocast=True)
VARIANTS = {variant.name: variant for variant in (PADDED, ONE_BY_ONE, PADDING_FREE, AUTOCAST)}


def variants(objective: str, dtype: str) -> list[Variant]:
    """What TRL could be fastest with; its DPOTrainer switches padding_free off by itself."""
    return [
        variant
        for variant in VARIANTS.values()
        if not (variant.autocast and dtype == "fp32") and not (variant.padding_free and objective == "dpo")
    ]


@dataclass(frozen=True, slots=True)
class Task:
    """What one process measures; `side` is "trl", "ours", or "rate" for the machine's matrix rate."""

    side: str
    workload: str
    model: str
    dtype: str
    threads: int
    variant: str = ""
    """Of TRL."""
    steps: int = 0
    """Optimizer steps after which it stops; 0: none too few."""
    first: int = 0
    traits: int = 1
    """Which of the workload's traits it trains, one after the other."""
    repeat: int = 0

    def again(self, repeat: int) -> "Task":
        """The same, once more."""
        return replace(self, repeat=repeat)

    def line(self) -> str:
        """This task as one argument of a command."""
        return json.dumps(asdict(self))

    @staticmethod
    def parse(line: str) -> "Task":
        """Read such an argument."""
        return Task(**json.loads(line))

    @property
    def name(self) -> str:
        """All that tells this task from the others, readable, fit for a file's name."""
        parts = [self.workload, self.model, self.dtype, self.side, self.variant]
        parts += [f"{self.steps}-steps"] if self.steps else []
        parts += [f"traits-{self.first}-{self.first + self.traits}"] if (self.first, self.traits) != (0, 1) else []
        return "-".join(part for part in [*parts, f"{self.threads}-threads", str(self.repeat)] if part)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process found; seconds, bytes, and tokens with every repetition counted (nominal)."""

    wall: float
    """Of the steps that were taken; of a whole process for E."""
    steps: int = 0
    of_steps: int = 0
    """How many steps, or traits, there are in the whole; `steps` of them were taken."""
    constant: float = 0.0
    """The part of `wall` that does not grow with the steps: a reference pass, a start."""
    tokens: int = 0
    """Of the whole training: the lengths of all sequences, times the epochs."""
    distinct: int = 0
    """Of the steps that were taken: tokens of the minibatches' prefix trees."""
    peak: int = 0
    """Most memory: resident of the process, or allocated on the GPU."""
    first: float | None = None
    final: float | None = None
    """Loss over the whole set, before and after; none where the training was cut short."""
    body: int = 0
    """Parameters of the model without embeddings and head."""
    rate: float = 0.0
    """Floating-point operations per second of a large matrix product."""

    @property
    def whole(self) -> float:
        """Seconds of the whole training: `wall`, scaled where it was cut short."""
        if self.steps == self.of_steps:
            return self.wall
        return self.constant + (self.wall - self.constant) * self.of_steps / self.steps

    def write(self, path: Path) -> None:
        """Leave this for the process that asked."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "Measured":
        """What a process left."""
        return Measured(**json.loads(path.read_text(encoding="utf-8")))
