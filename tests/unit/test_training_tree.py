"""Token trees: every prefix once, ancestors and nobody else seen, groups within a budget; attention against a mask."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from daemon.training.engine.packing import sight as sights
from daemon.training.engine.packing.attention import attend
from daemon.training.engine.packing.sight import Sight
from daemon.training.engine.packing.tree import Tokens, Tree, cut, plant, shared

CPU = torch.device("cpu")


@st.composite
def families(draw: st.DrawFn, longest: int = 40) -> list[Tokens]:
    """Sequences of few different tokens, many of which begin as another one does."""
    sequences: list[Tokens] = []
    for _ in range(draw(st.integers(1, 9))):
        head: Tokens = []
        if sequences:
            other: Tokens = draw(st.sampled_from(sequences))
            head = other[: draw(st.integers(0, len(other)))]
        tail: Tokens = draw(st.lists(st.integers(0, 3), min_size=1, max_size=longest))
        sequences.append(head + tail)
    return sequences


def seen_by_paths(sequences: list[Tokens], window: int | None) -> torch.Tensor:
    """The mask, written down sequence by sequence."""
    tree = plant(sequences)
    mask = torch.zeros(len(tree.tokens), len(tree.tokens), dtype=torch.bool)
    for path in tree.paths:
        for at, token in enumerate(path):
            mask[token, path[max(0, at + 1 - (window or len(path))) : at + 1]] = True
    return mask


@given(families())
def test_every_prefix_stands_in_the_tree_once_and_every_sequence_on_a_path(sequences: list[Tokens]) -> None:
    tree = plant(sequences)
    assert [[tree.tokens[at] for at in path] for path in tree.paths] == sequences
    assert [[tree.depths[at] for at in path] for path in tree.paths] == [list(range(len(each))) for each in sequences]
    prefixes = {tuple(each[: at + 1]) for each in sequences for at in range(len(each))}
    assert len(tree.tokens) == len(prefixes)


@given(families())
def test_runs_cover_the_tree_and_end_where_it_branches(sequences: list[Tokens]) -> None:
    tree = plant(sequences)
    assert [at for run in tree.runs for at in range(run.first, run.last)] == list(range(len(tree.tokens)))
    for run in tree.runs:
        assert {tree.ends[at] for at in range(run.first, run.last)} == {tree.ends[run.first]}


@given(families(), families())
def test_common_beginnings_are_counted_token_by_token(one: list[Tokens], other: list[Tokens]) -> None:
    for left, right in zip(one, other, strict=False):
        same = [a == b for a, b in zip(left, right, strict=False)]
        assert shared(left, right) == (same.index(False) if False in same else len(same))


@given(families(), st.integers(1, 120), st.data())
def test_cuts_hold_every_unit_once_within_the_budget(sequences: list[Tokens], budget: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 3))
    units = [sequences[at : at + size] for at in range(0, len(sequences), size)]
    groups = list(cut(range(len(units)), lambda at: units[at], budget))
    assert sorted(at for group in groups for at in group) == list(range(len(units)))
    for group in groups:
        tokens = len(plant([sequence for at in group for sequence in units[at]]).tokens)
        assert tokens <= budget or len(group) == 1


def test_a_cut_keeps_those_together_that_share_most() -> None:
    rooms = [[room] * 50 + [10 + room, answer] for answer in range(4) for room in range(3)]
    groups = list(cut(rooms, lambda line: [line], 70))
    assert [len(group) for group in groups] == [4, 4, 4]
    assert all(len({line[0] for line in group}) == 1 for group in groups)


@given(families(), st.none() | st.integers(1, 60))
def test_a_token_sees_its_nearest_ancestors_and_itself(sequences: list[Tokens], window: int | None) -> None:
    assert torch.equal(Sight(plant(sequences), CPU).mask(window), seen_by_paths(sequences, window))


@settings(deadline=None)
@pytest.mark.parametrize(("step", "rows"), [(1, 3), (4, 10), (64, 128)])
@given(sequences=families(150), window=st.none() | st.integers(1, 200), heads=st.sampled_from([(2, 2), (4, 2)]))
def test_attention_and_its_gradients_are_those_of_the_mask(
    step: int, rows: int, sequences: list[Tokens], window: int | None, heads: tuple[int, int]
) -> None:
    tree = plant(sequences)
    generator = torch.Generator().manual_seed(len(tree.tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sights, "ROWS", rows)
        sight = Sight(tree, CPU, step)
        query, key, value = (
            torch.randn(1, count, len(tree.tokens), 8, generator=generator, dtype=torch.float64, requires_grad=True)
            for count in (heads[0], heads[1], heads[1])
        )
        output, _ = attend(torch.nn.Module(), query, key, value, None, scaling=0.3, sight=sight, sliding_window=window)
    mask = seen_by_paths(sequences, window)
    expected = functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    given_back = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(output, (query, key, value), given_back)
    theirs = torch.autograd.grad(expected.transpose(1, 2), (query, key, value), given_back)
    assert torch.allclose(output, expected.transpose(1, 2), rtol=0, atol=1e-11)
    assert all(torch.allclose(one, other, rtol=0, atol=1e-11) for one, other in zip(ours, theirs, strict=True))


def test_half_precision_keeps_the_scores_that_decide() -> None:
    tree = plant([[0] * 40 + [tail] * 20 for tail in range(3)])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (3 * torch.randn(1, 2, 100, 16, generator=generator) for _ in range(3))
    sight = Sight(tree, CPU)
    exact, _ = attend(torch.nn.Module(), query.bfloat16().float(), key.bfloat16().float(), value, None, sight=sight)
    half, _ = attend(torch.nn.Module(), query.bfloat16(), key.bfloat16(), value.bfloat16(), None, sight=sight)
    assert (half.float() - exact).abs().mean() < 0.01


def test_gradients_in_half_precision_are_about_as_good_as_torchs_own() -> None:
    tree = plant([[0] * 60 + [tail] * 30 for tail in range(4)])
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(1, 2, len(tree.tokens), 32, generator=generator) for _ in range(4)]
    exact, ours, theirs = (
        _gradients(tree, [each.to(dtype) for each in values], by_torch)
        for dtype, by_torch in ((torch.float64, True), (torch.bfloat16, False), (torch.bfloat16, True))
    )
    for true, one, other in zip(exact, ours, theirs, strict=True):
        assert (one.double() - true).norm() <= 2.5 * (other.double() - true).norm()


def _gradients(tree: Tree, values: list[torch.Tensor], by_torch: bool) -> tuple[torch.Tensor, ...]:
    *sources, given = values
    query, key, value = (each.requires_grad_() for each in sources)
    sight = Sight(tree, CPU)
    if by_torch:
        output = functional.scaled_dot_product_attention(query, key, value, sight.mask(None)).transpose(1, 2)
    else:
        output, _ = attend(torch.nn.Module(), query, key, value, None, sight=sight)
    return torch.autograd.grad(output, (query, key, value), given.transpose(1, 2))


def test_a_model_that_hands_on_no_tree_is_told_so() -> None:
    values = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="does not hand a token tree"):
        attend(torch.nn.Module(), values, values, values, None)


def test_soft_caps_bend_the_scores() -> None:
    tree = plant([[0, 1, 2], [0, 3]])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 4, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    sight = Sight(tree, CPU)
    output, _ = attend(torch.nn.Module(), query, key, value, None, scaling=2.0, sight=sight, softcap=1.5)
    scores = 1.5 * torch.tanh(2.0 * query @ key.transpose(2, 3) / 1.5)
    expected = scores.masked_fill(~sight.mask(None), -math.inf).softmax(-1) @ value
    assert torch.allclose(output.transpose(1, 2), expected, atol=1e-12)
