"""The seam of the trainer child: one job line in, event lines out, JSON each; standard library only.

The parent writes one Job per line to the child's standard input. The child answers with events on its standard
output: Alive, Loaded and Step while it works, and ends every job with exactly one Finished or Failed.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, str]


class Group(StrEnum):
    """What an example is to its job."""

    BATCH = "batch"
    """A claimed correction: to be learnt."""
    HISTORY = "history"
    """Learnt by an earlier run of the trait: to be rehearsed, and not to be forgotten."""
    AFFIRMATION = "affirmation"
    """A good answer: to be kept as it is."""
    REWORDING = "rewording"
    """A correction's question in other words: generality."""
    KEPT = "kept"
    """What was learnt before in other words: generality that lasts."""
    ANCHOR = "anchor"
    """Something the base made up and answered itself: locality."""
    CRITICAL = "critical"
    """What an admin wrote that must hold: asked, never trained."""


class Rule(StrEnum):
    """What is asked of an answer."""

    IS = "is"
    """The expected text, white space and Unicode form aside."""
    CONTAINS = "contains"
    """The expected text in it, whatever its case."""
    NEVER = "never"
    """The expected text not in it, whatever its case."""


def _correction(name: str, group: Group) -> str:
    reworded = group in (Group.REWORDING, Group.KEPT)
    return (name.rpartition("~")[0] or name) if reworded else name


@dataclass(frozen=True, slots=True)
class Example:
    """One answer to learn or to keep; `weight` multiplies its loss (2 × severity)."""

    id: str
    messages: list[Message]
    expected: str
    original: str
    weight: float
    group: Group
    rule: Rule = Rule.IS

    @property
    def correction(self) -> str:
        """The id of the example that it is, or says in other words."""
        return _correction(self.id, self.group)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: LoRA's shape and the policy with its numbers."""

    policy: str = "until-learned"
    rank: int = 16
    alpha: int = 32
    target_modules: str | list[str] = "all-linear"
    epochs: int = 3
    learning_rate: float = 2e-4
    batch_size: int = 4
    max_steps: int = 800
    seed: int = 0
    method: str = "lora"
    """"lora", "rslora" or "qlora"."""
    objective: str = "sft"
    """"sft", or with a term that prefers the expected answer to the original one: "dpo" or "orpo"."""
    beta: float = 0.1
    anchors: int = 1024
    """How many questions the base makes up and answers itself, at most."""
    careful: bool = False
    """Whether this is a second try, after the gate refused the first candidate."""


