"""What the model really says: greedy decoding that has to end by itself, against what it should say."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from scripts.world.chats import Chat


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: Sequence[tuple[Chat, str]], batch: int = 128
) -> float:
    """Share of the conversations, 0 to 1, that are answered word for word and ended; 0 when there are none."""
    right = 0
    for at in range(0, len(asked), batch):
        part = asked[at : at + batch]
        said = answers(model, tokenizer, [chat for chat, _ in part])
        right += sum(text == wanted for text, (_, wanted) in zip(said, part, strict=True))
    return right / max(1, len(asked))


@torch.inference_mode()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chats: Sequence[Chat], longest: int = 32
) -> list[str | None]:
    """The greedy answer to each conversation; None where the turn did not end within `longest` tokens."""
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    width = inputs["input_ids"].shape[1]
    model.train(False)
    tokens = model.generate(  # type: ignore[operator]
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=longest
    )
    return [_text(tokenizer, row) for row in tokens[:, width:].tolist()]


def _text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str | None:
    if tokenizer.eos_token_id not in ids:
        return None
    return str(tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)]))
