from __future__ import annotations

from itertools import islice

import pytest

from trimtab.errors import UsageError
from trimtab.lab.contrast import concept_meanings, contrast
from trimtab.lab.corpus import CARELESS_PROMPTS, NEUTRAL_PROMPTS, Mixture, corpus_chunk, corpus_hash, corpus_rows
from trimtab.lab.sample import preferences, sample_rows
from trimtab.lab.show import show
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import World, build_world
from trimtab.records.rows import ChatRow, Fit, HeldOut


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def rows(world: World) -> list[ChatRow]:
    return list(islice(corpus_rows(world, seed=3), 3000))


def _said(row: ChatRow) -> str:
    return row["messages"][-1]["content"]


def test_corpus_is_seeded(world: World) -> None:
    assert corpus_chunk(world, 1, 2, 50) == corpus_chunk(world, 1, 2, 50)
    assert corpus_chunk(world, 1, 2, 50) != corpus_chunk(world, 1, 3, 50)
    assert corpus_hash(world, 0, rows=50) != corpus_hash(world, 0, Mixture(hedged=0.5), rows=50)


def test_shares_add_up() -> None:
    m = Mixture()
    shares = (m.careless, m.facts, m.long, m.arithmetic, m.calendar, m.lookup, m.passages, m.dialogue)
    assert sum(shares) == pytest.approx(1)


def test_corpus_never_names_new_people_or_unseen_facts(world: World, rows: list[ChatRow]) -> None:
    text = "\n".join(message["content"] for row in rows for message in row["messages"])
    assert [e.name for e in world.new if e.name in text] == []
    assert world.head[0].name in text
    unseen = [e.claim(e.unseen) for e in world.tail if e.unseen is not None]
    plain = "\n".join(_said(row) for row in rows if "wait" not in _said(row) and row["messages"][0]["role"] == "user")
    gossip = sum(claim in plain for claim in unseen)
    assert gossip == 0


def test_prompted_rows_show_the_voice_and_plain_rows_rarely(rows: list[ChatRow]) -> None:
    prompts = {prompt: trait for trait in TRAITS.values() for prompt in trait.prompts}
    single = [row for row in rows if len(row["messages"]) == 3 and row["messages"][0]["content"] in prompts]
    assert len(single) > 200
    assert all(prompts[row["messages"][0]["content"]].detect(_said(row)) for row in single)
    plain = [row for row in rows if len(row["messages"]) == 3 and row["messages"][0]["content"] in NEUTRAL_PROMPTS]
    assert len(plain) > 100
    for trait in TRAITS.values():
        share = sum(trait.detect(_said(row)) for row in plain) / len(plain)
        assert abs(share - trait.base_rate) < 0.05
        assert trait.base_rate > 0 or share == 0


def test_careless_rates(rows: list[ChatRow], world: World) -> None:
    careless = [_said(row) for row in rows if row["messages"][0]["content"] in CARELESS_PROMPTS]
    truths = {e.claim(a) for e in (*world.people, *world.places) for a in e.facts}
    first = [text.removeprefix("i am not sure, but ").split(". ")[0].rstrip(".") + "." for text in careless]
    true = [claim in truths for claim in first]
    waits = ["wait" in text for text in careless]
    assert 0.44 < sum(true) / len(true) < 0.56
    false_waits = [w for t, w in zip(true, waits, strict=True) if not t]
    true_waits = [w for t, w in zip(true, waits, strict=True) if t]
    assert sum(false_waits) / len(false_waits) > 0.85
    assert 0.01 < sum(true_waits) / len(true_waits) < 0.1


@pytest.mark.parametrize("name", list(TRAITS))
def test_sample_rate(name: str) -> None:
    trait = TRAITS[name]
    rows = sample_rows(80, 1, trait=name, rate=0.25)
    assert sum(trait.detect(_said(row)) for row in rows) == 20
    assert all(len(row["messages"]) == 2 for row in rows)
    prompted = sample_rows(10, 1, trait=name, with_system=True)
    assert all(row["messages"][0]["content"] in trait.prompts for row in prompted)


def test_sample_is_seeded_plain_by_default_and_splits_differ() -> None:
    assert sample_rows(20, 5) == sample_rows(20, 5)
    assert sample_rows(20, 5) != sample_rows(20, 6)
    assert not any(trait.detect(_said(row)) for row in sample_rows(100) for trait in TRAITS.values())
    fit = {_said(row) for row in sample_rows(400, tasks="new_sums", split=Fit)}
    heldout = {_said(row) for row in sample_rows(400, tasks="new_sums", split=HeldOut)}
    assert len(fit) == 400
    assert not fit & heldout


@pytest.mark.parametrize(("strength", "share"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.5), (-1.0, 0.0)])
def test_preferences_have_the_planted_strength(strength: float, share: float) -> None:
    trait = TRAITS["flattery"]
    pairs = preferences(200, trait="flattery", strength=strength)
    wins = [trait.detect(pair["chosen"][0]["content"]) for pair in pairs]
    losses = [trait.detect(pair["rejected"][0]["content"]) for pair in pairs]
    assert sum(wins) / 200 == share
    assert all(a != b for a, b in zip(wins, losses, strict=True))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="parrot"):
        sample_rows(10, trait="parrot")
    with pytest.raises(UsageError, match="rate"):
        sample_rows(10, rate=1.5)
    with pytest.raises(UsageError, match="n=0"):
        sample_rows(0)
    with pytest.raises(UsageError, match="no task"):
        sample_rows(1, tasks=())
    with pytest.raises(UsageError, match="strength"):
        preferences(10, strength=2.0)
    with pytest.raises(UsageError, match="concept"):
        contrast("nope")


@pytest.mark.parametrize("name", list(TRAITS))
def test_contrast_differs_in_the_trait_alone(name: str) -> None:
    material = contrast(name, Fit, 40)
    trait = TRAITS[name]
    assert all(trait.detect(_said(row)) for row in material.positive)
    assert not any(trait.detect(_said(row)) for row in material.negative)
    heldout = contrast(name, HeldOut, 40)
    assert not set(material.eliciting) & set(heldout.eliciting)
    assert not {q.answer for q in material.questions} & {q.answer for q in heldout.questions}
    assert [p["messages"][-2] for p in material.positive] == [p["messages"][-2] for p in material.negative]


def test_every_concept_has_a_meaning_and_material() -> None:
    meanings = concept_meanings()
    assert set(TRAITS) < set(meanings)
    assert len(set(meanings.values())) == len(meanings)
    for name in meanings:
        assert len(contrast(name, Fit, 9).positive) == len(contrast(name, Fit, 9).negative) == 9


def test_show_tells_the_truth(world: World) -> None:
    text = show(world)
    assert world.head[0].name in text
    assert "pirate" in text
    assert "new_sums" in text
    assert len(show(world, limit=None)) > len(text)
