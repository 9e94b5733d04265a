"""What ends a command on purpose, or a request to the server: one tree, each error a sentence with an exit code."""

from typing import ClassVar

# What never leaves the room it is raised in is declared there: JobFailed, Misfit, PromptRefused, Refusal.
#
# PersonaError
# ├── ConfigInvalid              2
# ├── UsageInvalid               2
# ├── NothingToDo                3
# ├── GateRejected               4
# ├── StoreError                 1
# │   ├── StoreHeld             75
# │   ├── StoreBusy             75
# │   ├── RowRefused             1
# │   └── StoreNewer             1
# ├── RunError                   1
# │   ├── ClaimLost              1
# │   └── GenomeMoved            1
# ├── LayerError                 1
# │   ├── LayerIncomplete        1
# │   └── LayerStale             1
# ├── BaseModelUnusable          1
# ├── ProbesUnreadable           1
# ├── TrainerFailed              1
# ├── RuntimeUnreachable        75
# ├── DaemonSilent              75
# ├── RequestRefused             1
# ├── EngineBusy                75
# └── EngineStopped             75
#
# Positional arguments only, so that an error survives pickling between processes.


class PersonaError(Exception):
    """Something failed; the message is a sentence: what, where, what to do."""

    exit_code: ClassVar[int] = 1


class ConfigInvalid(PersonaError):
    """config.toml, or an override of it, says something that cannot be."""

    exit_code = 2


class UsageInvalid(PersonaError):
    """A command was asked for something that it cannot mean."""

    exit_code = 2


class NothingToDo(PersonaError):
    """A command found nothing that it could act on."""

    exit_code = 3


class GateRejected(PersonaError):
    """The gate did not let the candidate pass."""

    exit_code = 4


class StoreError(PersonaError):
    """The store cannot be read or written."""


class StoreHeld(StoreError):
    """Another process holds the store's lock."""

    exit_code = 75


class StoreBusy(StoreError):
    """Another program keeps the store locked for longer than we wait."""

    exit_code = 75


class RowRefused(StoreError):
    """The store's own rules do not let a row in."""


class StoreNewer(StoreError):
    """The store was written by a newer program than this one."""


class RunError(PersonaError):
    """A run cannot move to the state it was asked to move to."""


class ClaimLost(RunError):
    """The run is no longer this holder's: its state or its fence moved on."""


class GenomeMoved(RunError):
    """The genome is no longer at the revision that the gate compared against."""


class LayerError(PersonaError):
    """A layer directory cannot be used."""


class LayerIncomplete(LayerError):
    """A layer directory lacks a file, or a file is not what its manifest says."""


class LayerStale(LayerError):
    """A layer was trained on another base than the one that is loaded."""


class BaseModelUnusable(PersonaError):
    """A base model is not there, or cannot be loaded."""


class ProbesUnreadable(PersonaError):
    """The file of critical probes cannot be read, or a line of it."""


class TrainerFailed(PersonaError):
    """An attempt ended without a candidate; `retry`: another may fare better; `blameless`: the batch is not why."""

    def __init__(self, message: str, retry: bool = True, blameless: bool = False) -> None:
        super().__init__(message, retry, blameless)
        self.retry = retry
        self.blameless = blameless

    def __str__(self) -> str:
        return str(self.args[0])


class RuntimeUnreachable(PersonaError):
    """A serving engine does not answer."""

    exit_code = 75


class DaemonSilent(PersonaError):
    """The daemon holds the store, but does not answer what it is asked."""

    exit_code = 75


class RequestRefused(PersonaError):
    """An admin's request cannot be carried out."""


class EngineBusy(PersonaError):
    """More requests wait than could be answered in a reasonable time."""

    exit_code = 75


class EngineStopped(PersonaError):
    """The server is leaving."""

    exit_code = 75
