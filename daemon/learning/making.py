"""Layers made of layers: what is taken over from another persona, and what several layers become together.

What they were taught comes along as rows of the trait that learns: so all that follows, rehearsal, rollback and the
next training, knows nothing of where a layer came from.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.config.settings import Config
from daemon.domain import Intent, Layer, Purpose, Run, TraitKey
from daemon.errors import LayerError, RequestRefused
from daemon.genome.directories import LayerDirectories
from daemon.learning import announcing
from daemon.learning.candidate import same_base
from daemon.learning.hindrance import hindrance
from daemon.store.store import Store
from daemon.training.engine.job import Blend

_METHODS = ("cat", "linear", "ties", "dare")


@dataclass(frozen=True, slots=True)
class Source:
    """A layer that another is made of; no layer where what was learnt was answered without one."""

    key: TraitKey
    layer: Layer | None
    weight: float
    taught: Sequence[Mapping[str, object]]
    """The rows, whole, that come along."""

    def __str__(self) -> str:
        return f"{self.key}@{self.layer.version}" if self.layer else str(self.key)


@dataclass(slots=True)
class Making:
    """Plans the runs that admins ask for by `persona genome transfer` and `persona genome merge`."""

    store: Store
    layers: LayerDirectories
    config: Callable[[], Config]
    clock: Callable[[], float]

    async def transfer(self, source: TraitKey, key: TraitKey, by: str) -> tuple[Run, int]:
        """Let a trait take over another's layer: the run, and how many corrections; raises RequestRefused."""
        if source == key:
            raise RequestRefused(f"{key} cannot be transferred to itself; name another persona.")
        (found,) = await self._sources([(source, None, 1.0)], key)
        return await self._make(key, Purpose.TRANSFER, [found], f"transfer of {found}, asked by {by}")

    async def merge(
        self, sources: Sequence[tuple[TraitKey, int | None, float]], key: TraitKey, method: str, density: float, by: str
    ) -> tuple[Run, int]:
        """Make one layer of several: the run, and how many corrections come along; raises RequestRefused."""
        if method not in _METHODS:
            raise RequestRefused(f"There is no way {method!r} to merge; there are {', '.join(_METHODS)}.")
        if not 0 < density <= 1:
            raise RequestRefused(f"density is a share, above 0 and up to 1; not {density}.")
        found = await self._sources(sources, key)
        if bare := next((each for each in found if each.layer is None), None):
            raise RequestRefused(
                f"{bare} speaks with the base model and has no layer to be merged; name a version, as in {bare}@1; see:"
                f" persona genome history {bare.key.persona}"
            )
        if len(found) < 2:
            raise RequestRefused(f"A merge takes two layers or more; see: persona genome show {key.persona}")
        base_model = self.config().persona(*key).base_model
        if strange := [str(each) for each in found if each.layer and not await self._on(base_model, [each.layer.path])]:
            raise RequestRefused(
                f"{' and '.join(strange)} cannot be merged into {key}: broken, or of another base; transfer it first."
            )
        if method != "cat" and len(ranks := await asyncio.to_thread(self._ranks, found)) > 1:
            told = " and ".join(map(str, sorted(ranks)))
            raise RequestRefused(f"These layers have ranks {told}; by {method} they would have to be equal: take cat.")
        because = f"merge of {' and '.join(map(str, found))} by {method}, asked by {by}"
        return await self._make(key, Purpose.MERGE, found, because, {"method": method, "density": density})

    async def blend(self, run: Run, base_model: str) -> Blend | None:
        """What a run's candidate is made of; None where it is to be trained: no layers, or they do not go together."""
        told = run.task.get("layers") or []
        paths = [str(each["path"]) for each in told]
        if not paths or not await self._on(base_model, paths):
            return None
        shape = {name: run.task[name] for name in ("method", "density") if name in run.task}
        return Blend([str(self.layers.root / path) for path in paths], [each["weight"] for each in told], **shape)

    async def _make(
        self,
        key: TraitKey,
        purpose: Purpose,
        sources: Sequence[Source],
        because: str,
        shape: Mapping[str, Any] | None = None,
    ) -> tuple[Run, int]:
        settings = self.config().persona(*key)
        taught = [row for source in sources for row in source.taught]
        told = [
            {"name": str(each), "id": each.layer.id, "path": each.layer.path, "weight": each.weight}
            for each in sources
            if each.layer
        ]
        intent = Intent(because, settings.settings_hash, purpose, {"layers": told, **(shape or {})})
        run = await self.store.plans.make(key, intent, self.clock(), taught)
        if run is None:
            raise RequestRefused(f"A run of {key} is under way; wait for it, or cancel it: persona runs list")
        announcing.planned(run)
        return run, len(await self.store.corrections.claimed_by(run.id))

    async def _sources(self, asked: Sequence[tuple[TraitKey, int | None, float]], target: TraitKey) -> list[Source]:
        settings, genome = self.config().persona(*target), await self.store.genomes.get(target.persona)
        if why := hindrance(target, settings, genome):
            raise RequestRefused(f"{target} cannot be trained: {why}.")
        found = []
        for key, version, weight in asked:
            if key.persona != target.persona and not self.config().persona(*key).training.shared:
                raise RequestRefused(f"{key} is not to be shared: training.shared is false for it.")
            layer = (await self.store.genomes.get(key.persona)).layer(key.trait)
            if version is not None:
                every = await self.store.genomes.layers(key)
                layer = next((one for one in every if one.version == version), None)
                if layer is None:
                    raise RequestRefused(f"{key} has no version {version}; see: persona genome show {key.persona}")
                if layer.state == "rolled-back":
                    again = f"persona genome pin {key.persona} {key.trait} {version}"
                    raise RequestRefused(f"{key} version {version} was rolled back; to take it back: {again}")
            if layer and await asyncio.to_thread(self.layers.told, layer.path) is None:
                raise RequestRefused(
                    f"The manifest of {layer.path} cannot be read; restore it below the layers directory."
                )
            taught = await self._taught(key, layer)
            if not taught:
                raise RequestRefused(
                    f"{key} has learnt nothing, or all of it was undone; see: persona genome history {key.persona}"
                )
            found.append(Source(key, layer, weight, taught))
        return found

    async def _taught(self, key: TraitKey, layer: Layer | None) -> list[dict[str, object]]:
        """The rows, whole, that a layer was taught; with the one that speaks now, all that its trait learnt."""
        learnt = [row.id for row in await self.store.corrections.learnt(key)]
        speaks = (await self.store.genomes.get(key.persona)).layer(key.trait)
        if layer and (speaks is None or speaks.id != layer.id):
            known = {*await asyncio.to_thread(self.layers.taught, layer.path)}
            learnt = [row for row in learnt if row in known]
        rows = await self.store.corrections.by_ids(learnt)
        return [rows[row] for row in learnt if row in rows]

    def _ranks(self, sources: Sequence[Source]) -> set[int]:
        return {self.layers.verify(source.layer.path).rank for source in sources if source.layer}

    async def _on(self, base_model: str, paths: Sequence[str]) -> bool:
        """Whether layers are whole, of a base, and change the same modules of it."""

        def fit() -> bool:
            found = [self.layers.verify(path) for path in paths]
            changed = {json.dumps(manifest.target_modules) for manifest in found}
            return len(changed) == 1 and all(same_base(manifest, base_model) for manifest in found)

        try:
            return await asyncio.to_thread(fit)
        except LayerError:
            return False
