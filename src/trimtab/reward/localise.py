"""Where claims end, read from the frozen host: a logistic lens on single tokens, and the claims that follow from it.

RLFR (2602.10067, section 3) finds claims with a small causal transformer over the host's activations. This one is a
logistic regression on the activations of one layer, token by token: the host is a causal transformer already, and what
it knows of a claim that has just ended stands in its residual stream. It costs one forward pass up to that layer.
What that gives up: the lens cannot weigh one token against others, so the start of a claim is not read but follows from
the end before it, and the stance of a claim is not read at all.

Labels come from any splitter's claims on other answers: the token with a claim's last letter or digit is positive,
every other token negative. Not the full stop: whether one follows is not known at the last word, so one and the same
activation would be positive in "born in Kelm and works ..." and negative in "born in Kelm." (on the lab, labels on the
full stop give a recall of .81 where these give .95).
Answers are read as plain text, without prompt and chat template, in fitting and in use alike, because a ``Splitter`` is
given no more than answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.errors import DataError, UsageError
from trimtab.lens.answers import answer_texts
from trimtab.lens.base import check_host
from trimtab.lens.probes.examples import Examples, checked_examples
from trimtab.lens.probes.linear import STRENGTHS, LogisticLens, fit_logistic
from trimtab.lens.spans import Progress, Spans, read_spans
from trimtab.model.generate import context_length
from trimtab.model.host import Host
from trimtab.records.claims import Claim
from trimtab.records.figures import Figure
from trimtab.records.lens import LensCard, Selected
from trimtab.records.rows import ChatRow, Fit, HeldOut, Rows, SplitT_co, Tune
from trimtab.records.site import Site
from trimtab.reward.claims import sentences
from trimtab.roles import Splitter
from trimtab.stats import bootstrap, wilson
from trimtab.stats.arrays import Floats

THRESHOLD: Final = "threshold"
"""Setting on a lens's card: log-odds from which a token ends a claim."""

_CLOSING: Final = re.compile(r"[\W_]+$")


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """An answer as tokens.

    Attributes:
        ids: What the host reads.
        places: Which of them are characters of the answer, rising.
        spans: First character and the one after the last of each of those.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def ends(self, claims: Sequence[Claim]) -> frozenset[int]:
        """Which of ``places`` (by rank) hold the last letter or digit of a claim."""
        starts = [start for start, _ in self.spans]
        said = [(claim.start, len(_CLOSING.sub("", claim.text))) for claim in claims]
        ranks = np.searchsorted(starts, [start + length for start, length in said if length], side="left") - 1
        return frozenset(int(rank) for rank in ranks if rank >= 0)


def fit_localiser(
    host: Host,
    fit: Rows[ChatRow, Fit],
    tune: Rows[ChatRow, Tune],
    splitter: Splitter,
    *,
    sites: Sequence[Site] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    max_tokens: int = 4096,
    progress: Progress | None = None,
) -> LogisticLens:
    """Fit the lens on the last assistant turns of some rows.

    Every layer is fitted on Fit; the penalty's strength is chosen by AUROC on Tune (``fit_logistic``), then layer and
    threshold by the highest F1 of claim ends on Tune, ties going to the earlier layer. All tokens of all rows are held
    in memory at every site: name a few ``sites`` where the host is large.

    Args:
        host: The frozen host.
        fit: What is learned from.
        tune: What chooses layer, strength and threshold.
        splitter: Whose claims are learned.
        sites: Where to read; ``None``: the residual stream after every layer.
        strengths: Values of ``C`` in rising order.
        max_tokens: Most tokens in one forward pass, padding counted.
        progress: Called with answers read and answers in all.

    Returns:
        The lens, the threshold among the settings of its card.

    Raises:
        DataError: If an answer is longer than the host's context or the tokens of Fit or Tune are of one class only.
        UsageError: If the model lacks a site.
    """
    places = tuple(sites) if sites is not None else tuple(Site(layer) for layer in range(host.n_layers))
    answers = [answer_texts(fit), answer_texts(tune)]
    texts = [tokenise(host, side) for side in answers]
    labels = [_labels(side, splitter(said)) for side, said in zip(texts, answers, strict=True)]
    spans = read_spans(host, _selected([*texts[0], *texts[1]]), places, max_tokens=max_tokens, progress=progress)
    card = LensCard(
        concept="claim end",
        meaning="the last word of a claim ends here",
        kind="logistic",
        site=places[0],
        pooling="last",
        model=host.name,
        model_hash=host.content_hash,
        provenance={"fit": fit.source, "tune": tune.source, "splitter": _name(splitter)},
    )
    best: tuple[float, LogisticLens] | None = None
    for site in places:
        rows = len(texts[0])
        learned = _examples(spans[site].take(range(rows)), labels[0], Fit)
        chosen = _examples(spans[site].take(range(rows, len(spans[site]))), labels[1], Tune)
        lens = fit_logistic(learned, chosen, replace(card, site=site), pooling="last", strengths=strengths)
        threshold, f1 = best_threshold(lens.tokens(chosen.spans.values), chosen.labels)
        if best is None or f1 > best[0]:
            settings = {**lens.card.settings, THRESHOLD: threshold, "tune_f1": f1}
            best = f1, replace(lens, card=replace(lens.card, settings=settings))
    assert best is not None
    return best[1]


def best_threshold(scores: Float[Tensor, " token"], labels: Bool[Tensor, " token"]) -> tuple[float, float]:
    """The threshold with the highest F1, in the middle between the two scores that it parts, and that F1.

    Of equal ones the highest is taken. Both classes have to be there.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    ranked, hits = scores[order].double(), labels[order].double().cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1) + hits[-1])
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no threshold parts equal scores
    place = int(f1.argmax())
    below = float(ranked[place + 1]) if place + 1 < len(ranked) else float(ranked[place]) - 1.0
    return (float(ranked[place]) + below) / 2, float(f1[place])


