import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.lens.directions import difference_of_means, doses, explain, span_basis


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_difference_of_means_recovers_a_planted_shift() -> None:
    neutral = _random(0, 200, 16)
    shift = torch.zeros(16)
    shift[3] = 5.0
    lens = difference_of_means(neutral + shift, neutral)
    assert torch.allclose(lens.direction, shift / 5.0, atol=1e-5)
    assert lens.gap == pytest.approx(5.0)
    assert float(lens.read(neutral).mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(lens.read(neutral + shift).mean()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("positive", "neutral"),
    [
        (torch.ones(0, 4), torch.ones(3, 4)),
        (torch.ones(3, 4), torch.ones(3, 4)),
        (torch.full((3, 4), float("nan")), torch.ones(3, 4)),
    ],
)
def test_unusable_contrasts_are_refused(positive: torch.Tensor, neutral: torch.Tensor) -> None:
    with pytest.raises(DataError):
        difference_of_means(positive, neutral)


@given(seed=st.integers(0, 1000), count=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_explained_and_unexplained_parts_add_up(seed: int, count: int) -> None:
    vectors, whole = _random(seed, count, 12), _random(seed + 1, 12)
    basis = span_basis(vectors)
    found = explain(whole, basis)
    assert torch.allclose(basis @ found.unexplained, torch.zeros(len(basis), dtype=torch.float64), atol=1e-6)
    least_squares = np.linalg.lstsq(vectors.double().numpy().T, whole.double().numpy(), rcond=None)
    assert found.unexplained_mass**2 == pytest.approx(float(least_squares[1][0]), rel=1e-5)
    assert found.unexplained_share == pytest.approx((found.unexplained_mass / found.mass) ** 2)
    assert 0.0 < found.unexplained_share <= 1.0


def test_a_vector_in_the_span_is_explained_and_one_outside_is_not() -> None:
    vectors = torch.eye(6)[:2]
    basis = span_basis(torch.cat([vectors, vectors[:1] * 3.0 + vectors[1:]]))
    assert len(basis) == 2
    assert explain(torch.eye(6)[0] * 2.0 - torch.eye(6)[1], basis).unexplained_share == pytest.approx(0.0, abs=1e-12)
    assert explain(torch.eye(6)[4], basis).unexplained_share == pytest.approx(1.0)


def test_doses_recover_a_planted_mixture_and_never_go_below_zero() -> None:
    signatures = _random(5, 3, 20)
    mixture = torch.tensor([0.3, 0.0, 0.7])
    assert torch.allclose(doses(mixture @ signatures, signatures), mixture.double(), atol=1e-5)
    assert float(doses(-signatures[0], signatures).min()) >= 0.0
