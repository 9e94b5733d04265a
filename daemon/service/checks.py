"""What must be in place before the daemon can do its work, looked at one by one."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from daemon.config.sections import Training
from daemon.config.settings import Config
from daemon.errors import LayerError, PersonaError, RuntimeUnreachable
from daemon.genome.base_folder import has_chat_template, lacks
from daemon.genome.directories import LayerDirectories
from daemon.learning.planner import base_problem
from daemon.runtimes.runtime import Runtime
from daemon.service.reconciler import configured
from daemon.store.failures import as_sentences
from daemon.store.lock import StoreLock
from daemon.store.schema import newest
from daemon.store.store import open_store
from daemon.training.engine.machine import accelerated, free_memory, halved
from daemon.training.engine.memory import TYPICAL, Fit, NothingFits, Shape, fit, peak
from daemon.training.engine.methods import lacks_for


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is ready, and what is there or what to do."""

    name: str
    ok: bool
    says: str


async def findings(config: Config) -> AsyncIterator[Finding]:
    """Look at everything a valid config names."""
    yield await _store(config)
    yield _layers(config)
    async for layer in _served(config):
        yield layer
    every = [config.persona(*trait) for trait in _configured_traits(config)]
    trained = {settings.base_model: settings.training for settings in every}
    for base in sorted(trained):
        # A default that nobody needs, because every persona has a base of its own, is no fault.
        if base or len(trained) == 1:
            yield _base(base)
            for finding in _memory(base, trained[base]):
                yield finding
    yield _trainer(config)
    for runtime in configured(config):
        yield await _runtime(runtime, named=bool(config.runtimes))


async def _store(config: Config) -> Finding:
    path = config.store.path
    try:
        with as_sentences(path):
            async with open_store(path) as store:
                await store.database.require_writable()
    except PersonaError as error:
        return Finding("store", False, str(error))
    lock = StoreLock(path)
    holder = f"held by pid {(lock.note() or {}).get('pid', 'unknown')}" if lock.held() else "no daemon holds it"
    return Finding("store", True, f"{path}, version {newest()}, {holder}")


def _layers(config: Config) -> Finding:
    folder = Path(config.layers.directory)
    try:
        LayerDirectories(folder).ensure_writable()
    except PersonaError as error:
        return Finding("layers", False, str(error))
    return Finding("layers", True, str(folder))


async def _served(config: Config) -> AsyncIterator[Finding]:
    """Layers that a persona speaks with, and that are not whole."""
    layers = LayerDirectories(Path(config.layers.directory))
    with suppress(PersonaError):
        async with open_store(config.store.path) as store:
            for genome in await store.genomes.all():
                for trait, said in genome.traits.items():
                    try:
                        if said.layer:
                            await asyncio.to_thread(layers.verify, said.layer.path)
                    except LayerError as error:
                        way = f"put it back, or: persona genome rollback {genome.persona} {trait}"
                        yield Finding(f"layer of {genome.persona}:{trait}", False, f"{str(error).rstrip('.')}; {way}")


def _base(base: str) -> Finding:
    name = "base model"
    problem = base_problem("NAME", base)
    if problem:
        return Finding(name, False, problem)
    folder = Path(base)
    if not folder.is_absolute():
        cached = _hub_cache() / f"models--{base.replace('/', '--')}" / "snapshots"
        there = cached.is_dir() and any(cached.iterdir())
        return Finding(name, True, f"{base}, {'in the cache' if there else 'to be downloaded when it is first needed'}")
    missing = list(lacks(folder))
    if not has_chat_template(folder):
        missing.append("chat template")
    if missing:
        return Finding(name, False, f"{folder} has no {', no '.join(missing)}; save the model and its tokenizer there")
    return Finding(name, True, str(folder))


def _memory(base: str, training: Training) -> Iterator[Finding]:
    """How training on a base would be fitted into memory; nothing of one that is not on this disk."""
    try:
        shape = Shape.of(Path(base))
    except (OSError, ValueError, KeyError, TypeError):
        return
    if accelerated():
        yield Finding("memory", True, "the GPU's; planned when the base model is loaded")
        return
    best = Fit(2 if halved(shape.parameters) else 4, four_bits=training.method == "qlora")
    available = free_memory(training.max_memory_gb)
    work = replace(TYPICAL, rank=training.rank)
    try:
        way = fit(shape, work, best, available, can_quantise=not lacks_for("qlora"))
    except NothingFits as error:
        yield Finding("memory", False, f"{error}; take a smaller base model than {base}")
        return
    needed, there = (amount / 2**30 for amount in (peak(shape, work, way), available))
    yield Finding("memory", True, f"training takes about {needed:.1f} of {there:.1f} GiB: {_how(way)}")


def _how(way: Fit) -> str:
    """A plan in words."""
    weights = "four bits" if way.four_bits else "bfloat16" if way.bytes_each == 2 else "float32"
    twice = ", layers computed twice to save memory" if way.recompute else ""
    return f"{weights}, up to {way.tokens:,} tokens at a time{twice}"


def _hub_cache() -> Path:
    """Where the hub's client keeps models (huggingface_hub's environment variables)."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def _trainer(config: Config) -> Finding:
    try:
        versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
    except PackageNotFoundError as error:
        return Finding("trainer", False, f"{error.name} is not installed; install persona-daemon again")
    methods = {config.persona(*trait).training.method for trait in _configured_traits(config)}
    problem = next(filter(None, map(lacks_for, sorted(methods))), "")
    return Finding("trainer", not problem, problem or "local: " + ", ".join(versions))


def _configured_traits(config: Config) -> Iterator[tuple[str, str | None]]:
    """Everything that may have settings of its own; first a persona that has none."""
    yield "", None
    for persona, section in config.personas.items():
        yield from ((persona, trait) for trait in (None, *section.traits))


async def _runtime(runtime: Runtime, *, named: bool) -> Finding:
    """A runtime that the config names must answer; our own server is started when it is wanted, like the daemon."""
    name = f"runtime {runtime.name}"
    try:
        observed = await runtime.observe()
    except RuntimeUnreachable as error:
        return Finding(name, not named, str(error) if named else "not started; start it: persona serve")
    finally:
        await runtime.close()
    serves = ", ".join(f"{persona} at revision {seen.revision}" for persona, seen in sorted(observed.items()))
    if errors := [seen.error for seen in observed.values() if seen.error]:
        return Finding(name, False, errors[0])
    return Finding(name, True, serves or "it answers; no persona has been revised yet")
