"""The engine's licence to be clever: its losses and gradients are those of plain padded batches, for every family.

The other side is transformers and PEFT as they come: padded rows, all logits, and the objectives as their papers have
them. In float64 both agree to 1e-9; Gemma 2, whose own softmax is float32 at best, to 1e-5 in float32. What
transformers always computes in float32, root mean squares, both sides compute in float64 here: else its rounding is
what one sees.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional

from daemon.training.engine import lora, objectives
from daemon.training.engine.base import Base, Capability, load_base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.job import Example, Group, Recipe
from daemon.training.engine.objectives import Objective, Share, drift, leaning, loss, references
from daemon.training.engine.packing import attention, passes, sight
from daemon.training.engine.packing.capability import examined
from daemon.training.engine.packing.passes import micro_batches, token_losses
from tests.integration.training_support import FAMILIES, UPSTREAM, tiny_base

pytestmark = [
    pytest.mark.filterwarnings(UPSTREAM),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT on GPT-2; it then sets it
]
RECIPE = Recipe(rank=4, alpha=8)


@dataclass(frozen=True)
class Sides:
    """The same model with the same adapter twice: as the engine trains it, and as transformers and PEFT do."""

    base: Base
    ours: PeftModel
    theirs: PeftModel
    tolerance: float

    def gradients(self, model: PeftModel) -> dict[str, torch.Tensor]:
        found = {
            name.replace(f".{lora.NAME}.", ".default."): parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        model.zero_grad()
        return found

    def agree(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Both losses and every gradient of theirs are equal."""
        assert abs(float(ours.detach() - theirs.detach())) <= self.tolerance * max(1.0, abs(float(theirs.detach())))
        ours.backward()  # type: ignore[no-untyped-call]
        theirs.backward()  # type: ignore[no-untyped-call]
        one, other = self.gradients(self.ours), self.gradients(self.theirs)
        assert one.keys() == other.keys() and len(one) >= 8
        for name, gradient in other.items():
            assert (one[name] - gradient).abs().max() <= self.tolerance * max(1.0, float(gradient.abs().max())), name


@pytest.fixture(scope="module", params=FAMILIES)
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    family = request.param
    dtype = torch.float32 if family == "gemma2" else torch.float64
    plain = load_base(str(tiny_base(tmp_path_factory.mktemp(family) / "base", family)))
    plain.model.to(dtype)  # type: ignore[arg-type]
    if dtype == torch.float64:
        sharpen(plain.model)
    base = examined(plain)
    able = base.capability
    assert able.trees and able.head and able.narrow and able.recompute, able.why
    other = copy.deepcopy(base.model)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = get_peft_model(other, config)
    with lora.fresh(base, RECIPE) as ours:
        torch.manual_seed(1)
        mirrored = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:
                parameter.data = 0.1 * torch.randn(parameter.shape, dtype=dtype)
                mirrored[name.replace(f".{lora.NAME}.", ".default.")].data = parameter.data.clone()
        yield Sides(base, ours, theirs, 1e-5 if dtype == torch.float32 else 1e-9)


def sharpen(model: torch.nn.Module) -> None:
    """Have root mean squares computed in the precision of what they are taken of."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            offset = 1.0 if kind.startswith("Gemma") else 0.0
            epsilon = getattr(module, "eps", None) or module.variance_epsilon
            module.forward = SharpNorm(module.weight, offset, epsilon)  # type: ignore[arg-type]


@dataclass
class SharpNorm:
    """x / √(mean x² + ε) · (offset + weight)."""

    weight: torch.nn.Parameter
    offset: float
    epsilon: float

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        mean = values.pow(2).mean(-1, keepdim=True)
        return values * torch.rsqrt(mean + self.epsilon) * (self.offset + self.weight)


@st.composite
def batches(draw: st.DrawFn) -> list[Encoded]:
    """Examples under beginnings shared on up to three levels, longer than the tiny models' narrow windows."""
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)

    def words(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most + 1, (1,), generator=generator))
        return torch.randint(10, 300, (length,), generator=generator).tolist()

    system, rooms = words(1, 40), [words(0, 20) for _ in range(draw(st.integers(1, 3)))]
    rows = []
    for at in range(draw(st.integers(1, 6))):
        prompt = system + draw(st.sampled_from(rooms)) + words(0, 8)
        opening = words(0, 3)
        expected, original = opening + words(1, 6), opening + words(1, 9)
        weight = draw(st.sampled_from([0.1, 1.0, 2.0]))
        rival = original if draw(st.booleans()) else []
        rows.append(Encoded(Example(str(at), [], "", "", weight, Group.BATCH), prompt, expected, rival))
    return rows


