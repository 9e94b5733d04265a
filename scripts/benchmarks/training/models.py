"""Llamas with random weights, as folders; `python -m scripts.benchmarks.training.models NAME FOLDER` writes one."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from scripts.benchmarks.training.settings import SEED

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 2048
JOINED = "{% for message in messages %}{{ message['content'] }}{% if not loop.last %} {% endif %}{% endfor %}"
"""The chat template: the texts and nothing else, so that a prompt is its words."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's sizes; embeddings and head are tied."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    theta: float = 10_000.0
    dtype: str = "fp32"
    """Of the weights on disk."""

    @property
    def body(self) -> int:
        """Parameters of the layers' matrices: what multiplies every token."""
        keys = self.hidden // self.heads * self.key_heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * keys
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


SHAPES = {
    "34M": Shape(16384, 512, 1408, 8, 8, 8),
    "120M": Shape(32768, 768, 2304, 12, 12, 12),
    # Llama-3.2-1B's.
    "1B": Shape(128256, 2048, 8192, 16, 32, 8, theta=500_000.0, dtype="bf16"),
}


def folder_name(name: str) -> str:
    """What a model's folder is called; another shape or another writer gives another name."""
    source = Path(__file__).read_bytes()
    return f"{name}-{hashlib.sha256(source).hexdigest()[:8]}"


def write(name: str, folder: Path) -> None:
    """Make up the weights from a seed and write model and tokenizer into a folder."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shape = SHAPES[name]
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config(shape), dtype=torch_dtype(shape.dtype)
    )
    model.save_pretrained(folder)
    _tokenizer(shape.vocabulary).save_pretrained(folder)


def ready(name: str, models: Path, make: Callable[[str, Path], None] = write) -> Path:
    """A model's folder below `models`, made first when it is not there."""
    folder = models / folder_name(name)
    if not folder.is_dir():
        models.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=models) as aside:
            make(name, Path(aside) / name)
            (Path(aside) / name).rename(folder)
    return folder


def config(shape: Shape) -> "LlamaConfig":
    """A shape as transformers reads it."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.hidden // shape.heads,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )


def plain(folder: Path, dtype: str, device: str) -> "PreTrainedModel":
    """The model as transformers loads it, for inference."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype(dtype))
    model.to(device).eval()  # type: ignore[arg-type]
    return model


def torch_dtype(dtype: str) -> "torch.dtype":
    """bf16 or fp32 as torch calls it."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]


def _tokenizer(vocabulary: int) -> "PreTrainedTokenizerFast":
    """Words are tokens: `w17` is 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{word}": word for word in range(2, vocabulary)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=plain, eos_token="<eos>", pad_token="<pad>", model_max_length=CONTEXT
    )
    tokenizer.chat_template = JOINED
    return tokenizer


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
