"""`persona genome`: what a persona speaks with, how it came about, and the way back."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from daemon.cli import showing
from daemon.cli.options import (
    ConfigOption,
    JsonOption,
    LimitOption,
    PersonaArgument,
    TraitArgument,
    load_config,
    noun,
)
from daemon.cli.showing import ago, plain, print_json, say, short, table
from daemon.errors import PersonaError

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Genome, GenomeEvent, Layer

VersionArgument = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="A layer's version.")]
_COLOURS = {"active": "green", "rolled-back": "yellow"}

app = noun("What a persona speaks with, how it came about, and the way back.")


@app.command()
def show(persona: PersonaArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show which layer each trait speaks with, and every version there is."""
    genome, layers = asyncio.run(_genome(load_config(config), persona))
    if json:
        print_json(_document(genome, layers))
        return
    say(f"{persona} is at revision {genome.revision}" + ("." if layers else " and speaks with the base model."))
    if not layers:
        return
    made = table("trait", "v", "state", "hash", "trained", "layer", right=["v"])
    for layer in layers:
        said = genome.traits.get(layer.key.trait)
        speaks = bool(said and said.layer and said.layer.id == layer.id)
        state = layer.state + (", pinned" if speaks and said and said.pinned else "")
        made.add_row(
            layer.key.trait, str(layer.version), Text(state, style=_COLOURS.get(layer.state, "dim")),
            short(layer.content_hash), ago(layer.created), plain(layer.path),
        )  # fmt: skip
    showing.show("", made)


@app.command()
def history(
    persona: PersonaArgument, config: ConfigOption = None, limit: LimitOption = 20, json: JsonOption = False
) -> None:
    """List what happened to a genome, the latest first."""
    events = asyncio.run(_history(load_config(config), persona, limit))
    if json:
        print_json([_event(event) for event in events])
        return
    made = table("revision", "when", "what", "trait", "speaks", "by", "why", right=["revision"])
    for event in events:
        speaks = f"v{event.version}" if event.version else "base"
        made.add_row(
            str(event.revision), ago(event.at), event.kind, event.trait or "", speaks, plain(event.actor),
            plain(event.reason),
        )  # fmt: skip
    showing.show(made if events else f"Nothing has happened to {persona} yet.")


@app.command()
def rollback(
    persona: PersonaArgument,
    trait: TraitArgument,
    config: ConfigOption = None,
    to: Annotated[
        int | None, typer.Option("--to", metavar="VERSION", min=0, help="An earlier version; 0 is the base model.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Speak with an earlier version again; what the undone ones learnt is quarantined."""
    result = _asked(config, "rollback", {"persona": persona, "trait": trait, "to": to}, json)
    if json:
        return
    now = f"version {result['version']}" if result["version"] else "the base model"
    undone = " and ".join(f"v{version}" for version in result["undone"])
    verb = "is" if len(result["undone"]) == 1 else "are"
    say(f"{persona}:{trait} speaks with {now} again (revision {result['revision']}); {undone} {verb} undone.")
    if result["quarantined"]:
        say(f"Quarantined: {result['quarantined']} corrections that {undone} learnt. To let the next layer learn them:")
        say(f"  persona corrections release --persona {persona} --trait {trait}")
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
    """Speak with one version, and train no other, until it is unpinned."""
    result = _asked(config, "pin", {"persona": persona, "trait": trait, "version": version}, json)
    if not json:
        say(f"{persona}:{trait} is pinned to version {result['version']} (revision {result['revision']}).")
        say(f"It is not trained until: persona genome unpin {persona} {trait}")


@app.command()
def unpin(
    persona: PersonaArgument, trait: TraitArgument, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Let a trait be trained again; it goes on from the version it was pinned to."""
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
        genome = await store.genomes.get(persona)
        known = {*config.personas, *await store.corrections.personas()}
        if genome.revision == 0 and persona not in known:
            there_are = ", ".join(sorted(known)) or "none yet"
            raise PersonaError(f"There is no persona {persona!r}; there are: {there_are}.")
        layers = [layer for trait in genome.traits for layer in await store.genomes.layers(TraitKey(persona, trait))]
    return genome, layers


async def _history(config: "Config", persona: str, limit: int) -> "list[GenomeEvent]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        return await store.genomes.history(persona, limit)


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
