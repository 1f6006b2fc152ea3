"""A lens that reads while the model generates: one score per token, from activations that are computed anyway.

Generation runs every token through the model once, to predict the next one. A read hook at the lens's site keeps that
token's activation, and the lens scores them in blocks. No forward pass is added and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache

from trimtab.errors import UsageError
from trimtab.lens.base import Lens
from trimtab.model.base import HasModel
from trimtab.model.generate import stop_ids
from trimtab.model.hooks import reading
from trimtab.records.site import Site

BLOCK: Final = 64
"""Steps whose activations are kept until they are scored together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """What was read of one sequence.

    Attributes:
        prompt_ids: What it began with.
        token_ids: The generated tokens that went through the model: all but the one that ended the answer, and but the
            last where generation stopped at a number of tokens.
        scores: The lens's score of each of them, float32, on the CPU.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    scores: Float[Tensor, " token"]


class Scores:
    """Token scores of every sequence that was generated while the lens watched.

    Args:
        lens: The lens.
        stops: Tokens that end an answer.
    """

    def __init__(self, lens: Lens, stops: Sequence[int]) -> None:
        self._lens = lens
        self._stops = frozenset(stops)
        self._batches: list[_Batch] = []
        self._expected = False
        self._steps = 0
        self._known: tuple[int, dict[tuple[int, ...], list[Watched]]] = (0, {})

    @property
    def sequences(self) -> tuple[Watched, ...]:
        """All sequences, in the order in which batches ran and rows stand in them; also while the model generates."""
        return tuple(watched for batch in self._batches for watched in batch.watched(self._stops))

    def of(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Float[Tensor, " token"]:
        """Scores of the generated tokens of one sequence, one per token.

        Args:
            prompt_ids: What it began with.
            token_ids: What was generated, with or without the token that ended it (as ``continue_ids`` gives it).

        Returns:
            NaN for the last token if it did not go through the model: the one that ended the answer, or the one with
            which generation stopped.

        Raises:
            UsageError: If no such sequence was generated while the lens watched.
        """
        prompt, tokens = tuple(prompt_ids), tuple(token_ids)
        for one in self._by_prompt().get(prompt, []):
            count = min(len(one.token_ids), len(tokens))
            if one.token_ids[:count] == tokens[:count] and count >= len(tokens) - 1:
                return nn.functional.pad(one.scores[:count], (0, len(tokens) - count), value=torch.nan)
        raise UsageError(
            f"a sequence of {len(prompt)} and {len(tokens)} tokens",
            allowed="one that was generated inside the `with`",
            todo="pass the tokens of the prompt and those that were generated after them, unchanged",
        )

    def _by_prompt(self) -> dict[tuple[int, ...], list[Watched]]:
        if self._known[0] != self._steps:
            found: dict[tuple[int, ...], list[Watched]] = {}
            for one in self.sequences:
                found.setdefault(one.prompt_ids, []).append(one)
            self._known = self._steps, found
        return self._known[1]

    def expect(self, ids: Tensor, mask: object, cache: object) -> None:
        """The model is about to read something (`[batch, token]`).

        Args:
            ids: What it reads: prompts, or the next token of each.
            mask: Where prompts are real; anything but a tensor: everywhere.
            cache: What it has read before; anything but a cache: this is no generation, and is not watched.
        """
        self._steps += 1
        self._expected = isinstance(cache, Cache) and cache.get_seq_length() > 0 and bool(self._batches)
        if self._expected:
            self._batches[-1].tokens.append(ids)
        elif isinstance(cache, Cache):
            real = mask if isinstance(mask, Tensor) else torch.ones_like(ids)
            self._batches.append(_Batch(self._lens, ids, real))

    def __call__(self, activation: Float[Tensor, "batch token d_model"], site: Site) -> None:
        """Keep the activations of generated tokens (a ``ReadHook``); other passes through the layers are ignored."""
        del site
        if self._expected:
            self._expected = False
            self._batches[-1].keep(activation)


class _Batch:
    """One call of ``generate``."""

    def __init__(self, lens: Lens, prompts: Tensor, mask: Tensor) -> None:
        self._lens, self._prompts, self._mask = lens, prompts, mask
        self.tokens: list[Tensor] = []
        self._waiting: list[Tensor] = []
        self._scored: list[Tensor] = []

    def keep(self, activation: Tensor) -> None:
        self._waiting.append(activation)
        if len(self._waiting) == BLOCK:
            self._score()

    def _score(self) -> None:
        """Score what is waiting, in one piece."""
        values = torch.cat(self._waiting, dim=1).cpu()
        with torch.no_grad():
            scores = self._lens.tokens(values.flatten(0, 1))
        self._scored.append(scores.float().reshape(values.shape[:2]))
        self._waiting = []

    def watched(self, stops: frozenset[int]) -> list[Watched]:
        if self._waiting:
            self._score()
        rows = len(self._prompts)
        scores = torch.cat(self._scored, dim=1) if self._scored else torch.zeros(rows, 0)
        tokens = torch.cat(self.tokens, dim=1) if self.tokens else torch.zeros(rows, 0)
        found: list[Watched] = []
        for row, ids in enumerate(cast("list[list[int]]", tokens.tolist())):
            ended = next((place for place, token in enumerate(ids) if token in stops), len(ids))
            prompt = cast("list[int]", self._prompts[row][self._mask[row].bool()].tolist())
            found.append(
                Watched(prompt_ids=tuple(prompt), token_ids=tuple(ids[:ended]), scores=scores[row, :ended].clone())
            )
        return found


@contextmanager
def watching(lm: HasModel, lens: Lens) -> Generator[Scores]:
    """Read with a lens whatever the model generates, until the context ends.

    Works with ``generate``, ``continue_ids`` and Hugging Face's own ``model.generate`` with a cache, greedy or sampled
    (no beam search and no assisted decoding: there, a row is not one sequence). What is generated is the same bit for
    bit. The lens reads each token as it is at that point; causal models read a finished text no differently.

    Args:
        lm: Model and tokenizer; the model may be another than the lens's host (a student), and then the lens reads the
            student.
        lens: Any lens; its ``tokens`` is used, whatever its pooling.

    Yields:
        The scores, also while the model is still generating.

    Raises:
        UsageError: If the model lacks the lens's site.
        ModelError: If no token ends an answer.
    """
    scores = Scores(lens, stop_ids(lm))

    def about_to_read(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        del module, args
        scores.expect(cast("Tensor", kwargs["input_ids"]), kwargs.get("attention_mask"), kwargs.get("past_key_values"))

    with reading(lm.model, {lens.card.site: scores}):
        handle = lm.model.register_forward_pre_hook(about_to_read, with_kwargs=True)
        try:
            yield scores
        finally:
            handle.remove()
