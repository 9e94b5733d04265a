"""Messages to tokens, the same way for training, for probing and for serving."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from daemon.training.engine.job import Message

_SENTINEL = "zebra"
"""An answer that any template prints unchanged, to see what it puts after one."""


def with_system(messages: Sequence[Message], system_prompt: str) -> list[Message]:
    """The messages, led by the persona's system prompt unless they bring their own."""
    if not system_prompt or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one tokenizer writes conversations: prompts, answers, and the tokens that end a turn."""

    tokenizer: PreTrainedTokenizerBase
    end_id: int
    """The token that closes an answer of the assistant."""
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    """Every token that ends generation."""

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase, also_stop: Sequence[int] = ()) -> "ChatFormat":
        """Learn a tokenizer's format; raises ValueError when it has no chat template that works, or no end token."""
        if not tokenizer.chat_template:
            raise ValueError("its tokenizer has no chat template; take an instruction-tuned model")
        try:
            end_id = _end_of_answer(tokenizer)
            for options in ({}, {"add_generation_prompt": True}):
                _render(tokenizer, [{"role": "user", "content": _SENTINEL}], **options)
        except TemplateError as error:
            raise ValueError(
                f"its chat template does not take a plain question: {error}; mend chat_template, or take another model"
            ) from error
        if end_id is None:
            raise ValueError("its tokenizer has no token that ends an answer; set eos_token")
        return ChatFormat(tokenizer, end_id, frozenset({end_id, *also_stop}))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to where the assistant's next answer begins."""
        return _encode(self.tokenizer, _render(self.tokenizer, messages, add_generation_prompt=True))

    def opening(self, head: Sequence[Message] = ()) -> list[int]:
        """Tokens of a conversation, perhaps with a system prompt, up to where the user's first words begin."""
        asked = _render(self.tokenizer, [*head, {"role": "user", "content": _SENTINEL}])
        return _encode(self.tokenizer, asked.partition(_SENTINEL)[0])

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, its end token included."""
        return [*_encode(self.tokenizer, answer), self.end_id]

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether answer tokens end their turn."""
        return bool(ids) and ids[-1] in self.stop_ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer tokens, control tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)  # type: ignore[assignment]
        return text


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> str:
    # Hybrid models would otherwise open a chain of thought that no correction contains.
    options = {"tokenize": False, "enable_thinking": False, **options}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except TemplateError:
        if messages[0]["role"] != "system":
            raise
        return str(tokenizer.apply_chat_template(_system_folded(messages), **options))


def _system_folded(messages: Sequence[Message]) -> list[Message]:
    """The system prompt at the head of the first user turn, for templates that know no system role."""
    system, *rest = messages
    for index, message in enumerate(rest):
        if message["role"] == "user":
            rest[index] = {"role": "user", "content": f"{system['content']}\n\n{message['content']}"}
            return rest
    return [{"role": "user", "content": system["content"]}, *rest]


def _end_of_answer(tokenizer: PreTrainedTokenizerBase) -> int | None:
    conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
    tail = _render(tokenizer, conversation).rpartition(_SENTINEL)[2]
    for token in _encode(tokenizer, tail):
        if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder:
            return token
    eos: int | None = tokenizer.eos_token_id
    return eos
