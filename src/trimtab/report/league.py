"""What the templates show of training and of the comparison of controls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from trimtab.records.figures import Measured
from trimtab.records.results import ArmResult, Certificate, Comparison, ControlSummary, League
from trimtab.report.charts import Spot, bar, dot, loss_scale, losses, scatter
from trimtab.report.measures import HOST, LABELS, NONE, best_control, figures_of, ordered, unit_of
from trimtab.report.source import Arm, Curve
from trimtab.report.svg import Scale, scale_of
from trimtab.report.views import Cell
from trimtab.report.words import Shown, Unit, number, places_of, plural, show


@dataclass(frozen=True, kw_only=True)
class ControlRow:
    """One line of the league table.

    Attributes:
        key: One letter, used in the plots too.
        control: Its name.
        marks: What must be known of it, in words.
        class_: CSS classes: ``best``, ``fights``, ``host``.
        cells: One figure per measure.
        on_hull: Whether no mixture of other controls beats it on skill against trait.
    """

    key: str
    control: str
    marks: tuple[str, ...]
    class_: str
    cells: tuple[Cell, ...]
    on_hull: bool


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One student."""

    control: str
    seed: int
    steps: str
    seconds: str
    cells: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One control against no control on one measure."""

    control: str
    difference: Cell
    p_value: str
    fights: bool


@dataclass(frozen=True, kw_only=True)
class LeagueView:
    """The comparison of controls."""

    rows: tuple[ControlRow, ...]
    labels: tuple[str, ...]
    arms: tuple[ArmRow, ...]
    seeds: str
    best: str | None
    n_controls: int
    plots: tuple[tuple[str, Markup], ...]
    comparisons: tuple[tuple[str, tuple[ComparisonRow, ...]], ...]
    groups: tuple[tuple[str, tuple[Shown, ...]], ...]
    group_seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel of the training curves."""

    control: str
    drawing: Markup
    ends: str
    broken: str


def league_view(league: League, certificate: Certificate | None) -> LeagueView:
    """Tables and plots of a league."""
    best = best_control(league, certificate)
    items = ordered(league)
    axes = _axes(items)
    rows = tuple(_row(item, _key(i), best=item.control == best, axes=axes) for i, item in enumerate(items))
    seeds = sorted({arm.seed for arm in league.arms if arm.control != HOST})
    best_arms = sorted((arm for arm in league.arms if arm.control == best), key=lambda arm: arm.seed)
    return LeagueView(
        rows=rows,
        labels=tuple(LABELS.values()),
        arms=tuple(_arm_row(arm) for arm in league.arms),
        seeds=plural(len(seeds), "seed"),
        best=best,
        n_controls=sum(item.control != HOST for item in items),
        plots=tuple(
            (label, scatter(_spots(items, rows, measure), cost=label.lower(), gain="wanted skill"))
            for measure, label in (("trait_on_task", "Trait on task"), ("trait_leak", "Trait leak"))
        ),
        comparisons=_comparisons(league),
        groups=_groups(best_arms),
        group_seeds=tuple(arm.seed for arm in best_arms),
    )


def arm_rows(arms: Sequence[Arm]) -> tuple[ArmRow, ...]:
    """Students that have been verified, for a run whose league is not made yet."""
    return tuple(_arm_row(arm.result) for arm in arms if arm.result is not None)


def _key(index: int) -> str:
    """The letters A to Z, then A2, B2 and so on."""
    letter, again = chr(ord("A") + index % 26), index // 26
    return letter if again == 0 else f"{letter}{again + 1}"


def _axes(items: Sequence[ControlSummary | ArmResult]) -> dict[str, tuple[Scale, int]]:
    """The scale and the decimals of each column."""
    columns = {measure: [figures_of(item)[measure] for item in items] for measure in LABELS}
    return {
        measure: (Scale(low=0.0, high=1.0) if unit_of(measure) == "rate" else scale_of(column), places_of(column))
        for measure, column in columns.items()
    }


def _row(item: ControlSummary | ArmResult, key: str, *, best: bool, axes: dict[str, tuple[Scale, int]]) -> ControlRow:
    marks: list[str] = []
    if item.control == HOST:
        marks.append("before training")
    if item.fights_gradient:
        marks.append("fights the gradient")
    if best:
        marks.append("came first")
    classes = {"host": item.control == HOST, "fights": item.fights_gradient, "best": best}
    cells = tuple(
        Cell(
            label=LABELS[measure],
            shown=show(figure, unit_of(measure), axes[measure][1]),
            bar=bar(figure, axes[measure][0], name=LABELS[measure], unit=unit_of(measure), class_=_tone(measure)),
        )
        for measure, figure in figures_of(item).items()
    )
    return ControlRow(
        key=key,
        control=item.control,
        marks=tuple(marks),
        class_=" ".join(name for name, on in classes.items() if on),
        cells=cells,
        on_hull=isinstance(item, ControlSummary) and item.on_pareto_hull,
    )


