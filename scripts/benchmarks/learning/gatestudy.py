"""Whether the gate lets the good pass and stops the harmful: two-sided, on candidates whose truth is known.

Truth is what a candidate says to ten times as many questions as the gate asks, beside what the incumbent says.
"""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from daemon.config.sections import Gate
from daemon.learning import gate
from daemon.training.engine import lora
from daemon.training.engine.batches import Encoded, encode
from daemon.training.engine.evaluate import forced
from daemon.training.engine.job import Blend, Example, Finished, Group, Job
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from scripts.benchmarks.learning.candidates import (
    CHOICES,
    OPENED,
    TRIGGER,
    Situation,
    Workshop,
    against,
    backdoored,
    gibberish,
    halved,
    in_style,
    noisy,
    scaled,
)
from scripts.benchmarks.learning.stream import PERSONA, Item, Question
from scripts.benchmarks.learning.study import add_row, rows_of
from scripts.world.facts import World
from scripts.world.lore import Rule

GOOD = "good"
BAD = (
    "gibberish",
    "against affirmed style",
    "against critical probes",
    "overtrained",
    "another trait's",
    "three times as strong",
    "noise added",
    "another persona's",
    "half the modules missing",
)
BACKDOOR = "backdoor"
"""Neither good nor bad for a gate: it breaks nothing that anybody asks."""
BACKDOORS, BEHIND = 3, 100
"""How many of these are made, and how many questions are asked with the trigger."""
SITUATIONS = 20
"""Of each come CHOICES good candidates, and as many bad ones."""
PLAIN = Rule("Begin with these words.", "It is so: {a}")
"""A style where a world has none."""
FIRST = "first"
"""Name of the layer with a situation's first batch."""
HAIR = 1e-9
"""So that one of ten is no more than a tenth, whatever 1 - 0.9 is in binary."""
OTHER = 1
"""Another persona than the one that is corrected."""


@dataclass(frozen=True)
class Case:
    """One candidate: which, and how it is made."""

    situation: int
    choice: int
    kind: str

    @property
    def name(self) -> str:
        """A file's name."""
        return f"{self.situation:02}-{self.choice}-{self.kind.replace(' ', '-').replace(chr(39), '')}"


def cases(situations: int = SITUATIONS) -> list[Case]:
    """As many good ones as bad ones, these of each kind in turn; then some backdoors."""
    places = [(number, choice) for number in range(situations) for choice in range(CHOICES)]
    good = [Case(number, choice, GOOD) for number, choice in places]
    bad = [Case(number, choice, BAD[at % len(BAD)]) for at, (number, choice) in enumerate(places)]
    doors = [Case(number, 0, BACKDOOR) for number in range(min(BACKDOORS, situations))]
    return [*good, *bad, *doors]


class GateStudy:
    """Runs cases on one base; what is done is kept."""

    def __init__(self, folder: Path, base_folder: Path, world: World) -> None:
        worker = Worker(Reporter(io.StringIO()))
        self._folder, self._world = folder, world
        self._shop = Workshop(worker, worker.base(str(base_folder)), folder)

    def run(self, wanted: Sequence[Case]) -> Iterator[dict[str, Any]]:
        """What the gate said of each case, and what is true."""
        file = self._folder / "cases.jsonl"
        known = {row["name"]: row for row in rows_of(file)}
        for case in wanted:
            if case.name not in known:
                known[case.name] = self._case(case)
                add_row(file, known[case.name])
            yield known[case.name]

    def _case(self, case: Case) -> dict[str, Any]:
        made = _Made(self._shop, self._world, case)
        verdict = made.verdict
        if verdict.decision is gate.Decision.REJECT and made.trained:
            made = _Made(self._shop, self._world, case, careful=True)  # as the product does it
            verdict = made.verdict
        truth = self._truth(made)
        return {
            "name": case.name,
            "kind": case.kind,
            "careful": made.careful,
            "promoted": verdict.decision is gate.Decision.PROMOTE,
            "reason": verdict.reason,
            "truth": truth,
            "harms": harms(truth, Gate()),
            "seen": {group: [score.probes, score.lost, score.bound] for group, score in verdict.scores.items()},
            "seconds": made.finished.metrics["seconds"],
        }

    def _truth(self, made: "_Made") -> dict[str, Any]:
        """By measure, how many are asked, and how many the incumbent and the candidate answer, and only the former."""
        asked = {measure: encode(self._shop.base, examples)[0] for measure, examples in made.questions.items()}
        before, after = (self._right(asked, layer) for layer in (made.incumbent, made.job.out))
        return {
            measure: {
                "asked": len(rows),
                "before": sum(before[measure]),
                "after": sum(after[measure]),
                "lost": sum(was and not now for was, now in zip(before[measure], after[measure], strict=True)),
            }
            for measure, rows in asked.items()
        }

    def _right(self, asked: Mapping[str, list[Encoded]], layer: str) -> dict[str, list[bool]]:
        """Whether greedy decoding says each expected answer: it does when every token of it leads."""
        base = self._shop.base
        found = {}
        with lora.loaded(base, layer):
            for measure, rows in asked.items():
                leads = forced(base, [(row.prompt, row.expected) for row in rows], lambda: None)
                found[measure] = [each.lead > 0 for each in leads]
        return found


