"""One pass of the frozen host over what was said: activations of every claim's tokens, and how likely they were.

All claims of an answer are read in one pass: to a causal model each reads as if nothing came after it. Answers to the
same prompt, as the groups of GRPO are, share the keys and values of the prompt where it is long enough to be worth it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerBase

from trimtab.data.template import encode_prompt
from trimtab.errors import DataError
from trimtab.lens.spans import Spans, checked
from trimtab.model.base import LanguageModel
from trimtab.model.capture import evaluating, logits_where_learned, reader
from trimtab.model.hooks import reading
from trimtab.records.claims import Prompt, Said
from trimtab.records.site import Site
from trimtab.records.training import IGNORED

SHARED_LEAST: Final = 64
"""Tokens that a shared prompt has at least for its keys and values to be kept: below, one larger batch is faster."""

CONFIDENCE: Final = ("log_probability", "least_log_probability", "most_entropy")
"""What ``ClaimPass.confidence`` holds: over the tokens of a claim, the sum and the least of ``log p(token | before)``,
and the highest entropy of the distributions that predict them; nats."""

_CHUNK: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Read:
    """A tokenised answer up to its last claim.

    Attributes:
        input_ids: Prompt and answer.
        prompt: Tokens of the prompt.
        positions: Tokens of any claim, rising.
        claims: For each claim, places of its tokens among ``positions``.
    """

    input_ids: tuple[int, ...]
    prompt: int
    positions: tuple[int, ...]
    claims: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class ClaimPass:
    """What one pass over some answers brings, claim by claim, in the order of answers and claims.

    Attributes:
        spans: Activations of the claims' tokens, by site.
        confidence: ``CONFIDENCE`` of each claim; ``None`` where it was not asked for.
        sure: ``log p(token | before)`` and the entropy of what predicts it, in nats, for each token of ``spans``;
            ``None`` where it was not asked for.
    """

    spans: Mapping[Site, Spans]
    confidence: Float[Tensor, "claim figure"] | None
    sure: Float[Tensor, "token two"] | None


class Placer:
    """Turns claims into tokens; every prompt is tokenised once.

    The prompt is tokenised as for generation and the answer by itself after it, so that the host sees the tokens that
    a student would have generated.

    Args:
        tokenizer: The host's tokenizer; one that knows character offsets (a fast one).
        max_length: Most tokens of prompt and answer together: the host's context.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._prompts: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokens of a prompt with the opening of the answer."""
        key = tuple((turn["role"], turn["content"]) for turn in prompt)
        if key not in self._prompts:
            self._prompts[key] = tuple(encode_prompt(self._tokenizer, prompt))
        return self._prompts[key]

    def __call__(self, said: Said, index: int = 0) -> Read:
        """The tokens that the characters of each claim touch.

        Raises:
            DataError: If prompt and answer are longer than the host's context, or a claim does not stand where it says.
        """
        prompt = self.prompt(said.prompt)
        found = self._tokenizer(
            said.answer, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        answer = cast("list[int]", found["input_ids"])
        offsets = cast("list[tuple[int, int]]", found["offset_mapping"])
        if len(prompt) + len(answer) > self._max_length:
            raise DataError(
                f"answer {index + 1}: {len(prompt) + len(answer)} tokens with its prompt",
                allowed=f"at most {self._max_length} tokens, the host's context",
                todo="shorten the prompt, or lower the most tokens that the student may generate",
            )
        touched: list[list[int]] = []
        for claim in said.claims:
            places = [place for place, (a, b) in enumerate(offsets) if a < claim.end and b > claim.start and a < b]
            if not places or said.answer[claim.start : claim.end] != claim.text:
                raise DataError(
                    f"answer {index + 1}: no claim {claim.text!r} at {claim.start}-{claim.end} of "
                    f"{len(said.answer)} characters",
                    allowed="claims that stand in their answer",
                    todo="pass the claims that were found in this very answer",
                )
            touched.append(places)
        positions = sorted({place for places in touched for place in places})
        rank = {place: number for number, place in enumerate(positions)}
        last = positions[-1] + 1 if positions else 0
        return Read(
            input_ids=prompt + tuple(answer[:last]),
            prompt=len(prompt),
            positions=tuple(len(prompt) + place for place in positions),
            claims=tuple(tuple(rank[place] for place in places) for places in touched),
        )


def read_claims(
    host: LanguageModel,
    rows: Sequence[Read],
    sites: Sequence[Site],
    *,
    confidence: bool,
    max_tokens: int = 8192,
    shared_least: int = SHARED_LEAST,
) -> ClaimPass:
    """Read the claims of some answers, each answer once.

    Without ``confidence`` the pass stops at the deepest site.

    Args:
        host: The frozen host; or another model whose own activations are to be read.
        rows: Tokenised answers with their claims.
        sites: Where to read.
        confidence: Whether to read how likely the tokens were, too.
        max_tokens: Most tokens in one forward pass, padding counted.
        shared_least: Shortest shared prompt, in tokens, whose keys and values are kept.

    Raises:
        UsageError: If the host lacks a site.
        DataError: If an activation is not finite.
    """
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row.positions))
    kept = {site: torch.zeros(starts[-1], host.d_model) for site in sites}
    sure = torch.zeros(starts[-1], 2)
    with torch.no_grad(), evaluating(host.model):
        for batch in _batches(rows, max_tokens, shared_least):
            _forward(host, batch, rows, starts, kept, sure if confidence else None)
    claims = [
        torch.tensor([start + place for place in places])
        for row, start in zip(rows, starts, strict=False)
        for places in row.claims
    ]
    if not claims:
        empty = Spans(values=torch.zeros(0, host.d_model), offsets=torch.zeros(1, dtype=torch.int64))
        return ClaimPass(
            spans=dict.fromkeys(sites, empty),
            confidence=torch.zeros(0, len(CONFIDENCE)) if confidence else None,
            sure=torch.zeros(0, 2) if confidence else None,
        )
    offsets = functional.pad(torch.tensor([len(places) for places in claims]).cumsum(0), (1, 0))
    flat = torch.cat(claims)
    spans = {
        site: checked(Spans(values=values[flat], offsets=offsets), what=f"activations of {host.name} at {site}")
        for site, values in kept.items()
    }
    if not confidence:
        return ClaimPass(spans=spans, confidence=None, sure=None)
    return ClaimPass(spans=spans, confidence=_figures(sure[flat], offsets), sure=sure[flat])


