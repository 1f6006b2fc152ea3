"""Claim probes and the reader: what the host is shown of an answer, in which order, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from torch import Tensor

from trimtab.errors import ModelError, StorageError, UsageError
from trimtab.lens.base import save_lens
from trimtab.lens.probes.linear import LogisticLens
from trimtab.lens.spans import Spans
from trimtab.model.host import Host
from trimtab.records.claim_probe import ClaimProbeCard
from trimtab.records.claims import Claim, Said
from trimtab.records.lens import Calibration, LensCard
from trimtab.records.site import Site
from trimtab.reward.claims import rule_claims
from trimtab.reward.passes import CONFIDENCE, ClaimPass, Read
from trimtab.reward.reading import LENS, ClaimProbe, ClaimReader, lens_probe, plain, reading_key, with_calibration
from trimtab.roles import Reader, Reward

SITE = Site(2)
PROMPT = ({"role": "user", "content": "what do people say about ann abbot?"},)
A, B, C = "ann abbot was born in kelm.", "ann abbot works as a baker.", "ann abbot likes figs."


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load("lab")


def lens_card(host: Host) -> LensCard:
    return LensCard(
        concept="right",
        meaning="a claim that is right",
        kind="logistic",
        site=SITE,
        pooling="last",
        model=host.name,
        model_hash=host.content_hash,
        calibration=Calibration(temperature=2.0, shift=0.5),
    )


def lens(host: Host) -> LogisticLens:
    torch.manual_seed(0)
    return LogisticLens(card=lens_card(host), weight=0.02 * torch.randn(host.d_model), bias=0.25)


def both(host: Host) -> ClaimProbe:
    card = lens_probe(lens(host)).card
    weights = (0.5, 0.1, -0.2, 0.3)
    card = replace(card, reading="both", features=(LENS, *CONFIDENCE), weights=weights, bias=-0.5)
    return ClaimProbe(card=card, lens=lens(host))


def said(answer: str) -> Said:
    return Said(prompt=PROMPT, answer=answer, claims=rule_claims([answer])[0])


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Gives each claim the place at which the host met it, and keeps what the host was shown."""

    card: ClaimProbeCard
    confident: bool = True
    sites: tuple[Site, ...] = ()

    def scores(self, passed: ClaimPass) -> Tensor:
        assert passed.confidence is not None
        return torch.arange(float(len(passed.confidence)))


def hooks_of(host: Host) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.model.modules()]


def logit(chance: float) -> float:
    return float(torch.tensor(chance, dtype=torch.float64).logit())


@pytest.mark.parametrize("hedge", ["i am not sure, but ", "perhaps ", "I think that "])
def test_hedges_are_not_shown_to_the_host(hedge: str) -> None:
    (shown,) = plain(said(f"{A} {hedge}{B} please check that."))
    assert shown.answer == f"{A} {B}"
    assert [(claim.text, claim.stance) for claim in shown.claims] == [(A, "asserted"), (B, "hedged")]


@pytest.mark.parametrize("hedge", ["probably", "perhaps", "Maybe"])
def test_hedges_within_a_claim_are_not_shown_to_the_host(host: Host, hedge: str) -> None:
    within = B.replace(" ", f" {hedge} ", 1)
    one = said(f"{A} {within} {C}")
    (shown,) = plain(one)
    assert shown.answer == f"{A} {B} {C}"
    assert [claim.text for claim in shown.claims] == [A, B, C]
    assert [shown.answer[claim.start : claim.end] for claim in shown.claims] == [A, B, C]
    assert reading_key(one) == reading_key(said(f"{A} {B} {C}"))
    reader = ClaimReader(host, both(host))
    assert reader([one]) == (pytest.approx(reader([said(f"{A} {B} {C}")])[0], abs=1e-6),)


def test_a_withdrawn_claim_is_shown_alone_after_what_stood_before_it() -> None:
    shown = plain(said(f"{A} {B} wait, that is wrong. {C}"))
    assert [part.answer for part in shown] == [f"{A} {C}", f"{A} {B}"]
    assert [[claim.text for claim in part.claims] for part in shown] == [[A, C], [B]]


@pytest.mark.parametrize(
    "answer",
    [A, f"{A} {B}", f" {A} hm. {B}", f"{A} no, that is wrong. {B} wait, that is wrong. {C}", "", "yes.", f"{A} {A}"],
)
def test_what_is_shown_keeps_every_claim_and_its_place(answer: str) -> None:
    one = said(answer)
    shown = plain(one)
    claims = [claim for part in shown for claim in part.claims]
    assert sorted(claim.text for claim in claims) == sorted(claim.text for claim in one.claims)
    for part in shown:
        assert part.prompt == PROMPT
        assert all(part.answer[claim.start : claim.end] == claim.text for claim in part.claims)
        assert part.answer.startswith(" ") == answer.startswith(" ")


