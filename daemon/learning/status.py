"""The status document: what is pending and why it is not due, what runs, what speaks, what serves."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon import __version__
from daemon.config.settings import Config
from daemon.domain import Backlog, Genome, Run, RunState, RuntimeState, Tally, TraitKey
from daemon.genome.directories import LayerDirectories
from daemon.learning.planner import Planner
from daemon.learning.relearning import train_again
from daemon.learning.turns import ready_in
from daemon.store.store import Store

Document = dict[str, Any]


async def document(store: Store, config: Config, note: Mapping[str, Any] | None) -> Document:
    """Everything an admin asks first; `note` is what a living daemon left beside its lock, None when there is none."""
    genomes = await store.genomes.all()
    revisions = {genome.persona: genome.revision for genome in genomes}
    live = await store.runs.live()
    return {
        "daemon": _daemon(note),
        "traits": await _traits(store, config, live, alive=note is not None),
        "runs": await _runs(store, [*live, *await _explained(store, live, note or {})], note or {}),
        "genomes": [_genome(genome) for genome in genomes],
        "runtimes": _runtimes(config, await store.runtimes.all(), revisions),
    }


def _daemon(note: Mapping[str, Any] | None) -> Document:
    if note is None:
        return {"state": "stopped", "pid": None, "since": None, "version": __version__}
    return {key: note.get(key) for key in ("state", "pid", "since", "version")}


async def _traits(store: Store, config: Config, live: Sequence[Run], *, alive: bool) -> list[Document]:
    layers = LayerDirectories(Path(config.layers.directory))
    judgements = {
        judgement.backlog.key: judgement for judgement in await Planner(store, layers, lambda: config).judge()
    }
    genomes = {genome.persona: genome for genome in await store.genomes.all()}
    busy, put_off = {run.key for run in live}, {run.key for run in live if _again_in(run)}
    in_vain, traits = await store.runs.relearnt_in_vain(), []
    for tally in await store.corrections.tally():
        judgement = judgements.get(tally.key)
        backlog = judgement.backlog if judgement else None
        why = judgement.due.why if judgement else _idle(tally.key, in_vain)
        if tally.quarantined and not tally.pending:
            why += f"; {tally.quarantined} set aside, see: persona corrections list --state quarantined"
        if tally.claimed or tally.key in busy:
            why = "its run waits for its next attempt" if tally.key in put_off else "a run of it is under way"
            why = why if alive else "its run waits for a daemon"
        due = judgement is not None and judgement.due.due
        traits.append(_trait(tally, backlog, genomes.get(tally.key.persona), due=due, why=why))
    return traits


def _idle(key: TraitKey, in_vain: Collection[TraitKey]) -> str:
    """Why a trait with nothing pending is not trained; its last run may have left it without what it had learnt."""
    if key not in in_vain:
        return "nothing pending"
    again = train_again(key)
    return f"its last run could not teach it again what it had learnt, see: persona runs list; once more: {again}"


def _trait(tally: Tally, backlog: Backlog | None, genome: Genome | None, *, due: bool, why: str) -> Document:
    expression = genome.traits.get(tally.key.trait) if genome else None
    layer = expression.layer if expression else None
    return {
        "persona": tally.key.persona,
        "trait": tally.key.trait,
        "pending": tally.pending,
        "affirmations": backlog.affirmations if backlog else 0,
        "claimed": tally.claimed,
        "used": tally.used,
        "quarantined": tally.quarantined,
        "due": due,
        "why": why,
        "layer": {"version": layer.version, "state": layer.state, "pinned": expression.pinned}
        if layer and expression
        else None,
    }


_PROGRESS = ("step", "steps", "loss", "eta_s", "learnt", "tokens_s", "memory_gb", "doing")
"""What a training step says of itself, and what goes on besides."""


async def _runs(store: Store, live: Sequence[Run], note: Mapping[str, Any]) -> list[Document]:
    progress = note.get("progress") or {}
    return [
        {
            "id": run.id,
            "persona": run.key.persona,
            "trait": run.key.trait,
            "state": run.state,
            "version": run.version,
            "purpose": run.purpose,
            "attempt": run.attempt,
            "corrections": len(await store.corrections.claimed_by(run.id)),
            "reason": run.reason,
            "again_in_s": _again_in(run),
            **{name: progress.get(run.id, {}).get(name) for name in _PROGRESS},
        }
        for run in live
    ]


async def _explained(store: Store, live: Sequence[Run], note: Mapping[str, Any]) -> list[Run]:
    """Runs that are over, while it is found out who is to blame for it."""
    working = (note.get("progress") or {}).keys() - {run.id for run in live}
    found = [await store.runs.get(run_id) for run_id in sorted(working)]
    return [run for run in found if run and run.state is RunState.REJECTED]


def _again_in(run: Run) -> int:
    """Seconds until the next attempt of a run that waits for one."""
    return round(ready_in(run, time.time())) if run.state is RunState.PLANNED else 0


def _genome(genome: Genome) -> Document:
    versions = {trait: said.layer.version for trait, said in genome.traits.items() if said.layer}
    return {"persona": genome.persona, "revision": genome.revision, "traits": versions}


def _runtimes(config: Config, states: list[RuntimeState], revisions: Mapping[str, int]) -> list[Document]:
    """Each runtime as it was last seen, against what the genomes say now: a daemon that is down has not looked."""
    kinds = {name: runtime.kind for name, runtime in config.runtimes.items()} or {"embedded": "embedded"}
    seen = [
        {
            "name": state.runtime,
            "kind": kinds[state.runtime],
            "persona": state.persona,
            "desired": revisions.get(state.persona, state.desired),
            "observed": state.observed,
            "state": "converging" if _behind(state, revisions) else state.state,
            "error": state.error,
        }
        for state in states
        if state.runtime in kinds
    ]
    unseen = kinds.keys() - {state["name"] for state in seen}
    idle = {"persona": None, "desired": 0, "observed": None, "state": "idle", "error": None}
    return seen + [{"name": name, "kind": kinds[name], **idle} for name in sorted(unseen)]


def _behind(state: RuntimeState, revisions: Mapping[str, int]) -> bool:
    return state.state == "converged" and state.observed != revisions.get(state.persona, state.observed)
