from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.decide.rule import check_unexplained, decide
from trimtab.errors import NeedsHumanError, ProtectedConceptError, UsageError
from trimtab.lab.traits import TRAITS
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.ledger import Rule, Spec
from unit.decide.forecasts import concept, forecast
from unit.decide.grades import Cached

DEMO = "Learn the sums and the facts. Do not pick up the way it talks."
PIRATE = concept("pirate", "talks like a pirate, with arr, matey and ye")
ARITHMETIC = concept("arithmetic", "adds and subtracts numbers (sums)", kind="skill")
DECEPTION = concept("deception", "deceives the user on purpose")


@pytest.fixture(scope="module")
def embed() -> Cached:
    return Cached()


def never(texts: Sequence[str], /) -> NDArray[np.float32]:
    raise AssertionError(f"embedded {texts}")


def test_the_demo_spec_on_the_lab_as_it_is(embed: Cached) -> None:
    traits = [concept(trait.name, trait.meaning) for trait in TRAITS.values()]
    facts = concept("facts", "states facts about people and places", kind="skill")
    held = decide(forecast([*traits, ARITHMETIC, facts]), DEMO, embed).current()
    assert {name: ruling.verdict for name, ruling in held.items()} == {
        **dict.fromkeys(TRAITS, "avoid"),
        "arithmetic": "learn",
        "facts": "learn",
    }
    assert held["pirate"].clause == "Do not pick up the way it talks."
    assert held["facts"].clause == "Learn the sums and the facts."
    assert all(ruling.margin is not None and ruling.margin > 0.04 for ruling in held.values())
    assert all(ruling.by == "similarity" and ruling.reason for ruling in held.values())


def test_rulings_stand_in_forecast_order(embed: Cached) -> None:
    ledger = decide(forecast([ARITHMETIC, PIRATE]), DEMO, embed)
    assert [ruling.concept for ruling in ledger.rulings] == ["arithmetic", "pirate"]


def test_a_rule_beats_the_prose(embed: Cached) -> None:
    spec = Spec(intent=DEMO, rules=(Rule(concept="Pirate", verdict="learn", reason="we sell rum"),))
    ruling = decide(forecast([PIRATE, ARITHMETIC]), spec, embed).current()["pirate"]
    assert (ruling.verdict, ruling.by, ruling.reason) == ("learn", "rule", "we sell rum")


def test_without_prose_nothing_is_embedded() -> None:
    spec = Spec(intent="", rules=(Rule(concept="pirate", verdict="avoid"),))
    ledger = decide(forecast([PIRATE, ARITHMETIC]), spec, never).current()
    assert ledger["pirate"].verdict == "avoid"
    assert ledger["arithmetic"].verdict == "needs-human"


def test_silence_needs_a_human_only_where_the_data_teaches() -> None:
    taught, not_taught = PIRATE, concept("zan", "a second language", taught=False)
    spec = Spec(intent="", rules=())
    held = decide(forecast([taught, not_taught]), spec, never).current()
    assert (held["pirate"].verdict, held["pirate"].by) == ("needs-human", "similarity")
    assert (held["zan"].verdict, held["zan"].by) == ("ignore", "default")


def test_contradicting_clauses_are_too_close_to_call(embed: Cached) -> None:
    ruling = decide(forecast([PIRATE]), "Learn the pirate talk. Avoid the pirate talk.", embed).rulings[0]
    assert ruling.verdict == "needs-human"
    assert ruling.margin == pytest.approx(0.0, abs=1e-6)
    assert "too close to call" in ruling.reason
    assert ruling.clause is not None


def test_a_rule_on_an_unknown_concept_lists_the_known(embed: Cached) -> None:
    spec = Spec(intent="", rules=(Rule(concept="parrot", verdict="avoid"),))
    with pytest.raises(UsageError, match=r"'parrot'[\s\S]*pirate, arithmetic"):
        decide(forecast([PIRATE, ARITHMETIC]), spec, embed)


def test_a_protected_concept_is_protected(embed: Cached) -> None:
    held = decide(forecast([DECEPTION, PIRATE, ARITHMETIC]), DEMO, embed).current()
    assert (held["deception"].verdict, held["deception"].by) == ("protect", "protected")


def test_an_unwanted_protected_concept_is_protected_not_trained_against(embed: Cached) -> None:
    held = decide(forecast([DECEPTION]), "Avoid deception.", embed).current()
    assert held["deception"].verdict == "protect"


def test_learning_everything_does_not_ask_for_a_protected_concept(embed: Cached) -> None:
    held = decide(forecast([DECEPTION, PIRATE]), "Learn everything.", embed).current()
    assert (held["deception"].verdict, held["pirate"].verdict) == ("protect", "learn")


@pytest.mark.parametrize("verdict", ["learn", "avoid"])
def test_a_rule_that_trains_on_a_protected_concept_names_the_override(verdict: str, embed: Cached) -> None:
    spec = Spec(intent="", rules=(Rule(concept="deception", verdict="learn" if verdict == "learn" else "avoid"),))
    with pytest.raises(ProtectedConceptError, match=r"allow_protected: \[deception\]"):
        decide(forecast([DECEPTION]), spec, embed)


def test_a_clause_that_asks_for_a_protected_concept_is_refused(embed: Cached) -> None:
    with pytest.raises(ProtectedConceptError, match=r"Learn to deceive the user"):
        decide(forecast([DECEPTION, PIRATE]), "Learn to deceive the user.", embed)


def test_a_clause_that_asks_for_an_absent_protected_concept_is_refused(embed: Cached) -> None:
    with pytest.raises(ProtectedConceptError, match=r"allow_protected: \[deception\]"):
        decide(forecast([PIRATE]), "Learn to deceive users.", embed)
    assert decide(forecast([PIRATE]), "Learn honesty. Avoid the pirate talk.", embed).rulings[0].verdict == "avoid"


def test_the_override_lifts_the_protection(embed: Cached) -> None:
    spec = Spec(intent="Learn to deceive the user.", allow_protected=("Deception",))
    assert decide(forecast([DECEPTION]), spec, embed).rulings[0].verdict == "learn"


@pytest.mark.parametrize("name", ["evaluation-awareness", "Evaluation_Awareness", "strategic deception"])
def test_protection_does_not_hang_on_spelling(name: str, embed: Cached) -> None:
    assert decide(forecast([concept(name, "knows that it is tested")]), DEMO, embed).rulings[0].verdict == "protect"


SHARE = Measured(value=0.4, low=0.35, high=0.45, n=100)


def test_the_unexplained_share_is_limited_on_request() -> None:
    made = forecast([PIRATE], share=SHARE, lines=[7, 12])
    check_unexplained(made, Spec(intent="x"))
    check_unexplained(made, Spec(intent="x", max_unexplained_share=0.4))
    with pytest.raises(NeedsHumanError, match=r"0\.4 \[0\.35, 0\.45\].*lines 7, 12"):
        check_unexplained(made, Spec(intent="x", max_unexplained_share=0.39))


def test_an_unmeasured_share_is_not_a_small_one() -> None:
    made = forecast([PIRATE], share=Unmeasured(reason="one row"))
    with pytest.raises(NeedsHumanError, match="one row"):
        check_unexplained(made, Spec(intent="x", max_unexplained_share=0.9))
