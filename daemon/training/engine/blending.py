"""One adapter made of several through PEFT: side by side, averaged, or without what they contradict each other in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.job import Blend
from daemon.training.engine.report import JobFailed, first_line

_METHODS = {"cat": "cat", "linear": "linear", "ties": "ties", "dare": "dare_linear"}
"""PEFT's names for ours."""


@contextmanager
def blended(base: Base, blend: Blend, seed: int) -> Iterator[PeftModel]:
    """The adapter that a blend makes, on the base; taken off at the end; raises JobFailed."""
    with lora.loaded(base, blend.layers[0], False, *blend.layers[1:]) as adapted:
        if len(blend.layers) > 1:
            _merge(adapted, blend, seed)
        yield adapted


def _merge(adapted: PeftModel, blend: Blend, seed: int) -> None:
    parts = [lora.part(number) for number in range(len(blend.layers))]
    # What they are scaled by is in the weights by then; PEFT would take the first one's way again.
    adapted.peft_config[parts[0]].use_rslora = False  # type: ignore[attr-defined]
    kept: dict[str, Any] = {"density": blend.density} if blend.method in ("ties", "dare") else {}
    torch.manual_seed(seed)  # "dare" drops values by chance
    model: Any = adapted.base_model
    try:
        model.add_weighted_adapter(parts, blend.weights, lora.NAME, _METHODS[blend.method], **kept)
    except ValueError as error:
        raise JobFailed(f"the layers cannot be merged by {blend.method}: {first_line(error)}", False) from error
    model.set_adapter(lora.NAME)
