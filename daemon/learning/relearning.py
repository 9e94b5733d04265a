"""What has to be learnt again: the base model under a layer was changed, or the layer does not know all of it."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from daemon.config.settings import Config
from daemon.domain import Intent, Kind, Layer, Purpose, TraitKey
from daemon.errors import BaseModelUnusable
from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.manifest import Manifest
from daemon.learning.hindrance import hindrance
from daemon.store.store import Store

_PATIENCE_S, _AGAIN_S = 1.0, 5.0
"""How long a look waits for gigabytes to be hashed, and when the next is worth it."""
_HUB = "hub:"
"""Before the name of a model of the hub, which stands for its fingerprint until it is loaded."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Relearning:
    """Looks for traits whose learning was lost."""

    store: Store
    layers: LayerDirectories
    config: Callable[[], Config]
    again_in: float | None = None
    """Seconds after which another look is worth it; None: when something changes."""
    _hashing: dict[str, asyncio.Task[str | None]] = field(default_factory=dict)
    _whole: dict[TraitKey, str | None] = field(default_factory=dict)
    """Traits that were seen to have lost nothing, and with which layer: a history is compared once."""
    _told: set[tuple[str, str]] = field(default_factory=set)
    """Layers of which it was said already that they are of another base than this, or, with none, cannot be read."""

    def suspect(self, key: TraitKey) -> None:
        """Compare a trait's history once more: some of it came back."""
        self._whole.pop(key, None)

    async def look(self, asked: Callable[[TraitKey], bool], hurried: bool) -> dict[TraitKey, Intent]:
        """Traits that have to learn again, and were not to do so before under the same circumstances.

        asked: whether somebody wants a trait trained, however often it was tried. hurried: there is no later look.
        """
        self.again_in = None
        found: dict[TraitKey, Intent] = {}
        bases: dict[str, str | None] = {}
        busy = {run.key for run in await self.store.runs.live()}
        for genome in await self.store.genomes.all():
            for trait in genome.traits:
                key = TraitKey(genome.persona, trait)
                settings = self.config().persona(*key)
                pinned = genome.traits[trait].pinned
                if key in busy or (not pinned and hindrance(key, settings, genome)):
                    continue
                if settings.base_model not in bases:
                    bases[settings.base_model] = await self._identity(settings.base_model, hurried)
                base, layer = bases[settings.base_model], genome.layer(trait)
                lost = await self._lost(key, layer, base, asked(key), pinned=pinned)
                if lost is None:
                    continue
                about, task = lost
                intent = Intent(about, settings.settings_hash, Purpose.RELEARN, {"for": task})
                since = layer.version if layer else 0
                if not pinned and (asked(key) or not await self.store.plans.was_planned(key, intent, since)):
                    found[key] = intent
                if layer and task == base:
                    self._stale(layer, about, task)
        return found

    def _stale(self, layer: Layer, about: str, base: str) -> None:
        """Say once of a layer that it serves no more."""
        if (layer.id, base) not in self._told:
            self._told.add((layer.id, base))
            _log.warning(
                "layer.stale", persona=layer.key.persona, trait=layer.key.trait, version=layer.version, reason=about
            )

    async def _lost(
        self, key: TraitKey, layer: Layer | None, base: str | None, asked: bool, *, pinned: bool
    ) -> tuple[str, str] | None:
        """What a trait has lost, as a sentence and as one word; None where it has lost nothing, or nobody knows yet."""
        now = layer.id if layer else None
        whole = key in self._whole and self._whole[key] == now
        # It names all that was ever learnt: it is read where it has to be.
        needed = layer and (not whole or (base or "").startswith(_HUB))
        manifest = await asyncio.to_thread(self.layers.told, layer.path) if layer and needed else None
        if layer and needed and not manifest and not asked:
            self._unread(layer)
            return None
        if layer and base is not None and _base_of(layer, manifest, base) != base:
            why = f"the base model was changed: version {layer.version} is of another one, and serves no more"
            return why, base
        if pinned or whole:
            return None
        known = {*(manifest.known if manifest else ())} | await self.store.genomes.satisfied(key, layer)
        rows = [row for row in await self.store.corrections.learnt(key) if row.id not in known]
        lost = [row.id for row in rows]
        # Affirmations alone are no batch: they wait for one.
        if not any(row.kind is Kind.CORRECTION for row in rows):
            self._whole[key] = now
            return None
        speaks = f"version {layer.version}" if layer else "the base model"
        ids = hashlib.sha256("\n".join(lost).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return f"{len(lost)} of the corrections learnt once are unknown to {speaks}, which speaks now", ids

    def _unread(self, layer: Layer) -> None:
        """Say once of a layer that its manifest cannot be read: its disk may be away, and come back."""
        if (layer.id, "") not in self._told:
            self._told.add((layer.id, ""))
            reason = f"its manifest cannot be read; restore it, or have it learnt anew: {train_again(layer.key)}"
            _log.error("layer.broken", layer=layer.path, version=layer.version, reason=reason)

    async def _identity(self, base_model: str, hurried: bool) -> str | None:
        """The fingerprint of a folder as it is now, None while it is worked out; of a model of the hub its name."""
        task = self._hashing.pop(base_model, None) or asyncio.create_task(asyncio.to_thread(_of, base_model))
        done, _ = await asyncio.wait([task], timeout=None if hurried else _PATIENCE_S)
        if done:
            return task.result()
        self._hashing[base_model], self.again_in = task, _AGAIN_S
        return None


def _base_of(layer: Layer, manifest: Manifest | None, base: str) -> str:
    """The base that a layer is of, as `base` names one: by its fingerprint, or as a model of the hub."""
    if not base.startswith(_HUB):
        return layer.base_fingerprint
    return _HUB + manifest.base_model if manifest else base


def train_again(key: TraitKey) -> str:
    """The command by which a trait learns again what it has lost, however often that was tried."""
    return f"persona train --persona {key.persona} --trait {key.trait}"


def _of(base_model: str) -> str | None:
    folder = Path(base_model)
    if not folder.is_dir():
        return None if folder.is_absolute() else _HUB + base_model
    try:
        return base_fingerprint(folder)
    except BaseModelUnusable:
        return None  # who trains or serves says so
