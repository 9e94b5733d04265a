"""Tokens to text while they come: only whole characters leave, and nothing of a stop sequence."""

from collections.abc import Callable, Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no character, or not yet."""


class Speech:
    """The text of one answer; what has been said never changes."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decode = decode
        self._stops = stops
        self._ids: list[int] = []
        # Decoding restarts at `_from`, a few tokens before what is new: enough context for tokenizers that join words.
        self._from = 0
        self._said = 0
        self._held = ""

    def add(self, token: int) -> str:
        """Take one more token; returns the text that can be said now."""
        self._ids.append(token)
        before = self._decode(self._ids[self._from : self._said])
        now = self._decode(self._ids[self._from :])
        if len(now) <= len(before) or now.endswith(_BROKEN):
            return ""
        self._from, self._said = self._said, len(self._ids)
        return self._sayable(now[len(before) :])

    def finish(self) -> str:
        """The text that was still held back; an unfinished character is dropped."""
        before = self._decode(self._ids[self._from : self._said])
        rest = self._decode(self._ids[self._from :])[len(before) :].rstrip(_BROKEN)
        said = self._sayable(rest)
        if not self.stopped:
            said, self._held = said + self._held, ""
        return said

    def _sayable(self, text: str) -> str:
        """All of the text so far that no stop sequence begins in."""
        text = self._held + text
        ends = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text begin the stop sequence."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
