"""Forecasts for tests of the verb decide: names, meanings, kinds and what is taught; every figure unmeasured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TypeVar

from trimtab.records.figures import Figure, Unmeasured
from trimtab.records.forecast import ConceptForecast, Forecast, RowPush
from trimtab.records.site import Site

RecordT = TypeVar("RecordT", ConceptForecast, Forecast, RowPush)
NONE = Unmeasured(reason="not part of this test")


def concept(name: str, meaning: str, *, kind: str = "trait", taught: bool = True) -> ConceptForecast:
    """One concept of a forecast."""
    return _filled(ConceptForecast, concept=name, meaning=meaning, kind=kind, taught=taught)


def forecast(concepts: Iterable[ConceptForecast], *, share: Figure = NONE, lines: Iterable[int] = ()) -> Forecast:
    """A forecast with these concepts, unexplained share and lines of unnamed rows."""
    rows = tuple(_filled(RowPush, row=line - 1, line=line, unit="nats") for line in lines)
    return _filled(
        Forecast,
        concepts=tuple(concepts),
        unexplained_share=share,
        unnamed_rows=rows,
        bank="lab",
        data="rows.jsonl",
        site=Site(0),
    )


def _filled(record: type[RecordT], **given: object) -> RecordT:
    """A record with what is given; the other fields say nothing."""
    blank: dict[str, object] = {"str": "", "int": 0, "float": 0.0, "bool": False, "Figure": NONE}
    return record(**{f.name: given.get(f.name, blank.get(str(f.type), ())) for f in fields(record)})