def _tone(measure: str) -> str:
    if measure in ("trait_on_task", "trait_leak"):
        return "unwanted"
    return "baseline" if unit_of(measure) == "number" else "taught"


def _spots(items: Sequence[ControlSummary | ArmResult], rows: Sequence[ControlRow], measure: str) -> tuple[Spot, ...]:
    return tuple(
        Spot(key=row.key, name=item.control, cost=figures_of(item)[measure], gain=item.skill, class_=row.class_)
        for item, row in zip(items, rows, strict=True)
    )


def _arm_row(arm: ArmResult) -> ArmRow:
    return ArmRow(
        control=arm.control,
        seed=arm.seed,
        steps=f"{arm.steps:,}",
        seconds=f"{arm.train_seconds:,.0f}",
        cells=tuple(show(figure, unit_of(measure), 2) for measure, figure in figures_of(arm).items()),
    )


def _comparisons(league: League) -> tuple[tuple[str, tuple[ComparisonRow, ...]], ...]:
    fighting = {item.control for item in league.controls if item.fights_gradient}
    known = list(LABELS)

    def place(item: Comparison) -> tuple[int, str]:
        return (known.index(item.measure) if item.measure in known else len(known), item.measure)

    out: list[tuple[str, tuple[ComparisonRow, ...]]] = []
    for (_, measure), group in groupby(sorted(league.comparisons, key=place), key=place):
        items = list(group)
        unit: Unit = "number" if unit_of(measure) == "number" else "points"
        scale = scale_of(item.difference for item in items)
        label = LABELS.get(measure, measure)
        out.append((label, tuple(_comparison(item, scale, unit, item.control in fighting) for item in items)))
    return tuple(out)


def _comparison(item: Comparison, scale: Scale, unit: Unit, fights: bool) -> ComparisonRow:
    name = f"{item.control} minus {item.baseline}"
    return ComparisonRow(
        control=item.control,
        difference=Cell(
            label="Difference", shown=show(item.difference, unit), bar=dot(item.difference, scale, name=name, unit=unit)
        ),
        p_value=_p_value(item),
        fights=fights,
    )


def _p_value(item: Comparison) -> str:
    if item.p_value is None:
        return "no pair differs" if isinstance(item.difference, Measured) else ""
    if item.p_value < 0.001:
        return "p < 0.001"
    return f"p = {item.p_value:.{3 if item.p_value < 0.1 else 2}f}"


def _groups(arms: Sequence[ArmResult]) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
    """The break-down of one control: a line per ``measure/group``, a column per seed."""
    keys = sorted({key for arm in arms for key in arm.groups})
    return tuple(
        (
            key,
            tuple(
                show(arm.groups[key], unit_of(key.split("/")[0]))
                if key in arm.groups
                else Shown(measured=False, text="not asked")
                for arm in arms
            ),
        )
        for key in keys
    )


def panels(arms: Sequence[Arm], order: Sequence[str]) -> tuple[tuple[Panel, ...], bool]:
    """Training curves, one panel per control on one scale, and whether that scale is logarithmic."""
    by_control: dict[str, dict[str, Curve]] = {}
    for arm in arms:
        if arm.curve is not None:
            by_control.setdefault(arm.control, {})[arm.seed] = arm.curve
    curves = [curve for seeds in by_control.values() for curve in seeds.values()]
    scale = loss_scale(curves)
    last = max((curve.points[-1][0] for curve in curves if curve.points), default=1)
    none = tuple(by_control.get(NONE, {}).values())
    ranked = sorted(by_control, key=lambda name: (order.index(name) if name in order else len(order), name))
    return tuple(
        Panel(
            control=name,
            drawing=losses(by_control[name], scale, last, name=name, reference=() if name == NONE else none),
            ends=_ends(by_control[name].values()),
            broken="; ".join(
                f"seed {seed}: loss not finite at step {curve.broken_at[0]}"
                for seed, curve in by_control[name].items()
                if curve.broken_at
            ),
        )
        for name in ranked
    ), scale.log


def _ends(curves: Iterable[Curve]) -> str:
    """The last loss of every seed."""
    return ", ".join(number(curve.points[-1][1]) for curve in curves if curve.points)
