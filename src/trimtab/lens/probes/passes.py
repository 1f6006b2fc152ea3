"""One pass of the host over some rows: activations, input embeddings and the host's own confidence.

The forward pass that brings the activations also brings the confidence: the language-model head runs at the positions
that predict the tokens in question and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trimtab.data.batches import Batch, batches, pad_id
from trimtab.lens.spans import Spans, checked, starts_of
from trimtab.model.base import LanguageModel
from trimtab.model.capture import evaluating, logits_where_learned
from trimtab.model.hooks import reading
from trimtab.model.sites import check_site
from trimtab.records.lens import Selected
from trimtab.records.site import Site
from trimtab.records.training import IGNORED, Encoded

Progress: TypeAlias = Callable[[int, int], None]

_CHUNK: Final = 512


@dataclass(frozen=True, kw_only=True)
class OutputFigures:
    """How sure the host itself is of some tokens of each example; not a number where nothing predicts them.

    Attributes:
        log_probability_mean: Mean of ``log p(token | tokens before)``, nats.
        log_probability_least: Lowest of them.
        entropy_mean: Mean entropy of the distributions that predict the tokens, nats.
        entropy_most: Highest of them.
    """

    log_probability_mean: Float[Tensor, " example"]
    log_probability_least: Float[Tensor, " example"]
    entropy_mean: Float[Tensor, " example"]
    entropy_most: Float[Tensor, " example"]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What can be read of some tokens without looking inside the host.

    Attributes:
        output: The host's confidence in them.
        embedded: Their mean input embedding, float32.
    """

    output: OutputFigures
    embedded: Float[Tensor, "example d_embedding"]

    def part(self, first: int, last: int) -> Plain:
        """The examples from ``first`` up to ``last``, as views."""
        output = OutputFigures(**{name: figure[first:last] for name, figure in vars(self.output).items()})
        return Plain(output=output, embedded=self.embedded[first:last])


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What one pass over some rows brings.

    Attributes:
        spans: Activations of the selected tokens, by site.
        plain: The selected tokens from outside.
        turn: The whole turns from outside, up to the last selected token; ``None`` where that is what is selected.
    """

    spans: Mapping[Site, Spans]
    plain: Plain
    turn: Plain | None

    def part(self, first: int, last: int) -> Passed:
        """The examples from ``first`` up to ``last``, as views."""
        return Passed(
            spans={site: _part(spans, first, last) for site, spans in self.spans.items()},
            plain=self.plain.part(first, last),
            turn=None if self.turn is None else self.turn.part(first, last),
        )


def _part(spans: Spans, first: int, last: int) -> Spans:
    offsets = spans.offsets[first : last + 1]
    return Spans(values=spans.values[int(offsets[0]) : int(offsets[-1])], offsets=offsets - offsets[0])


def output_figures(
    lm: LanguageModel, rows: Sequence[Selected], *, max_tokens: int = 4096, progress: Progress | None = None
) -> OutputFigures:
    """How sure a model is of the selected tokens of some rows.

    Args:
        lm: The model.
        rows: Tokenised rows with the tokens whose probability counts.
        max_tokens: Most tokens in one forward pass, padding counted.
        progress: Called with rows done and rows in all.
    """
    return read_pass(lm, rows, (), max_tokens=max_tokens, progress=progress).plain.output


def read_pass(
    lm: LanguageModel,
    rows: Sequence[Selected],
    sites: Sequence[Site],
    *,
    turns: Sequence[Selected] | None = None,
    max_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Passed:
    """One forward pass over some rows.

    Args:
        lm: The model that reads.
        rows: Tokenised rows with the positions to keep.
        sites: Where to read.
        turns: The same rows with the positions of the whole turns, where those are more.
        max_tokens: Most tokens in one forward pass, padding counted.
        dtype: Floating type of the activations that are kept.
        progress: Called with rows done and rows in all.

    Raises:
        UsageError: If the model lacks a site.
        DataError: If a row selects no token, or an activation is not finite.
    """
    for site in sites:
        check_site(lm.model, site)
    wanted = _Wanted.of(rows, turns or rows)
    kept = {site: torch.zeros(int(wanted.chosen.sum()), lm.d_model, dtype=dtype) for site in sites}
    sure = torch.full((len(wanted.owner), 2), torch.nan)
    inputs = cast("nn.Embedding", lm.model.get_input_embeddings())
    selected, whole = torch.zeros(2, len(rows), inputs.embedding_dim)
    encoded = [Encoded(input_ids=row.input_ids, labels=row.input_ids, source=row.source) for row in rows]
    done = 0
    for indices, batch in batches(encoded, pad_id(lm.tokenizer), max_tokens=max_tokens):
        places = torch.cat([torch.arange(*wanted.ends(index)) for index in indices])
        lines = torch.tensor([line for line, index in enumerate(indices) for _ in range(*wanted.ends(index))])
        _forward(lm, batch, wanted, places, lines, kept, sure)
        with torch.no_grad():
            vectors = inputs(batch.input_ids[lines, wanted.position[places]].to(lm.device)).float().cpu()
        whole.index_add_(0, wanted.owner[places], vectors)
        mine = wanted.chosen[places]
        selected.index_add_(0, wanted.owner[places[mine]], vectors[mine])
        done += len(indices)
        if progress is not None:
            progress(done, len(rows))
    offsets = torch.tensor(starts_of(rows))
    every = torch.ones_like(wanted.chosen)
    return Passed(
        spans={
            site: checked(Spans(values=values, offsets=offsets), what=f"activations of {lm.name} at {site}")
            for site, values in kept.items()
        },
        plain=_plain(sure, wanted, wanted.chosen, selected),
        turn=None if turns is None else _plain(sure, wanted, every, whole),
    )


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Tokens that are looked at, those of all rows one after another.

    Attributes:
        starts: Row ``i`` has the tokens from ``starts[i]`` to ``starts[i + 1]``.
        owner: Row of each.
        position: Place of each in its row.
        chosen: Whether it is selected, and not only part of the turn.
    """

    starts: Sequence[int]
    owner: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    chosen: Bool[Tensor, " token"]

    @staticmethod
    def of(rows: Sequence[Selected], turns: Sequence[Selected]) -> _Wanted:
        said = [sorted({*row.positions, *turn.positions}) for row, turn in zip(rows, turns, strict=True)]
        selected = [set(row.positions) for row in rows]
        starts = list(accumulate(map(len, said), initial=0))
        return _Wanted(
            starts=starts,
            owner=torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(starts).diff()),
            position=torch.tensor([place for at in said for place in at], dtype=torch.int64),
            chosen=torch.tensor(
                [place in kept for at, kept in zip(said, selected, strict=True) for place in at], dtype=torch.bool
            ),
        )

    def ends(self, row: int) -> tuple[int, int]:
        return self.starts[row], self.starts[row + 1]


