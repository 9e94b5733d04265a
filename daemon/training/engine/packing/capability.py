"""What a loaded model computes exactly: asked once, on a small tree against its sequences one by one.

Some architectures take a tree and are silently wrong about it, so nothing is believed that has not been seen.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch

from daemon.training.engine.base import Base, Capability
from daemon.training.engine.packing.passes import Line, answer_states, logits
from daemon.training.engine.report import first_line

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest difference of two logits that rounding makes, as a share of the largest logit; half precision: 5 %."""
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_BY_LENGTH = {"longrope", "dynamic"}
"""Kinds of rotary positions that depend on how long the longest sequence of a pass is."""


@torch.no_grad()
def asked(base: Base) -> Base:
    """The base with what it has been seen to be capable of."""
    lines = _family()
    expected = torch.cat([_alone(base, line) for line in lines])
    try:
        able = replace(base, capability=Capability(head=True))
        head = _agrees(able, lines[:1], expected[: len(lines[0][1])])
    except (AttributeError, TypeError, ValueError, RuntimeError):
        head = False
    capable = Capability(head=head)
    if why := _declared(base):
        return replace(base, capability=replace(capable, why=why))
    able = replace(base, capability=replace(capable, trees=True))
    try:
        trees = _agrees(able, lines, expected)
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
        return replace(base, capability=replace(capable, why=f"it takes no token trees ({first_line(error)})"))
    why = "" if trees else "it computes token trees differently from sequences"
    return replace(base, capability=replace(capable, trees=trees, why=why))


def _agrees(base: Base, lines: list[Line], expected: torch.Tensor) -> bool:
    states, _ = answer_states(base, lines)
    difference = (logits(base, states) - expected).abs().max()
    tolerance = _TOLERANCE.get(base.model.dtype, 0.05)
    return bool(difference <= tolerance * max(1.0, float(expected.abs().max())))


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
