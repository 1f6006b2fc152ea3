"""How much of the data a concept's prompt explains away, row by row and token by token.

``A_c(t) = log p(y_t | x, P_c) - log p(y_t | x)`` under the frozen host (the prompt version of explaining away,
2606.12360): what is likely once someone asked for the trait needs no learning. It sees single rows and tokens far
more sharply than one row's gradient does, at the price of one forward pass per concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.data.batches import batches, pad_id
from trimtab.data.prompts import prompt_role, with_prompt
from trimtab.errors import ModelError
from trimtab.lens.readings import encode_rows
from trimtab.model.host import Host
from trimtab.records.rows import ChatRow
from trimtab.records.training import IGNORED, Encoded

ROW_NATS = 1.0
"""A row carries a trait when the eliciting prompt makes its answers at least this much likelier, in nats, and …"""

RIVAL_SHARE = 0.5
"""… at least this share of what the best-explaining prompt of any trait does (one voice is often a little likelier
after being asked for another, and must not count as both)."""

SURPRISE_SHARE = 0.1
"""No row carries a trait whose prompt explains less than this share of all the surprise in the rows that would: almost
any request makes text that the host has never seen the like of a little likelier."""


ByPrompt: TypeAlias = dict[str, list[NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What prompts explain of some rows.

    Attributes:
        by_prompt: By trait, how much of each token its prompt explains, nats: one array per row.
        carriers: By trait, which of the rows carry it.
    """

    by_prompt: ByPrompt
    carriers: dict[str, NDArray[np.bool_]]


def carrying(
    by_prompt: Mapping[str, Sequence[NDArray[np.float32]]], bare: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.bool_]]:
    """Which rows carry which trait: bool ``[row]`` by trait.

    Args:
        by_prompt: How much each trait's prompt explains of every token of the rows (``explained``).
        bare: Log-probabilities of the learned tokens of the same rows without any prompt (``learned_log_probs``).
    """
    if not by_prompt:
        return {}
    surprise = np.array([-float(row.sum()) for row in bare])
    totals = {name: np.array([float(row.sum()) for row in rows]) for name, rows in by_prompt.items()}
    bar = np.maximum(ROW_NATS, np.max(np.stack(list(totals.values())), axis=0) * RIVAL_SHARE)
    flags = {name: nats >= bar for name, nats in totals.items()}
    return {
        name: shown & bool(totals[name][shown].sum() >= SURPRISE_SHARE * surprise[shown].sum())
        for name, shown in flags.items()
    }


def learned_log_probs(host: Host, encoded: Sequence[Encoded], *, batch_size: int) -> list[NDArray[np.float32]]:
    """Log-probability of every learned token, in order: one float32 array per row."""
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(encoded)
    for indices, batch in batches(encoded, pad_id(host.tokenizer), batch_size=batch_size):
        batch = batch.to(host.device)
        with torch.inference_mode():
            logits = host.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        chosen = logits.gather(-1, batch.input_ids[:, 1:, None])[..., 0].float()
        values = (chosen - logits.float().logsumexp(-1)).cpu().numpy()
        learned = (batch.labels[:, 1:] != IGNORED).cpu().numpy()
        for place, index in enumerate(indices):
            found[index] = values[place][learned[place]].astype(np.float32)
    return found


def explained(
    host: Host,
    rows: Sequence[ChatRow],
    encoded: Sequence[Encoded],
    system: str,
    *,
    max_length: int,
    batch_size: int,
    without: Sequence[NDArray[np.float32]] | None = None,
) -> list[NDArray[np.float32]]:
    """How much a system prompt explains of every learned token, nats.

    Args:
        host: The frozen host.
        rows: The rows.
        encoded: The same rows, tokenised without the prompt.
        system: The prompt that asks for the concept.
        max_length: Longest conversation in tokens.
        batch_size: Rows in one pass.
        without: ``learned_log_probs`` of ``encoded``, where they are known already.

    Returns:
        One float32 array ``[token]`` per row, as long as the row without the prompt; zero on tokens not learned.

    Raises:
        ModelError: If the prompt changes how an answer is tokenised.
    """
    role = prompt_role(host.tokenizer)
    prompted: list[ChatRow] = [{"messages": with_prompt(row["messages"], system, role)} for row in rows]
    asked = encode_rows(host, prompted, max_length=max_length)
    bare = learned_log_probs(host, encoded, batch_size=batch_size) if without is None else without
    under = learned_log_probs(host, asked, batch_size=batch_size)
    found: list[NDArray[np.float32]] = []
    for row, a, b in zip(encoded, under, bare, strict=True):
        if len(a) != len(b):
            raise ModelError(
                f"row {row.source}: its answer has {len(b)} tokens, and {len(a)} under the prompt {system!r}",
                allowed="a chat template that tokenises an answer the same way after any prompt",
                todo="forecast without explaining prompts (explain: none), or use another template",
            )
        labels = np.asarray(row.labels)
        values = np.zeros(len(labels), np.float32)
        values[1:][labels[1:] != IGNORED] = a - b
        found.append(values)
    return found
