"""Statistics against brute force, published values, identities and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import stats
from trimtab.errors import UsageError
from trimtab.records.figures import Measured, Unmeasured

scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)
points = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=9)


def measured(figure: Measured | Unmeasured) -> Measured:
    assert isinstance(figure, Measured), figure
    return figure


# Proportions


def test_wilson_published_value() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I: 81 of 263.
    figure = stats.wilson(81, 263)
    assert (round(figure.low, 4), round(figure.high, 4)) == (0.2553, 0.3662)
    assert figure.n == 263


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_brackets_mirrors_and_never_has_width_zero(case: tuple[int, int]) -> None:
    k, n = case
    figure, mirrored = stats.wilson(k, n), stats.wilson(n - k, n)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.high - figure.low > 0
    assert math.isclose(figure.low, 1 - mirrored.high, abs_tol=1e-12)
    assert stats.wilson(k, n, 0.99).high >= figure.high


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(UsageError, match="successes in"):
        stats.wilson(k, n)


def test_wilson_refuses_a_level_of_one() -> None:
    with pytest.raises(UsageError, match="level"):
        stats.wilson(1, 2, 1.0)


def test_rate_is_wilson_and_unmeasured_when_empty() -> None:
    assert stats.rate([True, False, True]) == stats.wilson(2, 3)
    assert isinstance(stats.rate([]), Unmeasured)


# Bootstrap


def test_bootstrap_is_seeded_and_not_trivially_so() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    assert stats.mean_interval(values, seed=1) == stats.mean_interval(values, seed=1)
    assert stats.mean_interval(values, seed=1) != stats.mean_interval(values, seed=2)


def test_mean_interval_agrees_with_student_on_normal_data() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=200)
    figure = measured(stats.mean_interval(values))
    half = 1.972 * values.std(ddof=1) / math.sqrt(200)
    assert figure.value == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - half, abs=0.05)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.05)
    assert figure.n == 200


def test_bca_leans_with_the_skew_where_the_percentile_interval_does_not() -> None:
    values = np.random.default_rng(5).lognormal(0, 1, size=60)
    figure = measured(stats.mean_interval(values))
    assert figure.high - figure.value > 1.3 * (figure.value - figure.low)


def test_large_samples_are_resampled_in_batches() -> None:
    values = np.random.default_rng(7).normal(size=20_000)
    figure = measured(stats.mean_interval(values, resamples=400))
    assert figure.high - figure.low == pytest.approx(2 * 1.96 / math.sqrt(20_000), rel=0.15)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_values_are_unmeasured(values: list[float]) -> None:
    assert isinstance(stats.mean_interval(values), Unmeasured)


def test_constant_values_have_a_point_interval() -> None:
    figure = measured(stats.mean_interval([2.5] * 9))
    assert (figure.value, figure.low, figure.high) == (2.5, 2.5, 2.5)


def test_not_a_number_is_unmeasured() -> None:
    assert isinstance(stats.mean_interval([1.0, math.nan, 2.0]), Unmeasured)


def test_two_sample_statistic() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    figure = measured(stats.bootstrap(lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), a, b))
    assert figure.low < 1 < figure.high
    assert figure.low > 0
    assert figure.n == 120


def test_bootstrap_statistic_that_is_rarely_defined_is_unmeasured() -> None:
    def rarely(x: np.ndarray, axis: int) -> np.ndarray:
        mean = x.mean(axis=axis)
        return np.where(mean == 1.0, mean, math.nan)

    assert isinstance(stats.bootstrap(rarely, [0.0, 0.5, 1.0, 1.5, 2.0]), Unmeasured)


def test_paired_difference_is_tighter_than_the_unpaired_one() -> None:
    rng = np.random.default_rng(13)
    base = rng.normal(0, 10, 80)
    figure = measured(stats.paired_difference(base + 1 + rng.normal(0, 0.1, 80), base))
    assert 0.9 < figure.low < figure.value < figure.high < 1.1
    with pytest.raises(UsageError, match="samples of 2 and 3"):
        stats.paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


# Seeds x questions


def test_clustered_mean_is_wider_where_seeds_disagree() -> None:
    agree = np.tile([0.0, 1.0] * 30, (3, 1))
    disagree = np.stack([np.zeros(60), np.ones(60), np.tile([0.0, 1.0], 30)])
    narrow, wide = measured(stats.clustered_mean(list(agree))), measured(stats.clustered_mean(list(disagree)))
    assert narrow.value == wide.value == 0.5
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert narrow.n == 180


def test_clustered_mean_of_one_seed_is_the_question_bootstrap() -> None:
    values = np.random.default_rng(17).normal(size=100)
    one = measured(stats.clustered_mean([values], resamples=20_000))
    plain = measured(stats.mean_interval(values, resamples=20_000))
    assert (one.low, one.high) == (pytest.approx(plain.low, abs=0.03), pytest.approx(plain.high, abs=0.03))


def test_clustered_mean_repeating_a_seed_adds_no_certainty() -> None:
    values = np.random.default_rng(19).normal(size=100)
    one = measured(stats.clustered_mean([values], resamples=20_000))
    copied = measured(stats.clustered_mean([values] * 5, resamples=20_000))
    assert copied.high - copied.low == pytest.approx(one.high - one.low, rel=0.05)


@pytest.mark.parametrize("questions", [7, 99, 100])
@pytest.mark.parametrize("seeds", [1, 3])
def test_clustered_mean_of_shares_stays_a_share(questions: int, seeds: int) -> None:
    rows = [[1.0] * (questions - 1) + [0.0]] * seeds
    found = measured(stats.clustered_mean(rows))
    assert 0 <= found.low <= found.value <= found.high <= 1
    other = measured(stats.clustered_mean([[1 - value for value in row] for row in rows]))
    assert 0 <= other.low <= other.value <= other.high <= 1


def test_clustered_mean_coverage() -> None:
    rng, hits = np.random.default_rng(23), 0
    for trial in range(200):
        table = rng.normal(0, 1, (5, 1)) + rng.normal(0, 1, (1, 40)) + rng.normal(0, 1, (5, 40))
        figure = measured(stats.clustered_mean(list(table), seed=trial, resamples=300))
        hits += figure.low <= 0 <= figure.high
    assert 0.80 <= hits / 200 <= 0.99  # five seeds: a little under .95; ignoring seeds it would be about .5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clustered_mean_of_constant_truth_values_keeps_wilsons_doubt(value: float) -> None:
    figure = measured(stats.clustered_mean([[value] * 50] * 3))
    doubt = stats.wilson(int(50 * value), 50)
    assert (figure.value, figure.low, figure.high, figure.n) == (value, doubt.low, doubt.high, 150)


def test_clustered_mean_refuses_ragged_and_reports_empty() -> None:
    with pytest.raises(UsageError, match="rows of 2, 3 values"):
        stats.clustered_mean([[1.0, 2.0], [1.0, 2.0, 3.0]])
    assert isinstance(stats.clustered_mean([]), Unmeasured)
    assert isinstance(stats.clustered_mean([[1.0]]), Unmeasured)
    assert isinstance(stats.clustered_mean([[1.0, math.nan]]), Unmeasured)


def ratio_draws(top: np.ndarray, bottom: np.ndarray, resamples: int) -> np.ndarray:
    """The pigeonhole bootstrap of a ratio by drawing rows and columns one by one."""
    rng, draws = np.random.default_rng(29), list[float]()
    for _ in range(resamples):
        rows = rng.integers(0, top.shape[0], top.shape[0])
        columns = rng.integers(0, top.shape[1], top.shape[1])
        draws.append(top[np.ix_(rows, columns)].sum() / bottom[np.ix_(rows, columns)].sum())
    return np.array(draws)


@pytest.mark.parametrize("seeds", [1, 3])
def test_clustered_ratio_is_what_drawing_seeds_and_questions_gives(seeds: int) -> None:
    rng = np.random.default_rng(31)
    bottom = rng.integers(0, 5, (seeds, 60)).astype(float)
    top = rng.binomial(bottom.astype(int), rng.random((1, 60)) * 0.6).astype(float)
    figure = measured(stats.clustered_ratio(list(top), list(bottom), resamples=10_000))
    low, high = np.quantile(ratio_draws(top, bottom, 10_000), [0.025, 0.975])
    assert figure.value == top.sum() / bottom.sum()
    assert figure.n == bottom.sum()
    assert (figure.low, figure.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_clustered_ratio_over_ones_is_clustered_mean() -> None:
    table = np.random.default_rng(37).normal(size=(3, 40))
    ratio = measured(stats.clustered_ratio(list(table), [[1.0] * 40] * 3, resamples=2000))
    mean = measured(stats.clustered_mean(list(table), resamples=2000))
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == pytest.approx((mean.value, mean.low, mean.high, mean.n))


def test_clustered_ratio_counts_claims_of_one_answer_together() -> None:
    """Twenty claims of two answers that stand or fall together are no twenty answers."""
    apart = measured(stats.clustered_ratio([[1.0, 0.0] * 10], [[1.0] * 20]))
    together = measured(stats.clustered_ratio([[5.0, 0.0] * 2], [[5.0] * 4]))
    assert (apart.value, apart.n) == (together.value, together.n) == (0.5, 20)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_clustered_ratio_of_all_or_nothing_keeps_wilsons_doubt(part: float) -> None:
    wholes = [[2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 5.0, 1.0]]
    figure = measured(stats.clustered_ratio([[part * n for n in row] for row in wholes], wholes))
    doubt = stats.wilson(3 * int(part), 3)
    assert (figure.value, figure.low, figure.high, figure.n) == (part, doubt.low, doubt.high, 12)


def test_clustered_ratio_sets_resamples_without_a_whole_aside() -> None:
    figure = measured(stats.clustered_ratio([[2.0, 0.0, 0.0, 0.0]], [[2.0, 2.0, 0.0, 0.0]]))
    assert (figure.value, figure.low, figure.high, figure.n) == (0.5, 0.0, 1.0, 4)


def test_clustered_ratio_of_one_question_has_no_interval() -> None:
    assert isinstance(stats.clustered_ratio([[1.0, 0.0, 0.0]], [[2.0, 0.0, 0.0]]), Unmeasured)
    assert measured(stats.clustered_ratio([[0.0] * 3], [[2.0, 0.0, 0.0]])).high == stats.wilson(0, 1).high


def test_clustered_ratio_refuses_ragged_and_reports_empty() -> None:
    for tops, bottoms in (
        ([[1.0, 2.0]], [[1.0]]),
        ([[1.0, 2.0]], [[1.0, 2.0]] * 2),
        ([[1.0, 0.0], [1.0]], [[1.0, 1.0]] * 2),
    ):
        with pytest.raises(UsageError, match=r"parts .*, wholes"):
            stats.clustered_ratio(tops, bottoms)
    empty = ([], []), ([[1.0]], [[1.0]]), ([[0.0] * 3], [[0.0] * 3]), ([[math.nan, 0.0]], [[1.0, 1.0]])
    assert all(isinstance(stats.clustered_ratio(tops, bottoms), Unmeasured) for tops, bottoms in empty)
    assert isinstance(stats.clustered_ratio([[1.0, 0.0]], [[math.inf, 1.0]]), Unmeasured)


# AUROC


@given(scores, scores)
def test_auroc_equals_brute_force_with_ties(positive: list[float], negative: list[float]) -> None:
    wins = sum((p > q) + 0.5 * (p == q) for p in positive for q in negative)
    assert stats.auroc(positive, negative) == pytest.approx(wins / (len(positive) * len(negative)))


@given(scores, scores)
def test_auroc_swaps_and_ignores_monotone_maps(positive: list[float], negative: list[float]) -> None:
    area = stats.auroc(positive, negative)
    assert stats.auroc(negative, positive) == pytest.approx(1 - area)
    assert stats.auroc([math.exp(x) for x in positive], [math.exp(x) for x in negative]) == pytest.approx(area)


@given(scores, scores)
def test_auroc_interval_brackets_and_mirrors(positive: list[float], negative: list[float]) -> None:
    figure = measured(stats.auroc_interval(positive, negative))
    mirrored = measured(stats.auroc_interval(negative, positive))
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.low == pytest.approx(1 - mirrored.high, abs=1e-6)


def test_auroc_interval_keeps_doubt_under_perfect_separation_and_shrinks_with_n() -> None:
    small = measured(stats.auroc_interval(range(10, 20), range(10)))
    large = measured(stats.auroc_interval(range(100, 200), range(100)))
    assert small.value == large.value == small.high == 1.0
    assert 0.6 < small.low < large.low < 1.0


def test_auroc_interval_coverage() -> None:
    rng, true_area, hits = np.random.default_rng(29), 0.9213503964748574, 0  # Phi(2 / sqrt 2)
    for _ in range(400):
        figure = measured(stats.auroc_interval(rng.normal(2, 1, 25), rng.normal(0, 1, 25)))
        hits += figure.low <= true_area <= figure.high
    assert 0.92 <= hits / 400 <= 0.995


def test_auroc_without_scores() -> None:
    assert isinstance(stats.auroc_interval([], [1.0]), Unmeasured)
    assert isinstance(stats.auroc_interval([math.nan], [1.0]), Unmeasured)
    with pytest.raises(UsageError, match="0 positive"):
        stats.auroc([], [1.0])


# Tests


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_equals_the_binomial_tail(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [p for p, _ in pairs], [q for _, q in pairs]
    only_a, only_b = sum(p and not q for p, q in pairs), sum(q and not p for p, q in pairs)
    n = only_a + only_b
    if n == 0:
        assert stats.mcnemar_exact(a, b) is None
        return
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert stats.mcnemar_exact(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert stats.mcnemar_exact(a, b) == stats.mcnemar_exact(b, a)


def test_fisher_lady_tasting_tea() -> None:
    assert stats.fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)
    with pytest.raises(UsageError, match="5 of 4"):
        stats.fisher_exact(5, 4, 1, 4)


def test_permutation_test_is_exact_on_small_samples() -> None:
    a, b = [1.0, 2.0, 9.0], [4.0, 8.0, 10.0]
    pooled, seen = a + b, abs(np.mean(a) - np.mean(b))
    splits = list(itertools.combinations(range(6), 3))
    extreme = [
        abs(np.mean([pooled[i] for i in s]) - np.mean([pooled[i] for i in range(6) if i not in s])) >= seen - 1e-12
        for s in splits
    ]
    assert stats.permutation_test(a, b) == pytest.approx(sum(extreme) / len(splits))


def test_permutation_test_paired_flips_signs() -> None:
    assert stats.permutation_test([2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 5, paired=True) == pytest.approx(2 / 2**5)
    assert stats.permutation_test([], [1.0]) is None


def test_false_discovery_equals_the_step_up_definition() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    ranked = sorted(p)
    expected = [min(1.0, *(ranked[j] * 5 / (j + 1) for j in range(ranked.index(x), 5))) for x in p]
    assert stats.false_discovery(p) == pytest.approx(expected)
    assert stats.false_discovery([]).shape == (0,)
    with pytest.raises(UsageError, match="p-value"):
        stats.false_discovery([1.2])


# Rank correlation


def test_spearman_known_values() -> None:
    assert stats.spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6*2/(4*15)
    assert stats.spearman([1, 2, 3], [1, 1, 1]) is None
    assert stats.spearman([1], [1]) is None


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=15))
def test_spearman_flips_sign_and_ignores_monotone_maps(pairs: list[tuple[int, int]]) -> None:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]
    rho = stats.spearman(x, y)
    if rho is None:
        assert len(set(x)) == 1 or len(set(y)) == 1
        return
    assert stats.spearman([-a for a in x], y) == pytest.approx(-rho, abs=1e-9)
    assert stats.spearman([a**3 for a in x], y) == pytest.approx(rho, abs=1e-9)
    assert stats.spearman(x, x) == pytest.approx(1.0)


def test_spearman_interval_covers_and_is_seeded() -> None:
    rng = np.random.default_rng(31)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    figure = measured(stats.spearman_interval(x, y))
    assert figure.value == stats.spearman(x, y)
    assert 0 < figure.low < figure.value < figure.high < 1
    assert figure == stats.spearman_interval(x, y)
    assert figure.n == 40


def test_spearman_interval_of_perfect_order_and_of_too_little() -> None:
    figure = measured(stats.spearman_interval(range(12), range(12)))
    assert figure.value == pytest.approx(1.0)
    assert figure.high == pytest.approx(1.0)
    assert isinstance(stats.spearman_interval([1, 2, 3], [1, 2, 3]), Unmeasured)
    assert isinstance(stats.spearman_interval([1, 1, 1, 1], [1, 2, 3, 4]), Unmeasured)


# Hull


def beaten(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    """Whether a mixture of at most two other points is at least as good in both and better in one (exact fractions)."""
    cost, gain = point
    for (c1, g1), (c2, g2) in itertools.combinations_with_replacement(others, 2):
        # shares t of the second point: checked at both ends and where the mixture costs, or gains, the same as `point`
        shares = {0.0, 1.0}
        shares |= {(cost - c1) / (c2 - c1)} if c1 != c2 else set()
        shares |= {(gain - g1) / (g2 - g1)} if g1 != g2 else set()
        for t in shares:
            if not 0 <= t <= 1:
                continue
            c, g = c1 + t * (c2 - c1), g1 + t * (g2 - g1)
            if c <= cost + 1e-9 and g >= gain - 1e-9 and (c < cost - 1e-9 or g > gain + 1e-9):
                return True
    return False


@settings(max_examples=300)
@given(points)
def test_hull_equals_brute_force_over_mixtures(cloud: list[tuple[float, float]]) -> None:
    assert set(stats.pareto_hull(cloud)) == {i for i, p in enumerate(cloud) if not beaten(p, cloud)}


def test_hull_is_ordered_and_drops_what_a_mixture_beats() -> None:
    # (0.5, 0.6) is not beaten by any single point, but half of each end gains 0.75 at the same cost
    cloud = [(1.0, 1.0), (0.5, 0.6), (0.0, 0.5), (0.0, 0.5), (1.0, 0.2)]
    assert stats.pareto_hull(cloud) == (2, 3, 0)
    assert stats.pareto_hull([]) == ()
    with pytest.raises(UsageError, match="finite"):
        stats.pareto_hull([(0.0, math.nan)])
