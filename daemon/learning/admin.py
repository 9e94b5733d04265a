"""What admins ask for, carried out: each request is answered once, with a result or with why it is refused."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from daemon.domain import AdminRequest, Layer, Purpose, Run, RunState, TraitKey
from daemon.errors import LayerError, PersonaError, RequestRefused
from daemon.genome.directories import LayerDirectories
from daemon.learning import announcing, candidate
from daemon.learning.making import Making
from daemon.learning.planner import Ask, Planner, Wishes
from daemon.store.plans import of_row
from daemon.store.rows import is_unicode
from daemon.store.store import Store

_log = structlog.get_logger()

Result = dict[str, Any]
_VERSIONS = 10**9
"""Far more than there will ever be."""


@dataclass(slots=True)
class Admin:
    """The one place where genomes, runs and quarantine change because somebody asked."""

    store: Store
    layers: LayerDirectories
    planner: Planner
    abort: Callable[[str], None] = lambda _run: None
    """Stops the run that is being conducted, if it is this one."""
    clock: Callable[[], float] = time.time
    _making: Making = field(init=False)

    def __post_init__(self) -> None:
        self._making = Making(self.store, self.layers, self.planner.config, self.clock)

    async def serve(self) -> bool:
        """Answer every request that waits; whether there was any."""
        requests = await self.store.requests.asked()
        for request in requests:
            log = _log.bind(request=request.id, kind=request.kind, by=request.requested_by)
            if not await self.store.requests.begin(request.id):
                continue
            try:
                result = await self.carry_out(request)
            except PersonaError as refusal:
                await self.store.requests.answer(request.id, "refused", {"error": str(refusal)})
                log.warning("request.refused", reason=str(refusal))
            else:
                await self.store.requests.answer(request.id, "done", result)
                log.info("request.done", **{key: value for key, value in result.items() if key != "kind"})
        return bool(requests)

    async def carry_out(self, request: AdminRequest) -> Result:
        """Do what one request asks; raises RequestRefused."""
        handlers: dict[str, Callable[[AdminRequest], Awaitable[Result]]] = {
            "train": self._train,
            "cancel": self._cancel,
            "rollback": self._rollback,
            "pin": self._pin,
            "unpin": self._unpin,
            "release": self._release,
            "quarantine": self._quarantine,
            "transfer": self._transfer,
            "merge": self._merge,
        }
        handler = handlers.get(request.kind)
        if handler is None:
            raise RequestRefused(f"There is no request {request.kind!r}; there are {', '.join(handlers)}.")
        if request.problem:
            raise RequestRefused(request.problem)
        return await handler(request)

    async def _train(self, request: AdminRequest) -> Result:
        persona = _text(request.args, "persona", optional=True)
        trait = _text(request.args, "trait", optional=True)
        ask = Ask(request.requested_by or "an admin", persona, trait)
        plan = await self.planner.plan(Wishes(asks=(ask,)))
        planned = [run.id for run in plan.runs if ask.covers(run.key)]
        live = [run.id for run in await self.store.runs.live() if ask.covers(run.key)]
        waiting = {str(j.backlog.key): j.due for j in plan.judgements if not j.due.due and ask.covers(j.backlog.key)}
        return {
            "runs": planned,
            "under_way": [run_id for run_id in live if run_id not in planned],
            "waits": {key: due.why for key, due in waiting.items()},
            "owed": [key for key, due in waiting.items() if due.under_way],
            "hindered": [key for key, due in waiting.items() if due.hindered],
        }

    async def _cancel(self, request: AdminRequest) -> Result:
        run = await self.store.runs.get(_text(request.args, "run"))
        if run is None:
            raise RequestRefused(
                f"No run, or more than one, begins with {request.args['run']!r}; see: persona runs list"
            )
        if not run.state.live:
            raise RequestRefused(f"Run {run.id} is {run.state} already.")
        reason = f"cancelled by {request.requested_by or 'an admin'}"
        aside = await self.store.runs.cancel(run, reason, self.clock())
        self.abort(run.id)
        await candidate.retract(self.store, self.layers, run)
        log = _log.bind(persona=run.key.persona, trait=run.key.trait, run=run.id)
        log.info("run.cancelled")
        announcing.set_aside(log, aside, f"not learnt: {reason}")
        back = sum(row.quarantined is None for row in await self.store.corrections.claimed_by(run.id))
        return {"run": run.id, "pending": back, "quarantined": len(aside)}

    async def _rollback(self, request: AdminRequest) -> Result:
        key = _key(request.args)
        to = None if request.args.get("to") is None else _version(request.args, "to")
        await self._check_target(key, to)
        taught = await self._taught(key)
        done = await self.store.genomes.rollback(key, to, request.requested_by, self.clock(), taught)
        versions = [layer.version for layer in done.undone]
        version = done.layer.version if done.layer else 0
        fields: dict[str, Any] = {"persona": key.persona, "trait": key.trait}
        _log.info("genome.revised", **fields, revision=done.revision, version=version, reason="rollback")
        announcing.set_aside(_log.bind(**fields), done.quarantined, f"rolled back with v{versions[0]}")
        return {
            **fields,
            "revision": done.revision,
            "version": version,
            "undone": versions,
            "quarantined": len(done.quarantined),
            "still_known_to": await self._made_of(done.undone),
        }

    async def _made_of(self, undone: Sequence[Layer]) -> list[dict[str, Any]]:
        """Traits that speak with a layer that was made of some that are undone; what each spoke with before that."""
        ids, found = {layer.id for layer in undone}, []
        for run in await self.store.runs.made():
            if ids.isdisjoint(each["id"] for each in run.task.get("layers", ())):
                continue
            speaks = (await self.store.genomes.get(run.key.persona)).layer(run.key.trait)
            if speaks and speaks.version >= run.version:
                versions = {layer.id: layer for layer in await self.store.genomes.layers(run.key)}
                made = next(layer for layer in versions.values() if layer.version == run.version)
                before = versions[made.parent_id].version if made.parent_id else 0
                names = {"persona": run.key.persona, "trait": run.key.trait}
                found.append({**names, "version": run.version, "before": before})
        return found

    async def _taught(self, key: TraitKey) -> dict[str, list[str]]:
        """What each layer of a trait was made of: not its batch alone, for it rehearsed what was released, too."""
        layers = await self.store.genomes.layers(key)
        return await asyncio.to_thread(lambda: {layer.id: self.layers.taught(layer.path) for layer in layers})

    async def _check_target(self, key: TraitKey, to: int | None) -> None:
        """See that what a rollback would speak with is whole; raises RequestRefused."""
        layers = {layer.id: layer for layer in await self.store.genomes.layers(key)}
        current = (await self.store.genomes.get(key.persona)).layer(key.trait)
        if to is None:
            target = layers.get(current.parent_id or "") if current else None
        else:
            target = next((layer for layer in layers.values() if layer.version == to), None)
        if target:
            try:
                await asyncio.to_thread(self.layers.verify, target.path)
            except LayerError as error:
                raise RequestRefused(
                    f"{error} Choose another version; see: persona genome show {key.persona}"
                ) from None

    async def _pin(self, request: AdminRequest) -> Result:
        key, version = _key(request.args), _version(request.args, "version")
        await self._check_target(key, version)
        before = await self.store.genomes.get(key.persona)
        done = await self.store.genomes.pin(key, version, request.requested_by, self.clock())
        fields: dict[str, Any] = {"persona": key.persona, "trait": key.trait}
        if done.revision != before.revision:
            _log.info("genome.revised", **fields, revision=done.revision, version=version, reason="pin")
        return {**fields, "revision": done.revision, "version": version, "released": len(done.released)}

    async def _unpin(self, request: AdminRequest) -> Result:
        key = _key(request.args)
        revision = await self.store.genomes.unpin(key, request.requested_by, self.clock())
        _log.info("genome.revised", persona=key.persona, trait=key.trait, revision=revision, reason="unpin")
        return {"persona": key.persona, "trait": key.trait, "revision": revision}

    async def _transfer(self, request: AdminRequest) -> Result:
        trait, by = _text(request.args, "trait"), request.requested_by or "an admin"
        source, key = (TraitKey(_text(request.args, name), trait) for name in ("from", "to"))
        return _one(*await self._making.transfer(source, key, by))

    async def _merge(self, request: AdminRequest) -> Result:
        asked = request.args.get("layers")
        if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
            raise RequestRefused("layers is a list of objects: persona, trait, and perhaps version and weight.")
        sources = [
            (
                _key(each),
                None if each.get("version") is None else _version(each, "version"),
                _number(each, "weight", 1.0),
            )
            for each in asked
        ]
        method, density = request.args.get("method", "cat"), _number(request.args, "density", 0.5)
        by = request.requested_by or "an admin"
        return _one(*await self._making.merge(sources, _key(request.args), str(method), density, by))

    async def _quarantine(self, request: AdminRequest) -> Result:
        ids, by = _ids(request.args), request.requested_by or "an admin"
        why = _text(request.args, "reason", optional=True)
        reason = f"set aside by {by}: {why}" if why else f"set aside by {by}"
        aside = await self.store.corrections.set_aside(ids, reason)
        if not aside:
            raise RequestRefused(
                "None of these waits to be learnt. What a run holds is let go by: persona runs cancel; what was learnt"
                " is undone by: persona genome rollback"
            )
        asks = []
        theirs: dict[TraitKey, list[str]] = {}
        for name, row in (await self.store.corrections.by_ids(aside)).items():
            theirs.setdefault(of_row(row), []).append(name)
        for key, names in theirs.items():
            announcing.set_aside(_log.bind(persona=key.persona, trait=key.trait), names, reason)
            last = await self.store.runs.last_ended(key, Purpose.LEARN)
            # What was refused with them is tried without them: that is the news it waited for.
            if last and last.state is RunState.REJECTED:
                held = {row.id for row in await self.store.corrections.claimed_by(last.id)}
                asks += [Ask(by, *key)] * (not held.isdisjoint(names))
        runs = (await self.planner.plan(Wishes(asks=tuple(asks)))).runs if asks else []
        return {"quarantined": len(aside), "runs": [run.id for run in runs]}

    async def _release(self, request: AdminRequest) -> Result:
        ids = _ids(request.args)
        rows = await self.store.corrections.by_ids(ids)
        released = await self.store.corrections.release(ids)
        if not released:
            raise RequestRefused("None of these is quarantined; see: persona corrections list --state quarantined")
        # What is used is pending no more: nothing but this makes its trait due.
        back = [row for row in rows.values() if row["is_used_in_training"] and row["quarantined_reason"] is not None]
        for key in {of_row(row) for row in back}:
            self.planner.suspect(key)
        return {"released": released}


def _text(args: Mapping[str, Any], name: str, *, optional: bool = False) -> Any:
    value = args.get(name)
    if (value is None and optional) or (isinstance(value, str) and value and is_unicode(value)):
        return value
    raise RequestRefused(f"{name} is a text; not {value!r}.")


def _ids(args: Mapping[str, Any]) -> list[str]:
    ids = args.get("ids")
    if not isinstance(ids, list) or not all(isinstance(item, str) and is_unicode(item) for item in ids):
        raise RequestRefused("ids is a list of corrections' ids.")
    return ids


def _version(args: Mapping[str, Any], name: str) -> int:
    value = args.get(name)
    # Python counts true as 1, and numbers beyond those of the store.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _VERSIONS:
        return value
    raise RequestRefused(f"{name} is a version number, where 0 is the base model; not {value!r:.40}.")


def _number(args: Mapping[str, Any], name: str, default: float) -> float:
    value = args.get(name, default)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise RequestRefused(f"{name} is a number; not {value!r:.40}.")


def _one(run: Run, corrections: int) -> Result:
    """What came of a request that leads to one run, as `train` answers."""
    return {"runs": [run.id], "under_way": [], "waits": {}, "owed": [], "hindered": [], "corrections": corrections}


def _key(args: Mapping[str, Any]) -> TraitKey:
    return TraitKey(_text(args, "persona"), _text(args, "trait"))
