"""What the folder of a base model consists of, seen without a library that could read it."""

import json
from collections.abc import Iterator
from pathlib import Path

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""What a tokenizer is made from: any of these will do."""
_PARTS = (
    CONFIG,
    "generation_config.json",
    WEIGHTS,
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template*",
)
"""What decides how a base model reads and answers; a README, or how it was downloaded, does not."""


def parts(folder: Path) -> list[Path]:
    """The files that decide how a base model reads and answers, by name; raises OSError."""
    found = {path for pattern in _PARTS for path in folder.glob(pattern) if path.is_file()}
    return sorted(found, key=lambda path: path.name)


def lacks(folder: Path) -> Iterator[str]:
    """What the folder must have to be loaded, and has not, the gravest first; raises OSError."""
    if not (folder / CONFIG).is_file():
        yield CONFIG
    if not any(folder.glob(WEIGHTS)):
        yield f"weights ({WEIGHTS})"
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        yield "tokenizer"


def has_chat_template(folder: Path) -> bool:
    """Whether its tokenizer brings a chat template, in a file of its own or in its config."""
    if any(folder.glob("chat_template*.j*")):
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False
