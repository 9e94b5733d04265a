"""What a model folder says of its weights without loading them: safetensors files begin with names and shapes."""

import json
import math
import struct
from pathlib import Path

Shapes = dict[str, list[int]]


def shapes_in(folder: Path) -> Shapes:
    """The shape of every tensor in a folder's safetensors files; raises OSError or ValueError."""
    found: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        found |= {name: about["shape"] for name, about in header.items() if name != "__metadata__"}
    return found


def parameters_in(folder: Path) -> int:
    """How many parameters a folder's weights have; tied ones are stored once."""
    return sum(math.prod(shape) for shape in shapes_in(folder).values())
