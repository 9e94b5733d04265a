"""Every family of models that people run loads from a folder, trains, and gives an adapter that PEFT can load."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from daemon.training.engine import lora
from daemon.training.engine.base import load_base
from daemon.training.engine.job import Loaded, parse_event
from daemon.training.engine.packing.capability import examined
from daemon.training.engine.packing.passes import answer_states, logits
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import CORRECTIONS, FAMILIES, ODD, UPSTREAM, job, tiny_base

pytestmark = [
    pytest.mark.filterwarnings(UPSTREAM),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT on GPT-2; it then sets it
]

TIED = PreTrainedModel.tie_weights


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_and_answers_alike_once_loaded_by_peft(family: str, tmp_path: Path) -> None:
    folder = tiny_base(tmp_path / "base", family)
    steps = 150 if family == "llama" else 12
    worker = Worker(Reporter(io.StringIO()))

    finished = worker.do(job(folder, tmp_path / "out", recipe={"max_steps": steps, "batch_size": 3}))

    assert finished.trained
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    trained = [probe.candidate.margin - probe.incumbent.margin for probe in finished.probes if probe.candidate]
    assert len(trained) == len(CORRECTIONS)
    assert sum(trained) / len(trained) > 0.3
    if family == "llama":
        assert finished.metrics["accuracy"] == 1.0
    base = load_base(str(folder))
    ids = torch.tensor([base.chat.prompt_ids(CORRECTIONS[1].messages)])
    with torch.no_grad(), lora.loaded(base, str(tmp_path / "out")):
        served = base.model(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(folder)
    by_peft = PeftModel.from_pretrained(plain, str(tmp_path / "out"))
    with torch.no_grad():
        assert torch.equal(by_peft(input_ids=ids).logits, served)
        assert not torch.allclose(base.model(ids).logits, served)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ODD)
def test_what_cannot_read_trees_says_why_and_is_read_alone(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = examined(load_base(str(tiny_base(tmp_path / "base", family)), dtype))
    assert not base.capability.trees and base.capability.why
    asks = [f"why? {'who? ' * count}" for count in (1, 30, 9)]  # beyond the narrow window, too
    prompts = [base.chat.prompt_ids([{"role": "user", "content": ask}]) for ask in asks]
    lines = [(prompt, base.chat.answer_ids("The sea.")) for prompt in prompts]
    with torch.no_grad():
        states, places = answer_states(base, lines)
        found = logits(base, states)
        for at, (prompt, answer) in enumerate(lines):
            alone = base.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
            assert torch.allclose(found[places.lines == at], alone, atol=(1e-4 if dtype == torch.float32 else 0.1) * 4)


def test_a_model_that_takes_no_trees_is_trained_and_says_so(tmp_path: Path) -> None:
    said = io.StringIO()
    folder = tiny_base(tmp_path / "base", "bloom")
    finished = Worker(Reporter(said)).do(job(folder, tmp_path / "out", recipe={"max_steps": 150, "batch_size": 3}))
    loaded = next(event for event in map(parse_event, said.getvalue().splitlines()) if isinstance(event, Loaded))
    assert "token trees" in loaded.fallback
    assert finished.metrics["accuracy"] == 1.0


def test_models_are_loaded_at_once_and_each_is_whole(tmp_path: Path) -> None:
    folder = str(tiny_base(tmp_path / "base", "llama"))
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(load_base, [folder] * 12))
    assert all(not parameter.is_meta for base in loaded for parameter in base.model.parameters())
    assert PreTrainedModel.tie_weights is TIED, "what transformers put in its place is gone again"
