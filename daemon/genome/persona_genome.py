"""Genomes in memory: layers as PEFT adapters over one loaded base model, and what each persona speaks with now."""

import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peft import LoraModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from daemon.errors import BaseModelUnusable, LayerIncomplete, LayerStale
from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.genome_file import GenomeFile
from daemon.genome.reading import Misfit, ReadLayer, misfit, read_layer

_SAVED_BELOW = "base_model.model."
"""Where PEFT says that the modules of a saved adapter lie."""


@dataclass(frozen=True, slots=True)
class ReadGenome:
    """A verified revision: what of it can be served, and a sentence on every trait that speaks as the base instead."""

    genome: GenomeFile
    layers: list[ReadLayer]
    stale: list[str]


@dataclass(frozen=True, slots=True)
class _Resident:
    name: str
    size: int


class Lease:
    """Keeps one layer in memory until it is released, once."""

    def __init__(self, shelf: "LayerShelf", path: str) -> None:
        self.path = path
        self._shelf: LayerShelf | None = shelf

    def release(self) -> None:
        """Let the layer be evicted, as far as this lease is concerned."""
        shelf, self._shelf = self._shelf, None
        if shelf is not None:
            shelf._returned(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class LayerShelf:
    """Every layer in memory over one base model, which all of its personas share."""

    # Loading, activating and evicting are for the one thread that runs the model; `read`, `lease` and `name` for any.

    def __init__(
        self, model: PreTrainedModel, fingerprint: str, directories: LayerDirectories, budget: int = 2**31
    ) -> None:
        self.fingerprint = fingerprint
        self.directories = directories
        self.budget = budget
        self.loads = 0
        self.evictions = 0
        self._model = model
        self._tuner: LoraModel | None = None
        self._modules: list[BaseTunerLayer] = []
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._active: str | None = None
        self._names = (f"layer{number:08d}" for number in itertools.count(1))
        self._named: dict[str, frozenset[str]] = {}
        self._leases: Counter[str] = Counter()
        self._guard = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of all layers in memory."""
        return sum(resident.size for resident in list(self._residents.values()))

    def holds(self, path: str) -> bool:
        """Whether a layer is in memory."""
        return path in self._residents

    def read(self, path: str) -> ReadLayer:
        """Verify a layer and read it; raises LayerIncomplete, or LayerStale when it is of another base."""
        return read_layer(self.directories, path, self.fingerprint)

    def put(self, layer: ReadLayer) -> None:
        """Load a layer beside the others, evicting unused ones over budget; raises LayerIncomplete."""
        if layer.path in self._residents:
            return
        self._make_room(layer.size)
        name = next(self._names)
        try:
            self._add(name, layer)
        except (Misfit, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._remove(name)
            raise LayerIncomplete(f"The layer {layer.path} does not fit the base model: {misfit(error)}.") from None
        finally:
            self._changed()
        self._residents[layer.path] = _Resident(name, layer.size)
        self.loads += 1

    def activate(self, path: str | None) -> None:
        """Let the model speak with a layer, loaded first if need be, or with None as the plain base."""
        if path is not None:
            if path not in self._residents:
                self.put(self.read(path))
            self._residents.move_to_end(path)
        if path != self._active:
            self._speak([] if path is None else [self._residents[path].name])
            self._active = path

    def lease(self, path: str) -> Lease:
        """Keep a layer in memory until the lease is released."""
        with self._guard:
            self._leases[path] += 1
        return Lease(self, path)

    def name(self, persona: str, paths: Iterable[str]) -> None:
        """Say which layers a persona speaks with now; they are evicted only when nothing else can be."""
        self._named[persona] = frozenset(paths)

    def trim(self) -> None:
        """Evict what is over budget and unused."""
        self._make_room(0)

    def _returned(self, path: str) -> None:
        with self._guard:
            self._leases[path] -= 1
            if not self._leases[path]:
                del self._leases[path]

    def _add(self, name: str, layer: ReadLayer) -> None:
        if self._tuner is None:
            self._tuner = LoraModel(self._model, {name: layer.config}, name, low_cpu_mem_usage=True)
        else:
            self._tuner.peft_config[name] = layer.config
            self._tuner.inject_adapter(self._model, name, low_cpu_mem_usage=True)
        device = self._model.device
        weights = {key.removeprefix(_SAVED_BELOW): tensor.to(device) for key, tensor in layer.weights.items()}
        outcome: Any = set_peft_model_state_dict(self._model, weights, adapter_name=name, low_cpu_mem_usage=True)
        missing = [key for key in outcome.missing_keys if f".{name}." in key]
        if wrong := [*outcome.unexpected_keys, *missing]:
            raise Misfit(f"its weights and its target modules differ at {wrong[0]}")

    def _remove(self, name: str) -> None:
        if self._tuner is not None and name in self._tuner.peft_config:
            # PEFT would let another layer speak in place of an active one.
            self._changed()
            self._tuner.delete_adapter(name)

    def _make_room(self, size: int) -> None:
        """Evict the longest unused layers until `size` bytes more fit, or nothing is left that may go."""
        while self.size + size > self.budget:
            victim = self._victim()
            if victim is None:
                return
            self._remove(self._residents.pop(victim).name)
            self._changed()
            self.evictions += 1

    def _victim(self) -> str | None:
        idle = [path for path in self._residents if path not in self._leases]
        named = frozenset().union(*list(self._named.values()))
        unnamed = (path for path in idle if path not in named)
        return next(unnamed, idle[0] if idle else None)

    def _changed(self) -> None:
        """After PEFT rebuilt modules: none speaks, dropout is off, and nothing wants a gradient."""
        self._model.train(False).requires_grad_(False)
        self._modules = [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]
        self._speak([])
        self._active = None

    def _speak(self, names: list[str]) -> None:
        # PEFT's set_adapter also walks every weight to freeze it, which they all are: as dear as half a token.
        for module in self._modules:
            module._active_adapter = names


class PersonaGenome:
    """What one persona speaks with, over the layers of its base model."""

    def __init__(self, persona: str, shelf: LayerShelf) -> None:
        self.persona = persona
        self.shelf = shelf
        self.genome: GenomeFile | None = None

    @property
    def revision(self) -> int:
        """The revision that every new request is answered with; 0 before the first."""
        return self.genome.revision if self.genome else 0

    def read(self, genome: GenomeFile) -> ReadGenome:
        """Verify and read every layer that a revision needs and memory lacks; any thread; raises LayerIncomplete."""
        # A layer of another base is left out, and its trait with it: one changed base must not freeze the others.
        layers, stale = [], {}
        for trait, entry in genome.traits.items():
            # A layer's place says whose it is, and verifying it compares that with its manifest.
            if not entry.directory.startswith(f"{self.persona}/{trait}/v{entry.version:04d}-"):
                raise LayerIncomplete(
                    f"The genome of {self.persona} names {entry.directory} as {trait}@{entry.version}, which it is not."
                )
            if self.shelf.holds(entry.directory):
                continue
            try:
                layers.append(self.shelf.read(entry.directory))
            except LayerStale:
                name = f"{self.persona}:{trait}@{entry.version}"
                stale[trait] = f"{name} {self._why_stale(genome.base_model)}"
        fresh = {trait: entry for trait, entry in genome.traits.items() if trait not in stale}
        return ReadGenome(genome.model_copy(update={"traits": fresh}), layers, [*stale.values()])

    def _why_stale(self, base_model: str) -> str:
        """What a layer of another base waits for, as the end of a sentence."""
        folder = Path(base_model)
        try:
            replaced = folder.is_dir() and base_fingerprint(folder) != self.shelf.fingerprint
        except BaseModelUnusable:
            replaced = True
        if replaced:
            return f"speaks as the base: {folder} was replaced since this server loaded it; restart persona serve."
        return f"was trained on another base than {base_model} is now; it speaks as the base until its next layer."

    def load(self, genome: GenomeFile, layers: Iterable[ReadLayer]) -> None:
        """Load a revision's layers beside those in use; the model's thread; raises LayerIncomplete."""
        self.shelf.name(self.persona, _paths(genome) | (_paths(self.genome) if self.genome else frozenset()))
        try:
            for layer in layers:
                self.shelf.put(layer)
        except LayerIncomplete:
            self.shelf.name(self.persona, _paths(self.genome) if self.genome else ())
            raise

    def adopt(self, genome: GenomeFile) -> None:
        """From here on every new request speaks with this revision, whose layers are loaded."""
        self.genome = genome
        self.shelf.name(self.persona, _paths(genome))

    def follow(self, genome: GenomeFile) -> None:
        """Read, load and adopt a revision; on LayerError the one before it stays."""
        read = self.read(genome)
        self.load(read.genome, read.layers)
        self.adopt(read.genome)

    def layer(self, trait: str | None) -> str | None:
        """The path of the layer that a trait speaks with now; None is the base model."""
        entry = self.genome.traits.get(trait) if self.genome and trait else None
        return entry.directory if entry else None

    @contextmanager
    def activate_skill(self, trait: str | None) -> Iterator[str | None]:
        """Speak with a trait's layer, leased meanwhile; yields its path, or None where it is the base model."""
        path = self.layer(trait)
        if path is None:
            self.shelf.activate(None)
            yield None
            return
        with self.shelf.lease(path):
            self.shelf.activate(path)
            yield path


def _paths(genome: GenomeFile) -> frozenset[str]:
    return frozenset(entry.directory for entry in genome.traits.values())
