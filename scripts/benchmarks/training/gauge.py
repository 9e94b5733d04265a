"""Measures, the same for both sides: likelihoods, losses, memory, the machine's matrix rate; needs torch only."""

import math
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from scripts.benchmarks.training.models import torch_dtype
from scripts.benchmarks.training.settings import BETA, MATRIX, Measured, Task

ROWS = 4
"""Sequences at once: few, so that looking at the loss takes less memory than any training does."""
SECONDS = 1.5
"""How long the matrix product is repeated."""

Pair = tuple[list[int], list[int]]
"""Tokens of a prompt and of the answer after it."""


def device() -> str:
    """Where this machine trains."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The GPU by name; empty where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def seconds() -> float:
    """The monotonic clock, which all processes of a machine share, once the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def peak() -> int:
    """Most bytes so far: allocated on the GPU, or else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def likelihoods(model: Any, pairs: Sequence[Pair]) -> list[float]:
    """Log-likelihood of each answer, nats, by a plain forward of padded rows; `model` is transformers' or PEFT's."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = [0.0] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at][0]) + len(pairs[at][1]))
    for group in (order[at : at + ROWS] for at in range(0, len(order), ROWS)):
        rows = [pairs[at][0] + pairs[at][1] for at in group]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=causal.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=causal.device)
        hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        for row, at in enumerate(group):
            prompt, answer = pairs[at]
            logits = causal.get_output_embeddings()(hidden[row, len(prompt) - 1 : len(prompt) + len(answer) - 1])
            wanted = torch.tensor(answer, device=logits.device)
            found[at] = -float(functional.cross_entropy(logits.float(), wanted, reduction="sum"))
    return found


def answer_loss(found: Sequence[float], lengths: Sequence[int]) -> float:
    """Mean loss per answer token."""
    return -sum(found) / sum(lengths)


def preference_loss(found: Sequence[float], before: Sequence[float]) -> float:
    """DPO's, mean over the pairs; each pair's two answers are neighbours, the better one first (arXiv 2305.18290)."""
    gains = [now - then for now, then in zip(found, before, strict=True)]
    margins = [BETA * (good - bad) for good, bad in zip(gains[::2], gains[1::2], strict=True)]
    return sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of the best of many square products."""
    side = MATRIX[device()]
    left, right = (torch.randn(side, side, dtype=dtype, device=device()) for _ in range(2))
    functional.linear(left, right)
    began, best = seconds(), math.inf
    while seconds() - began < SECONDS:
        since = seconds()
        functional.linear(left, right)
        best = min(best, seconds() - since)
    return 2 * side**3 / best


def main() -> None:
    """Measure the rate that a task names."""
    task = Task.parse(sys.argv[1])
    torch.set_num_threads(task.threads)
    Measured(0.0, rate=matrix_rate(torch_dtype(task.dtype))).write(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
