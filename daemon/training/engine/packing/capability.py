"""What a loaded model computes exactly: asked once, on a small tree against its sequences one by one.

Some architectures take a tree and are silently wrong about it, so nothing is believed that has not been seen.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch

from daemon.training.engine.base import Base, Capability
from daemon.training.engine.packing.narrow import last_mlp
from daemon.training.engine.packing.passes import Line, answer_states, logits, planned, states
from daemon.training.engine.packing.recompute import recomputable
from daemon.training.engine.report import first_line

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest difference of two logits that rounding makes, as a share of the largest logit."""
_HALF, _NOISE = (0.005, 0.05), 4.0
"""The same in half precision, at least and at most: some times what padding alone makes of it."""
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
REFUSALS = (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError)
"""What models raise that are asked for what they cannot do."""
_BY_LENGTH = {"longrope", "dynamic"}
"""Kinds of rotary positions that depend on how long the longest sequence of a pass is."""


@torch.no_grad()
def examined(base: Base) -> Base:
    """The base with what it has been seen to be capable of; raises whatever the model does on plain sequences."""
    lines = _family()
    expected = torch.cat([_alone(base, line) for line in lines])
    try:
        able = replace(base, capability=Capability(head=True))
        head = not _differs(able, lines[:1], expected[: len(lines[0][1])], _TOLERANCE.get(base.model.dtype, _HALF[1]))
    except REFUSALS:
        head = False
    capable = Capability(head=head)
    tolerance = _tolerance(replace(base, capability=capable), lines, expected)
    why = _declared(base)
    if not why:
        able = replace(base, capability=replace(capable, trees=True))
        try:
            why = _differs(able, lines, expected, tolerance)
        except REFUSALS as error:
            why = f"it takes no token trees ({first_line(error)})"
    capable = replace(capable, trees=not why, why=why)
    narrow = last_mlp(base.model)
    able = replace(base, capability=replace(capable, narrow=narrow))
    try:
        narrow = "" if _differs(able, lines, expected, tolerance) else narrow
    except REFUSALS:
        narrow = ""
    recompute = bool(recomputable(base.model))
    return replace(base, capability=replace(capable, narrow=narrow, recompute=recompute))


def _differs(base: Base, lines: list[Line], expected: torch.Tensor, tolerance: float) -> str:
    """Why a pass over some lines is not what they are one by one; empty when it is. Raises one of REFUSALS."""
    inputs, places = planned(base, lines)
    found = logits(base, states(base, inputs, places.at))
    if float((found - expected).abs().max()) > tolerance * max(1.0, float(expected.abs().max())):
        return "it computes token trees differently from sequences"
    window = getattr(base.model.config.get_text_config(), "sliding_window", None)
    # The sequences are shorter than any window, so it would not show in what was computed.
    if base.capability.trees and window and _slides(base) and window not in inputs["sight"].windows:
        return "it does not hand its sliding window to the attention"
    return ""


def _tolerance(base: Base, lines: list[Line], expected: torch.Tensor) -> float:
    """By how much logits may differ, as a share of the largest."""
    if base.model.dtype in _TOLERANCE:
        return _TOLERANCE[base.model.dtype]
    least, most = _HALF
    try:
        padded, _ = answer_states(base, lines)
        noise = float((logits(base, padded) - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    except REFUSALS:
        return most
    return min(most, max(least, _NOISE * noise))


def _slides(base: Base) -> bool:
    """Whether some layers are said to see a window only; a config that names no kinds means all of them."""
    kinds = getattr(base.model.config.get_text_config(), "layer_types", None)
    return kinds is None or "sliding_attention" in kinds


def _family() -> list[Line]:
    """Sequences with three levels of shared beginnings, one of them a part of another."""
    random = Random(0)

    def words(count: int) -> list[int]:
        return [random.randrange(2, 200) for _ in range(count)]

    room, other, question = words(9), words(5), words(4)
    prompts = [room + question, room + question, room + words(7), other + question, room]
    return [(prompt, words(3 + at)) for at, prompt in enumerate(prompts)]


def _alone(base: Base, line: Line) -> torch.Tensor:
    """Logits (answer tokens, vocabulary) of one sequence, as transformers computes them."""
    prompt, answer = line
    ids = torch.tensor([prompt + answer], device=base.device)
    found: torch.Tensor = base.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return found.double() if found.dtype == torch.float64 else found.float()


def _declared(base: Base) -> str:
    """Why a config rules trees out, where a small tree would not show it; empty when it does not."""
    config = base.model.config.get_text_config()
    if unknown := set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS:
        return f"it has layers of kind {', '.join(sorted(unknown))}"
    if found := _BY_LENGTH & set(_rope_types(getattr(config, "rope_parameters", None))):
        return f"its {found.pop()} positions depend on the longest sequence of a pass"
    return ""


def _rope_types(parameters: Any) -> Iterator[str]:
    """The kinds of rotary positions named in a config, one for all layers or one for each kind of layer."""
    if isinstance(parameters, dict):
        yield str(parameters.get("rope_type", "default"))
        for nested in parameters.values():
            yield from _rope_types(nested) if isinstance(nested, dict) else ()
