"""What a training has reached, on disk, so that a killed child's successor goes on from there to the same adapter."""

import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

_TENSORS, _FACTS = "state.safetensors", "state.json"

Tensors = dict[str, torch.Tensor]
Facts = dict[str, Any]
"""What is no tensor, as JSON takes it."""


@dataclass(slots=True)
class Checkpoint:
    """The one checkpoint of a run; another job, base or program does not go on from it."""

    folder: Path
    identity: str
    """What has to be the same for going on to make sense."""
    every: float
    """Seconds between two writings; 0: never."""
    _written: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time to write."""
        return 0 < self.every <= time.monotonic() - self._written

    def write(self, tensors: Tensors, facts: Facts) -> None:
        """Replace what was there, whole or not at all; a training goes on where that cannot be done."""
        self._written = time.monotonic()
        try:
            self._replace(tensors, facts)
        except (OSError, SafetensorError) as error:
            print(f"no checkpoint in {self.folder}, so that a restart would begin anew: {error}", file=sys.stderr)

    def _replace(self, tensors: Tensors, facts: Facts) -> None:
        fresh, old = self.folder.with_suffix(".new"), self.folder.with_suffix(".old")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh / _TENSORS)
        (fresh / _FACTS).write_text(json.dumps({"identity": self.identity, **facts}), encoding="utf-8")
        if self.folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.folder.rename(old)
        fresh.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def read(self) -> tuple[Tensors, Facts] | None:
        """What was reached; None where nothing was, or nothing that can be gone on from."""
        for folder in (self.folder, self.folder.with_suffix(".old")):
            try:
                facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
                if facts.pop("identity", None) == self.identity:
                    return load_file(folder / _TENSORS), facts
            except (OSError, ValueError, SafetensorError):
                continue
        return None


@cache
def program() -> str:
    """What computes here: another version of it may reach another adapter."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return " ".join([digest.hexdigest(), *(version(name) for name in ("torch", "transformers", "peft"))])
