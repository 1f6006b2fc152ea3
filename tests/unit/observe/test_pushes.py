import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from control_world import bank as make_bank
from trimtab.lens.bank import Bank, Concept
from trimtab.lens.readings import Readings
from trimtab.observe.pushes import Doses, decompose, resampled_means, site_pushes
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.site import Site

SITE = Site(1)


def _readings(gradients: torch.Tensor) -> Readings:
    empty = {SITE: torch.zeros_like(gradients)}
    return Readings(
        activations=empty,
        predicting=empty,
        gradients={SITE: gradients},
        losses=torch.zeros(len(gradients)),
        token_pushes=(),
        encoded=(),
    )


def _measured(figure: object) -> Measured:
    assert isinstance(figure, Measured)
    return figure


def _noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_planted_mixture_comes_back_as_doses_and_is_explained() -> None:
    bank = make_bank()
    signatures = torch.stack([concept.signatures[SITE] for concept in bank.concepts])
    planted = torch.tensor([0.6, 0.0, 0.3])
    pull = planted @ signatures + 0.01 * _noise(3, 200, signatures.shape[1])
    found = decompose(_readings(-pull), bank, SITE)
    for wanted, figure in zip(planted.tolist(), found.dose, strict=True):
        dose = _measured(figure)
        assert dose.value == pytest.approx(wanted, abs=0.02)
        assert dose.low <= dose.value <= dose.high
        assert dose.n == 200
    assert _measured(found.unexplained_share).value < 0.05
    for i, concept in enumerate(bank.concepts):
        expected = float((pull @ concept.supplies[SITE]).mean())
        assert _measured(found.push[i]).value == pytest.approx(expected, rel=1e-4)
        assert _measured(found.cosine[i]).value == pytest.approx(expected / float(pull.mean(0).norm()), rel=1e-3)


def test_a_concept_that_is_taken_out_of_the_bank_becomes_unexplained_mass_with_the_right_rows() -> None:
    bank = make_bank()
    lost = bank["pirate"].signatures[SITE]
    carries = torch.arange(100) < 30
    pull = carries[:, None] * lost + 0.01 * _noise(4, 100, len(lost))
    whole = decompose(_readings(-pull), bank, SITE)
    smaller = decompose(_readings(-pull), bank.without("pirate"), SITE)
    assert _measured(smaller.unexplained_mass).low > 5 * _measured(whole.unexplained_mass).high
    top = np.argsort(-smaller.row_unnamed)[:30]
    assert set(top.tolist()) == set(range(30))


def test_one_row_has_no_interval() -> None:
    bank = make_bank()
    found = decompose(_readings(-bank["pirate"].signatures[SITE][None]), bank, SITE)
    assert isinstance(found.push[0], Unmeasured)
    assert isinstance(found.unexplained_mass, Unmeasured)


def test_resampled_means_center_on_the_mean_and_depend_on_the_seed_alone() -> None:
    rows = _noise(5, 50, 4)
    draws = resampled_means(rows, resamples=4000, seed=1)
    assert torch.allclose(draws.mean(0), rows.double().mean(0), atol=0.02)
    expected = rows.double().std(0, correction=0) / 50**0.5
    assert torch.allclose(draws.std(0), expected, rtol=0.1)
    assert torch.equal(draws[:5], resampled_means(rows, resamples=4000, seed=1)[:5])
    assert not torch.equal(draws[:5], resampled_means(rows, resamples=4000, seed=2)[:5])


def test_site_pushes_agree_with_the_decomposition() -> None:
    bank = make_bank()
    pull = _noise(6, 40, 32)
    found, sites = decompose(_readings(-pull), bank, SITE), site_pushes(_readings(-pull), bank, [SITE])
    for i, (push, cosine) in enumerate(sites[SITE]):
        assert _measured(push).value == pytest.approx(_measured(found.push[i]).value, rel=1e-6)
        assert _measured(cosine).value == pytest.approx(_measured(found.cosine[i]).value, rel=1e-6)


def test_rotated_fits_equal_fits_on_the_whole_vector() -> None:
    signatures, vector = _noise(7, 4, 30).double(), _noise(8, 30).double()
    whole, _ = nnls(signatures.numpy().T, vector.numpy())
    assert np.allclose(Doses(signatures)(vector).numpy(), whole, atol=1e-8)
    assert whole.max() > 0


def test_dependent_concepts_do_not_explain_more_than_their_span() -> None:
    bank = make_bank()
    twin = Concept(
        card=bank.concepts[0].card,
        directions=bank.concepts[0].directions,
        supplies=bank.concepts[0].supplies,
        signatures=bank.concepts[0].signatures,
    )
    double = Bank(card=bank.card, concepts=(*bank.concepts, twin))
    readings = _readings(_noise(9, 60, 32))
    one, two = decompose(readings, bank, SITE), decompose(readings, double, SITE)
    assert _measured(two.unexplained_share).value == pytest.approx(_measured(one.unexplained_share).value, abs=1e-9)
    assert 0.5 < _measured(one.unexplained_share).value < 1.0
