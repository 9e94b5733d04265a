"""`persona genome`: what a persona speaks with, how it came about, and the way back."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from daemon.cli import making, showing
from daemon.cli.options import (
    ConfigOption,
    JsonOption,
    LimitOption,
    PersonaArgument,
    TraitArgument,
    load_config,
    noun,
    whole_number,
)
from daemon.cli.showing import ago, count, print_json, say, short
from daemon.cli.tables import Table
from daemon.errors import PersonaError

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Genome, GenomeEvent, Layer
    from daemon.store.store import Store

VersionArgument = Annotated[
    int, typer.Argument(metavar="VERSION", parser=whole_number("VERSION", 1), help="A layer's version.")
]
_COLOURS = {"active": "green", "rolled-back": "yellow"}

app = noun("What a persona speaks with, and the way back.")
app.command()(making.transfer)
app.command()(making.merge)


@app.command()
def show(persona: PersonaArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show which layer each trait speaks with, and every version."""
    genome, layers = asyncio.run(_genome(load_config(config), persona))
    if json:
        print_json(_document(genome, layers))
        return
    if layers:
        showing.show(f"{persona} is at revision {genome.revision}.", "", _table(genome, layers))
    else:
        say(f"{persona} is at revision {genome.revision} and speaks with the base model.")


@app.command()
def history(
    persona: PersonaArgument, config: ConfigOption = None, limit: LimitOption = 20, json: JsonOption = False
) -> None:
    """List what happened to a genome, the latest first."""
    events = asyncio.run(_history(load_config(config), persona, limit))
    if json:
        print_json([_event(event) for event in events])
        return
    made = Table(
        "revision", "when", "what", "trait", "speaks", "by", "why",
        right=["revision"], names=["trait", "by"], wrap=["why"],
    )  # fmt: skip
    for event in events:
        speaks = f"v{event.version}" if event.version else "base"
        # A program that asks need not say who it is.
        who = event.actor or "an admin"
        made.add_row(str(event.revision), ago(event.at), event.kind, event.trait or "", speaks, who, event.reason)
    showing.show(made if events else f"Nothing has happened to {persona} yet.")


