"""A model that judges: it asks questions in other words, and says whether answers mean the same; where one is set up.

What is sensitive, or may be, is shown to none that is on another machine.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from daemon.config.sections import Judge
from daemon.config.settings import Config
from daemon.config.values import is_loopback
from daemon.domain import Correction
from daemon.store.rows import is_unicode
from daemon.training.engine.job import Answer, Example, Finished, Group, Probe

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_AT_ONCE = 4
"""Questions that wait for an answer at a time."""
_JUDGED = frozenset({Group.BATCH, Group.REWORDING, Group.HISTORY, Group.KEPT, Group.AFFIRMATION})
_REMEMBERED = 10_000
"""What was said that is not asked for again."""
_REWORDED = 100
"""Corrections that are said in other words: of a whole history, relearnt, it would be a bill."""
_REWORD = (
    "Say the message that follows in {count} other ways, each of which asks exactly the same, in the same language."
    " Answer with a JSON list of {count} strings, and nothing else."
)
_COMPARE = (
    "Two answers to one question follow. Do they say the same, in the same manner, so that either could stand for the"
    " other? Answer yes or no, and nothing else."
)

_log = structlog.get_logger()


@dataclass(slots=True)
class Judging:
    """Asks the model at [judge]; without one, nothing happens. A model that does not answer holds nothing up."""

    config: Callable[[], Config]
    _whose: tuple[str, str] = ("", "")
    """Where the judge is that said what is remembered, and its name."""
    _said: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    """By question, expected answer and answer, whether they mean the same."""
    _worded: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    """By text and how often it was to be said in other words, what came of it."""

    async def reworded(self, rows: Iterable[Correction], examples: Sequence[Example]) -> list[Example]:
        """The batch in other words, for the gate to ask; of a large one, a part."""
        judge, shown = self.config().judge, self._shown(rows)
        times = judge.paraphrases
        batch = [one for one in examples if one.group is Group.BATCH and one.id in shown]
        if not judge.url or not times or not batch:
            return []
        self._remember_only(judge)
        chosen = batch if len(batch) <= _REWORDED else Random(0).sample(batch, _REWORDED)
        texts = dict.fromkeys(one.messages[-1]["content"] for one in chosen)
        new = [text for text in texts if (text, times) not in self._worded]
        answers = await self._ask(judge, [(_REWORD.format(count=times), text) for text in new])
        self._worded |= {
            (text, times): _texts(answer, but=text)[:times]
            for text, answer in zip(new, answers, strict=True)
            if answer is not None
        }
        known = self._worded
        return [said for one in chosen for said in _saying(one, known.get((one.messages[-1]["content"], times), ()))]

    async def judged(self, finished: Finished, rows: Sequence[Correction], examples: Sequence[Example]) -> Finished:
        """The same probes, with those answers right that mean what is expected, though they do not say it."""
        judge = self.config().judge
        self._remember_only(judge)
        # An answer may recite whatever its layer was taught, so it is shown only where all of that may be.
        if not judge.url or len(self._shown(rows)) < len(rows):
            return finished
        known = {one.id: one for one in examples}
        asked = sorted({key for probe in finished.probes for key in _open(probe, known)})
        new = [key for key in asked if key not in self._said]
        answers = await self._ask(judge, [(_COMPARE, _compared(*key)) for key in new])
        self._said |= {key: _yes(answer) for key, answer in zip(new, answers, strict=True) if answer is not None}
        probes = [self._corrected(probe, known) for probe in finished.probes]
        told = {"asked": len(asked), "agreed": sum(self._said.get(key, False) for key in asked)}
        return replace(finished, probes=probes, metrics={**finished.metrics, "judged": told})

    def _remember_only(self, judge: Judge) -> None:
        """Forget what another judge said, and all where it has become much."""
        whose = judge.url, judge.model
        if whose != self._whose or len(self._said) + len(self._worded) > _REMEMBERED:
            self._whose = whose
            self._said.clear()
            self._worded.clear()

    def _shown(self, rows: Iterable[Correction]) -> set[str]:
        """Ids of what may be shown to the judge."""
        here = is_loopback(urlsplit(self.config().judge.url).hostname or "")
        return {row.id for row in rows if here or not row.sensitive}

    def _corrected(self, probe: Probe, known: Mapping[str, Example]) -> Probe:
        def right(answer: Answer) -> Answer:
            key = _key(probe, answer, known)
            return replace(answer, right=True) if key and self._said.get(key) else answer

        return replace(
            probe, incumbent=right(probe.incumbent), candidate=right(probe.candidate) if probe.candidate else None
        )

    async def _ask(self, judge: Judge, asked: Sequence[tuple[str, str]]) -> list[str | None]:
        """What the model says to each instruction with a text; None where it says nothing."""
        if not asked:
            return []
        client = await asyncio.to_thread(_client, judge)
        # Here, and not above: who has no judge does not carry its client.
        from openai import OpenAIError

        gate, failures = asyncio.Semaphore(_AT_ONCE), list[Exception]()

        async def one(instruction: str, text: str) -> str | None:
            async with gate:
                if failures:
                    return None  # nobody waits once more for who does not answer
                turns: Any = [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
                try:
                    # The client's own timeout is between two bytes.
                    async with asyncio.timeout(judge.timeout):
                        said = await client.chat.completions.create(model=judge.model, messages=turns, temperature=0)
                    return _content(said)
                except (OpenAIError, TimeoutError, ValueError, RecursionError) as failure:
                    failures.append(failure)
                    return None

        async with client:
            found = await asyncio.gather(*(one(*each) for each in asked))
        if failures:
            _log.warning("judge.silent", url=judge.url, asked=len(asked), reason=_why(failures[0]))
        return found


async def judge_problem(judge: Judge) -> str | None:
    """What keeps a judge from answering, and what to do; None when nothing does."""
    from openai import OpenAIError

    client = await asyncio.to_thread(_client, judge)
    try:
        async with client:
            known = [model.id async for model in client.models.list()]
    except (OpenAIError, ValueError, AttributeError) as error:
        return f"{judge.url} does not answer ({error}); start it, or correct judge.url and judge.token"
    if judge.model not in known:
        return f"{judge.url} has no model {judge.model!r}; set judge.model to one of {', '.join(known) or 'its models'}"
    return None


def _client(judge: Judge) -> "AsyncOpenAI":
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    # The client refuses to be made without a key, and many servers on this machine ask for none.
    key = judge.token.get_secret_value() or "none"
    # What may be sensitive goes where the config says, and nowhere else: through no proxy, after no redirect.
    straight = DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False, timeout=judge.timeout)
    return AsyncOpenAI(base_url=judge.url, api_key=key, timeout=judge.timeout, max_retries=0, http_client=straight)


def _content(said: Any) -> str:
    """What a reply says; raises ValueError where it is no chat completion, which the client does not look at."""
    content = getattr(getattr((getattr(said, "choices", None) or [None])[0], "message", None), "content", None)
    if not isinstance(content, str):
        raise ValueError("a reply is no chat completion")
    return content


def _why(failure: Exception) -> str:
    """Why a judge is silent, without what it said: that may be what it was asked."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(failure, APIStatusError):
        return f"it answers with HTTP {failure.status_code}"
    if isinstance(failure, TimeoutError):
        return "it does not answer in judge.timeout"
    return str(failure) if isinstance(failure, APIConnectionError) else "what it answers is no chat completion"


