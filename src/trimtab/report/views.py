"""What the templates show of the forecast and of the league: records turned into words, bars and shaded tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from markupsafe import Markup

from trimtab.records.figures import Figure
from trimtab.records.forecast import ConceptForecast, Forecast, RowPush, TokenMark
from trimtab.records.ledger import Ledger, Ruling, Verdict
from trimtab.report.charts import bar
from trimtab.report.svg import Scale, scale_of, tag
from trimtab.report.words import Excerpt, Shown, clean, excerpt, listed, number, places_of, show

ROWS_PER_CONCEPT: Final = 5
_TOKENS_PER_ROW: Final = 160
_LONGEST_TOKEN: Final = 80
_LEVELS: Final = 5
_VERDICTS: Final[tuple[Verdict, ...]] = ("needs-human", "learn", "avoid", "protect", "ignore")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure in a table: words, and a bar (empty where nothing was measured)."""

    label: str
    shown: Shown
    bar: Markup


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One row behind a push: its tokens shaded by how hard they push."""

    line: int
    push: str
    prompt: Excerpt
    tokens: Markup
    hardest: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ConceptView:
    """One concept of the forecast."""

    concept: str
    meaning: str
    kind: str
    taught: bool
    verdict: Verdict | None
    cells: tuple[Cell, ...]
    cosine: Shown
    explained: Shown
    sites: tuple[tuple[str, Shown, Shown], ...]
    rows: tuple[TokenRow, ...]
    n_rows: int


@dataclass(frozen=True, kw_only=True)
class ForecastView:
    """The forecast: concepts, and what has no name."""

    concepts: tuple[ConceptView, ...]
    notes: tuple[str, ...]
    masses: tuple[Cell, ...]
    share: Shown
    unnamed: bool
    unnamed_rows: tuple[TokenRow, ...]
    n_unnamed_rows: int


def forecast_view(forecast: Forecast, ledger: Ledger | None) -> ForecastView:
    """All of a forecast that the page shows; each kind of figure has one scale over all concepts."""
    items = forecast.concepts
    columns = tuple(zip(*(_figures(item) for item in items), strict=True))
    axes = tuple((scale_of(column), places_of(column)) for column in columns)
    rulings = {} if ledger is None else ledger.current()
    masses = (
        ("All of the gradient", forecast.gradient_mass),
        ("Unexplained", forecast.unexplained_mass),
        ("Unexplained in a set that teaches nothing new", forecast.reference_mass),
    )
    mass_scale = scale_of(figure for _, figure in masses)
    mass_places = places_of(figure for _, figure in masses)
    concepts, notes = _footnoted(tuple(_concept(item, axes, rulings.get(item.concept)) for item in items))
    return ForecastView(
        concepts=concepts,
        notes=notes,
        masses=tuple(
            Cell(label=label, shown=show(figure, places=mass_places), bar=bar(figure, mass_scale, name=label))
            for label, figure in masses
        ),
        share=show(forecast.unexplained_share, "rate"),
        unnamed=forecast.unnamed,
        unnamed_rows=token_rows(forecast.unnamed_rows),
        n_unnamed_rows=len(forecast.unnamed_rows),
    )


def _footnoted(concepts: tuple[ConceptView, ...]) -> tuple[tuple[ConceptView, ...], tuple[str, ...]]:
    """Reasons that stand more than twice in the table move to numbered notes below it."""
    counted = Counter(cell.shown.text for item in concepts for cell in item.cells if not cell.shown.measured)
    notes = tuple(text for text, count in counted.items() if count > 2)

    def short(cell: Cell) -> Cell:
        if cell.shown.measured or cell.shown.text not in notes:
            return cell
        return replace(cell, shown=Shown(measured=False, text=f"unmeasured ({notes.index(cell.shown.text) + 1})"))

    return tuple(replace(item, cells=tuple(map(short, item.cells))) for item in concepts), notes


def _figures(item: ConceptForecast) -> tuple[Figure, ...]:
    return item.push, item.dose, item.carried, item.projection_difference, item.bag_of_words


def _concept(item: ConceptForecast, axes: Sequence[tuple[Scale, int]], ruling: Ruling | None) -> ConceptView:
    labels = ("Push", "Dose", "Carried", "Projection difference", "Bag of words")
    class_ = "taught" if item.taught else ""
    site_places = places_of(site.push for site in item.sites)
    return ConceptView(
        concept=item.concept,
        meaning=item.meaning,
        kind=item.kind,
        taught=item.taught,
        verdict=None if ruling is None else ruling.verdict,
        cells=tuple(
            Cell(
                label=label,
                shown=show(figure, "rate" if label in ("Dose", "Carried") else "number", places),
                bar=bar(figure, scale, name=f"{item.concept}, {label.lower()}", class_=class_ if i < 3 else "baseline"),
            )
            for i, (label, figure, (scale, places)) in enumerate(zip(labels, _figures(item), axes, strict=True))
        ),
        cosine=show(item.cosine, places=3),
        explained=show(item.explained),
        sites=tuple(
            (str(site.site), show(site.push, places=site_places), show(site.cosine, places=3)) for site in item.sites
        ),
        rows=token_rows(item.rows),
        n_rows=len(item.rows),
    )


def token_rows(rows: Sequence[RowPush]) -> tuple[TokenRow, ...]:
    """The first rows, shaded on one scale: the darkest token is the hardest push among them."""
    shown = rows[:ROWS_PER_CONCEPT]
    top = max((abs(token.push) for row in shown for token in row.tokens[:_TOKENS_PER_ROW]), default=0.0)
    return tuple(_token_row(row, top) for row in shown)


def _token_row(row: RowPush, top: float) -> TokenRow:
    tokens = row.tokens[:_TOKENS_PER_ROW]
    strongest: dict[str, float] = {}
    for token in sorted(tokens, key=lambda token: -token.push):
        if token.push > 0 and token.text.strip():
            strongest.setdefault(excerpt(token.text.strip(), 40).text, token.push)
    left = len(row.tokens) - len(tokens)
    return TokenRow(
        line=row.line,
        push=f"{number(row.push)} nats likelier when a prompt asks for it"
        if row.unit == "nats"
        else f"push {number(row.push)}",
        prompt=excerpt(row.prompt, 400),
        tokens=Markup("").join(_shaded(token, top) for token in tokens),
        hardest=listed([f"“{text}” {number(push)}" for text, push in list(strongest.items())[:3]]),
        note=f"{left:,} more tokens not shown" if left else "",
    )


def _shaded(token: TokenMark, top: float) -> Markup:
    """A token on one of five levels; the word-initial space stays outside the shade."""
    cut = excerpt(token.text, _LONGEST_TOKEN)
    text = token.text if not cut.note else f"{cut.text}… ({cut.note})"
    level = round(_LEVELS * abs(token.push) / top) if top > 0 else 0
    bare = text.lstrip(" ")
    if level == 0 or not bare:
        return Markup.escape(clean(text))
    space = Markup(" ") * (len(text) - len(bare))
    return space + tag("span", bare, class_=f"{'p' if token.push > 0 else 'm'}{level}")


@dataclass(frozen=True, kw_only=True)
class LedgerView:
    """Rulings in force, most pressing first, and those that a later one replaced."""

    current: tuple[tuple[Ruling, bool | None], ...]
    replaced: tuple[Ruling, ...]


def ledger_view(ledger: Ledger, forecast: Forecast | None) -> LedgerView:
    """Rulings in force, each with whether the forecast says the data teaches it (``None``: not in the forecast)."""
    taught = {} if forecast is None else {item.concept: item.taught for item in forecast.concepts}
    current = ledger.current()
    ranked = sorted(current.values(), key=lambda ruling: _VERDICTS.index(ruling.verdict))
    kept = {id(ruling) for ruling in current.values()}
    return LedgerView(
        current=tuple((ruling, taught.get(ruling.concept)) for ruling in ranked),
        replaced=tuple(ruling for ruling in ledger.rulings if id(ruling) not in kept),
    )
