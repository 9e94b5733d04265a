"""The loss of a finished adapter, on both sides in one way: loaded from its folder onto the model as it is on disk."""

import gc
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from peft import PeftModel

from scripts.benchmarks.training.gauge import Pair, answer_loss, device, likelihoods, preference_loss
from scripts.benchmarks.training.models import plain
from scripts.benchmarks.training.workloads import Correction

EVERY = 5
"""Of many traits, one in so many has its loss measured: the looking must not take longer than the training."""


class Judge:
    """Asks one model; the look before a training also wakes threads and kernels, on both sides."""

    def __init__(self, folder: Path, dtype: str, objective: str) -> None:
        self._folder, self._dtype, self._objective = folder, dtype, objective
        self._before: list[float] = []

    def first(self, corrections: Sequence[Correction]) -> float:
        """The loss without an adapter."""
        self._before = self._likelihoods(None, corrections)
        return self._loss(self._before, corrections)

    def final(self, adapter: Path, corrections: Sequence[Correction]) -> float:
        """The loss with the adapter in a folder; `first` was asked for the same corrections before."""
        return self._loss(self._likelihoods(adapter, corrections), corrections)

    def traits(self, traits: Sequence[Sequence[Correction]], adapters: Path) -> tuple[float, float]:
        """Mean loss before and after over every fifth of many traits, whose adapters are in folders 0, 1, 2 ..."""
        looked = range(0, len(traits), EVERY)
        losses = [(self.first(traits[at]), self.final(adapters / str(at), traits[at])) for at in looked]
        first, final = zip(*losses, strict=True)
        return mean(first), mean(final)

    def _loss(self, found: Sequence[float], corrections: Sequence[Correction]) -> float:
        lengths = [len(answer) for _, answer in _pairs(corrections)]
        if self._objective == "dpo":
            return answer_loss(found[::2], lengths[::2]) + preference_loss(found, self._before)
        return answer_loss(found, lengths)

    def _likelihoods(self, adapter: Path | None, corrections: Sequence[Correction]) -> list[float]:
        model = plain(self._folder, self._dtype, device())
        found = likelihoods(PeftModel.from_pretrained(model, adapter) if adapter else model, _pairs(corrections))
        del model
        # Modules refer to each other in circles; what is measured next must not find this one's memory in use.
        gc.collect()
        return found


def _pairs(corrections: Sequence[Correction]) -> list[Pair]:
    return [(correction.prompt, answer) for correction in corrections for answer in correction.answers]
