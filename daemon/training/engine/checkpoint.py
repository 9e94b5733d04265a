"""What a training has reached, on disk, so that a killed child's successor goes on from there to the same adapter."""

import json
import shutil
import time
from dataclasses import dataclass, field
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
        """Replace what was there, whole or not at all."""
        fresh, old = self.folder.with_suffix(".new"), self.folder.with_suffix(".old")
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh / _TENSORS)
        (fresh / _FACTS).write_text(json.dumps({"identity": self.identity, **facts}), encoding="utf-8")
        if self.folder.exists():
            self.folder.rename(old)
        fresh.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        self._written = time.monotonic()

    def read(self) -> tuple[Tensors, Facts] | None:
        """What was reached; None where nothing was, or nothing that can be gone on from."""
        try:
            facts = json.loads((self.folder / _FACTS).read_text(encoding="utf-8"))
            if facts.pop("identity", None) != self.identity:
                return None
            return load_file(self.folder / _TENSORS), facts
        except (OSError, ValueError, SafetensorError):
            return None
