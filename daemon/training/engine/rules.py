"""Whether a text is what is asked of an answer."""

import unicodedata

from daemon.training.engine.job import Rule


def holds(rule: Rule, expected: str, text: str) -> bool:
    """Whether a text is as a rule asks for."""
    if rule is Rule.IS:
        return same_text(text, expected)
    within = _plain(expected).casefold() in _plain(text).casefold()
    return within if rule is Rule.CONTAINS else not within


def same_text(one: str, other: str) -> bool:
    """Whether two answers are equal, white space and Unicode form aside."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
