"""What clients may ask, as OpenAI's API writes it; what this server cannot do is refused with a sentence."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from daemon.serve.asks import Sampling
from daemon.serve.refusals import Refusal

_UNSUPPORTED: Final = {
    "tools": "Tools are not supported.",
    "functions": "Functions are not supported.",
    "logprobs": "Log probabilities are not supported.",
    "top_logprobs": "Log probabilities are not supported.",
    "logit_bias": "A logit bias is not supported.",
    "presence_penalty": "A presence penalty is not supported.",
    "frequency_penalty": "A frequency penalty is not supported.",
    "audio": "Audio is not supported.",
    "echo": "Echoing the prompt is not supported.",
    "suffix": "A suffix is not supported.",
}


class Part(BaseModel):
    """One part of a message's content."""

    type: str
    text: str | None = None


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def plain(self, index: int) -> dict[str, str]:
        """Role and text; raises Refusal for content that is no text."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        texts = []
        for number, part in enumerate(self.content):
            if part.type != "text" or part.text is None:
                place = f"messages[{index}].content[{number}]"
                raise Refusal(400, f"{place} is no text; this server takes text only.", place, "invalid_value")
            texts.append(part.text)
        return {"role": role, "content": "\n".join(texts)}


class StreamOptions(BaseModel):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class Asked(BaseModel):
    """What chat and plain completions have in common; keys that change nothing here are let through."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = None
    best_of: int | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def refuse_unsupported(self) -> None:
        """Raise Refusal for the first thing asked that this server cannot do."""
        if self.n not in (None, 1) or self.best_of not in (None, 1):
            param = "n" if self.n not in (None, 1) else "best_of"
            raise Refusal(400, "One answer per request; leave n and best_of at 1.", param, "unsupported")
        extra: dict[str, Any] = self.model_extra or {}
        for param, sentence in _UNSUPPORTED.items():
            # Clients often write the defaults out: 0, false, an empty list, "off".
            if extra.get(param):
                raise Refusal(400, f"{sentence} Leave {param} out.", param, "unsupported")
        form = extra.get("response_format")
        if isinstance(form, dict) and form.get("type", "text") != "text":
            raise Refusal(
                400, "Only plain text is answered; leave response_format out.", "response_format", "unsupported"
            )

    def sampling(self, longest: int) -> Sampling:
        """How the answer is drawn; `longest` holds where the request names no limit."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > 16 or "" in stop:
            raise Refusal(400, "stop takes up to 16 texts, none of them empty.", "stop", "invalid_value")
        return Sampling(self.limit() or longest, self.temperature, self.top_p, stop, self.seed)

    def limit(self) -> int | None:
        """Most tokens of the answer, if the request says so."""
        return self.max_tokens


class ChatAsked(Asked):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)

    def limit(self) -> int | None:
        """Most tokens of the answer; the newer name goes before the older."""
        return self.max_completion_tokens or self.max_tokens

    def conversation(self) -> list[dict[str, str]]:
        """The messages as plain texts."""
        return [message.plain(index) for index, message in enumerate(self.messages)]


class TextAsked(Asked):
    """The body of POST /v1/completions."""

    prompt: str | list[str]

    def text(self) -> str:
        """The one prompt; raises Refusal when there are several."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) != 1:
            raise Refusal(400, "One prompt per request.", "prompt", "unsupported")
        return self.prompt[0]
