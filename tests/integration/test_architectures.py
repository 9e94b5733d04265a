"""Every family of models that people run loads from a folder, trains, and gives an adapter that PEFT can load."""

import io
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from daemon.training.engine import lora
from daemon.training.engine.base import load_base
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import CORRECTIONS, FAMILIES, UPSTREAM, job, tiny_base

pytestmark = [
    pytest.mark.filterwarnings(UPSTREAM),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT on GPT-2; it then sets it
]


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