def _figures(sure: Float[Tensor, "token two"], offsets: Int[Tensor, " edge"]) -> Float[Tensor, "claim figure"]:
    owner = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    zeros = torch.zeros(len(offsets) - 1)
    return torch.stack(
        [
            zeros.index_add(0, owner, sure[:, 0]),
            zeros.scatter_reduce(0, owner, sure[:, 0], "amin", include_self=False),
            zeros.scatter_reduce(0, owner, sure[:, 1], "amax", include_self=False),
        ],
        1,
    )


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Answers in one forward pass, and how many tokens of their prompt they share (0: none)."""

    rows: tuple[int, ...]
    shared: int


def _batches(rows: Sequence[Read], max_tokens: int, shared_least: int) -> Iterator[_Batch]:
    """Answers to the same long prompt together, all others by length."""
    groups: dict[tuple[int, ...], list[int]] = {}
    alone: list[int] = []
    for index, row in enumerate(rows):
        if not row.positions:
            continue
        if row.prompt - 1 >= max(1, shared_least):
            groups.setdefault(row.input_ids[: row.prompt - 1], []).append(index)
        else:
            alone.append(index)
    for shared, group in groups.items():
        if len(group) > 1:
            yield from _filled(rows, group, max_tokens, len(shared))
        else:
            alone += group
    yield from _filled(rows, alone, max_tokens, 0)


def _filled(rows: Sequence[Read], group: Sequence[int], max_tokens: int, shared: int) -> Iterator[_Batch]:
    ordered = sorted(group, key=lambda index: len(rows[index].input_ids), reverse=True)
    place = 0
    while place < len(ordered):
        width = len(rows[ordered[place]].input_ids) - shared
        count = max(1, max_tokens // width)
        yield _Batch(rows=tuple(ordered[place : place + count]), shared=shared)
        place += count


def _forward(
    host: LanguageModel,
    batch: _Batch,
    rows: Sequence[Read],
    starts: Sequence[int],
    kept: Mapping[Site, Float[Tensor, "token d_model"]],
    sure: Float[Tensor, "token two"] | None,
) -> None:
    """Write a batch's activations into ``kept``; log-probabilities and entropies into ``sure``, if wanted."""
    mine = [rows[index] for index in batch.rows]
    tails = [row.input_ids[batch.shared :] for row in mine]
    width = max(map(len, tails))
    ids = torch.tensor([[*tail, *[tail[-1]] * (width - len(tail))] for tail in tails], device=host.device)
    real = torch.arange(width)[None] < torch.tensor([len(tail) for tail in tails])[:, None]
    mask = functional.pad(real.long(), (batch.shared, 0), value=1).to(host.device)
    line = torch.tensor([number for number, row in enumerate(mine) for _ in row.positions])
    place = torch.tensor([position - batch.shared for row in mine for position in row.positions])
    target = torch.tensor([starts[index] + rank for index in batch.rows for rank in range(len(rows[index].positions))])

    def keep(site: Site, activation: Tensor) -> None:
        found = activation[line.to(activation.device), place.to(activation.device)]
        kept[site].index_copy_(0, target, found.float().cpu())

    cache = _shared(host, mine[0].input_ids[: batch.shared], tuple(kept), len(mine), whole=sure is not None)
    if sure is None:
        with reader(host, tuple(kept)) as run:
            run({"input_ids": ids, "attention_mask": mask}, keep, cache)
        return
    learned = torch.zeros(real.shape, dtype=torch.bool)
    learned[line, place] = True
    labels = torch.where(learned.to(host.device), ids, IGNORED)
    with reading(host.model, dict.fromkeys(kept, lambda activation, site: keep(site, activation))):
        logits = logits_where_learned(host.model, ids, mask, labels, cache)
    sure[target] = torch.cat(
        [
            _sureness(some, right)
            for some, right in zip(torch.split(logits, _CHUNK), torch.split(ids[line, place], _CHUNK), strict=True)
        ]
    ).cpu()


def _sureness(logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> Float[Tensor, "token two"]:
    logs = torch.log_softmax(logits.float(), -1)
    entropy = -(logs.exp() * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(-1)
    return torch.stack([logs.gather(1, targets[:, None])[:, 0], entropy], 1)


def _shared(
    host: LanguageModel, ids: Sequence[int], sites: Sequence[Site], lines: int, *, whole: bool
) -> DynamicCache | None:
    """Keys and values of a shared prompt, once per line; up to the deepest site unless the ``whole`` model runs."""
    if not ids:
        return None
    cache = DynamicCache(config=host.model.config)
    tokens = torch.tensor([list(ids)], device=host.device)
    if whole:
        host.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    else:
        with reader(host, sites) as run:
            run({"input_ids": tokens}, lambda _site, _activation: None, cache)
    cache.batch_repeat_interleave(lines)
    return cache