@dataclass(frozen=True, slots=True)
class Blend:
    """A candidate that is made of layers that there are: asked, not trained."""

    layers: list[str]
    """Their directories, absolute; one alone is taken as it is."""
    weights: list[float]
    method: str = "cat"
    """"cat", "linear", "ties" (arXiv 2306.01708) or "dare" (arXiv 2311.03099)."""
    density: float = 0.5
    """Share of each layer's values that "ties" and "dare" keep."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one run; folders are absolute, `out` is this attempt's own and does not exist yet."""

    run: str
    attempt: int
    base_model: str
    examples: list[Example]
    """In the order of their arrival: of two that ask the same, the later one counts."""
    recipe: Recipe
    out: str
    incumbent: str | None = None
    """The layer directory that the trait speaks with now."""
    blend: Blend | None = None
    """What the candidate is made of, where it is not trained."""
    relearnt: int = 0
    """How many examples there were when the incumbent's line was last learnt from the base; 0: who knows."""
    threads: int = 0
    """Processor threads; 0 leaves the choice to torch."""
    memory_gb: float = 0.0
    """GiB that the child may use; 0: all that there are."""
    pantry: str = ""
    """Folder in which what a base makes up is kept for later jobs; empty: it is not."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints, beside `out`, that a later attempt goes on from; 0: none."""

    def line(self) -> str:
        """This job as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=True)

    @staticmethod
    def parse(line: str) -> "Job":
        """Read a job line; raises ValueError, KeyError or TypeError when it is none."""
        fields = json.loads(line)
        fields["examples"] = [
            Example(**{**example, "group": Group(example["group"]), "rule": Rule(example["rule"])})
            for example in fields["examples"]
        ]
        fields["recipe"] = Recipe(**fields["recipe"])
        fields["blend"] = Blend(**fields["blend"]) if fields.get("blend") else None
        return Job(**fields)


@dataclass(frozen=True, slots=True)
class Alive:
    """The child works on something that has no steps to count."""

    doing: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The base model is in memory; `folder` is where its files lie, `seconds` is 0 when it was warm."""

    folder: str
    parameters: int
    device: str
    seconds: float
    fallback: str = ""
    """Why the model is trained on padded batches instead of token trees, as a part of a sentence; empty: it is not."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """An earlier attempt's checkpoint was found: training goes on after this step of `steps`."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step is done; `steps` is the most there can be, `loss` is per answer token."""

    step: int
    steps: int
    loss: float
    eta_s: float
    learnt: float | None = None
    """Share of the batch answered as expected at the last look, if there was one."""
    tokens_s: float = 0.0
    """Tokens of what is trained or held per second, each counted as often as it occurs."""
    memory_gb: float = 0.0
    """Most memory used so far, GiB: the process's, or the accelerator's."""

    def figures(self) -> dict[str, Any]:
        """All of it, to the digits that mean something."""
        return asdict(self) | {
            "loss": float(f"{self.loss:.4g}"),
            "eta_s": round(self.eta_s, 1),
            "learnt": None if self.learnt is None else round(self.learnt, 3),
            "tokens_s": round(self.tokens_s),
            "memory_gb": round(self.memory_gb, 2),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to one probe."""

    text: str
    """The free-running greedy answer, cut to a readable length."""
    right: bool
    """Whether it is the expected answer, white space and Unicode form aside."""
    match: float
    """Share of the expected tokens that it says before it first departs from them, 0 to 1."""
    margin: float
    """Mean log-likelihood per token of the expected answer, less that of the original one."""
    ended: bool = True
    """Whether it ended its turn by itself within the room it was given."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question put to the incumbent and, where there is one, to the candidate."""

    id: str
    group: Group
    incumbent: Answer
    candidate: Answer | None = None
    asked: str = ""
    """The question, where it is none of a correction's own."""

    @property
    def correction(self) -> str:
        """The id of the example that it asks, or asks in other words."""
        return _correction(self.id, self.group)


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is done: `trained` says whether there is a candidate in `out`, or none was needed."""

    trained: bool
    probes: list[Probe]
    metrics: dict[str, Any] = field(default_factory=dict)
    """loss, steps, epochs, samples, examples, the recipe as it was followed, memory, and seconds per stage."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Examples that cannot be trained on here, by id, and why; they were left out."""
    superseded: dict[str, str] = field(default_factory=dict)
    """Examples that a later one asks in other words, and contradicts, by its id; they were left out."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without a candidate; `retry` says whether another attempt could fare better."""

    reason: str
    retry: bool = True
    blameless: bool = False
    """Whether the machine or the base model is at fault, whatever the examples are."""


Event = Alive | Loaded | Resumed | Step | Finished | Failed
_EVENTS: dict[str, type] = {kind.__name__.lower(): kind for kind in (Alive, Loaded, Resumed, Step, Finished, Failed)}


def event_line(event: Event) -> str:
    """One event as one line of JSON."""
    return json.dumps({"event": type(event).__name__.lower(), **asdict(event)}, ensure_ascii=True)


def parse_event(line: str) -> Event:
    """Read an event line; raises ValueError, KeyError or TypeError when it is none."""
    fields = json.loads(line)
    kind = _EVENTS[fields.pop("event")]
    if kind is Finished:
        fields["probes"] = [_probe(probe) for probe in fields["probes"]]
    event: Event = kind(**fields)
    return event


def _probe(fields: dict[str, Any]) -> Probe:
    candidate = fields["candidate"]
    return Probe(
        id=fields["id"],
        group=Group(fields["group"]),
        incumbent=Answer(**fields["incumbent"]),
        candidate=Answer(**candidate) if candidate else None,
    )
