"""Why a base model cannot be loaded, in words: what the libraries say is meant for who calls them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError

from daemon.genome.base_folder import lacks
from daemon.genome.files import safetensors_problem


def why_not(base_model: str, error: Exception) -> str:
    """What is wrong with a base model that could not be loaded, as the end of a sentence."""
    if Path(base_model).is_absolute():
        found = next(_faults(Path(base_model)), None)
        if found:
            return found
    match error:
        case LocalEntryNotFoundError():
            return "it is not in the hub's cache, and the hub does not answer; put it there, or name a folder"
        case HfHubHTTPError():
            return "the hub knows no such model, or shows it to others only; check the name, or log in there"
        case MemoryError():
            return "there is not enough memory for it"
        case SafetensorError():
            return "its weights are damaged"
        case OSError() if error.strerror:
            return error.strerror.lower()
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _faults(folder: Path) -> Iterator[str]:
    """What can be seen of a folder without a library, the gravest first."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        yield "there is no such folder"
        return
    except OSError as error:
        yield (error.strerror or str(error)).lower()
        return
    for name in names:
        if not os.access(folder / name, os.R_OK):
            yield f"{name} may not be read by this user; change its owner or mode"
    yield from (f"it has no {part}" for part in lacks(folder))
    yield from _damaged(folder, names)


def _damaged(folder: Path, names: list[str]) -> Iterator[str]:
    for name in names:
        try:
            if name.endswith(".safetensors") and (problem := safetensors_problem(folder / name)):
                yield f"{name} is damaged: {problem}"
            if name.endswith(".json"):
                json.loads((folder / name).read_bytes())
        except ValueError:
            yield f"{name} is no JSON"
        except OSError as error:
            yield f"{name} cannot be read: {(error.strerror or str(error)).lower()}"
