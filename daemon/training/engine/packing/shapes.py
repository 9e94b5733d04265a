"""Sizes that products in half precision are given, so that few different ones occur.

Each shape that is new is compiled first, which takes a millisecond and most of a megabyte for every product.
"""

import torch
from torch.nn import functional

STEP, SMALL = 64, 16
"""Sizes are multiples of this, or of the other where they are less than one."""


def step(dtype: torch.dtype) -> int:
    """What sizes have to be multiples of; single precision multiplies any shape at once."""
    return STEP if dtype.itemsize < 4 else 1


def rounded(count: int) -> int:
    """The next multiple from a number on."""
    return -(-count // STEP) * STEP


def filled(places: torch.Tensor, count: int, multiple: int) -> torch.Tensor:
    """Distinct places out of `count` in order, with as many others as make their number a multiple, where possible."""
    others = torch.ones(count, dtype=torch.bool, device=places.device)
    others[places] = False
    more = others.nonzero().flatten()[: -len(places) % multiple]
    return torch.cat([places, more]).sort().values


def lengthened(rows: torch.Tensor) -> torch.Tensor:
    """(rows, width) with as many rows of zeros behind them as their number lacks."""
    multiple = step(rows.dtype) if len(rows) > STEP else min(SMALL, step(rows.dtype))
    return functional.pad(rows, (0, 0, 0, -len(rows) % multiple))
