"""What is said of samples: against SciPy, by known series, and by the error rates of whole comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgekit.errors import InputError
from edgekit.profiling.statistics import distribution, ratio_interval, spread, student_quantile, warm_up

TIMES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200)


@given(TIMES)
def test_a_distribution_is_in_order_and_drops_nothing(times: list[float]) -> None:
    one = distribution(times)
    assert one.min <= one.p50 <= one.p90 <= one.p95 <= one.p99 <= one.max
    assert one.count == len(times)
    assert one.max == max(times)
    assert one.min * (1 - 1e-12) <= one.mean <= one.max * (1 + 1e-12)


@given(TIMES)
def test_percentiles_are_those_of_numpy(times: list[float]) -> None:
    one = distribution(times)
    assert (one.p50, one.p99) == pytest.approx(tuple(np.percentile(times, (50, 99))))
    assert one.std == pytest.approx(np.std(times, ddof=1) if len(times) > 1 else 0.0)


def test_outliers_are_counted_and_stay() -> None:
    times = [10.0 + 0.01 * place for place in range(100)] + [50.0, 80.0]
    one = distribution(times)
    assert (one.outliers, one.max, one.count) == (2, 80.0, 102)
    assert distribution(times[:-2]).outliers == 0


def test_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="no samples"):
        distribution([])


@pytest.mark.parametrize("slow", [5, 20, 45])
def test_a_warm_up_is_found_where_it_ends(slow: int) -> None:
    draw = np.random.default_rng(slow)
    times = np.concatenate([np.linspace(30, 12, slow), np.full(200, 10.0)]) * draw.normal(1, 0.02, slow + 200)
    cut, settled = warm_up(times)
    assert settled
    assert slow - 5 <= cut <= slow + 20


def test_a_series_that_is_steady_keeps_most_of_its_samples() -> None:
    found = [warm_up(np.random.default_rng(seed).gamma(40, 0.25, count)) for seed in range(60) for count in (50, 200)]
    assert np.mean([cut for cut, _ in found]) < 10
    assert sum(settled for _, settled in found) >= 116


def test_single_outliers_are_no_warm_up() -> None:
    times = np.random.default_rng(3).normal(10, 0.2, 200)
    times[[70, 120]] = 90
    assert warm_up(times)[0] < 70


def test_what_becomes_ever_faster_has_not_settled() -> None:
    assert warm_up(np.linspace(30, 10, 100)) == (50, False)


@pytest.mark.parametrize(("count", "cut"), [(0, 0), (1, 0), (2, 1), (19, 1)])
def test_of_few_samples_only_the_first_is_cut(count: int, cut: int) -> None:
    assert warm_up([5.0] * count) == (cut, True)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 7, 10, 30, 200])
@pytest.mark.parametrize("share", [0.9, 0.95, 0.975, 0.99, 0.995])
def test_quantiles_are_those_of_scipy(share: float, freedom: int) -> None:
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=0.01)


def test_paired_intervals_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    theirs = draw.normal(10, 0.5, 8)
    ours = theirs * draw.normal(1.1, 0.02, 8)
    found = ratio_interval(ours, theirs, paired=True, confidence=0.95)
    low, high = stats.ttest_rel(np.log(ours), np.log(theirs)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-3)


def test_unpaired_intervals_are_welchs_of_scipy() -> None:
    draw = np.random.default_rng(1)
    ours, theirs = draw.normal(11, 0.9, 9), draw.normal(10, 0.2, 6)
    found = ratio_interval(ours, theirs, paired=False, confidence=0.99)
    low, high = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.99)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-2)


def test_pairs_take_out_what_happens_to_both() -> None:
    draw = np.random.default_rng(2)
    machine = draw.uniform(1, 2, 8)  # a neighbour comes and goes
    ours, theirs = 11 * machine * draw.normal(1, 0.01, 8), 10 * machine * draw.normal(1, 0.01, 8)
    assert ratio_interval(ours, theirs, paired=True, confidence=0.99).low > 1
    assert ratio_interval(ours, theirs, paired=False, confidence=0.99).low < 1


def test_equal_constants_give_a_ratio_of_one() -> None:
    for paired in (True, False):
        found = ratio_interval([5.0] * 4, [5.0] * 4, paired=paired, confidence=0.99)
        assert (found.ratio, found.low, found.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "paired", "words"),
    [([1.0], [1.0], True, "one round says nothing"), ([1.0, 2.0], [1.0, 2.0, 3.0], True, "2 and 3 rounds do not pair")],
)
def test_what_cannot_be_compared_is_refused(ours: list[float], theirs: list[float], paired: bool, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ratio_interval(ours, theirs, paired=paired, confidence=0.99)


def test_the_error_rate_is_what_the_confidence_says() -> None:
    draw = np.random.default_rng(4)
    wrong = 0
    for _ in range(1000):
        ours, theirs = draw.lognormal(2, 0.1, 6), draw.lognormal(2, 0.1, 6)
        found = ratio_interval(ours, theirs, paired=True, confidence=0.95)
        wrong += not found.low <= 1 <= found.high
    assert 25 <= wrong <= 75


def test_the_spread_is_relative_and_of_rounds() -> None:
    assert spread([10.0]) == 0
    assert spread([9.0, 11.0]) == pytest.approx(math.sqrt(2) / 10)
