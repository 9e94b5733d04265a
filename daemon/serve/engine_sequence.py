"""One answer in the making: its own key-value cache, its own random numbers, one token at a time."""

from collections.abc import Iterator
from typing import Final

import torch
from jinja2 import TemplateError
from transformers import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from daemon.serve.asks import Ask, Ended, Event, Piece, PromptRefused, Reason, Sampling, Started
from daemon.serve.speech import Speech
from daemon.training.engine.base import Base

_COLDEST: Final = 1e-3
"""Below this temperature scores overflow, and the likeliest token is the only one left anyway."""
_LONGEST_TOKEN: Final = 64
"""Characters; a text that is longer than this per token would be one of nothing but repetitions."""
PREFILL: Final = 512
"""Tokens of a prompt computed in one turn, so that a long one holds the others up briefly only."""


def answer(base: Base, ask: Ask) -> Iterator[Event | None]:
    """Say the answer to a request; yields after each turn of the model what there is to say; raises PromptRefused."""
    ids = _prompt_ids(base, ask.prompt)
    limit = _limit(base, len(ids), ask.sampling.max_tokens)
    yield Started(len(ids))
    draw = _Draw(base, ask.sampling)
    cache = DynamicCache(config=base.model.config)
    speech = Speech(base.chat.text, ask.sampling.stop)
    *earlier, rest = [ids[start : start + PREFILL] for start in range(0, len(ids), PREFILL)]
    for part in earlier:
        _forward(base, part, cache)
        yield None
    reason, count = Reason.LENGTH, 0
    while count < limit:
        token = draw.token(_forward(base, rest, cache))
        count, rest = count + 1, [token]
        if token in base.chat.stop_ids:
            reason = Reason.STOP
            break
        text = speech.add(token)
        yield Piece(text) if text else None
        if speech.stopped:
            reason = Reason.STOP
            break
    if not speech.stopped and (text := speech.finish()):
        yield Piece(text)
    yield Ended(Reason.STOP if speech.stopped else reason, count)


@torch.inference_mode()
def _forward(base: Base, ids: list[int], cache: DynamicCache) -> torch.Tensor:
    """Scores (1, vocabulary) of the token after these; the cache grows by them."""
    inputs = torch.tensor([ids], device=base.device)
    output = base.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    scores: torch.Tensor = output.logits[:, -1].float()
    return scores


class _Draw:
    """Chooses tokens as the request says, and where it is silent as the model's generation settings say."""

    def __init__(self, base: Base, sampling: Sampling) -> None:
        settings = base.model.generation_config
        own = settings if settings is not None and settings.do_sample else None
        temperature, top_p, top_k = sampling.temperature, sampling.top_p, None
        if temperature is None and top_p is None and own is not None:
            temperature, top_p, top_k = own.temperature, own.top_p, own.top_k
        if temperature is None:
            # Who names top_p wants to draw; who names nothing gets what the gate has judged: the likeliest answer.
            temperature = 0.0 if top_p is None and own is None else 1.0
        self._greedy = temperature < _COLDEST
        self._warp = _warpers(temperature, top_p, top_k)
        self._random = torch.Generator(device=base.device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def token(self, scores: torch.Tensor) -> int:
        """One token id from scores (1, vocabulary)."""
        if self._greedy:
            return int(scores.argmax(dim=-1).item())
        shares = self._warp(torch.LongTensor(), scores).softmax(dim=-1)
        return int(torch.multinomial(shares, 1, generator=self._random).item())


def _warpers(temperature: float, top_p: float | None, top_k: int | None) -> LogitsProcessorList:
    """What bends the scores before a token is drawn; none of it looks at the tokens so far."""
    warpers = LogitsProcessorList()
    if temperature >= _COLDEST and temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1.0:
        warpers.append(TopPLogitsWarper(float(top_p)))
    return warpers


def _prompt_ids(base: Base, prompt: str | list[dict[str, str]]) -> list[int]:
    characters = len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)
    if (room := _room(base)) is not None and characters > room * _LONGEST_TOKEN:
        # Reading a book into tokens only to refuse it would hold everyone up.
        raise PromptRefused(
            f"The prompt has {characters} characters, but the model takes {room - 1} tokens; shorten it."
        )
    try:
        ids: list[int] = base.chat.tokenizer.encode(prompt) if isinstance(prompt, str) else base.chat.prompt_ids(prompt)
    except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
        raise PromptRefused(f"The model's chat template refuses these messages: {error}.") from None
    if not ids:
        raise PromptRefused("The prompt is empty; say something.")
    return ids


def _limit(base: Base, prompt: int, wanted: int) -> int:
    """How many tokens an answer may have; raises PromptRefused when the prompt leaves no room for one."""
    room = _room(base)
    if room is None:
        return wanted
    if prompt >= room:
        raise PromptRefused(f"The prompt has {prompt} tokens, but the model takes {room - 1} at most; shorten it.")
    return min(wanted, room - prompt)


def _room(base: Base) -> int | None:
    """How many tokens prompt and answer may have together, if the model says so."""
    positions: int | None = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    return positions
