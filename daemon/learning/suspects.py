"""Whose corrections are to blame where the gate refused a batch: some are left out, and the rest is tried again."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from daemon.config.sections import Gate
from daemon.domain import Correction
from daemon.training.engine.job import Group, Probe

Passes = Callable[[Collection[str]], Awaitable[bool]]
"""Whether a batch passes the gate without these corrections."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Corrections that are likely to blame, perhaps all of one author's, and how many trainings it took to see."""

    ids: tuple[str, ...] = ()
    author: str | None = None
    tried: int = 0
    unlearnt: bool = False
    """They were not learnt: no training had to tell."""


async def suspects(batch: Sequence[Correction], probes: Sequence[Probe], gate: Gate, passes: Passes) -> Suspects:
    """Who is to blame for a rejection; nobody, where no one's absence would have helped.

    Those that were not learnt, where that is the reason; else authors are left out one after the other, then items.
    """
    asked = {probe.id: probe.candidate or probe.incumbent for probe in probes if probe.group is Group.BATCH}
    unlearnt = tuple(name for name, answer in asked.items() if not answer.right)
    if len(asked) - len(unlearnt) < gate.min_efficacy * len(asked):
        return Suspects(unlearnt, unlearnt=True)
    search = _Search(passes, gate.suspects)
    ids = [row.id for row in batch if row.id in asked]
    if len(ids) == 1:
        return Suspects(tuple(ids))
    author, theirs = await _of_one_author(search, _by_author(batch, ids))
    found = await _items(search, theirs or ids)
    return Suspects(tuple(found or theirs), author, search.tried)


class _Search:
    """Tries the rest of a batch, as often as it may."""

    def __init__(self, passes: Passes, budget: int) -> None:
        self._passes, self._budget = passes, budget
        self.tried = 0

    @property
    def left(self) -> int:
        """How many trainings may still be spent."""
        return self._budget - self.tried

    async def helps(self, without: Collection[str]) -> bool:
        """Whether the batch passes without some corrections."""
        self.tried += 1
        return await self._passes(without)


def _by_author(batch: Sequence[Correction], ids: Sequence[str]) -> Mapping[str, list[str]]:
    """The corrections of each who did not write all, those with most of them first."""
    found: dict[str, list[str]] = {}
    for row in batch:
        if row.author and row.id in ids:
            found.setdefault(row.author, []).append(row.id)
    several = [pair for pair in found.items() if len(pair[1]) < len(ids)]
    return dict(sorted(several, key=lambda pair: -len(pair[1])))


async def _of_one_author(search: _Search, authors: Mapping[str, list[str]]) -> tuple[str | None, list[str]]:
    """The author without whose corrections the batch passes, and these."""
    # However many authors there are, half of the trainings are left for items.
    for author, ids in [*authors.items()][: (search.left + 1) // 2]:
        if await search.helps(ids):
            return author, ids
    return None, []


async def _items(search: _Search, pool: list[str]) -> list[str]:
    """The corrections without any one of which the batch passes; of many, the half that they are in, and so on.

    Nothing where no training says so, also where there are no more trainings to be spent.
    """
    found: list[str] = []
    while len(pool) > max(search.left, 1) and search.left:
        half = pool[: len(pool) // 2]
        rest = pool[len(half) :]
        if await search.helps(half):
            pool = found = half
        elif search.left and await search.helps(rest):
            pool = found = rest
        else:
            return found  # they are in both halves
    if len(pool) == 1 or len(pool) > search.left:
        return found
    return [one for one in pool if await search.helps([one])] or found