def test_each_claim_gets_its_own_probability(host: Host) -> None:
    """The probe gives claims the numbers of the order in which the host met them, over all answers."""
    probe = both(host)
    reader = ClaimReader(host, probe)
    reader.probe = Recorded(card=replace(probe.card, calibration=Calibration(temperature=10.0)))  # type: ignore[assignment]
    answers = [said(f"{A} {B} wait, that is wrong. {C}"), said(""), said(f"{C} that is wrong. {A} {B}"), said("yes.")]
    found = reader(answers)
    places = [[round(10 * logit(chance)) for chance in row] for row in found]
    assert places == [[0, 2, 1], [], [5, 3, 4], []]


def test_it_gives_what_each_claim_alone_gives(host: Host) -> None:
    reader = ClaimReader(host, both(host))
    answers = [said(f"{A} {B} wait, that is wrong. {C}"), said(f"{C} that is wrong. {A}"), said(B)]
    (first, taken, last), (second_taken, second), (alone,) = reader(answers)
    claims = rule_claims([f"{A} {C}", f"{A} {B}"])
    (again, last_again), (_, taken_again) = reader(
        [
            Said(prompt=PROMPT, answer=f"{A} {C}", claims=claims[0]),
            Said(prompt=PROMPT, answer=f"{A} {B}", claims=claims[1]),
        ]
    )
    assert (first, taken, last) == pytest.approx((again, taken_again, last_again), abs=1e-5)
    assert (second_taken, second) == pytest.approx((reader([said(C)])[0][0], reader([said(A)])[0][0]), abs=1e-5)
    assert len({round(p, 3) for p in (first, taken, last, alone)}) == 4


@pytest.mark.parametrize("front", ["i am not sure, but ", "maybe ", "wait, that is wrong. ", "no, that is right. "])
def test_words_about_a_claim_do_not_change_how_it_reads(host: Host, front: str) -> None:
    reader = ClaimReader(host, both(host))
    ((bare,),) = reader([said(A)])
    ((dressed,),) = reader([said(front + A)])
    assert dressed == pytest.approx(bare, abs=1e-6)
    raw = Said(prompt=PROMPT, answer=front + A, claims=(Claim(text=front + A, start=0, end=len(front + A)),))
    assert abs(reader([raw])[0][0] - bare) > 1e-3


def test_a_repeat_earns_no_reading_of_its_own(host: Host) -> None:
    reader = ClaimReader(host, both(host))
    assert reader([said(f"{A} {A} {A}")]) == (pytest.approx(reader([said(A)])[0], abs=1e-6),)


