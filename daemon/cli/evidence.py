"""The page of one run: what it is, what the gate measured, what the training took, and every probe."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from daemon.cli.showing import ago, count, cut, moment, short
from daemon.cli.tables import Table, pairs
from daemon.domain import Correction, Kind, Run, RunState
from daemon.learning.gate import Score
from daemon.learning.triggers import span

COLOURS: Final = {"promoted": "green", "satisfied": "green", "rejected": "red", "failed": "red", "cancelled": "yellow"}
_MEASURES: Final = {
    "batch": ("efficacy", "the batch, answered as expected"),
    "rewording": ("generality", "the batch in other words"),
    "history": ("retention", "learnt before, still answered so"),
    "kept": ("kept", "learnt before, in other words"),
    "affirmation": ("affirmed", "affirmed answers, kept as they are"),
    "anchor": ("locality", "what no correction is about, answered as the base does"),
    "critical": ("critical", "critical probes, which must hold"),
}
"""What each group of probes measures, in the words of model editing, and of what."""
_STAGES: Final = {
    "start": "starting the trainer",
    "load": "loading",
    "probe_incumbent": "probing the incumbent",
    "anchors": "making up anchors",
    "surroundings": "looking around",
    "train": "training",
    "probe_candidate": "probing the candidate",
}
_COUNTED: Final = {
    "steps": "step",
    "epochs": "epoch",
    "samples": "sample",
    "examples": "example",
    "rewordings": "rewording",
    "anchors": "anchor",
}
_SAID: Final[Mapping[str, Callable[[Any], str]]] = {
    "relearnt": lambda examples: f"{count(examples, 'example')}, when all was last learnt from the base",
    "scale": lambda factor: f"{factor:.2f} of what was learnt, as small as may be",
    "drift": lambda nats: f"{nats:.2g} nats a token from the base, where no correction is about it",
    "judged": lambda told: f"{count(told['asked'], 'answer')} shown to the judge; {told['agreed']} mean the same",
}
"""Measurements that want a word of explanation."""
_ANSWER: Final = 200
"""Characters of an answer that the page shows."""
_QUESTION: Final = 60
"""Characters of a question that it shows."""
_MANY: Final = 10
"""Names of modules from which on their number is shown."""


def page(run: Run, corrections: Sequence[Correction]) -> list[RenderableType]:
    """Everything that people want to know of a run."""
    parts: list[RenderableType] = [pairs(_facts(run, corrections).items())]
    evidence = run.evidence
    if scores := evidence.get("scores"):
        parts += ["", _gate(scores, trained=evidence.get("decision") != "satisfied")]
    if metrics := evidence.get("metrics"):
        parts += ["", pairs(_training(metrics).items())]
    if probes := evidence.get("probes"):
        parts += ["", _probes(probes)]
    return parts


def _facts(run: Run, corrections: Sequence[Correction]) -> dict[str, Any]:
    waits = run.state is RunState.PLANNED and run.not_before > time.time()
    return {
        "run": run.id,
        "trait": f"{run.key} v{run.version}",
        "state": Text(run.state, style=COLOURS.get(run.state, "")),
        "reason": run.reason,
        "planned because": run.planned_because,
        "planned": f"{moment(run.created)}, {ago(run.created)}",
        "ended": f"{moment(run.finished)}, after {span(run.finished - run.created)}" if run.finished else None,
        "next attempt": f"not before {moment(run.not_before)}" if waits else None,
        "batch": _batch(corrections, run.evidence),
        "replaces": _replaces(run.evidence),
        "likely to blame": _suspects(run.evidence),
        "to learn the rest": _without(run.evidence),
        "attempts": f"{run.attempt}, {run.failures} of them failed" if run.attempt > 1 else None,
        "layer": run.layer_path,
    }


def _batch(corrections: Sequence[Correction], evidence: Mapping[str, Any]) -> str:
    affirmed = sum(row.kind is Kind.AFFIRMATION for row in corrections)
    parts = [count(len(corrections) - affirmed, "correction")] + [count(affirmed, "affirmation")] * bool(affirmed)
    # Runs of an older program do not say.
    superseded = evidence.get("superseded", 0)
    if superseded:
        by = "a later one" if superseded == 1 else "later ones"
        parts[0] += f", {superseded} of them replaced by {by} of the same context{',' * bool(affirmed)}"
    held = {row.id for row in corrections}
    again = sum(one["group"] == "batch" and one["id"] not in held for one in evidence.get("probes", ()))
    if again:
        parts = [*(parts if corrections else []), f"{count(again, 'correction')} learnt once, to be learnt again"]
    return " and ".join(parts)


def _replaces(evidence: Mapping[str, Any]) -> str | None:
    replaced = evidence.get("replaced", 0)
    if not replaced:
        return None
    return f"{count(replaced, 'answer')} learnt before, of the same context{'' if replaced == 1 else 's'}"


def _suspects(evidence: Mapping[str, Any]) -> str | None:
    found = evidence.get("suspects")
    if not found or not (found["ids"] or found["tried"]):
        return None
    names = ", ".join(short(name) for name in found["ids"])
    if found.get("unlearnt"):
        return f"{names}: not learnt"
    if not found["tried"]:
        return f"{names}: there is no other correction in the batch"
    if not found["ids"]:
        return f"no one's corrections alone: {count(found['tried'], 'training')} without some of them helped nothing"
    by = f", by {found['author']}" if found["author"] else ""
    return f"{names}{by}: without them it would have passed, {count(found['tried'], 'training')} say"


def _without(evidence: Mapping[str, Any]) -> str | None:
    """How to have the rest of a refused batch learnt."""
    found = evidence.get("suspects")
    if not found or not found["ids"] or not found["tried"]:
        return None
    return f"persona corrections quarantine {' '.join(short(name) for name in found['ids'])}"


def _gate(scores: dict[str, Any], *, trained: bool) -> Table:
    """What the gate compared; where nothing was trained there is no after."""
    made = Table(
        "gate", "before", "after", "lost", "margin gain", "of", right=["before", "after", "lost", "margin gain"]
    )
    for group, score in scores.items():
        probes = score["probes"]
        if probes:
            name, about = _MEASURES.get(group, (group, ""))
            lost = Text(f"{score['lost']} ✗", "red") if trained and Score(**score).inferior else str(score["lost"])
            after = [f"{score['candidate']} of {probes}", lost, f"{score['margin_gain']:+.2f}"]
            made.add_row(name, f"{score['incumbent']} of {probes}", *(after if trained else [""] * 3), about)
    return made


def _training(metrics: dict[str, Any]) -> dict[str, Any]:
    """Measurements in words: how much was done, what came of it, how long each stage took."""
    known = {*_COUNTED, *_SAID, "seconds", "loss", "accuracy", "memory", "recipe"}
    seconds = metrics.get("seconds")
    stages = seconds.items() if isinstance(seconds, dict) else ()
    done = ", ".join(_counted(metrics[name], what) for name, what in _COUNTED.items() if name in metrics)
    return {
        "trained" if "steps" in metrics else "probed": done,
        "loss": _figure(metrics["loss"]) if "loss" in metrics else None,
        "accuracy": f"{metrics['accuracy']:.0%} of all examples answered as expected"
        if "accuracy" in metrics
        else None,
        **{name: say(metrics[name]) for name, say in _SAID.items() if name in metrics},
        "took": ", ".join(f"{_STAGES.get(stage, stage.replace('_', ' '))} {_figure(s)} s" for stage, s in stages),
        "recipe": _recipe(metrics["recipe"]) if "recipe" in metrics else None,
        "memory": _memory(metrics["memory"]) if "memory" in metrics else None,
        **{name.replace("_", " "): _figure(value) for name, value in metrics.items() if name not in known},
    }


def _recipe(recipe: dict[str, Any]) -> str:
    targets = recipe["target_modules"]
    names = targets if isinstance(targets, str) else ", ".join(targets)
    on = f"{len(targets)} modules" if isinstance(targets, list) and len(targets) >= _MANY else names
    return (
        f"{recipe['policy']}, {recipe['objective']}; {recipe['method']} of rank {recipe['rank']} and alpha"
        f" {recipe['alpha']} on {on}; rate {_figure(recipe['learning_rate'])}, {recipe['batch_size']} a step,"
        f" seed {recipe['seed']}"
    )


def _memory(memory: dict[str, Any]) -> str:
    weights = "four bits" if memory["four_bits"] else memory["precision"]
    again = ", activations recomputed" if memory["recomputed"] else ""
    return (
        f"{memory['peak_gb']:.2f} GiB at its peak, {memory['predicted_gb']:.2f} predicted; {weights},"
        f" up to {memory['tokens_per_pass']:,} tokens per pass{again}"
    )


def _counted(number: Any, what: str) -> str:
    return f"{_figure(number)} {what}{'' if number == 1 else 's'}"


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _probes(probes: Sequence[dict[str, Any]]) -> Table:
    made = Table("probe", "measures", "right", "before", "after", wrap=["probe", "before", "after"])
    for probe in (probe for probe in probes if _worth_showing(probe)):
        answers = [answer for answer in (probe["incumbent"], probe["candidate"]) if answer]
        right = Text(" → ").join(Text("yes", "green") if answer["right"] else Text("no", "red") for answer in answers)
        texts = [cut(answer["text"], _ANSWER) for answer in answers]
        name, _ = _MEASURES.get(probe["group"], (probe["group"], ""))
        made.add_row(_asked(probe), name, right, *texts, *[""] * (2 - len(texts)))
    return made


def _asked(probe: dict[str, Any]) -> str:
    """Which probe it is: a correction by its id, what has none by its question; a critical one by its line, too."""
    if probe["group"] == "critical":
        return ": ".join(part for part in (probe["id"], cut(probe.get("asked"), _QUESTION)) if part)
    return cut(probe.get("asked"), _QUESTION) or short(probe["id"])


def _worth_showing(probe: dict[str, Any]) -> bool:
    """Of the many that the base made up or reworded, those that are not answered as they should be."""
    said = probe["candidate"] or probe["incumbent"]
    many = probe["group"] == "anchor" or "~" in probe["id"]
    return not (many and said["right"])
