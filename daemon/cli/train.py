"""`persona train`: what is pending becomes runs now."""

from typing import NoReturn

from daemon.cli.options import ConfigOption, JsonOption, PersonaOption, TraitOption, load_config
from daemon.cli.work import Outcome, WaitOption, Wish, show, work
from daemon.errors import NothingToDo, PersonaError


def train(
    config: ConfigOption = None,
    persona: PersonaOption = None,
    trait: TraitOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Train what is pending now: thresholds are ignored, the gate is not."""
    wish = Wish("train", {"persona": persona, "trait": trait}, persona, trait)
    outcome = work(load_config(config), wish, wait)
    if not outcome.runs and not json:
        _refuse(outcome, persona, trait)
    show(outcome, json)


def _refuse(outcome: Outcome, persona: str | None, trait: str | None) -> NoReturn:
    """Say why there is no run; raises PersonaError where somebody must act, else NothingToDo."""
    waits = "; ".join(f"{name}: {why}" for name, why in outcome.answer["waits"].items())
    if outcome.answer["hindered"]:
        raise PersonaError(f"Nothing can be trained. {waits}.")
    if waits:
        raise NothingToDo(f"Nothing was planned. {waits}.")
    asked = [f"persona {persona}"] * bool(persona) + [f"trait {trait}"] * bool(trait)
    raise NothingToDo(f"Nothing is pending{' of ' if asked else ''}{' and '.join(asked)}.")