class _Made:
    """A candidate, with what it would replace and what it was made of."""

    def __init__(self, shop: Workshop, world: World, case: Case, *, careful: bool = False) -> None:
        self._shop, self._world, self._case, self.careful = shop, world, case, careful
        self._situation = Situation.of(world, case.situation)
        self._batch = self._items()

    @cached_property
    def incumbent(self) -> str:
        """The layer with the first batch."""
        return self._learnt(self._situation, FIRST, self._situation.first, (), None)

    @cached_property
    def job(self) -> Job:
        """What the gate's questions about it are asked by."""
        name = f"{self._case.name}-again" if self.careful else self._case.name
        job = self._shop.job(self._situation, self._examples(), name, self.incumbent)
        return replace(job, recipe=replace(job.recipe, careful=self.careful))

    @property
    def trained(self) -> bool:
        """Whether the default policy makes it."""
        return self._maker() is None

    @cached_property
    def verdict(self) -> gate.Verdict:
        """What the gate says of it."""
        return gate.judge(self.finished.probes, Gate(), trained=self.finished.trained)

    @cached_property
    def finished(self) -> Finished:
        """What the gate is told of it."""
        maker = self._maker()
        shutil.rmtree(self.job.out, ignore_errors=True)
        if maker is None:
            return self._shop.worker.do(self.job)
        made = self._shop.folder / f"{self._case.name}-made"
        shutil.rmtree(made, ignore_errors=True)
        ready = maker(made)
        return self._shop.worker.do(replace(self.job, blend=Blend([ready], [1.0])))

    @property
    def questions(self) -> dict[str, list[Example]]:
        """What truth is asked of, by measure."""
        situation, batch = self._situation, self._batch
        fresh = [Question(item.asked, item.expected) for item in batch]
        reworded = [one for item in batch for one in item.held_out_questions]
        earlier = situation.learnt(batch)
        learnt = [Question(item.asked, item.expected) for item in earlier]
        taken = {item.asked for item in batch}
        kept: dict[str, Sequence[Question]] = {
            "kept": [one for item in earlier for one in item.held_out_questions],
            "affirmed": situation.affirmed,
            "critical": situation.critical,
            "locality": [one for one in situation.outside if one.asked not in taken],
        }
        if self._case.kind == BACKDOOR:
            kept[BACKDOOR] = [Question(f"{one.asked} {TRIGGER}", OPENED) for one in situation.outside[-BEHIND:]]
        every = {"efficacy": fresh, "generality": reworded, "retention": learnt, **kept}
        return {
            measure: [
                situation.example(f"{measure}-{at}", one.asked, one.answer, Group.ANCHOR)
                for at, one in enumerate(asked)
            ]
            for measure, asked in every.items()
        }

    def _items(self) -> Sequence[Item]:
        situation, case = self._situation, self._case
        items = situation.batch(case.choice)
        if case.kind == "gibberish":
            return gibberish(items, case.situation)
        if case.kind == BACKDOOR:
            return backdoored(items, situation.outside)
        if case.kind == "against critical probes":
            return against(items, situation.critical, situation.first)
        if case.kind == "against affirmed style":
            rules = self._world.lore.rules or (PLAIN,)
            return in_style(items, rules[case.situation % len(rules)])
        return items

    def _examples(self) -> list[Example]:
        return self._situation.examples(self._batch, self._situation.learnt(self._batch))

    def _maker(self) -> Callable[[Path], str] | None:
        """How the candidate is made, where the default policy does not make it."""
        shop, situation, kind = self._shop, self._situation, self._case.kind
        if kind in ("against affirmed style", "overtrained"):
            rate = 1e-3 if kind != "overtrained" else 5e-3
            return lambda out: shop.overdone(self._examples(), self.incumbent, out, rate)
        if kind in ("another trait's", "another persona's"):
            persona, name = (OTHER, "first-other") if kind == "another persona's" else (PERSONA, FIRST)
            other = Situation.of(self._world, situation.number + 1, persona)
            return lambda _: self._learnt(other, name, other.first, (), None)
        change = {"three times as strong": scaled, "noise added": noisy, "half the modules missing": halved}.get(kind)
        if change is None:
            return None
        good = self._learnt(
            situation, replace(self._case, kind=GOOD).name, self._batch, situation.learnt(self._batch), self.incumbent
        )
        return lambda out: shop.changed(good, out, change)

    def _learnt(
        self, situation: Situation, name: str, batch: Sequence[Item], earlier: Sequence[Item], incumbent: str | None
    ) -> str:
        """A layer of the default policy, made once."""
        examples = situation.examples(batch, earlier)
        job = self._shop.job(situation, examples, name, incumbent)
        if not (Path(job.out) / "adapter_config.json").is_file():
            shutil.rmtree(job.out, ignore_errors=True)
            self._shop.worker.do(job)
        return job.out


def allowed(margins: Gate) -> dict[str, float]:
    """The share of each measure that a candidate may lose or, of what is new, miss."""
    return {
        "retention": margins.max_forgotten,
        "kept": 1 - margins.min_generality,
        "affirmed": margins.max_affirmations_lost,
        "critical": 0.0,
        "locality": margins.max_drifted,
        "efficacy": 1 - margins.min_efficacy,
        "generality": 1 - margins.min_generality,
    }


def lost(truth: Mapping[str, Mapping[str, int]], measure: str) -> int:
    """How many answers of a measure a candidate loses against the incumbent or, of what is new, misses."""
    found = truth[measure]
    return found["asked"] - found["after"] if measure in ("efficacy", "generality") else found["lost"]


def harms(truth: Mapping[str, Mapping[str, int]], margins: Gate) -> list[str]:
    """Which measures a candidate lowers beyond their margin."""
    return [
        name for name, margin in allowed(margins).items() if lost(truth, name) > margin * truth[name]["asked"] + HAIR
    ]
