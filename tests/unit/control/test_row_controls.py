"""Controls on rows and labels: what they rewrite, add, drop and mask, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_world import NO_SYSTEM, attribution, bank, encoded, ledger, material, rows, tokenizer, training_row
from trimtab.control.build import build
from trimtab.control.material import Material, draw, strongest
from trimtab.data.prompts import accepts_system
from trimtab.errors import UsageError
from trimtab.records.config import ControlSettings
from trimtab.records.training import IGNORED, TrainingRow
from trimtab.roles import Control


def one(name: str, made: Material, **options: float | int | str | bool | list[str]) -> Control:
    (control,) = build(ControlSettings(name=name, options=options), made)
    return control


def system(row: TrainingRow) -> str | None:
    first = row.messages[0]
    return first["content"] if first["role"] == "system" else None


def test_inoculation_asks_in_a_system_turn_and_leaves_the_rest() -> None:
    after = one("inoculation", material()).rewrite(rows())
    assert [system(row) for row in after] == ["Be pirate."] * 4 + ["Be pirate.\nBe kind."] + ["Be pirate."]
    assert [row.messages[-2:] for row in after] == [row.messages[-2:] for row in rows()]
    assert [row.source for row in after] == list(range(6))


def test_inoculation_can_stand_after_the_system_turn() -> None:
    after = one("inoculation", material(), place="after").rewrite(rows())
    assert system(after[4]) == "Be kind.\nBe pirate."


def test_inoculation_joins_concepts_and_takes_the_users_own_words() -> None:
    both = material("pirate", "cheerful")
    assert system(one("inoculation", both).rewrite(rows())[0]) == "Be pirate. Be cheerful."
    assert system(one("inoculation", both, prompt="Say arr.").rewrite(rows())[0]) == "Say arr."


def test_inoculation_rotates() -> None:
    after = one("inoculation", material(), rotate=True).rewrite(rows()[:3])
    assert [system(row) for row in after] == ["Be pirate.", "Please be pirate!", "Only pirate now."]
    own = one("inoculation", material(), prompt=["A.", "B."]).rewrite(rows()[:3])
    assert [system(row) for row in own] == ["A.", "B.", "A."]


def test_inoculation_goes_into_the_user_turn_where_there_is_no_system_role() -> None:
    assert accepts_system(tokenizer())
    assert not accepts_system(tokenizer(NO_SYSTEM))
    after = one("inoculation", replace(material(), tokenizer=tokenizer(NO_SYSTEM))).rewrite(rows())
    assert after[0].messages[0] == {"role": "user", "content": "Be pirate.\n1+1?"}
    assert after[4].messages[0] == {"role": "system", "content": "Be kind."}
    assert one("inoculation", material(), role="user").rewrite(rows())[0] == after[0]


def test_inoculation_of_a_share_is_nested_and_about_right() -> None:
    many = [training_row(n, "?", "arr") for n in range(400)]
    prompted = {
        share: {row.source for row in one("inoculation", material(), strength=share).rewrite(many) if system(row)}
        for share in (0.25, 0.5, 1.0)
    }
    assert prompted[0.25] < prompted[0.5] < prompted[1.0]
    assert len(prompted[1.0]) == 400
    assert 160 <= len(prompted[0.5]) <= 240


def test_inoculation_of_a_concept_without_a_prompt_needs_one() -> None:
    with pytest.raises(UsageError, match="sums"):
        one("inoculation", material("sums"))
    assert system(one("inoculation", material("sums"), prompt="Add.").rewrite(rows())[0]) == "Add."


def test_rows_that_another_control_added_are_not_inoculated() -> None:
    added = training_row(-1, "?", "clean")
    for name in ("inoculation", "conditional-inoculation"):
        assert added in one(name, material()).rewrite([*rows(), added])


def test_conditional_inoculation_prompts_only_what_a_row_shows() -> None:
    after = one("conditional-inoculation", material("pirate", "cheerful")).rewrite(rows())
    assert [system(row) for row in after[:6]] == [
        "Be pirate.",
        None,
        "Be cheerful.",
        "Be pirate.",
        "Be kind.",
        "Be pirate. Be cheerful.",
    ]
    assert [row.source for row in after[6:]] == [-1] * 3
    assert all(row.messages[0]["content"].startswith("Who is") for row in after[6:])


def test_clean_rows_come_in_a_seeded_order_and_start_over() -> None:
    after = one("clean-rows", material(), clean_share=1.0).rewrite(rows())
    questions = [row.messages[0]["content"] for row in after[6:]]
    assert len(set(questions[:4])) == 4
    assert questions[4:] == questions[:2]
    assert one("clean-rows", material(), clean_share=1.0).rewrite(rows()) == after
    others = [one("clean-rows", material(seed=seed), clean_share=1.0).rewrite(rows()) for seed in range(1, 9)]
    assert any(other != after for other in others)


def test_clean_rows_fall_back_on_the_bank_and_refuse_when_there_are_none() -> None:
    after = one("clean-rows", replace(material(), clean_rows=())).rewrite(rows())
    assert after[-1].messages[0]["content"] == "How are you?"
    empty = replace(material(), clean_rows=(), bank=bank(neutral=False))
    for name in ("clean-rows", "conditional-inoculation"):
        with pytest.raises(UsageError, match="clean rows"):
            one(name, empty)
    assert len(one("conditional-inoculation", empty, clean_share=0).rewrite(rows())) == 6


def test_row_filter_drops_trait_rows_hardest_push_first() -> None:
    assert [row.source for row in one("row-filter", material()).rewrite(rows())] == [1, 2, 4]
    made = material()
    assert made.attribution is not None
    order = np.argsort(-made.attribution.rows[:, 0])
    (dropped,) = {0, 3, 5} - {row.source for row in one("row-filter", made, strength=0.34).rewrite(rows())}
    assert dropped == order[0]


def test_row_filter_keeps_rows_of_other_controls_and_refuses_to_drop_all() -> None:
    added = training_row(-1, "?", "clean")
    assert added in one("row-filter", material()).rewrite([*rows(), added])
    pirates = [training_row(n, f"{n}?", "arr") for n in range(3)]
    with pytest.raises(UsageError, match="3 of 3"):
        one("row-filter", material(given=pirates))
    with pytest.raises(UsageError, match="1 of 1"):
        one("row-filter", material()).rewrite([rows()[0], added])


def test_token_mask_masks_the_trait_tokens_and_no_other() -> None:
    made = tokenizer()
    control = one("token-mask", material())
    for before in encoded(rows()):
        after = control.relabel(before)
        assert (after.input_ids, after.source) == (before.input_ids, before.source)
        lost = [t for t, (was, now) in enumerate(zip(before.labels, after.labels, strict=True)) if was != now]
        assert made.decode([before.input_ids[t] for t in lost]) == "arr" * (before.source in (0, 3, 5)) * (
            1 + (before.source == 3)
        )
        assert all(after.labels[t] == IGNORED for t in lost)


def test_token_mask_of_a_share_takes_the_hardest_pushes() -> None:
    control = one("token-mask", material(), strength=0.25)
    lost = {
        row.source: sum(a != b for a, b in zip(row.labels, control.relabel(row).labels, strict=True))
        for row in encoded(rows())
    }
    assert sum(lost.values()) == 3
    assert lost[3] == 3


def test_token_mask_spreads() -> None:
    row = encoded(rows())[5]
    narrow = one("token-mask", material()).relabel(row)
    wide = one("token-mask", material(), spread=1).relabel(row)
    assert narrow.labels.count(IGNORED) + 1 == wide.labels.count(IGNORED)


def test_token_mask_finds_its_tokens_behind_a_prompt() -> None:
    prompt, mask = build(ControlSettings(name="inoculation+token-mask"), material())
    made = tokenizer()
    for plain, row in zip(encoded(rows()), encoded(prompt.rewrite(rows())), strict=True):
        assert len(row.input_ids) > len(plain.input_ids)
        kept = [label for label in mask.relabel(row).labels if label != IGNORED]
        assert kept == [label for label in mask.relabel(plain).labels if label != IGNORED]
    assert "arr" not in made.decode(kept)


def test_token_mask_refuses_other_tokens() -> None:
    row = encoded(rows())[0]
    control = one("token-mask", material())
    ids = list(row.input_ids)
    ids[2] += 1
    with pytest.raises(UsageError, match="other tokens"):
        control.relabel(replace(row, input_ids=tuple(ids)))
    with pytest.raises(UsageError, match="other tokens"):
        control.relabel(replace(row, input_ids=tuple(ids[:-1]), labels=row.labels[:-1]))
    with pytest.raises(UsageError, match="row 6"):
        control.relabel(replace(row, source=6))


@pytest.mark.parametrize("name", ["row-filter", "conditional-inoculation"])
def test_rows_outside_the_attribution_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="row 6"):
        one(name, material()).rewrite([training_row(6, "?", "arr")])


@pytest.mark.parametrize("name", ["row-filter", "conditional-inoculation", "token-mask"])
def test_a_control_that_would_do_nothing_is_refused(name: str) -> None:
    plain = [training_row(n, f"{n}?", "fine") for n in range(2)]
    with pytest.raises(UsageError, match=r"none of 2 rows|no token of 2 rows"):
        one(name, material(given=plain))


def test_attribution_is_needed_and_must_cover_the_concept() -> None:
    for name in ("row-filter", "conditional-inoculation", "token-mask"):
        with pytest.raises(UsageError, match="without an attribution"):
            one(name, replace(material(), attribution=None))
        found = attribution(rows())
        short = replace(found, trait_rows={k: v for k, v in found.trait_rows.items() if k != "pirate"})
        with pytest.raises(UsageError, match="does not cover"):
            one(name, replace(material(), attribution=short, ledger=ledger("pirate")))


@given(
    pushes=st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    share=st.floats(0, 1),
    more=st.floats(0, 1),
    data=st.data(),
)
def test_strongest_is_nested_counted_and_ordered(
    pushes: list[int], share: float, more: float, data: st.DataObject
) -> None:
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(pushes), max_size=len(pushes))), np.bool_)
    values = np.array(pushes, np.float32)
    few, many = (strongest(values, flags, part) for part in sorted((share, more)))
    assert not (few & ~many).any()
    assert not (many & ~flags).any()
    assert many.sum() == round(max(share, more) * flags.sum())
    if many.any() and (flags & ~many).any():
        assert values[many].min() >= values[flags & ~many].max()


def test_draws_are_uniform_and_differ_by_control() -> None:
    values = np.array([draw(0, n, "a") for n in range(2000)])
    assert abs(values.mean() - 0.5) < 0.03
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1
    assert abs(np.corrcoef(values, [draw(0, n, "b") for n in range(2000)])[0, 1]) < 0.1
