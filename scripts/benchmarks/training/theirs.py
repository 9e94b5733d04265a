"""TRL's side: `python -m scripts.benchmarks.training.theirs TASK RESULT MODEL BEGAN`, by its own environment's Python.

Nothing of the daemon is imported here.
"""

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoTokenizer

from scripts.benchmarks.training import settings
from scripts.benchmarks.training.gauge import device, peak, seconds
from scripts.benchmarks.training.judge import Judge
from scripts.benchmarks.training.models import plain
from scripts.benchmarks.training.settings import VARIANTS, Measured, Task
from scripts.benchmarks.training.workloads import Correction, nominal, steps, text, workload


def main() -> None:
    """Do the task of the first argument, leave the result at the second."""
    task, folder = Task.parse(sys.argv[1]), Path(sys.argv[3])
    torch.set_num_threads(task.threads)
    with TemporaryDirectory() as out:
        measure = many if task.workload == "E" else one
        measure(task, folder, Path(out)).write(Path(sys.argv[2]))


def one(task: Task, folder: Path, out: Path) -> Measured:
    """One training in a process that is warm; a reference pass counts, tokenizing does not."""
    work = workload(task.workload)
    corrections = work.traits[0]
    whole = task.steps in (0, steps(len(corrections)))
    judge = Judge(folder, task.dtype, work.objective)
    # A look at a few is enough to wake threads and kernels.
    first = judge.first(corrections if whole else corrections[: settings.BATCH])
    trainer, reference = build(task, folder, load(task, folder), corrections, out)
    began = seconds()
    trainer.train()
    wall, most = seconds() - began, peak()
    trainer.save_model(str(out / "adapter"))
    return Measured(
        wall=reference + wall,
        constant=reference,
        steps=task.steps or steps(len(corrections)),
        of_steps=steps(len(corrections)),
        tokens=nominal(corrections),
        peak=most,
        first=first if whole else None,
        final=judge.final(out / "adapter", corrections) if whole else None,
    )


def many(task: Task, folder: Path, out: Path) -> Measured:
    """Some traits one after the other, the base model loaded once; seconds since this process was begun."""
    began = float(sys.argv[4])
    every = workload(task.workload).traits
    traits = every[task.first : task.first + task.traits]
    base = load(task, folder)
    ready = seconds()
    for at, corrections in enumerate(traits):
        trainer, _ = build(task, folder, base, corrections, out)
        trainer.train()
        trainer.save_model(str(out / str(at)))
        # Off again, so that the next trait starts from the base.
        base = trainer.model.unload()
        del trainer
        gc.collect()
    ended, most = seconds(), peak()
    first, final = Judge(folder, task.dtype, "sft").traits(traits, out) if traits == every else (None, None)
    return Measured(
        wall=ended - began,
        constant=ready - began,
        steps=len(traits),
        of_steps=len(every),
        tokens=sum(map(nominal, every)),
        peak=most,
        first=first,
        final=final,
    )


def load(task: Task, folder: Path) -> Any:
    """The base model in the dtype of the variant."""
    return plain(folder, "fp32" if VARIANTS[task.variant].autocast else task.dtype, device())


def build(task: Task, folder: Path, base: Any, corrections: Sequence[Correction], out: Path) -> tuple[Any, float]:
    """TRL's trainer for some corrections, and the seconds that it took for its reference pass."""
    trl, preferences = import_module("trl"), workload(task.workload).objective == "dpo"
    rows = import_module("datasets").Dataset.from_list([_row(correction, preferences) for correction in corrections])
    common = {
        "model": base,
        "processing_class": AutoTokenizer.from_pretrained(folder),
        "train_dataset": rows,
        "peft_config": LoraConfig(
            r=settings.RANK, lora_alpha=settings.ALPHA, target_modules=settings.TARGETS, task_type="CAUSAL_LM"
        ),
    }
    if not preferences:
        config = trl.SFTConfig(completion_only_loss=True, **_options(task, out))
        trainer = trl.SFTTrainer(args=config, **common)
        _compare([row["input_ids"] for row in trainer.train_dataset], corrections)
        return trainer, 0.0
    spent: list[float] = []
    # As the engine does, which never prefers an answer without learning it too.
    terms = {"loss_type": ["sigmoid", "sft"], "beta": settings.BETA, "precompute_ref_log_probs": True}
    config = trl.DPOConfig(**terms, **_options(task, out))
    trainer = _timed(trl.DPOTrainer, spent)(args=config, **common)
    read = [row["prompt_ids"] + row[kind] for row in trainer.train_dataset for kind in ("chosen_ids", "rejected_ids")]
    _compare(read, corrections)
    return trainer, sum(spent)


def _options(task: Task, out: Path) -> dict[str, Any]:
    """What both trainers are told."""
    variant = VARIANTS[task.variant]
    return {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": variant.micro,
        "gradient_accumulation_steps": settings.BATCH // variant.micro,
        "padding_free": variant.padding_free,
        "bf16": variant.autocast,
        "num_train_epochs": settings.EPOCHS,
        "max_steps": task.steps or -1,
        "learning_rate": settings.LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "adam_beta1": settings.BETAS[0],
        "adam_beta2": settings.BETAS[1],
        "weight_decay": 0.0,
        "max_grad_norm": settings.CLIP,
        # None of these pays where everything fits: recomputing, cutting, saving, reporting.
        "gradient_checkpointing": False,
        "max_length": None,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device() == "cpu",
        "seed": settings.SEED,
    }


def _row(correction: Correction, preferences: bool) -> dict[str, str]:
    prompt = text(correction.prompt) + " "
    if preferences:
        return {"prompt": prompt, "chosen": text(correction.answer), "rejected": text(correction.rejected)}
    return {"prompt": prompt, "completion": text(correction.answer)}


def _timed(trainer: Any, spent: list[float]) -> Any:
    """The trainer's class with its reference pass, which is within its construction, on the clock."""
    original = trainer._precompute_ref_logps

    def precompute(self: Any, *arguments: Any) -> Any:
        began = seconds()
        rows = original(self, *arguments)
        spent.append(seconds() - began)
        return rows

    return type("Timed", (trainer,), {"_precompute_ref_logps": precompute})


def _compare(read: Sequence[Sequence[int]], corrections: Sequence[Correction]) -> None:
    """Raise ValueError unless TRL trains the very tokens that the other side trains."""
    if sorted(map(list, read)) != sorted(sequence for correction in corrections for sequence in correction.sequences):
        raise ValueError("TRL's rows are not the workload's token sequences")


if __name__ == "__main__":
    main()
