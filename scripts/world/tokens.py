"""The tokenizer: a byte-level BPE over the world's words, so that any text can be written and read back."""

from collections.abc import Iterator
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scripts.world import lexicon as lx
from scripts.world.chats import Chat, word
from scripts.world.lore import Lore
from scripts.world.towns import TOWNS

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(lore: Lore = TOWNS, vocabulary: int = 1536, context: int = 2048) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocabulary` entries; names are cut into pieces that unseen names are made of too."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(lore), trainer)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> tuple[list[int], list[bool]]:
    """Token ids of a whole conversation as the chat template writes it, and which of them the assistant says."""
    ids: list[int] = []
    said: list[bool] = []
    for message in chat:
        answers = message["role"] == "assistant"
        head = tokenizer.encode(f"{START}{message['role']}\n", add_special_tokens=False)
        body = tokenizer.encode(f"{message['content']}{END}", add_special_tokens=False)
        tail = tokenizer.encode("\n", add_special_tokens=False)
        ids += head + body + tail
        said += [False] * len(head) + [answers] * len(body) + [False] * len(tail)
    return ids, said


def _texts(lore: Lore) -> Iterator[str]:
    """Sentences often, since they are spoken often; names once, since they must not become tokens of their own."""
    for relation in lore.relations:
        yield from (text.replace("{s}", "").replace("{v}", "") for text in (*relation.asks * 2, *[relation.says] * 4))
    yield from (f"{ask} {manner.says}" for manner in lore.manners * 2 for ask in manner.asks)
    yield from (persona.system_prompt for persona in lore.personas * 4)
    yield from (f"{rule.prompt} {rule.says.replace('{a}', '')}" for rule in lore.rules * 4)
    yield from ("user\nassistant\nsystem\nuser\n",) * 40
    yield from (f"{text} {text.title()}" for text in lx.COMMON_WORDS)
    yield from (f" {text}" for text in lx.COMMON_WORDS)
    yield from (f" {text}" for pool in lore.pools for text in pool)
    rng = Random(0)
    yield from (f" {word(rng)} {word(rng).title()}" for _ in range(300))
