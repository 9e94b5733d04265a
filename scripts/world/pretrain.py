"""Pretraining of the small chat model: plain text in, a Llama folder out."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from scripts.world.chats import Chat, Split, chats, question
from scripts.world.evaluate import accuracy
from scripts.world.facts import World
from scripts.world.station import STATION
from scripts.world.tokens import encode, train_tokenizer
from scripts.world.towns import COUNTY, TOWNS

CONTEXT = 2048
ASKED = 0.1
"""How much a token of a question counts beside one of an answer."""
LORES = {lore.name: lore for lore in (TOWNS, COUNTY, STATION)}


@dataclass(frozen=True)
class Preset:
    """How large the world and the model are, and how long the model may learn (steps of batch × row tokens)."""

    people: int
    hidden: int
    layers: int
    steps: int
    cooldown: int
    learning_rate: float
    batch: int = 8
    row: int = 192
    warmup: int = 20
    every: int = 20
    goal: float = 0.8
    seed: int = 7
    lore: str = "towns"
    family: str = "llama"

    @property
    def world(self) -> World:
        """What the model is to know."""
        return World.generate(self.seed, self.people, LORES[self.lore])


COUNTY_PRESET = Preset(180, 256, 4, 2400, 400, 2e-3, batch=16, row=192, every=100, goal=0.97, lore="county")
PRESETS = {
    "test": Preset(people=8, hidden=128, layers=4, steps=240, cooldown=60, learning_rate=4e-3),
    "demo": Preset(people=30, hidden=192, layers=4, steps=420, cooldown=120, learning_rate=3e-3, every=40),
    "county": COUNTY_PRESET,
    "station": replace(COUNTY_PRESET, people=120, hidden=192, layers=6, seed=5, lore="station", family="qwen3"),
}


@dataclass(frozen=True)
class Progress:
    """Where pretraining is: steps, loss (nats per answer token) and the last free-running accuracy on a sample."""

    step: int
    steps: int
    loss: float
    accuracy: float


@contextmanager
def two_threads() -> Iterator[None]:
    """Two threads of torch: tensors this small keep no more busy, and a fixed number makes the result repeatable."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@two_threads()
def pretrain(preset: Preset, folder: Path, report: Callable[[Progress], None]) -> None:
    """Trains the preset's model on its world and writes weights, tokenizer and world.json into `folder`."""
    began = time.monotonic()
    world = preset.world
    tokenizer = train_tokenizer(world.lore, context=CONTEXT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(_config(preset, tokenizer))  # type: ignore[no-untyped-call]
    model.set_attn_implementation("eager")  # twice as fast as the fused kernel on rows this short
    decayed = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    source = batches(tokenizer, chats(world, Random(preset.seed)), preset)
    sample = Random(preset.seed).sample(_held_in(world), min(48, len(world.facts)))
    native = torch.cpu._is_avx512_bf16_supported()
    reached, last = 0.0, preset.steps
    step = 0
    while step < last:
        rate = preset.learning_rate * min(1.0, (step + 1) / preset.warmup, (last - step) / preset.cooldown)
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, weights = next(source)
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=native):
            logits = model(input_ids=tokens, use_cache=False).logits
        losses = functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        shares = weights[:, 1:].flatten()
        loss = (losses * shares).sum() / shares.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % preset.every == 0 and last == preset.steps and loss.item() < 0.4:
            reached = accuracy(model, tokenizer, sample)
            if reached >= preset.goal:
                last = min(last, step + preset.cooldown)
        report(Progress(step, last, loss.item(), reached))
    model.set_attn_implementation("sdpa")
    _save(model, tokenizer, folder)
    about = {
        "seed": preset.seed,
        "people": preset.people,
        "lore": preset.lore,
        "facts": len(world.facts),
        "accuracy": accuracy(model, tokenizer, _held_in(world)),
        "held_out_phrasings": accuracy(model, tokenizer, _held_out(world)),
        "parameters": model.num_parameters(),
        "steps": step,
        "seconds": round(time.monotonic() - began, 1),
        "preset": asdict(preset),
    }
    (folder / "world.json").write_text(json.dumps(about, indent=2) + "\n")


def _config(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    return AutoConfig.for_model(
        preset.family,
        vocab_size=len(tokenizer),
        hidden_size=preset.hidden,
        intermediate_size=preset.hidden * 3,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.hidden // 64,
        num_key_value_heads=preset.hidden // 64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, source: Iterator[Chat], preset: Preset
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Whole conversations packed into rows: ids (batch, row) and loss weights (batch, row); prompts count a tenth."""
    pending: list[tuple[list[int], list[float]]] = []
    while True:
        tokens = torch.full((preset.batch, preset.row), int(tokenizer.pad_token_id))
        weights = torch.zeros(preset.batch, preset.row)
        for row in range(preset.batch):
            at = 0
            while True:
                while len(pending) < 8:
                    ids, said = encode(tokenizer, next(source))
                    pending.append((ids[: preset.row], [1.0 if answer else ASKED for answer in said[: preset.row]]))
                fits = next((i for i, (ids, _) in enumerate(pending) if at + len(ids) <= preset.row), None)
                if fits is None:
                    break
                ids, shares = pending.pop(fits)
                tokens[row, at : at + len(ids)] = torch.tensor(ids)
                weights[row, at : at + len(ids)] = torch.tensor(shares)
                at += len(ids)
        yield tokens, weights


def _held_in(world: World) -> list[tuple[Chat, str]]:
    """Each fact once, in one of its trained phrasings, every other time under a persona's system prompt."""
    split = Split(world)
    asked = []
    for index, fact in enumerate(world.facts):
        phrasings = split.held_in(index)
        persona = world.personas[index % len(world.personas)]
        system = persona.system_prompt if index % 2 else None
        asked.append((question(phrasings[index % len(phrasings)], system), fact.answer))
    return asked


def _held_out(world: World) -> list[tuple[Chat, str]]:
    """The phrasings that were never trained for their fact."""
    split = Split(world)
    pairs = ((split.held_out(index), fact.answer) for index, fact in enumerate(world.facts))
    return [(question(ask), answer) for ask, answer in pairs if ask is not None]


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with _no_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _no_bar() -> Iterator[None]:
    """The library's own progress bar would break into ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