def _texts(answer: str, but: str) -> list[str]:
    """The texts of an answer, which has a JSON list of them in it, but one."""
    try:
        found = json.loads(answer[answer.index("[") : answer.rindex("]") + 1])
    except (ValueError, RecursionError):
        return []
    texts = dict.fromkeys(each.strip() for each in found if isinstance(each, str) and is_unicode(each))
    return [each for each in texts if each and each != but]


def _saying(example: Example, texts: Iterable[str]) -> Iterator[Example]:
    """An example with other words in its last turn."""
    *earlier, last = example.messages
    for number, text in enumerate(texts):
        turns = [*earlier, {**last, "content": text}]
        yield replace(example, id=f"{example.id}~said{number}", messages=turns, group=Group.REWORDING)


def _open(probe: Probe, known: Mapping[str, Example]) -> Collection[tuple[str, str, str]]:
    answers = [probe.incumbent, *([probe.candidate] if probe.candidate else [])]
    return [key for answer in answers if (key := _key(probe, answer, known))]


def _key(probe: Probe, answer: Answer, known: Mapping[str, Example]) -> tuple[str, str, str] | None:
    """Question, expected answer and answer, where these are to be compared."""
    example = known.get(probe.correction)
    if example is None or probe.group not in _JUDGED or answer.right or not answer.ended or not answer.text.strip():
        return None
    return example.messages[-1]["content"], example.expected, answer.text


def _compared(question: str, expected: str, answer: str) -> str:
    return f"Question: {question}\n\nFirst answer: {expected}\n\nSecond answer: {answer}"


def _yes(answer: str) -> bool:
    return answer.strip().casefold().startswith("yes")
