"""`persona corrections review`: the served persona answers, a person says good or bad."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daemon.cli.adding import write
from daemon.cli.options import ConfigOption, LimitOption, PersonaArgument, TraitArgument, load_config
from daemon.cli.showing import cut, hint, plain, say
from daemon.domain import TraitKey
from daemon.errors import NothingToDo, PersonaError, RowRefused, RuntimeUnreachable

if TYPE_CHECKING:
    from httpx import Response

    from daemon.config.settings import Config

_TIMEOUT_S: Final = 300.0
"""A first answer may wait for a model to be loaded."""
_CHOICES: Final = {"g": "good", "b": "bad", "s": "skip", "q": "quit"}


@dataclass(frozen=True)
class Prompt:
    """What to ask: the messages, and the context as the store keeps it."""

    context: str
    messages: list[dict[str, str]]


def review(
    persona: PersonaArgument,
    trait: TraitArgument,
    config: ConfigOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Prompts, one per line; else the latest contexts.")
    ] = None,
    limit: LimitOption = 20,
) -> None:
    """Judge answers of the served persona, one by one.

    The good are affirmed, the bad corrected; each is written at once.
    """
    loaded = load_config(config)
    prompts = _from_file(source)[:limit] if source else asyncio.run(_latest(loaded, persona, trait, limit))
    if not prompts:
        raise NothingToDo(f"{persona}:{trait} has no corrections to ask again; give prompts with --from FILE.")
    counts = {"good": 0, "bad": 0}
    try:
        _walk(loaded, TraitKey(persona, trait), prompts, counts)
    except (KeyboardInterrupt, PersonaError) as end:
        # What was said before Ctrl-C, or before the server went away, is written, and is told.
        if any(counts.values()) or isinstance(end, KeyboardInterrupt):
            say(_tally(counts))
        raise
    say(_tally(counts))


def _walk(config: "Config", key: TraitKey, prompts: Sequence[Prompt], counts: dict[str, int]) -> None:
    """Ask, show and judge one prompt after the other, counting what is written down."""
    for number, prompt in enumerate(prompts, 1):
        say(f"\n{number} of {len(prompts)}  {prompt.messages[-1]['content']}", style="bold")
        answer = _answer(config, str(key), prompt)
        say(answer)
        verdict = _choose()
        if verdict == "quit":
            break
        row = _row(prompt, answer, verdict)
        if row is None:
            continue
        try:
            asyncio.run(write(config, {**row, "persona_id": key.persona, "trait_type": key.trait}))
            counts[verdict] += 1
        except RowRefused as refused:
            hint(f"Not written: {refused}")


def _tally(counts: dict[str, int]) -> str:
    return f"\n{counts['good']} affirmed, {counts['bad']} corrected."


def _row(prompt: Prompt, answer: str, verdict: str) -> dict[str, Any] | None:
    """What a verdict is worth writing down."""
    from daemon.cli.asking import who

    row = {"original_context": prompt.context, "original_response": answer, "source": "review", "corrected_by": who()}
    if verdict == "good":
        return {**row, "expected_response": answer, "kind": "affirmation"}
    expected = _expected(answer) if verdict == "bad" else None
    return {**row, "expected_response": expected} if expected else None


def _expected(answer: str) -> str | None:
    """What should have been said instead; None to skip."""
    while expected := _read("what should it have said? (empty: skip) "):
        if expected not in (answer.strip(), plain(answer).strip()):
            return expected
        say("That is what it said; if it was right, skip it now and call it good.")
    return None


def _choose() -> str:
    while (said := _read("[g]ood, [b]ad, [s]kip, [q]uit? ")) is not None:
        # A sentence that happens to begin with one of the letters is no choice.
        if said.lower() in (*_CHOICES, *_CHOICES.values()):
            return _CHOICES[said[0].lower()]
    return "quit"


def _read(question: str) -> str | None:
    """What was typed; None when nobody is there any more."""
    with suppress(ImportError):
        # Its import is what lets arrow keys edit the line.
        import readline  # noqa: F401
    try:
        return input(question).strip()
    except EOFError:
        return None


def _from_file(file: Path) -> list[Prompt]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PersonaError(f"The prompts in {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise PersonaError(f"The prompts in {file} cannot be read: it is no UTF-8 text.") from None
    return [Prompt(line.strip(), [{"role": "user", "content": line.strip()}]) for line in lines if line.strip()]


async def _latest(config: "Config", persona: str, trait: str, limit: int) -> list[Prompt]:
    """The contexts of the latest corrections, each once."""
    from daemon.cli.asking import opened
    from daemon.learning import dataset

    async with opened(config) as store:
        rows = await store.corrections.find(persona, trait)
    prompts: dict[str, Prompt] = {}
    for row in rows:
        if dataset.defect(row) is None:
            context = row.context if row.context and row.context.strip() else row.original
            prompts.setdefault(context, Prompt(context, dataset.messages(row)))
    return list(prompts.values())[:limit]


def _answer(config: "Config", model: str, prompt: Prompt) -> str:
    import httpx

    from daemon.runtimes.failures import in_words

    first = next(iter(config.runtimes.values()), None)
    url = first.url if first else config.serve.url
    token = (first.token.get_secret_value() if first else "") or config.serve.token.get_secret_value()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    body = {"model": model, "messages": prompt.messages, "temperature": 0}
    try:
        # Proxies of the environment are meant for the internet, not for a server of one's own.
        with httpx.Client(headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client:
            response = client.post(f"{url}/v1/chat/completions", json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = in_words(error, _TIMEOUT_S)
        raise RuntimeUnreachable(f"The server at {url} does not answer ({what}); start it: persona serve") from None
    try:
        # As it was said: it is cleaned where it is shown, not in the row that a persona learns from.
        return str(response.raise_for_status().json()["choices"][0]["message"]["content"])
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError):
        why = _complaint(response)
        raise PersonaError(f"The server at {url} answers {response.status_code}: {why}") from None


def _complaint(response: "Response") -> str:
    """What a server says is wrong, in OpenAI's form or in any."""
    with suppress(ValueError, LookupError, TypeError):
        return str(response.json()["error"]["message"])
    return cut(response.text, 300)
