"""Training over a base in four bits: the same arithmetic over coarser weights, and a layer like any other.

scripts/test runs this with bitsandbytes, which .venv has beside the rest; elsewhere most of it is skipped.
"""

import io
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.training.engine import lora, warm
from daemon.training.engine.base import Base, load_base
from daemon.training.engine.batches import encode
from daemon.training.engine.fitting import work
from daemon.training.engine.job import Example, Group, Loaded, Recipe, parse_event
from daemon.training.engine.loop import Material
from daemon.training.engine.memory import BUDGETS, MARGIN, Fit, Shape, peak
from daemon.training.engine.policy import plan
from daemon.training.engine.report import JobFailed, Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import UPSTREAM, example, job, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)
four_bits = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def said() -> io.StringIO:
    """What the worker says."""
    return io.StringIO()


@pytest.fixture
def worker(said: io.StringIO) -> Worker:
    return Worker(Reporter(said))


def test_without_bitsandbytes_a_job_says_how_to_get_it(
    worker: Worker, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(JobFailed) as failure:
        worker.do(job(base, tmp_path / "out", recipe={"method": "qlora"}))
    assert "run `pip install bitsandbytes`" in failure.value.reason
    assert failure.value.retry and failure.value.blameless
    assert worker.base(str(base)).parameters > 0


@four_bits
def test_a_layer_learnt_over_four_bits_is_a_plain_one(worker: Worker, base: Path, tmp_path: Path) -> None:
    small, plain = tmp_path / "small", tmp_path / "plain"
    finished = worker.do(job(base, small, recipe={"method": "qlora"}))
    assert finished.metrics["accuracy"] == 1.0
    without = worker.do(job(base, plain, recipe={"max_steps": 1}))
    assert sorted(path.name for path in small.iterdir()) == sorted(path.name for path in plain.iterdir())
    assert (small / "adapter_config.json").read_bytes() == (plain / "adapter_config.json").read_bytes()
    over_all_bits = worker.do(job(base, tmp_path / "again", incumbent=str(small)))
    batch = [[probe for probe in done.probes if probe.group is Group.BATCH] for done in (without, over_all_bits)]
    for before, after in zip(*batch, strict=True):
        # A model as small as this one says a word or another differently; what was learnt is there all the same.
        assert after.incumbent.margin > before.incumbent.margin + 1


@four_bits
def test_each_form_of_a_base_is_loaded_anew(worker: Worker, said: io.StringIO, base: Path) -> None:
    forms = [worker.base(str(base), method) for method in ("lora", "qlora", "qlora", "lora")]
    events = [parse_event(line) for line in said.getvalue().splitlines()]
    loaded = [event for event in events if isinstance(event, Loaded)]
    assert [event.seconds > 0 for event in loaded] == [True, True, False, True]
    assert len({event.parameters for event in loaded}) == 1
    packed = [any(weight.dtype == torch.uint8 for weight in form.model.parameters()) for form in forms]
    assert packed == [False, True, True, False]
    assert all(form.capability.trees and form.capability.head for form in forms)


@four_bits
def test_a_batch_that_fits_no_other_way_is_trained_over_four_bits(
    worker: Worker, said: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base alone, and a batch of the usual length, fit as they are."""
    base = tiny_base(tmp_path / "base", hidden_size=256, intermediate_size=8192, max_position_embeddings=10_000)
    long = example("long", "Where does Ada live? " * 400, "Ada lives in Brookford.")
    limit, recipe = _between(worker.base(str(base)), long), {"policy": "fixed", "epochs": 1}
    assert worker.do(job(base, tmp_path / "short", recipe=recipe, memory_gb=limit)).trained
    larger, gone = weakref.ref(worker.base(str(base), memory_gb=limit).model), list[bool]()

    def load(*told: Any) -> Base:
        gone.append(larger() is None)
        return load_base(*told)

    monkeypatch.setattr(warm, "load_base", load)
    done = worker.do(job(base, tmp_path / "long", [long], recipe=recipe, memory_gb=limit))
    assert done.trained and not done.unusable
    forms = [event.seconds > 0 for event in map(parse_event, said.getvalue().splitlines()) if isinstance(event, Loaded)]
    assert done.metrics["memory"]["four_bits"] and forms == [True, True, False, False, True]
    assert gone == [True], "both forms would not have fitted at once"


def _between(base: Base, row: Example) -> float:
    """A limit, in GiB, that a row is over with the base as it is, and under with its weights in four bits."""
    (encoded,), _ = encode(base, [row])
    asked = work(base, Material([encoded]), [encoded], plan(Recipe("fixed", epochs=1), 1, 256), Recipe(rank=8))
    ways = [Fit(4, tokens=BUDGETS[-1], recompute=True, four_bits=four_bits) for four_bits in (False, True)]
    return MARGIN * sum(peak(Shape.of(base.folder), asked, way) for way in ways) / 2 / 2**30


@four_bits
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gradients_over_four_bits_are_those_over_the_weights_they_stand_for(family: str, tmp_path: Path) -> None:
    """Also after the model was read without gradients: then bitsandbytes likes to choose a kernel that has none."""
    folder = str(tiny_base(tmp_path / "base", family))
    small, full = load_base(folder, torch.float32, four_bits=True), load_base(folder, torch.float32)
    modules = dict(small.model.named_modules())
    replaced = 0
    for name, module in full.model.named_modules():
        if isinstance(module, torch.nn.Linear) and (packed := modules[name].weight).dtype == torch.uint8:
            module.weight.data = sys.modules["bitsandbytes"].functional.dequantize_4bit(packed.data, packed.quant_state)
            replaced += 1
    assert replaced == 14
    ids, gradients = torch.tensor([[5, 6, 7, 8, 9]]), list[dict[str, torch.Tensor | None]]()
    for one in (small, full):
        with lora.fresh(one, Recipe(rank=4, alpha=8)) as adapted:
            torch.manual_seed(1)
            for weight in lora.parameters(adapted):
                torch.nn.init.normal_(weight, std=0.1)
            with torch.no_grad():
                one.model(input_ids=ids)
            one.model(input_ids=ids).logits.logsumexp(-1).sum().backward()
            named = adapted.named_parameters()
            gradients.append({name: weight.grad for name, weight in named if weight.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 28
    for name, gradient in gradients[1].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
