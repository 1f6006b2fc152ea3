"""The page of claims: held-out answers before and after feature rewards, claim by claim, the worst first."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, get_args

from markupsafe import Markup

from trimtab.records.claims import JudgedAnswer
from trimtab.records.figures import Figure
from trimtab.records.hallucination import Curve, Stage, StageFigures, StageResult
from trimtab.report.charts import bar
from trimtab.report.claims_charts import StagePoint, curve_panels, tradeoff
from trimtab.report.claims_kinds import KINDS, Kind, is_error, kinds_of, severity
from trimtab.report.claims_text import Marked, marked
from trimtab.report.page import environment
from trimtab.report.svg import scale_of
from trimtab.report.views import Cell
from trimtab.report.words import Excerpt, Unit, excerpt, places_of, plural, sentence, show

MOST_CARDS: Final = 200
_LONGEST_PROMPT: Final = 1200
_BASE: Final[Stage] = "before"
_POLICY: Final[Stage] = "after"
_MEANS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "before": "the host",
        "monitor": "the host under the harness",
        "weights": "the trained policy without the harness",
        "after": "the trained policy, best of N, under the harness",
    }
)
_COLUMNS: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("wrong_claims", "Wrong claims", "rate"),
    ("claims", "Claims per answer", "number"),
    ("hedged", "Hedged", "rate"),
    ("ungraded", "Not graded", "rate"),
    ("known_answered", "Known answered", "rate"),
    ("flagged_kept", "Flagged, right, kept", "rate"),
    ("facts", "Facts", "rate"),
    ("arithmetic", "Arithmetic", "rate"),
)


def claims_page(
    results: Sequence[StageResult],
    summary: Sequence[StageFigures],
    answers: Sequence[JudgedAnswer],
    curves: Sequence[Curve],
    *,
    title: str,
    note: str,
    concept: str | None = None,
) -> str:
    """The page, self-contained, the same text for the same records.

    Args:
        results: Figures of every stage and seed; drawn as small points and listed below the table.
        summary: Figures of every stage over all seeds, with the intervals that the page gives.
        answers: Judged answers; of two to one question of one stage and seed the last counts.
        curves: Terms of the reward by step; those of one name share a panel.
        title: The page's heading.
        note: What the reader must know of how the figures were made; may be empty.
        concept: What is wanted of whole answers, if no claims are judged: ``less flattery``.

    Returns:
        HTML; a section appears where there is something to show.
    """
    template = environment()
    script = template.get_template("claims.js").render()
    stages = ordered_stages(row.stage for row in (*summary, *results))
    return template.get_template("claims.html.j2").render(
        title=title,
        note=note,
        verdict=_verdict(summary, concept),
        concept=concept,
        means=_MEANS,
        show=show,
        plural=plural,
        columns=_COLUMNS,
        rows=_rows(sorted(summary, key=lambda row: stages.index(row.stage))),
        results=sorted(results, key=lambda row: (stages.index(row.stage), row.seed)),
        chart=_chart(results, summary),
        panels=curve_panels(curves),
        kinds=KINDS,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **vars(_answers(answers)),
    )


def ordered_stages(names: Iterable[str]) -> tuple[str, ...]:
    """Every stage once: the four of ``Stage`` in their order, then others in the order in which they come."""
    present = tuple(dict.fromkeys(names))
    usual = get_args(Stage)
    return (*(name for name in usual if name in present), *(name for name in present if name not in usual))


def _policy(stages: Sequence[str]) -> str:
    """The stage that is held against the first one: ``after``, else the last."""
    return _POLICY if _POLICY in stages else stages[-1]


def _verdict(summary: Sequence[StageFigures], concept: str | None) -> str:
    by_stage = {row.stage: row for row in summary}
    if _BASE not in by_stage or len(by_stage) < 2:
        return ""
    policy = _policy(ordered_stages(by_stage))
    base, last = by_stage[_BASE], by_stage[policy]
    if concept:
        return (
            f"Wanted: {concept}. Of the host's answers, {sentence(base.wrong_claims)} are not as wanted; "
            f"{sentence(last.wrong_claims)} in “{policy}”{f', {means}' if (means := _MEANS.get(policy)) else ''}."
        )
    return (
        f"Of the claims that the host states, {sentence(base.wrong_claims)} are wrong and said as facts; "
        f"{sentence(last.wrong_claims)} in “{policy}”{f', {means}' if (means := _MEANS.get(policy)) else ''}. "
        f"Claims per answer: {sentence(base.claims, 'number')} in “{_BASE}”, "
        f"{sentence(last.claims, 'number')} in “{policy}”."
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line of the table of stages."""

    stage: str
    cells: tuple[Cell, ...]


def _rows(summary: Sequence[StageFigures]) -> tuple[_Row, ...]:
    figures: dict[str, list[Figure]] = {key: [getattr(row, key) for row in summary] for key, _, _ in _COLUMNS}
    return tuple(
        _Row(
            stage=row.stage,
            cells=tuple(
                Cell(
                    label=label,
                    shown=show(figures[key][i], unit, places_of(figures[key])),
                    bar=bar(
                        figures[key][i],
                        scale_of(figures[key]),
                        name=f"{label}, {row.stage}",
                        unit=unit,
                        class_="unwanted" if key == "wrong_claims" else "",
                    ),
                )
                for key, label, unit in _COLUMNS
            ),
        )
        for i, row in enumerate(summary)
    )


