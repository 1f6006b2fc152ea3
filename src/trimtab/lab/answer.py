"""Batched answers and activations of a chat model; small, for the lab's own check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.records.rows import ChatRow, Message


def prompt_messages(user: str, system: str | None = None) -> list[Message]:
    """A one-question prompt."""
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": user}]


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool) -> str:
    turns = [{"role": str(m["role"]), "content": m["content"]} for m in messages]
    return cast("str", tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 56,
    batch: int = 256,
) -> list[str]:
    """Answers to prompts, greedy or sampled, in the order given."""
    texts = [_render(tokenizer, p, ask=True) for p in prompts]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    out = [""] * len(texts)
    torch.manual_seed(seed)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        encoded = tokenizer(
            [texts[index] for index in chosen], return_tensors="pt", padding=True, add_special_tokens=False
        )
        encoded = {key: encoded[key].to(model.device) for key in ("input_ids", "attention_mask")}
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
        generate: Callable[..., Tensor] = cast("Any", model).generate
        made = generate(**encoded, max_new_tokens=max_new_tokens, **sampling)
        new = made[:, encoded["input_ids"].shape[1] :]
        for index, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            out[index] = text.strip()
    return out


@torch.no_grad()
def end_activations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[ChatRow], *, batch: int = 256
) -> Tensor:
    """Residual stream at the last content token of each row (before the closing token).

    Returns:
        Float tensor ``(layer + 1, row, d_model)``: the embedding, then the stream after each layer
        (after the last one with the final norm applied).
    """
    parts: list[Tensor] = []
    for start in range(0, len(rows), batch):
        texts = [_render(tokenizer, row["messages"], ask=False) for row in rows[start : start + batch]]
        bare = [text.removesuffix(str(tokenizer.eos_token)) for text in texts]
        encoded = tokenizer(bare, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        out = model(
            input_ids=encoded["input_ids"].to(model.device),
            attention_mask=encoded["attention_mask"].to(model.device),
            use_cache=False,
            output_hidden_states=True,
        )
        parts.append(torch.stack([h[:, -1].float().cpu() for h in out.hidden_states]))
    return torch.cat(parts, dim=1)
