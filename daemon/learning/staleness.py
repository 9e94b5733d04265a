"""Layers that speak for no one any more: the base model under them was changed, and their traits learn anew."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from daemon.config.settings import Config
from daemon.domain import Intent, Purpose, TraitKey
from daemon.errors import BaseModelUnusable
from daemon.genome.fingerprint import base_fingerprint
from daemon.learning.hindrance import hindrance
from daemon.store.store import Store

_PATIENCE_S, _AGAIN_S = 1.0, 5.0
"""How long planning waits for gigabytes to be hashed, and when it looks again."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Staleness:
    """Looks which layers are of another base than the one that their persona has now."""

    store: Store
    config: Callable[[], Config]
    again_in: float | None = None
    """Seconds after which another look is worth it; None: until something changes."""
    _hashed: dict[str, asyncio.Task[str | None]] = field(default_factory=dict)

    async def look(self) -> dict[TraitKey, Intent]:
        """Traits that are to be relearnt and were not yet, on this base and under these settings."""
        self.again_in = None
        found: dict[TraitKey, Intent] = {}
        busy = {run.key for run in await self.store.runs.live()}
        for genome in await self.store.genomes.all():
            for trait, expression in genome.traits.items():
                key, layer = TraitKey(genome.persona, trait), expression.layer
                settings = self.config().persona(*key)
                if layer is None or key in busy or hindrance(key, settings, genome):
                    continue
                base = await self._fingerprint(settings.base_model)
                if base in (None, layer.base_fingerprint):
                    continue
                why = f"the base model was changed: version {layer.version} is of another one, and serves no more"
                intent = Intent(why, settings.settings_hash, Purpose.RELEARN, {"base_fingerprint": base})
                if not await self.store.plans.was_planned(key, intent, layer.version):
                    found[key] = intent
                    _log.warning("layer.stale", persona=key.persona, trait=trait, version=layer.version, reason=why)
        return found

    async def _fingerprint(self, base_model: str) -> str | None:
        """The fingerprint of a folder as it is now; None where there is none, or it is still being worked out."""
        task = self._hashed.pop(base_model, None) or asyncio.create_task(asyncio.to_thread(_of, Path(base_model)))
        done, _ = await asyncio.wait([task], timeout=_PATIENCE_S)
        if done:
            return task.result()
        self._hashed[base_model], self.again_in = task, _AGAIN_S
        return None


def _of(folder: Path) -> str | None:
    try:
        return base_fingerprint(folder) if folder.is_dir() else None
    except BaseModelUnusable:
        return None  # who trains or serves says so
