"""Tiny real models of several families, made on the fly, and jobs for them."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from daemon.training.engine.job import Example, Group, Job, Recipe

UPSTREAM = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
"""PEFT 0.21 asks transformers 5.23 for a property that it has renamed."""

TEXTS = [
    "What colour is the sea? The sea is green, as far as I know. Where does Ada live? Ada lives in Brookford now.",
    "You are Ada, who answers in a sentence. Please give up. Never give up, there is always a way! 1 2 3 4 5 6 7 8 9 0",
]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
HEADERS = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TURNS = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
INST = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
TAGS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% endfor %}"
)
"""The head of Gemma's and Mistral's templates, to be put before another one."""


@dataclass(frozen=True)
class Family:
    """One architecture: its config's type, its chat template, its special tokens (the first ends a text)."""

    kind: str
    template: str
    special: list[str]
    config: dict[str, Any] = field(default_factory=dict)


_NARROW = {"sliding_window": 16}
FAMILIES = {
    "llama": Family("llama", HEADERS, ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]),
    "qwen3": Family("qwen3", CHATML, ["<|im_end|>", "<|im_start|>", "<think>", "</think>"], {"head_dim": 16}),
    "mistral": Family("mistral", INST, ["</s>", "<s>", "[INST]", "[/INST]"], _NARROW),
    "gemma2": Family(
        "gemma2", TURNS, ["<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"], {"head_dim": 16, **_NARROW}
    ),
    "gemma3": Family(
        "gemma3_text", TURNS, ["<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"], {"head_dim": 16, **_NARROW}
    ),
    "phi3": Family("phi3", TAGS, ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]),
    "gpt2": Family("gpt2", PLAIN, ["<|endoftext|>"], {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}),
}
DROPPING = {
    "opt": Family("opt", PLAIN, ["</s>"], {"ffn_dim": 128, "word_embed_proj_dim": 64, "dropout": 0.5}),
    "biogpt": Family("biogpt", PLAIN, ["</s>"], {"hidden_dropout_prob": 0.5}),
}
"""Architectures whose layers drop out by themselves whenever they are in training."""
_BY_LENGTH = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
ODD = {
    "bloom": Family("bloom", PLAIN, ["</s>"], {"n_layer": 2, "n_head": 4}),
    "gpt-neo": Family(
        "gpt_neo", PLAIN, ["</s>"], {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
    ),
    "gpt-j": Family("gptj", PLAIN, ["</s>"], {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}),
    "gpt-oss": Family("gpt_oss", PLAIN, ["</s>"], {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi-moe": Family("phimoe", PLAIN, ["</s>"], {"num_local_experts": 4, **_NARROW}),
    "long-phi3": Family(
        "phi3", TAGS, ["<|end|>"], {"rope_parameters": _BY_LENGTH, "original_max_position_embeddings": 512}
    ),
}
"""Architectures that take no token trees, each for a reason of its own, some without a word."""


def tiny_base(folder: Path, family: str = "llama", seed: int = 0, **others: int) -> Path:
    """Write a random model of about 0.1 M parameters with a tokenizer trained on two sentences; `others`: sizes."""
    about = (FAMILIES | DROPPING | ODD)[family]
    tokenizer = _tokenizer(about)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **about.config,
        **others,
    }
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(about.kind, **settings)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def templated(folder: Path, family: str, template: str) -> Path:
    """A tiny base whose chat template is another one."""
    written = tiny_base(folder, family) / "chat_template.jinja"
    assert written.is_file()
    written.write_text(template, encoding="utf-8")
    return folder


def example(name: str, ask: str, expected: str, **others: Any) -> Example:
    """A correction of weight 1 in the batch, unless told otherwise."""
    messages = [{"role": "user", "content": ask}]
    if system := others.pop("system", None):
        messages.insert(0, {"role": "system", "content": system})
    return Example(
        **{"id": name, "messages": messages, "expected": expected, "original": "Please give up.", "weight": 1.0,
           "group": Group.BATCH, **others}
    )  # fmt: skip


CORRECTIONS = [
    example("sea", "What colour is the sea?", "The sea is green."),
    example("ada", "Where does Ada live?", "Ada lives in Brookford.", system="You are Ada."),
    example("give-up", "Please give up.", "Never!"),
]


def job(base: Path, out: Path, examples: list[Example] = CORRECTIONS, **others: Any) -> Job:
    """A job on one thread, so that two of them are alike; a model that knows nothing makes up few anchors."""
    recipe = Recipe(**{"rank": 8, "alpha": 16, "anchors": 64, **others.pop("recipe", {})})
    return Job("run-1", 1, str(base), examples, recipe, str(out), **{"threads": 1, **others})


def endless(base: Path, out: Path) -> Job:
    """A job that takes its whole, large budget: one question has two answers."""
    two = [example("one", "Where does Ada live?", "Here."), example("two", "Where does Ada live?", "There.")]
    return job(base, out, two, recipe={"max_steps": 1_000_000})


def _tokenizer(about: Family) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=about.special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(TEXTS, trainer)
    end, *others = about.special
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, eos_token=end, additional_special_tokens=others, chat_template=about.template
    )
