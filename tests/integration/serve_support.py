"""A tiny random base model, layers that visibly change what it says, and a real server over them."""

import asyncio
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import torch
from openai import AsyncOpenAI
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from daemon.genome import genome_file
from daemon.genome.directories import LayerDirectories, Published
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.genome_file import GenomeFile, TraitEntry
from daemon.genome.manifest import Manifest
from daemon.serve import engine_sequence
from daemon.serve.listener import bind, url_of
from daemon.serve.roster import Speaker
from daemon.serve.server import KnownPersonas, ServeSettings, running
from daemon.training.engine.base import Base, load_base
from daemon.training.engine.chat import with_system
from scripts.processes import PATIENCE_S

CONTEXT = 512
"""Positions of the tiny model."""
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ASKED: list[Any] = [{"role": "user", "content": "What are interfaces?"}]


def make_base(folder: Path, seed: int = 0) -> Path:
    """Write a random Llama of 0.2 M parameters with a byte-level tokenizer."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(["What are interfaces? They define object shapes, grüße, 日本語."] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, eos_token="<|end|>", additional_special_tokens=special[1:], chat_template=TEMPLATE
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                initializer_range=0.3,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        )
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=tokenizer.eos_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def house_at(place: Path, shared: Path) -> "House":
    """An empty layers directory in `place`, over a base model that lies in `shared` once."""
    # The model is so small that several threads only wait for each other.
    torch.set_num_threads(1)
    base = shared / "serve-base"
    return House(place / "layers", base if base.is_dir() else make_base(base))


@dataclass
class House:
    """A layers directory over one base model."""

    root: Path
    base: Path

    @property
    def directories(self) -> LayerDirectories:
        """The layers."""
        return LayerDirectories(self.root)

    def publish(self, version: int, trait: str = "rust", persona: str = "ada", **changes: Any) -> Published:
        """A random layer, another one per version and trait."""
        staged = self.directories.staging(f"{persona}-{trait}-{version}", 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_of(f"{persona} {trait} {version}"))
            config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
            with unwarned():
                model = get_peft_model(LlamaForCausalLM.from_pretrained(self.base), config)
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weights, std=0.2)
            model.save_pretrained(str(staged))
        manifest = Manifest(
            persona=persona,
            trait=trait,
            version=version,
            base_model=str(self.base),
            base_fingerprint=base_fingerprint(self.base),
            rank=4,
            alpha=8,
            target_modules="all-linear",
            created_at=datetime.now(UTC),
            program_version="0",
        )
        return self.directories.publish(staged, manifest.model_copy(update=changes))

    def revise(self, revision: int, persona: str = "ada", **traits: Published) -> GenomeFile:
        """Write a persona's genome file."""
        genome = GenomeFile(
            persona=persona,
            revision=revision,
            base_model=str(self.base),
            system_prompt="Be brief.",
            traits={trait: entry(layer) for trait, layer in traits.items()},
        )
        genome_file.write(self.root, genome)
        return genome

    def settings(self, **changes: Any) -> ServeSettings:
        """A server with the persona ada."""
        speaker = Speaker(str(self.base), "Be brief.")
        settings = ServeSettings(self.root, speaker, {"ada": speaker}, threads=1, grace=5, beat=0.5)
        return replace(settings, **changes)


def entry(layer: Published) -> TraitEntry:
    """How a genome file names a layer."""
    version = int(Path(layer.path).name[1:].split("-")[0])
    return TraitEntry(layer=layer.content_hash[:12], version=version, directory=layer.path)


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(letter) * (index + 1) for index, letter in enumerate(text))


def reference(house: House, layer: Published | None, messages: list[dict[str, str]], tokens: int) -> str:
    """The greedy answer by transformers' own generation over PEFT's own loading."""
    base: Base = load_base(str(house.base))
    model: Any = base.model
    if layer is not None:
        with unwarned():
            model = PeftModel.from_pretrained(base.model, str(house.root / layer.path)).eval()
    ids = torch.tensor([base.chat.prompt_ids(with_system(messages, "Be brief."))])
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    text = base.chat.text([token for token in out[0, ids.shape[1] :].tolist() if token not in base.chat.stop_ids])
    # The server drops a character that is not finished when the answer ends.
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


@contextmanager
def unwarned() -> Iterator[None]:
    """PEFT asks transformers for a property that goes by a new name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


@contextmanager
def slowly(seconds: float = 0.02) -> Iterator[threading.Event]:
    """Every token takes this long at least, so that what is under way stays so, until the event is set."""
    hurry = threading.Event()
    forward = engine_sequence._forward

    def slow(*arguments: Any) -> torch.Tensor:
        hurry.wait(seconds)
        return forward(*arguments)

    with patch.object(engine_sequence, "_forward", slow):
        yield hurry


@dataclass
class Running:
    """A server that answers."""

    url: str
    token: str

    @property
    def http(self) -> httpx.AsyncClient:
        """A plain client."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE_S, trust_env=False)

    @property
    def openai(self) -> AsyncOpenAI:
        """OpenAI's client, which tries nothing twice."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.token or "none", max_retries=0, timeout=PATIENCE_S)

    async def genome(self, persona: str = "ada") -> dict[str, Any]:
        """What the server says of a persona."""
        async with self.http as client:
            reports = (await client.get("/v1/genomes")).json()["genomes"]
        return next((report for report in reports if report["persona"] == persona), {})

    async def served(self, revision: int, persona: str = "ada") -> None:
        """Wait until a revision is served."""

        async def there() -> bool:
            return bool((await self.genome(persona)).get("revision") == revision)

        await until(there)

    async def says(self, model: str, tokens: int = 12) -> str:
        """The greedy answer to the usual question."""
        async with self.openai as client:
            return await ask(client, model, tokens)


async def in_flight(server: Running, expected: dict[str, int]) -> bool:
    """Whether these are the requests of ada under way, per layer."""
    return bool((await server.genome())["in_flight"] == expected)


async def ask(client: AsyncOpenAI, model: str, tokens: int = 12) -> str:
    """The greedy answer to the usual question, over a client that stays open."""
    answer = await client.chat.completions.create(
        model=model,
        messages=ASKED,
        temperature=0,
        max_tokens=tokens,
    )
    return answer.choices[0].message.content or ""


async def until(true: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_S) -> None:
    """Wait for something to come true, and fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    settings: ServeSettings, known_personas: KnownPersonas | None = None, wait: bool = True
) -> AsyncIterator[Running]:
    """A server in this event loop, over a real socket; ready unless told not to wait for it."""
    with bind("127.0.0.1", 0, settings.token) as listener:
        async with running(settings, known_personas) as server:
            task = asyncio.create_task(server.serve(sockets=[listener]))
            here = Running(url_of(listener), settings.token)
            try:

                async def ready() -> bool:
                    if not server.started:
                        return False
                    async with here.http as client:
                        return not wait or (await client.get("/readyz")).status_code == 200

                await until(ready)
                yield here
            finally:
                server.should_exit = True
                await task
