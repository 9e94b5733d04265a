"""Answers as OpenAI's API writes them: whole, or as a stream of server-sent events."""

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

DONE: Final = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt: int
    completion: int

    def shape(self) -> dict[str, int]:
        """As OpenAI writes it."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dataclass(frozen=True, slots=True)
class Form:
    """The shape of one request's answer; `chat` is for conversations, else for plain completions."""

    chat: bool
    model: str
    fingerprint: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: str, usage: Usage) -> dict[str, Any]:
        """The complete answer."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return {**self._head(""), "choices": [choice], "usage": usage.shape()}

    def first(self) -> str:
        """The event that opens a stream; plain completions have none."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self.chat else ""

    def piece(self, text: str) -> str:
        """The event of some more text."""
        return self._event({"delta": {"content": text}} if self.chat else {"text": text})

    def last(self, reason: str, usage: Usage) -> str:
        """The events that close a stream."""
        end = self._event({"delta": {}} if self.chat else {"text": ""}, reason)
        if self.include_usage:
            end += _line({**self._head(".chunk"), "choices": [], "usage": usage.shape()})
        return end + DONE

    def broken(self, error: dict[str, Any]) -> str:
        """The events of a stream that cannot go on."""
        return _line(error) + DONE

    def _event(self, said: dict[str, Any], reason: str | None = None) -> str:
        usage = {"usage": None} if self.include_usage else {}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return _line({**self._head(".chunk"), "choices": [choice], **usage})

    def _head(self, suffix: str) -> dict[str, Any]:
        prefix, kind = ("chatcmpl", f"chat.completion{suffix}") if self.chat else ("cmpl", "text_completion")
        head = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint}


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
