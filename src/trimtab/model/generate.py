"""Answers to chat prompts, batched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.errors import DataError, ModelError, UsageError
from trimtab.model.base import HasModel
from trimtab.model.capture import evaluating
from trimtab.records.rows import Message

_SENTINEL: Final = "x"


def generate(
    lm: HasModel,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> list[str]:
    """Answer each prompt; hooks that are attached to the model act on every token.

    Greedy at temperature 0, else exact sampling by the Gumbel-max rule with one random stream per prompt: so an answer
    depends on its prompt, its place among ``prompts`` and ``seed``, not on ``batch_size`` (up to ties in floating
    point).
    Sampling settings shipped with a model (top-k, repetition penalty) are not used.

    Args:
        lm: Model and tokenizer.
        prompts: Conversations that end before the answer.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of the softmax; 0 is greedy.
        seed: Of the sampling.
        batch_size: Prompts per forward pass.

    Returns:
        The answers, special tokens removed, in the order of ``prompts``.

    Raises:
        ModelError: If the tokenizer has no chat template.
        DataError: If the template refuses a prompt.
        UsageError: If a number is out of range.
    """
    encoded = [_encode(lm.tokenizer, prompt) for prompt in prompts]
    stops = stop_ids(lm)
    new = continue_ids(
        lm, encoded, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size
    )
    return [
        cast(
            "str",
            lm.tokenizer.decode(
                [token for token in ids if token not in stops],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            ),
        )
        for ids in new
    ]


def continue_ids(
    lm: HasModel,
    sequences: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[int]]:
    """Continue sequences of token ids; sampling and hooks as in ``generate``, which is this with a template around it.

    The random stream of a sequence hangs on its place among ``sequences``: to continue only some of them with the
    streams that they would have among all, pass all, with 0 new tokens for the others.

    Args:
        lm: Model and tokenizer.
        sequences: What the model has read so far: prompt, opening of the answer, words of the answer.
        max_new_tokens: Most new tokens, of all or of each; a sequence with 0 is left alone.
        temperature: Of the softmax; 0 is greedy.
        seed: Of the sampling.
        batch_size: Sequences per forward pass.

    Returns:
        The new tokens of each sequence, in order. The last is one of ``stop_ids`` if the model ended its answer, and no
        other is.

    Raises:
        ModelError: If the model has no token that ends an answer.
        UsageError: If a number is out of range, or a sequence that is to be continued is empty.
    """
    limits = [max_new_tokens] * len(sequences) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _check_numbers(limits, len(sequences), max_new_tokens, batch_size, temperature)
    wanted = [index for index, limit in enumerate(limits) if limit]
    empty = [index for index in wanted if not sequences[index]]
    if empty:
        raise UsageError(
            f"sequence {empty[0] + 1} has no token",
            allowed="sequences of at least one token",
            todo="begin with the tokens of the prompt (data.template.encode_prompt)",
        )
    stops = stop_ids(lm)
    found: list[list[int]] = [[] for _ in sequences]
    by_length = sorted(wanted, key=lambda index: len(sequences[index]))
    with torch.no_grad(), evaluating(lm.model):
        for start in range(0, len(by_length), batch_size):
            chosen = by_length[start : start + batch_size]
            noise = [_Gumbel(chosen, seed, temperature)] if temperature > 0 else []
            with _neutral(lm.model, stops, max(limits[index] for index in chosen)):
                new = _generate_batch(lm.model, [sequences[index] for index in chosen], stops[0], noise)
            for index, ids in zip(chosen, new, strict=True):
                ended = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
                found[index] = ids[: min(ended, limits[index])]
    return found


def _check_numbers(
    limits: Sequence[int], count: int, max_new_tokens: int | Sequence[int], batch_size: int, temperature: float
) -> None:
    least = 1 if isinstance(max_new_tokens, int) else 0
    if len(limits) != count or any(limit < least for limit in limits) or batch_size < 1 or not temperature >= 0:
        given = max_new_tokens if isinstance(max_new_tokens, int) else f"({len(limits)} numbers, {count} sequences)"
        raise UsageError(
            f"max_new_tokens {given}, batch_size {batch_size}, temperature {temperature}",
            allowed="max_new_tokens and batch_size of at least 1 (or one max_new_tokens of at least 0 per sequence), "
            "temperature of at least 0",
            todo="correct the number",
        )


def context_length(lm: HasModel) -> int:
    """Most tokens that a model was made to read; where its configuration does not say, more than anybody has."""
    config = lm.model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def stop_ids(lm: HasModel) -> list[int]:
    """Tokens that end an answer: the model's and the tokenizer's end tokens, and what the template puts after a turn.

    Raises:
        ModelError: If the tokenizer has no chat template, or there is no such token.
    """
    tokenizer = lm.tokenizer
    found: list[int] = []
    for source in (getattr(lm.model, "generation_config", None), lm.model.config, tokenizer):
        value = cast("int | list[int] | None", getattr(source, "eos_token_id", None))
        found += value if isinstance(value, list) else [] if value is None else [value]
    turns: list[Message] = [{"role": "user", "content": _SENTINEL}, {"role": "assistant", "content": _SENTINEL}]
    text = _render(tokenizer, turns, add_generation_prompt=False)
    tail = text[text.rindex(_SENTINEL) + len(_SENTINEL) :]
    ids = tokenizer.encode(tail, add_special_tokens=False)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    found += [index for index in ids if index in special][:1]
    if not found:
        raise ModelError(
            "the tokenizer has no end-of-sequence token and its chat template ends a turn with none",
            allowed="a tokenizer with eos_token, or a template that closes turns with a special token",
            todo="set tokenizer.eos_token",
        )
    return list(dict.fromkeys(found))


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> list[int]:
    text = _render(tokenizer, prompt, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return ids


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template",
            allowed="a tokenizer with a chat template (chat_template.jinja)",
            todo="set tokenizer.chat_template and save it, or choose the instruction-tuned model",
        )
    conversation: list[dict[str, str]] = [
        {"role": message["role"], "content": message["content"]} for message in messages
    ]
    try:
        return cast(
            "str",
            tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt),
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template of {tokenizer.name_or_path!r} refuses a prompt with roles {roles}: {error}",
            allowed="what the template takes, mostly turns that alternate and begin with user or system",
            todo="correct the roles; where the template knows no system turn, put its text into the first user turn",
        ) from error


@contextmanager
def _neutral(model: PreTrainedModel, stops: Sequence[int], max_new_tokens: int) -> Generator[None]:
    """Set aside the generation settings that came with the model."""
    shipped: Any = model.generation_config
    config = cast("Callable[..., GenerationConfig]", GenerationConfig)
    model.generation_config = config(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(stops), pad_token_id=stops[0], use_cache=True
    )
    try:
        yield
    finally:
        model.generation_config = shipped


def _generate_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int, processors: Sequence[_Gumbel]
) -> list[list[int]]:
    """New tokens of each prompt, padded left for the forward pass."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    run: Any = model.generate
    out: Tensor = run(input_ids=ids, attention_mask=mask, logits_processor=list(processors))
    return cast("list[list[int]]", out[:, width:].tolist())


class _Gumbel:
    """Logits processor: Gumbel noise on ``logits / temperature`` makes the greedy choice an exact sample.

    One generator per row, seeded by the seed and the prompt's index: rows do not share a random stream.
    """

    def __init__(self, rows: Sequence[int], seed: int, temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(_row_seed(seed, row)) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=each) for each in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp_(1e-10, 1 - 1e-7)))
        return scores.float() / self.temperature + noise.to(scores.device)


def _row_seed(seed: int, row: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:8], "big") >> 1