def _forward(
    lm: LanguageModel,
    batch: Batch,
    wanted: _Wanted,
    places: Int[Tensor, " token"],
    lines: Int[Tensor, " token"],
    kept: Mapping[Site, Float[Tensor, "selected d_model"]],
    sure: Float[Tensor, "all two"],
) -> None:
    """Write the activations of a batch's selected tokens, and log-probability and entropy of those predicted."""
    at, mine = wanted.position[places], wanted.chosen[places]
    rank = (wanted.chosen.cumsum(0) - 1)[places[mine]]
    line, position = lines[mine].to(lm.device), at[mine].to(lm.device)

    def keep(activation: Tensor, site: Site) -> None:
        kept[site].index_copy_(0, rank, activation[line, position].to(kept[site].dtype).cpu())

    labels = torch.full_like(batch.input_ids, IGNORED)
    labels[lines, at] = batch.input_ids[lines, at]
    labels, inputs = labels.to(lm.device), batch.to(lm.device)
    with torch.no_grad(), evaluating(lm.model), reading(lm.model, dict.fromkeys(kept, keep)):
        logits = logits_where_learned(lm.model, inputs.input_ids, inputs.attention_mask, labels)
        targets = labels[:, 1:][labels[:, 1:] != IGNORED]
        parts = [
            _sureness(some, right)
            for some, right in zip(torch.split(logits, _CHUNK), torch.split(targets, _CHUNK), strict=True)
        ]
    sure[places[at > 0]] = torch.cat(parts).cpu()


def _sureness(
    logits: Float[Tensor, "predicted vocab"], targets: Int[Tensor, " predicted"]
) -> Float[Tensor, "predicted two"]:
    logs = torch.log_softmax(logits.float(), -1)
    entropy = -(logs.exp() * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(-1)
    return torch.stack([logs.gather(1, targets[:, None])[:, 0], entropy], 1)


def _plain(
    sure: Float[Tensor, "token two"],
    wanted: _Wanted,
    chosen: Bool[Tensor, " token"],
    embedded: Float[Tensor, "example d_embedding"],
) -> Plain:
    """Means and extremes by example over some of the tokens; ``embedded`` holds sums."""
    examples = len(embedded)
    tokens = torch.zeros(examples).index_add_(0, wanted.owner[chosen], torch.ones(int(chosen.sum())))
    predicted = chosen & ~sure[:, 0].isnan()
    known, owner = sure[predicted], wanted.owner[predicted]
    counts = torch.zeros(examples).index_add_(0, owner, torch.ones(len(owner)))
    means = torch.zeros(examples, 2).index_add_(0, owner, known) / counts[:, None]
    unknown = torch.full((examples,), torch.nan)
    return Plain(
        output=OutputFigures(
            log_probability_mean=means[:, 0],
            log_probability_least=unknown.scatter_reduce(0, owner, known[:, 0], "amin", include_self=False),
            entropy_mean=means[:, 1],
            entropy_most=unknown.scatter_reduce(0, owner, known[:, 1], "amax", include_self=False),
        ),
        embedded=embedded / tokens[:, None],
    )
