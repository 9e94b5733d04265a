"""A base model in memory: found in a folder or at the hub, loaded once, kept as it is."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from daemon.training.engine.chat import ChatFormat
from daemon.training.engine.machine import halved, peak_memory
from daemon.training.engine.memory import TOKENS
from daemon.training.engine.weights import parameters_in

_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
"""What a model needs of its repository at the hub; never a pickle."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a model has been seen to compute as it should; what it has not been asked, it cannot do."""

    trees: bool = False
    """It reads token trees: each token sees its ancestors only."""
    head: bool = False
    """Its logits are its head's, alone and on any of its states."""
    narrow: str = ""
    """Name in the decoder of its last MLP, if that makes each row of that row alone: it may be computed for some."""
    recompute: bool = False
    """Its layers may be computed again on the way back."""
    why: str = ""
    """Why trees are missing, as a part of a sentence."""


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base model with its chat format; `folder` is where its files lie."""

    model: PreTrainedModel
    chat: ChatFormat
    folder: Path
    device: torch.device
    capability: Capability = Capability()
    tokens: int = TOKENS
    """Most tokens, padding included, of a pass with gradients; all others may have TOKENS."""
    recompute: bool = False
    """Whether a pass with gradients computes layers again on the way back instead of keeping what is in them."""

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        # Four-bit weights lie two to a byte.
        return self.model.num_parameters()

    @property
    def four_bits(self) -> bool:
        """Whether the weights of its linear layers lie there in four bits."""
        return bool(getattr(self.model, "is_loaded_in_4bit", False))

    @property
    def peak_gb(self) -> float:
        """The most memory used so far, of the accelerator where there is one, else of this process; GiB."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated() / 2**30, 3)
        return round(peak_memory() / 2**30, 3)

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return cast(int, self.model.get_input_embeddings().num_embeddings)

    @property
    def context(self) -> int:
        """How many tokens the model reads at most, its own answer included."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit or 1 << 20


_LOADING = threading.Lock()
"""transformers puts functions of its own in others' places while it loads: of two at once, one puts back the wrong."""


def load_base(reference: str, dtype: torch.dtype | None = None, four_bits: bool = False) -> Base:
    """Load a folder or a model id of the hub; raises OSError or ValueError when it cannot be used.

    four_bits: its linear layers as NF4, which are computed with in `dtype` (QLoRA, arXiv 2305.14314 §3).
    """
    folder = locate_base(reference)
    here = device()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Serving and training must agree on what a layer does, so both take their precision from here.
    dtype = dtype or precision(here, parameters_in(folder))
    with _LOADING:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, quantization_config=_nf4(dtype) if four_bits else None
        )
    _keep_differentiable(model)
    model.to(here).eval().requires_grad_(False)  # type: ignore[arg-type]
    return Base(model, ChatFormat.of(tokenizer, _declared_stops(model)), folder, here)


def device() -> torch.device:
    """Where models lie on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(where: torch.device, parameters: int) -> torch.dtype:
    """bfloat16 where the machine multiplies it natively and the model is large enough to gain by it."""
    if where.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if halved(parameters) else torch.float32


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    # On a processor with bfloat16, bitsandbytes would repack four-bit weights at the first pass without gradients, for
    # a kernel that gradients do not flow through: training would go on, and go wrong.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def locate_base(reference: str) -> Path:
    """The folder of a base model; a model id of the hub is downloaded first when it is not cached; raises OSError."""
    if Path(reference).is_dir():
        return Path(reference).resolve()
    if Path(reference).is_absolute():
        # The hub's client would complain of the form of a name that was never meant as one.
        raise FileNotFoundError(f"there is no folder {reference}")
    return Path(snapshot_download(reference, allow_patterns=_FILES))


def _declared_stops(model: PreTrainedModel) -> list[int]:
    """The end tokens that the model's own generation settings name."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    if declared is None:
        return []
    return list(declared) if isinstance(declared, list | tuple) else [declared]
