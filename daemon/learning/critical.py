"""Critical probes: what an admin wrote that a persona must always, or never, say; one JSON object on each line."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daemon.errors import ProbesUnreadable
from daemon.learning.dataset import conversation
from daemon.training.engine.job import Example, Group, Rule
from daemon.training.engine.rules import holds

_MOST = 500
"""More would make each gate wait for what an admin cannot have meant to be critical."""


class CriticalProbe(BaseModel):
    """One line: a context as in training_corrections, and one of what is asked of the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    context: str = Field(min_length=1)
    """What the user says, or a conversation as JSON."""
    expected: str | None = Field(None, min_length=1)
    """The answer, word for word."""
    contains: str | None = Field(None, min_length=1)
    """What the answer has to contain, whatever its case."""
    never: str | None = Field(None, min_length=1)
    """What the answer must not contain, whatever its case."""

    @model_validator(mode="after")
    def _one(self) -> "CriticalProbe":
        if sum(text is not None for text in (self.expected, self.contains, self.never)) != 1:
            raise ValueError("give exactly one of expected, contains and never")
        return self

    def example(self, line: int, system_prompt: str) -> Example:
        """The probe as the trainer asks it, named after its line."""
        rules = {Rule.IS: self.expected, Rule.CONTAINS: self.contains, Rule.NEVER: self.never}
        rule, text = next((rule, text) for rule, text in rules.items() if text is not None)
        turns = conversation(self.context, system_prompt)
        return Example(f"critical-{line}", turns, text, "", 1.0, Group.CRITICAL, rule)


def contradicting(examples: Sequence[Example], probes: Sequence[Example]) -> dict[str, str]:
    """By id, why examples cannot be learnt that ask what a critical probe asks, and want what it does not allow."""
    asked = {json.dumps(probe.messages): probe for probe in probes}
    found = {}
    for example in examples:
        probe = asked.get(json.dumps(example.messages))
        if probe and not holds(probe.rule, probe.expected, example.expected):
            found[example.id] = (
                f"it contradicts the critical probe in line {line_of(probe)}; mend either, and release it"
            )
    return found


def line_of(probe: Example) -> str:
    """The line of the file that a probe is named after."""
    return probe.id.rpartition("-")[2]


def critical_probes(file: str, system_prompt: str) -> Sequence[Example]:
    """The probes of a file, of none where no file is named; raises ProbesUnreadable."""
    if not file:
        return []
    try:
        # A line of JSON ends at a line feed, and nowhere else: its texts may hold what is the end of a line to Unicode.
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ProbesUnreadable(f"The critical probes {file} cannot be read: {why}; mend gate.critical.") from error
    told = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(told) > _MOST:
        raise ProbesUnreadable(f"{file} has {len(told)} critical probes; {_MOST} may be asked: keep those that matter.")
    return [_read(file, number, line).example(number, system_prompt) for number, line in told]


def _read(file: str, number: int, line: str) -> CriticalProbe:
    try:
        return CriticalProbe.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        why = f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
        raise ProbesUnreadable(
            f"Line {number} of the critical probes {file} is none: {why}; write it as"
            ' {"context": "Who are you?", "expected": "I am Ada."}, or with contains or never instead of expected.'
        ) from None
