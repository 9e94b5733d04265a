"""Every method and objective of the config makes a layer that plain PEFT loads and the server serves."""

import io
import json
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.manifest import Manifest
from daemon.genome.persona_genome import LayerShelf
from daemon.training.engine import lora
from daemon.training.engine.base import load_base
from daemon.training.engine.job import Recipe
from daemon.training.engine.report import JobFailed, Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import UPSTREAM, job, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(Reporter(io.StringIO()))


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def by_peft(base: Path, layer: Path) -> torch.Tensor:
    """What plain PEFT makes of a layer, over the base as it is."""
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(layer)))


def served(base: Path, layers: LayerDirectories, staged: Path) -> torch.Tensor:
    """What the server makes of it."""
    manifest = Manifest(
        persona="ada",
        trait="rust",
        version=1,
        base_model=str(base),
        base_fingerprint=base_fingerprint(base),
        rank=8,
        alpha=16,
        target_modules="all-linear",
        created_at=datetime.now(UTC),
        program_version="0",
    )
    loaded = load_base(str(base))
    shelf = LayerShelf(loaded.model, manifest.base_fingerprint, layers)
    shelf.activate(layers.publish(staged, manifest).path)
    return logits(loaded.model)


def test_an_rslora_layer_is_scaled_by_the_root_of_its_rank_wherever_it_is_loaded(
    worker: Worker, base: Path, tmp_path: Path
) -> None:
    layers = LayerDirectories(tmp_path / "layers")
    out = layers.staging("run-1", 1)
    finished = worker.do(job(base, out, recipe={"method": "rslora"}))
    assert finished.metrics["accuracy"] == 1.0
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"], config["peft_type"]) == (True, False, "LORA")
    loaded = worker.base(str(base))
    with lora.loaded(loaded, str(out)) as adapted:
        scalings = {module.scaling[lora.NAME] for module in adapted.modules() if isinstance(module, LoraLayer)}
        assert scalings == {16 / math.sqrt(8)}
        ours = logits(loaded.model)
    assert not torch.allclose(ours, logits(loaded.model))
    assert torch.equal(ours, by_peft(base, out))
    assert torch.equal(ours, served(base, layers, out))


def test_an_rslora_layer_trains_with_the_scaling_that_it_is_read_with(worker: Worker, base: Path) -> None:
    loaded = worker.base(str(base))
    with lora.fresh(loaded, Recipe(rank=8, alpha=16, method="rslora")) as adapted:
        for weight in lora.parameters(adapted):
            torch.nn.init.normal_(weight, std=0.1)
        trained = loaded.model(input_ids=IDS).logits
        assert trained.requires_grad
        torch.testing.assert_close(trained.detach(), logits(loaded.model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_a_preference_leads_away_from_the_original_answer(
    worker: Worker, base: Path, tmp_path: Path, objective: str
) -> None:
    finished = worker.do(job(base, tmp_path / "out", recipe={"objective": objective}))
    assert finished.metrics["accuracy"] == 1.0
    assert all(probe.candidate and probe.candidate.margin > probe.incumbent.margin for probe in finished.probes)
    assert not torch.allclose(by_peft(base, tmp_path / "out"), logits(load_base(str(base)).model))


@pytest.mark.parametrize(("recipe", "word"), [({"method": "dora"}, "method"), ({"objective": "ppo"}, "objective")])
def test_what_nobody_knows_is_not_tried_again(
    worker: Worker, base: Path, tmp_path: Path, recipe: dict[str, str], word: str
) -> None:
    with pytest.raises(JobFailed, match=f"{word} '{recipe[word]}' is unknown; take ") as failure:
        worker.do(job(base, tmp_path / "out", recipe=recipe))
    assert not failure.value.retry and not failure.value.blameless


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_mlps_and_norms_are_eased_whatever_the_adapter_has_learnt(
    dtype: torch.dtype, base: Path, tmp_path: Path
) -> None:
    on = load_base(str(base), dtype)
    with lora.fresh(on, Recipe(rank=4, alpha=8)) as adapted:
        assert eased(adapted) == {"_Gated": 2, "_Norm": 5}
        for weight in lora.parameters(adapted):
            torch.nn.init.normal_(weight, std=0.3)
        lora.save(adapted, str(base), tmp_path / "layer")
    with lora.loaded(on, str(tmp_path / "layer"), trainable=True) as adapted:
        assert eased(adapted) == {"_Gated": 2, "_Norm": 5}
    assert eased(on.model) == {}


def eased(model: torch.nn.Module) -> Counter[str]:
    """Modules of two layers that are computed in one step, by how."""
    ways = (type(module.__dict__.get("forward")).__name__ for module in model.modules())
    return Counter(way for way in ways if way in ("_Gated", "_Norm"))
