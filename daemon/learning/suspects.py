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


async def suspects(batch: Sequence[Correction], probes: Sequence[Probe], gate: Gate, passes: Passes) -> Suspects:
    """Who is to blame for a rejection; nobody, where no one's absence would have helped.

    Those that were not learnt, where that is the reason; else authors are left out one after the other, then items.
    """
    asked = {probe.id: probe.candidate or probe.incumbent for probe in probes if probe.group is Group.BATCH}
    unlearnt = tuple(name for name, answer in asked.items() if not answer.right)
    if len(asked) - len(unlearnt) < gate.min_efficacy * len(asked):
        return Suspects(unlearnt)
    search = _Search(passes, gate.suspects)
    ids = [row.id for row in batch if row.id in asked]
    if len(ids) == 1:
        return Suspects(tuple(ids))
    author, pool = await _of_one_author(search, _by_author(batch, ids))
    found = await _items(search, pool or ids)
    return Suspects(tuple(found or pool), author, search.tried)


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
    """Each author's corrections, those with most of them first."""
    found: dict[str, list[str]] = {}
    for row in batch:
        if row.author and row.id in ids:
            found.setdefault(row.author, []).append(row.id)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


async def _of_one_author(search: _Search, authors: Mapping[str, list[str]]) -> tuple[str | None, list[str]]:
    """The author without whose corrections the batch passes, and these."""
    if len(authors) > 1:
        for author, ids in authors.items():
            if search.left and await search.helps(ids):
                return author, ids
    return None, []


async def _items(search: _Search, pool: list[str]) -> list[str]:
    """The corrections without any one of which the batch passes; of many, the half that they are in, and so on."""
    while len(pool) > max(search.left, 1) and search.left:
        half = pool[: len(pool) // 2]
        rest = pool[len(half) :]
        if await search.helps(half):
            pool = half
        elif search.left and await search.helps(rest):
            pool = rest
        else:
            return []  # they are in both halves
    if len(pool) == 1 or len(pool) > search.left:
        return pool if search.tried else []
    return [one for one in pool if await search.helps([one])]
