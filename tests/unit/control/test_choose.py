"""Automatic choice: never a fighting control, always the baseline, and only for what is taught and avoided."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control_world import attribution, forecast, ledger, material, rows, training_row
from trimtab.control.build import build, fights
from trimtab.control.choose import choose
from trimtab.records.forecast import Forecast
from trimtab.records.training import Attribution


def picked(made: Forecast, found: Attribution | None = None) -> list[str]:
    return [choice.settings.name for choice in choose(ledger("pirate"), made, found)]


def test_nothing_avoided_is_taught() -> None:
    assert picked(forecast(pirate=False, cheerful=True)) == ["none"]
    assert [choice.settings.name for choice in choose(ledger(), forecast(pirate=True))] == ["none"]


def test_a_trait_that_prompts_can_ask_for_is_explained_away_first() -> None:
    assert picked(forecast(pirate=True)) == ["conditional-inoculation", "token-mask", "preventative-steering", "none"]


def test_rows_are_filtered_only_where_enough_stays() -> None:
    assert "row-filter" in picked(forecast(carried=0.2, pirate=True))
    assert "row-filter" not in picked(forecast(carried=0.9, pirate=True))
    assert "row-filter" not in picked(forecast(carried=None, pirate=True))


def test_a_skill_has_no_prompt_to_inoculate_with() -> None:
    assert "conditional-inoculation" not in picked(forecast(kind="skill", pirate=True))


def test_a_prompt_that_explains_nothing_does_not_inoculate() -> None:
    assert "conditional-inoculation" not in picked(forecast(explained=-0.1, pirate=True))
    assert "conditional-inoculation" in picked(forecast(explained=3.0, pirate=True))


def test_an_attribution_leaves_out_what_would_find_nothing() -> None:
    made = attribution(rows())
    assert picked(forecast(pirate=True), made) == [
        "conditional-inoculation",
        "token-mask",
        "preventative-steering",
        "none",
    ]
    silent = replace(
        made,
        trait_tokens={**made.trait_tokens, "pirate": tuple(flags & False for flags in made.trait_tokens["pirate"])},
    )
    assert "token-mask" not in picked(forecast(pirate=True), silent)
    nobody = replace(silent, trait_rows={**made.trait_rows, "pirate": made.trait_rows["pirate"] & False})
    assert picked(forecast(pirate=True), nobody) == ["preventative-steering", "none"]
    few = attribution([training_row(n, f"{n}?", "arr" if n == 0 else "fine") for n in range(4)])
    assert "row-filter" in picked(forecast(pirate=True), few)


def test_every_choice_says_why_and_can_be_built() -> None:
    for choice in choose(ledger("pirate"), forecast(pirate=True, cheerful=False)):
        assert choice.reason
        assert build(choice.settings, material())


@given(
    carried=st.one_of(st.none(), st.floats(0, 1)),
    kind=st.sampled_from(["trait", "skill"]),
    taught=st.dictionaries(st.sampled_from(["pirate", "cheerful", "sums"]), st.booleans()),
    avoid=st.sets(st.sampled_from(["pirate", "cheerful", "sums"])),
)
def test_a_fighting_control_is_never_chosen(
    carried: float | None, kind: str, taught: dict[str, bool], avoid: set[str]
) -> None:
    choices = choose(ledger(*avoid), forecast(carried, kind, **taught))
    assert not any(fights(choice.settings.name) for choice in choices)
    assert choices[-1].settings.name == "none"
    wanted = any(taught.get(name) for name in avoid)
    assert (len(choices) > 1) == wanted