def padded(model: PeftModel, lines: list[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Log-likelihoods of the answers' tokens, line by line, by rows padded on the right."""
    width = max(len(prompt) + len(answer) for prompt, answer in lines)
    ids = torch.tensor([[*prompt, *answer, *[1] * (width - len(prompt) - len(answer))] for prompt, answer in lines])
    mask = torch.tensor([[at < len(prompt) + len(answer) for at in range(width)] for prompt, answer in lines]).long()
    found = model(input_ids=ids, attention_mask=mask).logits
    chances = functional.log_softmax(found if found.dtype == torch.float64 else found.float(), dim=-1)
    return [
        chances[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].gather(-1, torch.tensor(answer)[:, None])[:, 0]
        for row, (prompt, answer) in enumerate(lines)
    ]


def distributions(model: PeftModel, lines: list[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Log-probabilities (answer tokens, vocabulary) of each line, read alone."""
    found = []
    for prompt, answer in lines:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(functional.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1))
    return found


def by_the_papers(
    sides: Sides, rows: list[Encoded], preference: str, beta: float, leanings: dict[str, float]
) -> torch.Tensor:
    """The objective over a whole minibatch, from padded log-likelihoods."""
    said = padded(sides.theirs, [(row.prompt, row.expected) for row in rows])
    weights = [row.example.weight for row in rows]
    total = -sum(weight * each.sum() for weight, each in zip(weights, said, strict=True)) / sum(map(len, said))
    paired = [at for at, row in enumerate(rows) if row.original]
    if not preference or not paired:
        return torch.as_tensor(total)
    left = padded(sides.theirs, [(rows[at].prompt, rows[at].original) for at in paired])
    terms = []
    for at, rival in zip(paired, left, strict=True):
        if preference == "dpo":
            margin = said[at].sum() - rival.sum() - leanings[rows[at].example.id]
            terms.append(-weights[at] * functional.logsigmoid(beta * margin))
        else:
            chosen, rejected = said[at].mean(), rival.mean()
            odds = chosen - rejected - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
            terms.append(-beta * weights[at] * functional.logsigmoid(odds))
    return torch.as_tensor(total + sum(terms) / len(paired))


@contextmanager
def small_pieces() -> Iterator[None]:
    """Tiles and chunks that small examples are cut into, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sight, "ROWS", 12)
        patch.setattr(passes, "LOGITS", 320 * 5)
        yield


def ours(
    sides: Sides, rows: list[Encoded], objective: Objective, leanings: dict[str, float], budget: int
) -> torch.Tensor:
    """The engine's loss of a minibatch that is cut under a budget."""
    share = Share.of(rows, objective)
    groups = list(micro_batches(replace(sides.base, tokens=budget), rows, lambda row: objective.lines([row])))
    losses = [
        loss(objective, group, token_losses(sides.base, objective.lines(group)), leanings, share) for group in groups
    ]
    return torch.stack(losses).sum()


EXAMPLES = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EXAMPLES
@given(rows=batches(), preference=st.sampled_from(["", "dpo", "orpo"]), budget=st.sampled_from([40, 4096]))
def test_losses_and_gradients_are_those_of_padded_batches(
    sides: Sides, rows: list[Encoded], preference: str, budget: int
) -> None:
    leanings = {row.example.id: 0.5 * at for at, row in enumerate(rows)}
    with small_pieces():
        found = ours(sides, rows, Objective(preference, 0.3), leanings, budget)
    sides.agree(found, by_the_papers(sides, rows, preference, 0.3, leanings))


@EXAMPLES
@given(rows=batches(), budget=st.sampled_from([40, 4096]))
def test_attention_as_accelerators_do_it_changes_nothing(sides: Sides, rows: list[Encoded], budget: int) -> None:
    with small_pieces(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "tiled", lambda device: False)
        found = ours(sides, rows, Objective(), {}, budget)
        sides.agree(found, by_the_papers(sides, rows, "", 0, {}))


@EXAMPLES
@given(rows=batches(), trees=st.booleans())
def test_layers_computed_twice_to_save_memory_change_nothing(sides: Sides, rows: list[Encoded], trees: bool) -> None:
    capability = replace(sides.base.capability, trees=trees)
    same = replace(sides, base=replace(sides.base, capability=capability, recompute=True))
    with small_pieces():
        found = ours(same, rows, Objective(), {}, 40)
        same.agree(found, by_the_papers(sides, rows, "", 0, {}))


@EXAMPLES
@given(rows=batches(), preference=st.sampled_from(["", "dpo"]), budget=st.sampled_from([40, 4096]))
def test_a_model_that_takes_no_trees_is_trained_alike_on_padded_rows(
    sides: Sides, rows: list[Encoded], preference: str, budget: int
) -> None:
    leanings = {row.example.id: 0.5 * at for at, row in enumerate(rows)}
    plain = replace(sides, base=replace(sides.base, capability=Capability()))
    found = ours(plain, rows, Objective(preference, 0.3), leanings, budget)
    plain.agree(found, by_the_papers(sides, rows, preference, 0.3, leanings))


@EXAMPLES
@given(rows=batches())
def test_the_reference_leans_as_padded_likelihoods_do(sides: Sides, rows: list[Encoded]) -> None:
    rows = [replace(row, original=row.original or [17, 18]) for row in rows]
    with small_pieces(), torch.no_grad():
        found = leaning(token_losses(sides.base, Objective("dpo").lines(rows)), len(rows))
        said, left = (
            [float(each.sum()) for each in padded(sides.theirs, lines)]
            for lines in ([(row.prompt, row.expected) for row in rows], [(row.prompt, row.original) for row in rows])
        )
    assert found == pytest.approx([one - other for one, other in zip(said, left, strict=True)], abs=1e-4)


@EXAMPLES
@given(rows=batches())
def test_the_distance_to_a_reference_is_the_divergence_of_all_answers(sides: Sides, rows: list[Encoded]) -> None:
    lines = [(row.prompt, row.expected) for row in rows]
    with pytest.MonkeyPatch.context() as patch, sides.theirs.disable_adapter():
        # All but one of the tokens that there are: then the rest is that one, and the divergence is whole.
        patch.setattr(objectives, "KEPT", sides.base.vocabulary - 1)
        with sides.ours.disable_adapter():
            known = references(sides.base, lines)
        reference = [each.detach() for each in distributions(sides.theirs, lines)]
    theirs = distributions(sides.theirs, lines)
    each = [
        functional.kl_div(now, then, log_target=True, reduction="none").sum(-1)
        for now, then in zip(theirs, reference, strict=True)
    ]
    with small_pieces():
        found = drift(sides.base, known).sum()
    said = torch.cat(each)
    replace(sides, tolerance=2e-5).agree(found / len(said), said.mean())
