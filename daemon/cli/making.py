"""`persona genome transfer` and `merge`: layers made of layers, each gated like any candidate."""

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.options import ConfigOption, JsonOption, PersonaArgument, TraitArgument, load_config, one_of
from daemon.cli.showing import cut, hint
from daemon.cli.work import WaitOption, Wish, show, work
from daemon.errors import UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config

_LAYER = re.compile(r"(?:([^:@=]+):)?([^:@=]+)(?:@(\d{1,9}))?(?:=(-?\d+(?:\.\d+)?))?")


def transfer(
    trait: TraitArgument,
    source: Annotated[str, typer.Option("--from", metavar="PERSONA", help="Who has learnt it.", show_default=False)],
    target: Annotated[str, typer.Option("--to", metavar="PERSONA", help="Who is to know it.", show_default=False)],
    config: ConfigOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Teach one persona what another has learnt.

    On the same base model the layer is taken over as it is; where the gate refuses it, or the base is another one, the
    same corrections are learnt instead.
    """
    loaded = load_config(config)
    if target not in asyncio.run(_personas(loaded)):
        hint(f"{target} is a new persona: it has learnt nothing before, and nobody corrected it.")
    wish = Wish("transfer", {"from": source, "to": target, "trait": trait}, target, trait)
    show(work(loaded, wish, wait), json)


def merge(  # noqa: PLR0913 - one parameter per option
    persona: PersonaArgument,
    trait: TraitArgument,
    layers: Annotated[
        list[str],
        typer.Argument(
            metavar="LAYER", help="Two or more, each [PERSONA:]TRAIT[@VERSION][=WEIGHT].", show_default=False
        ),
    ],
    config: ConfigOption = None,
    method: Annotated[
        str,
        typer.Option(
            parser=one_of("--method", "cat", "linear", "ties", "dare"), metavar="METHOD",
            help="cat: side by side, with the sum of their ranks; linear; ties; dare.",
        ),
    ] = "cat",
    density: Annotated[float, typer.Option(metavar="D", help="Share of the values that ties and dare keep.")] = 0.5,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Make one layer of several, for one trait.

    Where the gate refuses what comes of it, what they were taught is learnt together instead.
    """
    args = {
        "persona": persona,
        "trait": trait,
        "layers": [_named(persona, layer) for layer in layers],
        "method": method,
        "density": density,
    }
    show(work(load_config(config), Wish("merge", args, persona, trait), wait), json)


async def _personas(config: "Config") -> set[str]:
    from daemon.cli.asking import opened, personas

    async with opened(config) as store:
        return await personas(store, config)


def _named(persona: str, text: str) -> dict[str, Any]:
    """The layer that [PERSONA:]TRAIT[@VERSION][=WEIGHT] means."""
    found = _LAYER.fullmatch(text)
    if not found:
        raise UsageInvalid(f"{cut(text)} names no layer; write TRAIT, PERSONA:TRAIT, TRAIT@VERSION or TRAIT=WEIGHT.")
    owner, trait, version, weight = found.groups()
    return {
        "persona": owner or persona,
        "trait": trait,
        "version": int(version) if version else None,
        "weight": float(weight) if weight else 1.0,
    }
