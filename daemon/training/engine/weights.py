"""What a model folder says of its weights without loading them: safetensors files begin with names and shapes."""

import json
import math
from pathlib import Path

Shapes = dict[str, list[int]]


def shapes_in(folder: Path) -> Shapes:
    """The shape of every tensor in a folder's safetensors files; raises OSError or ValueError."""
    found: Shapes = {}
    for file in weight_files(folder):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        found |= {name: about["shape"] for name, about in header.items() if name != "__metadata__"}
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a model is loaded from: some repositories have the same weights twice."""
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if index.is_file():
        return [
            folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        ]
    return sorted(folder.glob("*.safetensors"))


def parameters_in(folder: Path) -> int:
    """How many parameters a folder's weights have; tied ones are stored once."""
    return sum(math.prod(shape) for shape in shapes_in(folder).values())