def _chart(results: Sequence[StageResult], summary: Sequence[StageFigures]) -> Markup:
    policy = _policy(ordered_stages(row.stage for row in summary)) if summary else ""
    seeds = [StagePoint(name="", claims=row.claims, wrong=row.wrong_claims) for row in results]
    stages = [
        StagePoint(
            name=row.stage,
            claims=row.claims,
            wrong=row.wrong_claims,
            class_="host" if row.stage == _BASE else "best" if row.stage == policy else "",
        )
        for row in summary
    ]
    return tradeoff([*seeds, *stages])


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One answer of a card.

    Attributes:
        place: Of its stage among those that can be chosen; ``None`` for the one that always stands on the left.
        stage: Its name.
        rank: Place among the answers of its stage and seed, the worst is 0.
        kinds: What it is, most pressing first.
        bad: Whether a wrong claim is asserted in it.
        text: Its text with its claims marked.
    """

    place: int | None
    stage: str
    rank: int
    kinds: tuple[Kind, ...]
    bad: bool
    text: Marked


@dataclass(frozen=True, kw_only=True)
class _Card:
    """One question under one seed."""

    seed: int
    id: str
    group: str
    known: bool
    prompt: Excerpt
    base: _Column | None
    columns: tuple[_Column, ...]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What the template reads of the answers.

    Attributes:
        cards: Those of the first seed, then those of the next, each in the order of the chosen stage.
        seeds: Every seed.
        stages: Stages that can be chosen.
        chosen: The one that is chosen at first.
        base: The stage that always stands on the left; empty where there is one stage only.
        counts: Answers of every kind by stage over all seeds; empty where the kind has no meaning.
        totals: Every stage with its answers.
        left: Seeds with questions that have no card, and how many.
    """

    cards: tuple[_Card, ...] = ()
    seeds: tuple[int, ...] = ()
    stages: tuple[str, ...] = ()
    chosen: str = ""
    base: str = ""
    counts: tuple[tuple[Kind, tuple[str, ...]], ...] = ()
    totals: tuple[tuple[str, int], ...] = ()
    left: tuple[tuple[int, int], ...] = ()


def _answers(answers: Sequence[JudgedAnswer]) -> _Answers:
    asked = {(item.seed, item.stage, item.id): item for item in answers}
    stages = ordered_stages(item.stage for item in answers)
    if not stages:
        return _Answers()
    base = (_BASE if _BASE in stages else stages[0]) if len(stages) > 1 else ""
    shown = tuple(stage for stage in stages if stage != base)
    seeds = tuple(sorted({item.seed for item in answers}))
    each = max(1, MOST_CARDS // len(seeds))
    cards: list[_Card] = []
    left: dict[int, int] = {}
    for seed in seeds:
        mine = {(stage, id_): item for (at, stage, id_), item in asked.items() if at == seed}
        kept, left[seed] = _kept(mine, each, base, shown)
        cards += kept
    tally: dict[str, list[frozenset[Kind]]] = {stage: [] for stage in stages}
    for (seed, stage, id_), item in asked.items():
        tally[stage].append(kinds_of(item, None if stage == base else asked.get((seed, base, id_))))
    return _Answers(
        cards=tuple(cards),
        seeds=seeds,
        stages=shown,
        chosen=_policy(shown),
        base=base,
        counts=tuple(
            (kind, tuple(_count(kind, tally[stage], after=bool(base) and stage != base) for stage in stages))
            for kind in KINDS
        ),
        totals=tuple((stage, len(found)) for stage, found in tally.items()),
        left=tuple((seed, count) for seed, count in left.items() if count),
    )


def _count(kind: Kind, found: Sequence[frozenset[Kind]], *, after: bool) -> str:
    """Answers of a kind; empty for ``new`` and ``fixed`` in a stage that comes after none."""
    return "" if kind in ("new", "fixed") and not after else f"{sum(kind in kinds for kinds in found):,}"


def _kept(
    answers: Mapping[tuple[str, str], JudgedAnswer], most: int, base: str, shown: Sequence[str]
) -> tuple[list[_Card], int]:
    """Cards of one seed, those of the chosen stage in order, and how many questions were left out.

    Questions are kept by the best rank that they have in any stage, the base among them, so that every stage's worst
    are there and so are the base's, which training may have fixed.
    """
    ranks = {
        (stage, item.id): rank
        for stage in (base, *shown)
        for rank, item in enumerate(sorted((a for (s, _), a in answers.items() if s == stage), key=severity))
    }
    ids = list(dict.fromkeys(id_ for stage, id_ in answers if stage != base))
    worst = {id_: min(ranks[stage, id_] for stage in (base, *shown) if (stage, id_) in ranks) for id_ in ids}
    kept = sorted(ids, key=lambda id_: (worst[id_], id_))[:most]
    kept.sort(key=lambda id_: (ranks.get((_policy(shown), id_), len(answers)), id_))
    return [_card(id_, answers, ranks, base, shown) for id_ in kept], len(ids) - len(kept)


def _card(
    id_: str,
    answers: Mapping[tuple[str, str], JudgedAnswer],
    ranks: Mapping[tuple[str, str], int],
    base: str,
    shown: Sequence[str],
) -> _Card:
    before = answers.get((base, id_))
    first = before or next(answers[stage, id_] for stage in shown if (stage, id_) in answers)

    def column(item: JudgedAnswer, place: int | None) -> _Column:
        kinds = kinds_of(item, None if place is None else before)
        return _Column(
            place=place,
            stage=item.stage,
            rank=ranks[item.stage, id_],
            kinds=tuple(kind for kind in KINDS if kind in kinds),
            bad=any(map(is_error, item.claims)),
            text=marked(item),
        )

    return _Card(
        seed=first.seed,
        id=id_,
        group=first.group,
        known=first.known,
        prompt=excerpt(first.prompt, _LONGEST_PROMPT),
        base=None if before is None else column(before, None),
        columns=tuple(
            column(answers[stage, id_], place) for place, stage in enumerate(shown) if (stage, id_) in answers
        ),
    )
