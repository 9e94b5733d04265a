"""Model names: PERSONA, PERSONA:TRAIT, PERSONA:TRAIT@VERSION."""

import re
from dataclasses import dataclass
from typing import Final

from daemon.genome.genome_file import PERSONA_ID, TRAIT_ID

BASE: Final = "base"
"""What speaks where no layer does."""
_NAME: Final = re.compile(
    rf"(?P<persona>{PERSONA_ID[1:-1]})(:(?P<trait>{TRAIT_ID[1:-1]})(@(?P<version>[1-9][0-9]{{0,8}}))?)?"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who a request wants to speak with."""

    persona: str
    trait: str | None = None
    version: int | None = None


def wanted(model: str) -> Wanted | None:
    """Read a model name; None when it is none of a persona."""
    match = _NAME.fullmatch(model)
    if match is None:
        return None
    version = match["version"]
    return Wanted(match["persona"], match["trait"], int(version) if version else None)
