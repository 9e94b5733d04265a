"""A kind of fact: what can be true of a subject, how it is asked (eight ways each), and how it is said."""

from dataclasses import dataclass

from scripts.world import lexicon as lx


@dataclass(frozen=True)
class Relation:
    """One kind of fact; `{s}` stands for the subject and `{v}` for the value."""

    name: str
    kind: str
    says: str
    asks: tuple[str, ...]
    values: tuple[str, ...]
    fresh: tuple[str, ...]


def relation(name: str, kind: str, says: str, pool: tuple[str, ...], asks: str) -> Relation:
    """`asks` holds one phrasing per line; a pool is split into what facts use and what stays fresh."""
    lines = tuple(line.strip() for line in asks.strip().splitlines())
    return Relation(name, kind, says, lines, lx.known(pool), lx.fresh(pool))
