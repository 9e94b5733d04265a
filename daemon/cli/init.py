"""`persona init`: a config to fill in, and the store it names."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigOption
from daemon.cli.showing import say
from daemon.errors import PersonaError, UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config


def init(
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="The folder; default: this one.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a commented config.toml and create the store.

    What is there already is kept.
    """
    from daemon.config.settings import Config

    if directory and config:
        raise UsageInvalid("DIR means DIR/config.toml, --config names the file itself; give one of them.")
    if directory and directory.is_file():
        raise UsageInvalid(
            f"{directory} is a file, and DIR a folder; to name the file: persona init --config {directory}"
        )
    file = config or (directory or Path()) / "config.toml"
    written = _write(file)
    loaded = Config.load(file)
    asyncio.run(_create(loaded))
    say(f"Wrote {file}." if written else f"{file} is there already and stays as it is.")
    say(f"The store is {loaded.store.path}; programs write corrections into it.")
    option = "" if file == Path("config.toml") else f" --config {file}"
    if not loaded.defaults.base_model:
        say(f"Next: set base_model in {file}, see that all is well, and start:")
    else:
        say("Next: see that all is well, and start:")
    say(f"  persona check{option} && persona daemon{option}")


def _write(file: Path) -> bool:
    """Write the default config, unless a file is there; raises PersonaError."""
    from daemon.config.default import render_default

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(render_default())
    except FileExistsError:
        if not file.is_file():
            raise PersonaError(f"{file} cannot be written: something that is no file is in the way.") from None
        return False
    except OSError as error:
        raise PersonaError(f"{file} cannot be written: {error.strerror}.") from None
    return True


async def _create(config: "Config") -> None:
    from daemon.store.failures import as_sentences
    from daemon.store.lock import StoreLock
    from daemon.store.store import open_store

    path = config.store.path
    # A running daemon has migrated its store itself; nobody does that under its feet.
    with as_sentences(path):
        async with open_store(path, create=not StoreLock(path).held()):
            pass
