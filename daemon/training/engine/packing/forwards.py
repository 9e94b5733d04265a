"""Another way through a module for a while, which leaves the module as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def computed_by(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Have a module computed by `forward` meanwhile."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