@app.command()
def rollback(
    persona: PersonaArgument,
    trait: TraitArgument,
    config: ConfigOption = None,
    to: Annotated[
        int | None,
        typer.Option(
            metavar="VERSION", parser=whole_number("--to", 0), help="An earlier version; 0 is the base model."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Speak with an earlier version again.

    What the undone versions learnt is quarantined, and not learnt again by itself.
    """
    result = _asked(config, "rollback", {"persona": persona, "trait": trait, "to": to}, json)
    if json:
        return
    now = f"version {result['version']}" if result["version"] else "the base model"
    undone = " and ".join(f"v{version}" for version in result["undone"])
    verb = "is" if len(result["undone"]) == 1 else "are"
    say(f"{persona}:{trait} speaks with {now} again (revision {result['revision']}); {undone} {verb} undone.")
    if result["quarantined"]:
        learnt = count(result["quarantined"], "correction")
        them = "it" if result["quarantined"] == 1 else "them"
        say(f"Quarantined: {learnt} that {undone} learnt. To have the next layer learn {them} again:")
        versions = " ".join(f"--version {version}" for version in result["undone"])
        say(f"  persona corrections release --persona {persona} --trait {trait} {versions}")
    for other in result["still_known_to"]:
        name = f"{other['persona']}:{other['trait']}"
        say(f"{name} was made of {undone} in its v{other['version']}, and still knows it; to undo it there, too:")
        say(f"  persona genome rollback {other['persona']} {other['trait']} --to {other['before']}")
    say(f"To bring v{result['undone'][0]} back as it was:")
    say(f"  persona genome pin {persona} {trait} {result['undone'][0]}")


@app.command()
def pin(
    persona: PersonaArgument,
    trait: TraitArgument,
    version: VersionArgument,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Speak with one version, and train no other, until unpinned."""
    result = _asked(config, "pin", {"persona": persona, "trait": trait, "version": version}, json)
    if not json:
        say(f"{persona}:{trait} is pinned to version {result['version']} (revision {result['revision']}).")
        if result["released"]:
            say(f"{count(result['released'], 'correction')} that it learnt came out of quarantine with it.")
        say(f"It is not trained until: persona genome unpin {persona} {trait}")


@app.command()
def unpin(
    persona: PersonaArgument, trait: TraitArgument, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Let a pinned trait be trained again.

    It goes on from the version that it was pinned to.
    """
    result = _asked(config, "unpin", {"persona": persona, "trait": trait}, json)
    if not json:
        say(f"{persona}:{trait} is no longer pinned (revision {result['revision']}).")


def _asked(config: Any, kind: str, args: dict[str, Any], json: bool) -> Any:
    from daemon.cli.asking import ask

    result = asyncio.run(ask(load_config(config), kind, args))
    if json:
        print_json(result)
    return result


async def _genome(config: "Config", persona: str) -> "tuple[Genome, list[Layer]]":
    from daemon.cli.asking import opened
    from daemon.domain import TraitKey

    async with opened(config) as store:
        genome = await _known(store, config, persona)
        layers = [layer for trait in genome.traits for layer in await store.genomes.layers(TraitKey(persona, trait))]
    return genome, layers


async def _history(config: "Config", persona: str, limit: int) -> "list[GenomeEvent]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        await _known(store, config, persona)
        return await store.genomes.history(persona, limit)


async def _known(store: "Store", config: "Config", persona: str) -> "Genome":
    """The genome of a persona that anyone ever heard of; raises PersonaError."""
    from daemon.cli.asking import personas

    if persona not in (known := await personas(store, config)):
        there_are = ", ".join(sorted(known)) or "none yet"
        raise PersonaError(f"There is no persona {persona!r}; there are: {there_are}.")
    return await store.genomes.get(persona)


def _table(genome: "Genome", layers: "list[Layer]") -> Table:
    """Every version of each trait, the newest first, and the base model where that is what speaks."""
    made = Table("trait", "v", "state", "trained", "run", "layer", right=["v"], names=["trait"], optional=["layer"])
    for trait, said in genome.traits.items():
        now = said.layer.id if said.layer else None
        if now is None:
            made.add_row(trait, "base", Text("active", style="green"), "", "", "")
        for layer in (layer for layer in layers if layer.key.trait == trait):
            state = layer.state + (", pinned" if layer.id == now and said.pinned else "")
            made.add_row(
                trait, str(layer.version), Text(state, style=_COLOURS.get(layer.state, "dim")), ago(layer.created),
                short(layer.run_id or ""), layer.path,
            )  # fmt: skip
    return made


def _document(genome: "Genome", layers: "list[Layer]") -> dict[str, Any]:
    traits = {}
    for trait, said in genome.traits.items():
        own = [_layer(layer) for layer in layers if layer.key.trait == trait]
        version = said.layer.version if said.layer else 0
        traits[trait] = {"version": version, "pinned": said.pinned, "versions": own}
    return {"persona": genome.persona, "revision": genome.revision, "traits": traits}


def _layer(layer: "Layer") -> dict[str, Any]:
    from daemon.store.rows import iso

    return {
        "id": layer.id,
        "version": layer.version,
        "state": layer.state,
        "path": layer.path,
        "content_hash": layer.content_hash,
        "base_fingerprint": layer.base_fingerprint,
        "parent_id": layer.parent_id,
        "run_id": layer.run_id,
        "created_at": iso(layer.created),
    }


def _event(event: "GenomeEvent") -> dict[str, Any]:
    from daemon.store.rows import iso

    return {
        "at": iso(event.at),
        "revision": event.revision,
        "kind": event.kind,
        "trait": event.trait,
        "layer_id": event.layer_id,
        "version": event.version,
        "actor": event.actor,
        "reason": event.reason,
    }
