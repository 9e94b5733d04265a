"""The engines of this server: one per base model, loaded in the background when first needed."""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from transformers.utils.logging import disable_progress_bar

from daemon.errors import BaseModelUnusable, PersonaError
from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.persona_genome import LayerShelf
from daemon.serve.engine import Engine
from daemon.serve.unloadable import why_not
from daemon.training.engine.base import load_base

RETRY: Final = 30.0
"""Seconds before a base model that could not be loaded is tried again."""


class Engines:
    """Finds the engine of a base model; `memory` is the budget of layers in bytes, for each base model."""

    def __init__(self, directories: LayerDirectories, memory: int, threads: int = 0) -> None:
        self.directories = directories
        self._memory = memory
        self._threads = threads
        self._loading: dict[str, asyncio.Task[Engine]] = {}
        self._failed: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._building: set[str] = set()
        self.died = asyncio.Event()
        """Set when an engine's thread ended by itself: nothing it holds can be trusted any more."""

    def start(self, base_model: str) -> asyncio.Task[Engine]:
        """Begin to load a base model, unless it is loaded, being loaded, or failed a moment ago."""
        key = self._key(base_model)
        task = self._loading.get(key)
        if task is None or self._worth_a_retry(key, task):
            task = self._loading[key] = asyncio.create_task(self._load(base_model), name=f"load {base_model}")
            task.add_done_callback(lambda done: self._loaded(key, done))
        return task

    async def get(self, base_model: str) -> Engine:
        """The engine of a base model, when it is loaded; raises BaseModelUnusable."""
        return await asyncio.shield(self.start(base_model))

    def ready(self, base_model: str) -> bool:
        """Whether a base model answers."""
        return _answers(self._loading.get(self._key(base_model)))

    def problem(self, base_model: str) -> str | None:
        """Why a base model does not answer yet, or None when it does."""
        task = self._loading.get(self._key(base_model))
        if _answers(task):
            return None
        if task is not None and task.done() and not task.cancelled():
            return str(task.exception())
        return f"The base model {base_model} is being loaded."

    def loaded(self) -> dict[str, Engine]:
        """Every engine that answers, by base model."""
        return {key: task.result() for key, task in self._loading.items() if _answers(task)}

    def loading(self) -> bool:
        """Whether a base model is being loaded, which nothing can call off."""
        return bool(self._building)

    async def close(self) -> None:
        """End every engine, and what is being loaded."""
        for task in self._loading.values():
            task.cancel()
        done = await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await asyncio.gather(*(engine.close() for engine in done if isinstance(engine, Engine)))

    async def _load(self, base_model: str) -> Engine:
        if not base_model:
            raise BaseModelUnusable("No base model is configured; set defaults.base_model.")
        began = time.monotonic()
        died = partial(asyncio.get_running_loop().call_soon_threadsafe, self.died.set)
        engine = await asyncio.to_thread(self._build, base_model, died)
        seconds = round(time.monotonic() - began, 3)
        structlog.get_logger().info("base.loaded", base_model=base_model, seconds=seconds)
        return engine

    def _build(self, base_model: str, died: Callable[[], object]) -> Engine:
        disable_progress_bar()  # type: ignore[no-untyped-call]
        self._building.add(base_model)
        try:
            base = load_base(base_model)
        except Exception as error:  # noqa: BLE001 - a broken model takes its personas down, whatever the library says
            raise BaseModelUnusable(
                f"The base model {base_model} cannot be loaded: {why_not(base_model, error)}."
            ) from None
        finally:
            self._building.discard(base_model)
        shelf = LayerShelf(base.model, base_fingerprint(base.folder), self.directories, self._memory)
        return Engine(base, shelf, self._threads, died)

    def _loaded(self, key: str, task: asyncio.Task[Engine]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            self._told.pop(key, None)
            return
        self._failed[key] = time.monotonic()
        sentence = str(error) if isinstance(error, PersonaError) else type(error).__name__
        if self._told.get(key) != sentence:
            # It is tried again and again; what is said once need not be said every time.
            self._told[key] = sentence
            structlog.get_logger().error("base.failed", base_model=key, error=sentence)

    def _worth_a_retry(self, key: str, task: asyncio.Task[Engine]) -> bool:
        if not task.done() or _answers(task):
            return False
        return time.monotonic() - self._failed.get(key, 0.0) >= RETRY

    def _key(self, base_model: str) -> str:
        """One name per base model, however its folder is written; a folder that is gone keeps the name it had."""
        if base_model and os.path.isdir(base_model):  # noqa: PTH112 - Path's raises where it may not look
            self._keys[base_model] = str(Path(base_model).resolve())
        return self._keys.get(base_model, base_model)


def _answers(task: asyncio.Task[Engine] | None) -> bool:
    return task is not None and task.done() and not task.cancelled() and task.exception() is None
