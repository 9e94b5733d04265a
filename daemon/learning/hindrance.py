"""What keeps a trait from being trained at all."""

import os
from pathlib import Path

from daemon.config.settings import Resolved
from daemon.domain import Genome, TraitKey
from daemon.genome.base_folder import CONFIG, WEIGHTS


def hindrance(key: TraitKey, settings: Resolved, genome: Genome | None) -> str | None:
    """What keeps a trait from being trained at all, and what to do; None when nothing does."""
    expression = genome.traits.get(key.trait) if genome else None
    if expression and expression.pinned:
        version = f" to version {expression.layer.version}" if expression.layer else ""
        return f"pinned{version}; persona genome unpin {key.persona} {key.trait}"
    return base_problem(key.persona, settings.base_model)


def base_problem(persona: str, base_model: str) -> str | None:
    """What is wrong with a base model, as far as looking at its folder tells; None when nothing is."""
    if not base_model:
        return f"no base model; set defaults.base_model, or personas.{persona}.base_model"
    folder = Path(base_model)
    try:
        if folder.is_absolute() and not (folder / CONFIG).is_file():
            return f"no base model at {folder}; put one there, or correct base_model"
        weights = list(folder.glob(WEIGHTS))
    except OSError as error:
        return f"the base model at {folder} cannot be looked at ({error.strerror}); chmod or chown its folder"
    # Libraries say of a file that may not be read that it is not there.
    closed = [file for file in weights if not os.access(file, os.R_OK)]
    if closed:
        return f"{closed[0]} may not be read by this user; chmod or chown it"
    return None
