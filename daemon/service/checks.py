"""What must be in place before the daemon can do its work, looked at one by one."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from daemon.config.sections import Training
from daemon.config.settings import Config
from daemon.errors import LayerError, PersonaError, RuntimeUnreachable
from daemon.genome.base_folder import has_chat_template, lacks
from daemon.genome.directories import LayerDirectories
from daemon.learning.critical import critical_probes
from daemon.learning.hindrance import base_problem
from daemon.learning.judging import judge_problem
from daemon.runtimes.runtime import Runtime
from daemon.service.reconciler import configured
from daemon.store.failures import as_sentences
from daemon.store.lock import StoreLock
from daemon.store.schema import newest
from daemon.store.store import open_store
from daemon.training.engine.machine import accelerated, free_memory, halved
from daemon.training.engine.memory import LEAST, MARGIN, TYPICAL, Fit, NothingFits, Room, Shape, fastest, peak
from daemon.training.engine.methods import lacks_for
from daemon.training.engine.weights import shapes_in


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
    bases = sorted({settings.base_model for settings in every})
    # A default that nobody needs, because every persona has a base of its own, is no fault.
    for base in bases[1:] if len(bases) > 1 and not bases[0] else bases:
        yield _base(base)
        trainings = [settings.training for settings in every if settings.base_model == base]
        for finding in (*_targets(base, trainings), *_memory(base, trainings)):
            yield finding
    for file in sorted({settings.gate.critical for settings in every} - {""}):
        yield _critical(file)
    yield _trainer(config)
    if config.judge.url:
        problem = await judge_problem(config.judge)
        yield Finding("judge", not problem, problem or f"{config.judge.model} at {config.judge.url}")
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


def _critical(file: str) -> Finding:
    try:
        return Finding("critical probes", True, f"{len(critical_probes(file, ''))} in {file}")
    except PersonaError as error:
        return Finding("critical probes", False, str(error))


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


def _targets(base: str, trainings: Sequence[Training]) -> Iterator[Finding]:
    """Modules that are to be trained and that no weights of the base are named after."""
    if not Path(base).is_absolute():
        return  # it is not on this disk yet, or none is named
    try:
        matrices = [name for name, shape in shapes_in(Path(base)).items() if len(shape) == 2]
    except (OSError, ValueError):
        return  # what is wrong with it is said above
    modules = {name.removesuffix(".weight").rpartition(".")[2] for name in matrices if "embed" not in name}
    for targets in {tuple(each.target_modules) for each in trainings if isinstance(each.target_modules, list)}:
        # Files and PEFT may name what a module is in differently.
        missing = [target for target in targets if target.rpartition(".")[2] not in modules]
        if missing and modules:
            known = ", ".join(sorted(modules - {"lm_head"}))
            wanted = f"training.target_modules names {', '.join(missing)}, but {Path(base).name} has"
            yield Finding("target modules", False, f'{wanted} {known}; name some of these, or set it to "all-linear"')


def _memory(base: str, trainings: Sequence[Training]) -> Iterator[Finding]:
    """How each way of training on a base that is configured would be fitted into memory."""
    if not Path(base).is_absolute():
        if base:
            yield Finding("memory", True, f"known once {base} is on this disk")
        return
    try:
        shape = Shape.of(Path(base))
    except (OSError, ValueError, TypeError):
        return  # what is wrong with it is said above
    if accelerated():
        yield Finding("memory", True, "the GPU's; planned when the base model is loaded")
        return
    ways = {(each.method, each.max_memory_gb): each for each in sorted(trainings, key=lambda each: each.rank)}
    for (method, limit), training in sorted(ways.items()):
        which = f" by {method}" if len({method for method, _ in ways}) > 1 else ""
        yield _fits(base, shape, training, f"training{which} on {Path(base).name}", Room(free_memory(limit), limit))


def _fits(base: str, shape: Shape, training: Training, what: str, room: Room) -> Finding:
    """Whether a way of training fits, with a usual batch or at least with a small one."""
    best = Fit(2 if halved(shape.parameters) else 4, four_bits=training.method == "qlora")
    usual, small = (replace(work, rank=training.rank) for work in (TYPICAL, LEAST))
    can_quantise = not lacks_for("qlora")
    try:
        way = fastest(shape, usual, best, room, can_quantise)
    except NothingFits as error:
        more = f"raise it, {free_memory() / 2**30:.0f} GiB are free"
        advice = more if error.limited else f"take a smaller base model than {base}"
        try:
            way = fastest(shape, small, best, room, can_quantise)
        except NothingFits:
            return Finding("memory", False, f"{what}: {error}; {advice}")
        return Finding(
            "memory", True, f"{what} has room for small batches, {_how(way)}; for usual ones {error}; {advice}"
        )
    needed, there = (amount / 2**30 for amount in (peak(shape, usual, way), room.available))
    bound = "that max_memory_gb allows" if room.limit else "that are free"
    reserve = f"{needed:.2f} GiB, {MARGIN * needed:.2f} with a reserve"
    return Finding("memory", True, f"{what} takes about {reserve}, of {there:.2f} {bound}: {_how(way)}")


def _how(way: Fit) -> str:
    """A plan in words."""
    weights = "four bits" if way.four_bits else "bfloat16" if way.bytes_each == 2 else "float32"
    again = "; activations are recomputed, which is slower, to save memory" if way.recompute else ""
    return f"{weights}, up to {way.tokens:,} tokens per pass{again}"


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
