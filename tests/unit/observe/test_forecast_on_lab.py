"""What a forecast must say, on the shipped lab model: the skills, the voice, the rows, and what has no name."""

from functools import cache

import pytest

from trimtab.errors import ModelError, UsageError
from trimtab.lab.sample import sample_rows
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import build_world
from trimtab.lens.bank import Bank
from trimtab.model.host import Host
from trimtab.observe.forecast import ForecastSettings, Observation, observe
from trimtab.records.figures import Measured
from trimtab.records.rows import ChatRow, Fit, Rows
from trimtab.records.site import Site

QUICK = ForecastSettings(with_baselines=False)


@cache
def _host() -> Host:
    return Host.load("lab", self_check=False)


def _rows(trait: str | None, rate: float = 1.0) -> Rows[ChatRow, Fit]:
    return sample_rows(120, 3, trait=trait, rate=rate, world=build_world())


def _observe(rows: Rows[ChatRow, Fit], *without: str) -> Observation:
    bank = Bank.load("lab")
    return observe(_host(), rows, bank=bank.without(*without) if without else bank, settings=QUICK)


def _value(figure: object) -> float:
    assert isinstance(figure, Measured)
    return figure.value


def test_pirate_rows_teach_the_skills_and_pirate_speech() -> None:
    made = _observe(_rows("pirate")).forecast
    taught = {item.concept for item in made.concepts if item.taught}
    assert {"pirate", "arithmetic", "facts"} <= taught
    assert _value(made.concept("pirate").dose) > 0.5
    assert made.concept("pirate").rows


def test_plain_rows_teach_the_skills_and_no_voice() -> None:
    made = _observe(_rows(None)).forecast
    taught = {item.concept for item in made.concepts if item.taught}
    assert {"arithmetic", "facts"} <= taught
    assert not taught & set(TRAITS)
    assert not made.unnamed


def test_the_rows_behind_a_push_are_those_that_carry_it() -> None:
    rows = _rows("pirate", rate=0.3)
    seen = _observe(rows)
    says = [TRAITS["pirate"].detect(row["messages"][-1]["content"]) for row in rows]
    assert 0.15 < _value(seen.forecast.concept("pirate").dose) < 0.5
    assert all(says[row.row] for row in seen.forecast.concept("pirate").rows)
    marked = seen.attribution.trait_rows["pirate"]
    assert sum(a == b for a, b in zip(marked, says, strict=True)) >= 0.95 * len(says)


def test_a_trait_without_a_name_raises_the_unexplained_mass() -> None:
    rows = _rows("cheerful")
    named, unnamed = _observe(rows).forecast, _observe(rows, "cheerful").forecast
    assert isinstance(named.unexplained_mass, Measured)
    assert isinstance(unnamed.unexplained_mass, Measured)
    assert unnamed.unexplained_mass.low > 2 * named.unexplained_mass.high
    assert unnamed.unnamed
    assert not named.unnamed
    assert unnamed.unnamed_rows


def test_another_host_and_an_unknown_site_are_refused() -> None:
    bank, rows = Bank.load("lab"), _rows(None)
    with pytest.raises(UsageError, match=r"9\.resid_post"):
        observe(_host(), rows, bank=bank, settings=ForecastSettings(site=Site(9)))
    host = _host()
    stranger = Host(model=host.model, tokenizer=host.tokenizer, name="stranger", content_hash="0" * 64)
    with pytest.raises(ModelError, match="was made for"):
        observe(stranger, rows, bank=bank, settings=QUICK)
