"""What a child keeps between jobs: one base model, in the form it was loaded in, and the anchors it has made up."""

import gc
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from daemon.training.engine.anchors import MadeUp, anchors_of
from daemon.training.engine.base import Base, device, load_base, locate_base, precision
from daemon.training.engine.fitting import base_needs_four_bits
from daemon.training.engine.job import Loaded
from daemon.training.engine.machine import give_back
from daemon.training.engine.memory import NothingFits
from daemon.training.engine.methods import lacks_for
from daemon.training.engine.packing.capability import REFUSALS, examined
from daemon.training.engine.pantry import Pantry
from daemon.training.engine.policy import FOR_EACH, anchor_count
from daemon.training.engine.report import JobFailed, Reporter, first_line
from daemon.training.engine.weights import parameters_in

_UNUSABLE = (OSError, *REFUSALS, LookupError, ImportError, SafetensorError)
"""What loading a base raises that is not one, or not there."""


@dataclass(slots=True)
class Warm:
    """The base model of the last job."""

    _base: Base | None = None
    _made_up: dict[tuple[str, int], MadeUp] = field(default_factory=dict)
    """By system prompt and number."""
    stamp: tuple[object, ...] = ()
    """What tells one state and form of a base from another."""

    def base(self, report: Reporter, reference: str, method: str, memory_gb: float) -> Base:
        """The base model, loaded anew when it is another one, in another form, or its files have changed."""
        stamp = (method == "qlora", memory_gb, *_stamp(reference))
        began = time.monotonic()
        if self._base is None or stamp != self.stamp:
            self.drop()
            with report.beating(f"loading {reference}"):
                self._base = _load(reference, method, memory_gb)
            self.stamp = stamp
            seconds = time.monotonic() - began
        else:
            seconds = 0.0
        base = self._base
        report.emit(Loaded(str(base.folder), base.parameters, str(base.device), seconds, base.capability.why))
        return base

    def made_up(self, report: Reporter, base: Base, system: str, most: int, pantry: Pantry) -> MadeUp:
        """The base's own questions and answers under a system prompt, at most so many of them anchors."""
        count = anchor_count(most, base.parameters, base.device.type)
        if (system, count) not in self._made_up:
            alive = partial(report.alive, "making up anchors")
            told = pantry.told(base, self.stamp, count * FOR_EACH, system, alive)
            held, others = told[::FOR_EACH], [one for at, one in enumerate(told) if at % FOR_EACH]
            more = [(question, base.chat.text(answer)) for question, answer in others]
            self._made_up[system, count] = MadeUp(anchors_of(base, held, system, alive), more)
        return self._made_up[system, count]

    def drop(self) -> None:
        """Let go of the base model."""
        self._base, self._made_up, self.stamp = None, {}, ()
        gc.collect()
        give_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load(reference: str, method: str, memory_gb: float) -> Base:
    """A base in the form that a method asks for, or that fits."""
    why = lacks_for("qlora")
    if method == "qlora" and why:
        raise JobFailed(why, True, True)
    try:
        folder = locate_base(reference)
        here = device()
        dtype = precision(here, parameters_in(folder))
        four_bits = method == "qlora" or base_needs_four_bits(folder, dtype, here, memory_gb, not why)
        return examined(replace(load_base(str(folder), dtype, four_bits), folder=folder))
    except NothingFits as error:
        why = "max_memory_gb is too small for" if error.limited else "there is too little memory for"
        way = "raise it" if error.limited else "take a smaller one"
        raise JobFailed(f"{why} base model {reference}: of usual batches {error}; {way}", True, True) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        why = f"base model {reference} is too large for the memory that is free now ({first_line(error)})"
        raise JobFailed(f"{why}; take a smaller one", True, True) from error
    except _UNUSABLE as error:
        raise JobFailed(
            f"base model {reference} cannot be loaded: {first_line(error)}; base_model must name a folder with"
            " config.json, tokenizer and safetensors weights, or a model id of the hub that this machine can reach",
            # A network or a disk may be back in a while, and somebody may put another model there.
            True,
            True,
        ) from error


def _stamp(reference: str) -> tuple[object, ...]:
    """What tells one state of a base model's files from another: names, sizes and times."""
    folder = Path(reference)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return (reference, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()))