def test_order_and_company_of_answers_do_not_matter(host: Host) -> None:
    reader = ClaimReader(host, both(host))
    answers = [said(f"{A} {B}"), said(C), said(f"{B} wait, that is wrong. {A}"), said("")]
    forward, backward = reader(answers), reader(answers[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert reader([]) == ()


def test_calibration_is_applied(host: Host) -> None:
    probe = lens_probe(lens(host))
    ((chance,),) = ClaimReader(host, probe)([said(A)])
    ((shifted,),) = ClaimReader(host, with_calibration(probe, Calibration(temperature=4.0, shift=-1.0)))([said(A)])
    score = 2.0 * logit(chance) + 0.5
    assert logit(shifted) == pytest.approx((score + 1.0) / 4.0, abs=1e-3)


def test_reading_leaves_the_host_as_it_was(host: Host) -> None:
    before = {name: tensor.clone() for name, tensor in host.model.state_dict().items()}
    training, hooks = host.model.training, hooks_of(host)
    ClaimReader(host, both(host))([said(f"{A} {B}")])
    assert all(torch.equal(before[name], tensor) for name, tensor in host.model.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in host.model.parameters())
    assert host.model.training == training
    assert hooks_of(host) == hooks


def test_reading_while_a_student_trains_leaves_its_graph_alone(host: Host) -> None:
    student = host.student()
    ids = torch.tensor([host.tokenizer(A)["input_ids"]])
    loss = student(input_ids=ids, labels=ids).loss
    ((chance,),) = ClaimReader(host, both(host))([said(A)])
    assert type(chance) is float
    loss.backward()
    assert all(weight.grad is None for weight in host.model.parameters())
    assert any(weight.grad is not None for weight in student.parameters())


def test_no_tensor_goes_in_or_comes_out() -> None:
    """Static checks hold callers to these signatures (``tests/typing/wrong.py``)."""
    for role in (Reader.__call__, Reward.__call__, ClaimReader.__call__):
        assert "Tensor" not in str(get_type_hints(role))
        assert "Any" not in str(get_type_hints(role))
    assert all("Tensor" not in str(hint) for hint in (*get_type_hints(Said).values(), *get_type_hints(Claim).values()))
    assert "Tensor" in str(inspect.get_annotations(ClaimProbe.scores))


def test_a_probe_of_another_host_is_refused(host: Host) -> None:
    probe = both(host)
    other = replace(probe.card, model="other", model_hash="f" * 64)
    with pytest.raises(ModelError, match="was made for other"):
        ClaimReader(host, ClaimProbe(card=replace(other, features=CONFIDENCE, weights=(1.0, 0.0, 0.0)), lens=None))
    strange = replace(lens(host), card=replace(lens_card(host), model="third", model_hash="e" * 64))
    with pytest.raises(ModelError, match="was made for third"):
        ClaimReader(host, replace(probe, lens=strange))


def test_a_lens_that_was_not_calibrated_is_refused(host: Host, tmp_path: Path) -> None:
    raw = replace(lens(host), card=replace(lens_card(host), calibration=None))
    with pytest.raises(UsageError, match="not calibrated"):
        lens_probe(raw)
    save_lens(raw, tmp_path)
    with pytest.raises(UsageError, match="not calibrated"):
        ClaimProbe.load(tmp_path)


def test_scores_that_are_not_finite_are_refused(host: Host) -> None:
    broken = replace(lens(host), weight=torch.full((host.d_model,), torch.nan))
    with pytest.raises(ModelError, match="gives 2 of 2 claims a score that is not finite"):
        ClaimReader(host, lens_probe(broken))([said(f"{A} {B}")])


def test_a_probe_comes_back_from_disk(host: Host, tmp_path: Path) -> None:
    answers = [said(f"{A} {B}"), said(C)]
    alone = lens_probe(lens(host))
    surest = replace(both(host).card, reading="confidence", features=CONFIDENCE, weights=(0.1, -0.2, 0.3))
    for name, probe in (("both", both(host)), ("lens", alone), ("sure", ClaimProbe(card=surest, lens=None))):
        probe.save(tmp_path / name)
        back = ClaimProbe.load(tmp_path / name)
        assert back.card == probe.card
        assert (back.lens is None) == (probe.lens is None)
        for one, other in zip(ClaimReader(host, back)(answers), ClaimReader(host, probe)(answers), strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    assert not (tmp_path / "sure" / "lens").exists()


def test_a_calibrated_lens_folder_is_a_claim_probe(host: Host, tmp_path: Path) -> None:
    save_lens(lens(host), tmp_path)
    probe = ClaimProbe.load(str(tmp_path))
    assert not probe.confident
    ((chance,),) = ClaimReader(host, probe)([said(A)])
    assert chance == pytest.approx(ClaimReader(host, lens_probe(lens(host)))([said(A)])[0][0], abs=1e-6)


def test_a_folder_with_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no claim probe and no lens"):
        ClaimProbe.load(tmp_path)


def test_scores_are_the_weighed_features(host: Host) -> None:
    probe = both(host)
    values = torch.randn(3, host.d_model, generator=torch.Generator().manual_seed(1))
    spans = Spans(values=values, offsets=torch.tensor([0, 1, 3]))
    sure = torch.tensor([[-1.0, -0.5, 2.0], [-3.0, -2.0, 0.25]])
    found = probe.scores(ClaimPass(spans={SITE: spans}, confidence=sure, sure=torch.zeros(3, 2)))
    last = values[[0, 2]] @ lens(host).weight + 0.25
    expected = -0.5 + 0.5 * last + sure @ torch.tensor([0.1, -0.2, 0.3])
    torch.testing.assert_close(found, expected)


def test_confidence_is_read_only_where_it_is_weighed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def fake(_host: Host, rows: Sequence[Read], _sites: object, *, confidence: bool, max_tokens: int) -> ClaimPass:
        asked.append(confidence)
        assert max_tokens == 77
        n = sum(len(row.claims) for row in rows)
        spans = Spans(values=torch.zeros(n, host.d_model), offsets=torch.arange(n + 1))
        return ClaimPass(spans={SITE: spans}, confidence=torch.zeros(n, 3) if confidence else None, sure=None)

    monkeypatch.setattr("trimtab.reward.reading.read_claims", fake)
    for probe in (lens_probe(lens(host)), both(host)):
        ClaimReader(host, probe, max_tokens=77)([said(A)])
    assert asked == [False, True]


def test_what_is_read_once_is_read_as_if_it_were_read_every_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, shown = ClaimReader(host, both(host)), list[int]()
    unlike = [f"{A} {B}", f"{B} wait, that is wrong. {A}", C, "", f"{A} {B} wait, that is wrong."]
    alone = {answer: reader([said(answer)])[0] for answer in unlike}
    original = reader.read

    def counted(answers: Sequence[Said]) -> ClaimPass:
        shown.append(len(answers))
        return original(answers)

    monkeypatch.setattr(reader, "read", counted)
    order = [4, 0, 2, 0, 1, 3, 4, 4, 1]
    found = reader([said(unlike[place]) for place in order])
    assert shown == [len(unlike)]
    for place, row in zip(order, found, strict=True):
        assert row == pytest.approx(alone[unlike[place]], abs=1e-5)
    readings = [chance for row in alone.values() for chance in row]
    assert len({round(chance, 3) for chance in readings}) >= 4, "a row in the wrong place would show"


def test_hedges_are_no_part_of_what_a_reading_depends_on() -> None:
    key = reading_key(said(f"{A} {B}"))
    assert reading_key(said(f"i am not sure, but {A} {B} please check that.")) == key
    other = Said(prompt=({"role": "user", "content": "hello."},), answer=f"{A} {B}", claims=said(f"{A} {B}").claims)
    different = [said(f"{A} {B} that is wrong."), said(f"{B} {A}"), said(A), said(f" {A} {B}"), other]
    assert len({key, *map(reading_key, different)}) == 6
