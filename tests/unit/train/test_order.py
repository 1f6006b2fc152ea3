from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimtab.train.order import WINDOW, row_order

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(lengths=LENGTHS, steps=st.integers(1, 30), batch=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_step_is_full_and_no_row_is_seen_twice_more_than_another(
    lengths: list[int], steps: int, batch: int, seed: int
) -> None:
    order = row_order(lengths, steps=steps, batch_size=batch, seed=seed)
    assert order.shape == (steps * batch,)
    counts = Counter(order.tolist())
    assert set(counts) <= set(range(len(lengths)))
    assert max(counts.values()) - min(counts.get(row, 0) for row in range(len(lengths))) <= 1


@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_the_order_depends_on_the_seed_alone(lengths: list[int], seed: int) -> None:
    first = row_order(lengths, steps=20, batch_size=4, seed=seed)
    assert np.array_equal(first, row_order(lengths, steps=20, batch_size=4, seed=seed))


def test_another_seed_gives_another_order() -> None:
    lengths = [5] * 30
    orders = {tuple(row_order(lengths, steps=20, batch_size=4, seed=seed).tolist()) for seed in range(4)}
    assert len(orders) == 4


def test_rows_of_like_length_share_a_step() -> None:
    lengths = np.random.default_rng(0).integers(10, 100, 400)

    def padding(order: np.ndarray) -> float:
        batches = lengths[order].reshape(-1, 16)
        return float((batches.max(1, keepdims=True) - batches).sum() / batches.sum())

    grouped = padding(row_order(lengths.tolist(), steps=25, batch_size=16, seed=0))
    shuffled = padding(np.random.default_rng(0).permutation(400))
    assert grouped < 0.2 * shuffled


def test_a_window_is_still_a_random_sample() -> None:
    """Short rows do not come first: over seeds, the mean length of the first step is that of all rows."""
    lengths = list(range(10, 110))
    first = [
        np.mean([lengths[row] for row in row_order(lengths, steps=20, batch_size=5, seed=s)[:5]]) for s in range(300)
    ]
    assert abs(float(np.mean(first)) - float(np.mean(lengths))) < 5
    assert len({tuple(row_order(lengths, steps=WINDOW, batch_size=5, seed=s)[:5].tolist()) for s in range(9)}) == 9
