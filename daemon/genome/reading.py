"""A layer on its way from its directory into memory: verified, and checked to be something that can be served."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load

from daemon.errors import LayerIncomplete, LayerStale
from daemon.genome.directories import CONFIG, WEIGHTS, LayerDirectories
from daemon.genome.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ReadLayer:
    """A verified layer; `path` is its directory, relative to the layers root."""

    path: str
    manifest: Manifest
    config: LoraConfig
    weights: Mapping[str, torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        return sum(tensor.nbytes for tensor in self.weights.values())


def read_layer(directories: LayerDirectories, path: str, fingerprint: str) -> ReadLayer:
    """Verify a layer and read it; raises LayerIncomplete, or LayerStale when it is of another base."""
    manifest = directories.verify(path)
    if manifest.base_fingerprint != fingerprint:
        raise LayerStale(f"The layer {path} was trained on another base than the one that is loaded; relearn it.")
    directory = directories.root / path
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise LayerIncomplete(f"The layer {path} is not readable: its {CONFIG} is none that PEFT knows.") from None
    try:
        # From bytes, not from a mapped file: whoever damages the file later must not reach the running model.
        weights = load((directory / WEIGHTS).read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LayerIncomplete(f"The layer {path} is not readable: {WEIGHTS}: {reason}.") from None
    except (ValueError, KeyError, SafetensorError):
        raise LayerIncomplete(f"The layer {path} is not readable: its {WEIGHTS} is damaged.") from None
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        raise LayerIncomplete(f"The layer {path} is no plain LoRA adapter; only those can be served.")
    config.inference_mode = True
    return ReadLayer(path, manifest, config, weights)


class Misfit(Exception):
    """Weights that are not those of the modules they are for; the message is the end of a sentence."""


def misfit(error: Exception) -> str:
    """Why a layer could not be put into a model, as the end of a sentence rather than in a library's words."""
    if isinstance(error, Misfit):
        return str(error)
    if "out of memory" in str(error).lower():
        return "there is not enough memory for it"
    if "not found in the base model" in str(error):
        return "the model has none of the modules that it is for"
    if isinstance(error, RuntimeError):
        return "its weights have other shapes than the model's"
    return f"PEFT can do nothing with its {CONFIG}"