class LocalisingSplitter:
    """Finds claims by where the lens says that they end (a ``Splitter``).

    Of neighbouring tokens above the threshold the highest ends a claim; what closes the sentence behind it belongs to
    it. The claim begins where the claim before it in the same sentence ended, or where the sentence begins. All are
    ``asserted``.

    Args:
        host: The frozen host.
        lens: From ``fit_localiser``, on this very host.
        threshold: Log-odds from which a token ends a claim; ``None``: the one that Tune chose.
        max_tokens: Most tokens in one forward pass, padding counted.

    Raises:
        ModelError: If the lens was made for another host.
        UsageError: If there is no threshold.
    """

    def __init__(
        self, host: Host, lens: LogisticLens, threshold: float | None = None, *, max_tokens: int = 4096
    ) -> None:
        check_host(lens.card, host.content_hash)
        chosen = lens.card.settings.get(THRESHOLD) if threshold is None else threshold
        if not isinstance(chosen, float | int):
            raise UsageError(
                f"a lens for {lens.card.concept!r} without a threshold",
                allowed="a lens from fit_localiser, or a threshold in log-odds",
                todo="pass threshold=...",
            )
        self.threshold = float(chosen)
        self._host = host
        self._lens = lens
        self._max_tokens = max_tokens

    def __call__(self, answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
        """As ``Splitter``; an answer without a token has no claim.

        Raises:
            DataError: If an answer is longer than the host's context.
        """
        texts = tokenise(self._host, answers)
        scores = token_scores(self._host, self._lens, texts, max_tokens=self._max_tokens)
        return tuple(
            claims_at(answer, [text.spans[rank][1] for rank in peaks(found, self.threshold)])
            for answer, text, found in zip(answers, texts, scores, strict=True)
        )


def tokenise(host: Host, answers: Sequence[str]) -> list[Tokenised]:
    """Answers as plain text to tokens, with what the tokenizer puts around a text.

    Raises:
        DataError: If an answer is longer than the host's context.
    """
    longest = context_length(host)
    texts: list[Tokenised] = []
    for index, answer in enumerate(answers):
        found = host.tokenizer(answer, return_offsets_mapping=True, split_special_tokens=True, verbose=False)
        ids = tuple(cast("list[int]", found["input_ids"]))
        offsets = cast("list[tuple[int, int]]", found["offset_mapping"])
        if len(ids) > longest:
            raise DataError(
                f"answer {index + 1}: {len(ids)} tokens",
                allowed=f"at most {longest} tokens, the host's context",
                todo="lower the most tokens that may be generated, or leave the answer out",
            )
        places = tuple(place for place, (start, end) in enumerate(offsets) if start < end)
        texts.append(Tokenised(ids=ids, places=places, spans=tuple(offsets[place] for place in places)))
    return texts


def token_scores(
    host: Host, lens: LogisticLens, texts: Sequence[Tokenised], *, max_tokens: int = 4096
) -> list[Float[Tensor, " _"]]:
    """Log-odds that a claim ends there, for each token of each answer."""
    scores = [torch.zeros(0) for _ in texts]
    some = [index for index, text in enumerate(texts) if text.places]
    if some:
        site = lens.card.site
        spans = read_spans(host, _selected([texts[index] for index in some]), [site], max_tokens=max_tokens)[site]
        found = lens.tokens(spans.values)
        for index, (start, end) in zip(some, pairwise(cast("list[int]", spans.offsets.tolist())), strict=True):
            scores[index] = found[start:end]
    return scores


def peaks(scores: Float[Tensor, " token"], threshold: float) -> tuple[int, ...]:
    """The highest token (of equals the last) of each run of tokens at or above the threshold."""
    values = cast("list[float]", scores.tolist())
    found: list[int] = []
    for place, value in enumerate(values):
        if value < threshold:
            continue
        if place and values[place - 1] >= threshold:
            if value >= values[found[-1]]:
                found[-1] = place
        else:
            found.append(place)
    return tuple(found)


def claims_at(answer: str, ends: Sequence[int]) -> tuple[Claim, ...]:
    """Claims that end at given characters: from the end before, or from the start of the sentence.

    Args:
        answer: The answer.
        ends: Characters after the last word of each claim, rising. What closes the sentence there belongs to the claim.
    """
    places = list(sentences(answer))
    claims: list[Claim] = []
    here = 0
    for end in ends:
        first, last = next((place for place in reversed(places) if place[0] < end), (0, end))
        if not any(char.isalnum() for char in answer[end:last]):
            end = max(end, last)
        body = answer[max(here, first) : end]
        here = end
        if any(char.isalnum() for char in body):
            text = body.strip()
            start = end - len(body.lstrip())
            claims.append(Claim(text=text, start=start, end=start + len(text)))
    return tuple(claims)


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """How well claim ends are found, token by token; ``n`` counts answers, intervals resample them.

    Attributes:
        precision: Share of the ends found that are ends.
        recall: Share of the ends that are found.
        sentence_precision: The same if every sentence were a claim: what has to be beaten.
        sentence_recall: The same for recall.
    """

    precision: Figure
    recall: Figure
    sentence_precision: Figure
    sentence_recall: Figure


def judge_localiser(
    host: Host, found: Splitter, rows: Rows[ChatRow, HeldOut], known: Splitter, *, seed: int = 0
) -> Localisation:
    """Compare where two splitters say that claims end, on the last assistant turns of held-out rows.

    Args:
        host: Whose tokens count.
        found: The splitter that is judged, such as ``LocalisingSplitter``.
        rows: Held-out rows.
        known: The splitter that is believed.
        seed: Seed of resamples.
    """
    answers = answer_texts(rows)
    texts = tokenise(host, answers)

    def ends(claims: Sequence[Sequence[Claim]]) -> list[frozenset[int]]:
        return [text.ends(one) for text, one in zip(texts, claims, strict=True)]

    truth = ends(known(answers))
    told = ends(found(answers))
    plain = ends([[Claim(text=a[s:e], start=s, end=e) for s, e in sentences(a)] for a in answers])

    def share(part: Sequence[frozenset[int]], of: Sequence[frozenset[int]]) -> Figure:
        return _ratio([len(a & b) for a, b in zip(part, of, strict=True)], [len(b) for b in of], seed)

    return Localisation(
        precision=share(truth, told),
        recall=share(told, truth),
        sentence_precision=share(truth, plain),
        sentence_recall=share(plain, truth),
    )


def _ratio(hits: Sequence[int], counts: Sequence[int], seed: int) -> Figure:
    """Sum of hits by sum of counts over answers; all or none of them right gives Wilson's interval over answers."""
    counted = [(hit, count) for hit, count in zip(hits, counts, strict=True) if count]
    if counted and sum(hits) in (0, sum(counts)):
        return wilson(len(counted) if sum(hits) else 0, len(counted))
    columns = np.asarray(counted, dtype=np.float64).reshape(-1, 2).T

    def ratio(a: Floats, b: Floats, axis: int) -> Floats:
        return np.asarray(a.sum(axis=axis) / b.sum(axis=axis))

    return bootstrap(ratio, columns[0], columns[1], paired=True, seed=seed)


def _selected(texts: Sequence[Tokenised]) -> list[Selected]:
    return [Selected(input_ids=text.ids, positions=text.places, source=index) for index, text in enumerate(texts)]


def _labels(texts: Sequence[Tokenised], claims: Sequence[Sequence[Claim]]) -> Bool[Tensor, " token"]:
    flags: list[bool] = []
    for text, found in zip(texts, claims, strict=True):
        ends = text.ends(found)
        flags += [rank in ends for rank in range(len(text.places))]
    return torch.tensor(flags, dtype=torch.bool)


def _examples(spans: Spans, labels: Bool[Tensor, " token"], split: type[SplitT_co]) -> Examples[SplitT_co]:
    """Each token as an example of its own, grouped by answer."""
    groups = [str(owner) for owner in cast("list[int]", spans.owner.tolist())]
    tokens = Spans(values=spans.values, offsets=torch.arange(len(spans.values) + 1))
    return checked_examples(tokens, labels, groups, split)


def _name(splitter: Splitter) -> str:
    return getattr(splitter, "__name__", type(splitter).__name__)
