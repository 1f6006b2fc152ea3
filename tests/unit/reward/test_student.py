"""A claim probe on a student's own activations: what is read, where gradients go, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trimtab.errors import ModelError, UsageError
from trimtab.lens.base import Lens
from trimtab.lens.directions import DirectionLens
from trimtab.lens.probes.linear import LogisticLens
from trimtab.model.base import LanguageModel
from trimtab.model.fingerprint import content_hash
from trimtab.model.host import Host
from trimtab.records.claims import Grade, Prompt, Said, Truth
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.lens import Calibration, LensCard
from trimtab.records.rows import Fit, HeldOut, Split, Tune
from trimtab.records.site import Site
from trimtab.reward.claims import rule_claims
from trimtab.reward.fit import GradedAnswers
from trimtab.reward.reading import ClaimProbe, ClaimReader, lens_probe
from trimtab.reward.student import GradientProbe, StudentReader, refit_auroc

SITE = Site(layer=2, stream="resid_post")
PROMPTS: list[Prompt] = [({"role": "user", "content": text},) for text in ("who is bram?", "tell me of kelm.", "and?")]
ANSWERS = [
    " bram was born in kelm. i am not sure, but bram works as a baker. bram keeps a goat.",
    " kelm lies in osk. wait, that is wrong. kelm stands by the vinn.",
    " wait,",
]
SAID = tuple(
    Said(prompt=prompt, answer=answer, claims=claims)
    for prompt, answer, claims in zip(PROMPTS, ANSWERS, rule_claims(ANSWERS), strict=True)
)


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load("lab")


@pytest.fixture(scope="module")
def lens(host: Host) -> LogisticLens:
    card = LensCard(
        concept="right",
        meaning="a claim that is right",
        kind="logistic",
        site=SITE,
        pooling="last",
        model=host.name,
        model_hash=host.content_hash,
        calibration=Calibration(temperature=1.7, shift=0.4),
    )
    weight = torch.randn(host.d_model, generator=torch.Generator().manual_seed(0)) / 10
    return LogisticLens(card=card, weight=weight, bias=0.3)


def student_of(host: Host, *, change: float) -> LanguageModel:
    """A student; with a ``change``, moved away from the host at random."""
    model = host.student()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(change * torch.randn(weight.shape, generator=generator))
    return LanguageModel(model=model, tokenizer=host.tokenizer, name="student", content_hash="")


def test_the_student_reads_as_the_host_until_it_moves(host: Host, lens: LogisticLens) -> None:
    probe = lens_probe(lens)
    by_host = ClaimReader(host, probe)(SAID)
    assert [len(one) for one in by_host] == [3, 2, 0]
    same = student_of(host, change=0.0)
    assert StudentReader(host, probe, lambda: same)(SAID) == by_host
    other = student_of(host, change=0.02)
    read = StudentReader(host, probe, lambda: other)(SAID)
    assert max(abs(a - b) for a, b in zip(sum(read, ()), sum(by_host, ()), strict=True)) > 0.01
    assert ClaimReader(host, probe)(SAID) == by_host


def test_the_graph_gives_what_the_reader_reads_of_asserted_claims(host: Host, lens: LogisticLens) -> None:
    probe, other = lens_probe(lens), student_of(host, change=0.02)
    read = StudentReader(host, probe, lambda: other)(SAID)
    asserted = [
        chance
        for said, chances in zip(SAID, read, strict=True)
        for claim, chance in zip(said.claims, chances, strict=True)
        if claim.stance == "asserted"
    ]
    odds = GradientProbe(host, probe)(other.model, PROMPTS, ANSWERS)
    assert len(asserted) == 3
    torch.testing.assert_close(torch.sigmoid(odds), torch.tensor(asserted), rtol=1e-4, atol=1e-5)
    assert GradientProbe(host, probe)(other.model, PROMPTS[2:], ANSWERS[2:]).shape == (0,)


def test_gradients_reach_the_layers_below_the_probe_and_nothing_else(host: Host, lens: LogisticLens) -> None:
    before, weight = content_hash(host.model), lens.weight.clone()
    student = student_of(host, change=0.0)
    GradientProbe(host, lens_probe(lens))(student.model, PROMPTS, ANSWERS).sum().backward()
    moved = {name for name, one in student.model.named_parameters() if one.grad is not None and bool(one.grad.any())}
    assert any(".layers.2." in name for name in moved)
    assert not any(".layers.3." in name for name in moved)
    assert all(one.grad is None for one in host.model.parameters())
    assert not lens.weight.requires_grad
    assert torch.equal(lens.weight, weight)
    assert content_hash(host.model) == before


def test_a_step_along_the_gradient_fools_the_student_s_probe_and_not_the_host_s(host: Host, lens: LogisticLens) -> None:
    probe, student = lens_probe(lens), student_of(host, change=0.0)
    by_host = ClaimReader(host, probe)(SAID)
    optimiser = torch.optim.SGD(student.model.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        (-GradientProbe(host, probe)(student.model, PROMPTS, ANSWERS).mean()).backward()
        optimiser.step()
    after = StudentReader(host, probe, lambda: student)(SAID)
    assert all(a > b for a, b in zip(sum(after, ()), sum(by_host, ()), strict=True))
    assert ClaimReader(host, probe)(SAID) == by_host


@pytest.mark.parametrize("kind", ["pooling", "direction", "confidence"])
def test_only_a_logistic_lens_on_the_last_token_takes_gradients(host: Host, lens: LogisticLens, kind: str) -> None:
    changed: Lens = lens
    if kind == "pooling":
        changed = replace(lens, card=replace(lens.card, pooling="mean"))
    if kind == "direction":
        changed = DirectionLens(card=replace(lens.card, kind="direction"), direction=lens.weight, shift=0.0)
    probe = lens_probe(changed)
    if kind == "confidence":
        card = replace(probe.card, features=("log_probability",), reading="confidence")
        probe = ClaimProbe(card=card, lens=None)
    with pytest.raises(UsageError, match="logistic lens on the last token"):
        GradientProbe(host, probe)


def test_a_probe_of_another_host_is_refused(host: Host, lens: LogisticLens) -> None:
    foreign = replace(lens, card=replace(lens.card, model_hash="f" * 64))
    with pytest.raises(ModelError):
        GradientProbe(host, lens_probe(foreign))
    with pytest.raises(ModelError):
        StudentReader(host, lens_probe(foreign), lambda: host)


def planted(split: type[Split], names: list[str]) -> GradedAnswers[Split]:
    """Claims whose truth is what they say: those of bakers are right."""
    jobs: list[tuple[str, Truth]] = [("baker", "right"), ("smith", "wrong")]
    texts = [f" {name} works as a {job}." for name in names for job, _ in jobs]
    claims = rule_claims(texts)
    return GradedAnswers(
        said=tuple(
            Said(prompt=PROMPTS[0], answer=text, claims=found) for text, found in zip(texts, claims, strict=True)
        ),
        grades=tuple((Grade(truth=truth, reason="planted"),) for _ in names for _, truth in jobs),
        groups=tuple(name for name in names for _ in jobs),
        split=split,
    )


def test_a_probe_fitted_anew_finds_what_is_there(host: Host) -> None:
    sides = [["bram", "mira", "tolm", "osk", "vinn"], ["ada", "ben", "cas"], ["dor", "eli", "fay", "gus"]]
    student = student_of(host, change=0.005)
    fit, tune, held_out = (planted(split, names) for split, names in zip((Fit, Tune, HeldOut), sides, strict=True))
    found = refit_auroc(student, SITE, fit, tune, held_out)
    assert isinstance(found, Measured)
    assert found.value == 1.0
    assert found.n == 8
    one_class = replace(tune, grades=tuple((Grade(truth="right", reason=""),) for _ in tune.said))
    nothing = refit_auroc(student, SITE, fit, one_class, held_out)
    assert isinstance(nothing, Unmeasured)
    assert "Tune" in nothing.reason
