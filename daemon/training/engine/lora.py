"""Adapters on the base model through PEFT: put on, taken off without a trace, written as PEFT writes them."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save as serialized
from transformers.pytorch_utils import Conv1D

from daemon.training.engine.base import Base
from daemon.training.engine.fused import eased
from daemon.training.engine.job import Recipe
from daemon.training.engine.methods import METHODS
from daemon.training.engine.report import JobFailed, first_line

NAME = "candidate"
"""PEFT's name for the one adapter that is on; no file says it."""

Weights = dict[str, torch.Tensor]


@contextmanager
def fresh(base: Base, recipe: Recipe) -> Iterator[PeftModel]:
    """A new adapter on the base, float32, that changes nothing yet; taken off at the end; raises JobFailed."""
    if recipe.method not in METHODS:
        raise JobFailed(f"method {recipe.method!r} is unknown; take lora, rslora or qlora", False)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.method == "rslora",  # scaled by alpha / √rank (arXiv 2312.03732)
        lora_dropout=0.0,
        target_modules=recipe.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(recipe.seed)
    try:
        adapted = get_peft_model(base.model, config, adapter_name=NAME)
    except (ValueError, re.error) as error:
        _strip(base)
        # Whatever is to be learnt waits for whoever mends the config.
        wanted = f"target_modules = {json.dumps(recipe.target_modules)} does not fit the base model"
        raise JobFailed(
            f"{wanted}, whose linear modules are {', '.join(_linear(base))};"
            ' name some of these in the config, or set target_modules = "all-linear"',
            blameless=True,
        ) from error
    with _taken_off(adapted), eased(adapted, NAME):
        yield adapted


@contextmanager
def loaded(base: Base, folder: str, trainable: bool = False, *more: str) -> Iterator[PeftModel]:
    """The adapter of a layer directory on the base; taken off at the end; raises JobFailed.

    more: directories of others, that are there as `part(1)` and so on, but not on; the first is `part(0)` then.
    """
    try:
        with _understood(folder):
            adapted = PeftModel.from_pretrained(
                base.model, folder, part(0) if more else NAME, is_trainable=trainable, torch_device=str(base.device)
            )
        for number, other in enumerate(more, start=1):
            with _understood(other):
                adapted.load_adapter(other, part(number), torch_device=str(base.device))
    except BaseException:
        _strip(base)
        raise
    # A layer from elsewhere may come with dropout, which would differ between what shares a beginning.
    adapted.eval()
    with _taken_off(adapted), eased(adapted, NAME) if trainable else nullcontext():
        yield adapted


def part(number: int) -> str:
    """PEFT's name for one of several adapters."""
    return f"part-{number}"


def continued(adapted: PeftModel, recipe: Recipe) -> Recipe:
    """A recipe with the shape of the adapter that is on: who goes on from a layer cannot change it."""
    config = adapted.peft_config[NAME]
    assert isinstance(config, LoraConfig), "no other kind of adapter is served"
    targets = config.target_modules
    return replace(
        recipe,
        rank=config.r,
        alpha=config.lora_alpha,
        target_modules=sorted(targets) if isinstance(targets, set) else targets or recipe.target_modules,
        method=recipe.method if recipe.method == "qlora" else "rslora" if config.use_rslora else "lora",
    )


def rank_of(folder: str) -> int:
    """The rank of a layer directory's adapter; raises OSError, ValueError or KeyError where it names none."""
    return int(_told(folder)["r"])


def has_shape(folder: str, recipe: Recipe) -> bool:
    """Whether a layer directory's adapter has the rank and the scaling that a recipe asks for."""
    try:
        told = _told(folder)
    except (OSError, ValueError):
        return False
    asked = {"r": recipe.rank, "lora_alpha": recipe.alpha, "use_rslora": recipe.method == "rslora"}
    return all(told.get(key) == value for key, value in asked.items())


def weights(adapted: PeftModel) -> Weights:
    """A copy of the adapter's weights as they are now."""
    return {name: tensor.detach().clone() for name, tensor in _trained(adapted)}


def restore(adapted: PeftModel, saved: Weights) -> None:
    """Put back weights that were copied before."""
    with torch.no_grad():
        for name, tensor in _trained(adapted):
            tensor.copy_(saved[name])


def scaled(saved: Weights, factor: float) -> Weights:
    """Weights of an adapter that changes the base `factor` times as much."""
    return {name: tensor * factor if ".lora_B." in name else tensor for name, tensor in saved.items()}


def parameters(adapted: PeftModel) -> list[torch.nn.Parameter]:
    """What the optimizer may change."""
    return [parameter for _, parameter in _trained(adapted)]


def save(adapted: PeftModel, base_model: str, out: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json into the new folder `out`."""
    out.mkdir(parents=True)
    # Without "False", PEFT would ask the hub whether the vocabulary was resized.
    state = get_peft_model_state_dict(adapted, adapter_name=NAME, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # Not save_file: it makes a file that only its owner may read, whatever the umask says.
    (out / "adapter_model.safetensors").write_bytes(serialized(tensors, metadata={"format": "pt"}))
    config = adapted.peft_config[NAME]
    config.base_model_name_or_path = base_model
    config.inference_mode = True
    if isinstance(config, LoraConfig) and isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # equal layers have equal bytes
    config.save_pretrained(str(out))


@contextmanager
def _understood(folder: str) -> Iterator[None]:
    """What PEFT says of a layer directory that it cannot load, as a sentence; raises JobFailed."""
    # PEFT takes the name of a folder that is not there for one at the hub.
    if not (Path(folder) / "adapter_config.json").is_file():
        raise JobFailed(f"the layer {folder} has no adapter_config.json; restore it or roll back", blameless=True)
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise JobFailed(
            f"the layer {folder} does not fit the base model: {first_line(error)};"
            " restore the layer or the base model, or roll back",
            blameless=True,
        ) from error


def _told(folder: str) -> dict[str, Any]:
    """What a layer directory's adapter_config.json says."""
    found: dict[str, Any] = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    return found


def _linear(base: Base) -> list[str]:
    """The names, without those of what they are in, of a model's linear modules."""
    modules = base.model.named_modules()
    return sorted({name.rpartition(".")[2] for name, module in modules if isinstance(module, torch.nn.Linear | Conv1D)})


def _trained(adapted: PeftModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in adapted.named_parameters() if parameter.requires_grad)


@contextmanager
def _taken_off(adapted: PeftModel) -> Iterator[None]:
    try:
        yield
    finally:
        adapted.base_model.unload()  # type: ignore[operator]


def _strip(base: Base) -> None:
    """Take off what an adapter that failed to load may have left."""
    for parent in list(base.model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, name, child.get_base_layer())
    if hasattr(base.model, "peft_config"):
        del base.model.peft_config
