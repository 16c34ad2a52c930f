"""Fitting 8-bit grids to what a tensor held: every method against plain numpy on the raw values, and their choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from edgekit.calibration.fitting import PERCENTILE, fit, squared_error
from edgekit.calibration.plan import RangeMethod, TensorRange
from edgekit.calibration.ranges import BINS, TensorStatistics

METHODS = get_args(RangeMethod)
tensors = hypothesis_numpy.arrays(np.float32, st.integers(1, 80), elements=st.floats(-1e4, 1e4, width=32))
several = st.lists(tensors, min_size=1, max_size=4)
examples = settings(deadline=None)


def seen(*arrays: Any) -> TensorStatistics:
    """Statistics of samples."""
    statistics = TensorStatistics()
    for array in arrays:
        statistics.add(np.asarray(array, np.float32))
    return statistics


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-np.clip(x, -60, 60)))


def same(x: Any) -> Any:
    return x


def affine(values: Any, low: float, high: float) -> Any:
    """Values on the grid of 256 steps, as the ONNX operators compute it."""
    if high - low <= 0:
        return np.zeros_like(values)
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def symmetric(values: Any, limit: float) -> Any:
    """Values on the grid of -127..127."""
    if limit <= 0:
        return np.zeros_like(values)
    return np.clip(np.round(values / limit * 127), -127, 127) * limit / 127


# ---- what holds for every range ----


@examples
@given(several, st.sampled_from(("auto", *METHODS)), st.sampled_from((None, silu)))
@example([np.zeros(3, np.float32)], "auto", silu)
@example([np.full(4, 1e-42, np.float32)], "auto", None)
@example([np.full(4, -3.0, np.float32), np.full(4, 5.0, np.float32)], "squared", None)
def test_every_grid_contains_zero_and_stays_within_what_was_seen(
    samples: list[Any], method: Any, response: Any
) -> None:
    values = np.concatenate(samples)
    found = fit(seen(*samples), response, method)
    least, largest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    slack = 1e-6 * max(-least, largest)
    assert (found.lowest, found.highest) == (least, largest)
    assert least - slack <= found.low <= 0 <= found.high <= largest + slack
    assert 0 <= found.limit <= max(-least, largest) + slack
    assert np.isfinite(found.error)
    for name in (found.method, found.symmetric_method):
        assert name in METHODS if method == "auto" else name == method


@examples
@given(several)
def test_auto_is_never_worse_than_any_method_by_its_criterion(samples: list[Any]) -> None:
    statistics = seen(*samples)
    assume(statistics.limit > 255 * np.finfo(np.float32).tiny)  # below, float32 itself has fewer steps than the grid
    used = np.flatnonzero(statistics.counts)
    values = (used + 0.5) * 2 * statistics.limit / BINS - statistics.limit
    values = np.clip(values, statistics.low, statistics.high)
    counts = statistics.counts[used].astype(np.float64)

    def losses(one: TensorRange) -> Any:
        wanted = silu(values)
        grids = (affine(values, one.low, one.high), symmetric(values, one.limit))
        return np.array([np.average((silu(grid) - wanted) ** 2, weights=counts) for grid in grids])

    auto = losses(fit(statistics, silu))
    for method in METHODS:
        one = losses(fit(statistics, silu, method))
        assert (auto <= one * (1 + 1e-6) + 1e-12 * statistics.limit**2).all(), method


@pytest.mark.parametrize("method", METHODS)
def test_a_mirrored_tensor_has_the_mirrored_range(method: Any) -> None:
    draw = np.random.default_rng(3)
    values = np.concatenate([draw.gamma(2, 1, 20_000), draw.normal(0, 0.2, 20_000)])
    plain, mirrored = fit(seen(values), None, method), fit(seen(-values), None, method)
    assert -mirrored.low == pytest.approx(plain.high, rel=0.15)
    assert -mirrored.high == pytest.approx(plain.low, rel=0.15)
    assert mirrored.limit == pytest.approx(plain.limit, rel=0.06)


# ---- each method against numpy on the raw values ----

RAW: dict[str, Callable[[Any], Any]] = {
    "laplace": lambda draw: draw.laplace(0.5, 1, 4000),
    "relu": lambda draw: np.maximum(draw.normal(0, 1, 4000), 0),
    "outlier": lambda draw: np.append(draw.normal(0, 1, 4000), 25.0),
    "uniform": lambda draw: draw.uniform(-1, 3, 4000),
    "negative": lambda draw: -draw.gamma(3, 1, 4000),
}


@pytest.mark.parametrize("shape", RAW)
def test_the_least_error_is_that_of_an_exhaustive_search(shape: str) -> None:
    values = RAW[shape](np.random.default_rng(1)).astype(np.float32).astype(np.float64)
    found = fit(seen(values), None, "squared")

    def loss(grid: Any) -> float:
        return float(np.mean((grid - values) ** 2))

    shares = np.linspace(0.02, 1, 50)
    lows = min(values.min(), 0) * (shares if values.min() < 0 else np.zeros(1))
    highs = max(values.max(), 0) * (shares if values.max() > 0 else np.zeros(1))
    best = min(loss(affine(values, low, high)) for low in lows for high in highs)
    assert loss(affine(values, found.low, found.high)) < 1.06 * best
    best = min(loss(symmetric(values, limit)) for limit in np.abs(values).max() * shares)
    assert loss(symmetric(values, found.limit)) < 1.06 * best


def test_extremes_are_those_of_all_samples() -> None:
    found = fit(seen([0.5, 2.0], [1.0, -0.25], [0.25]), None, "min-max")
    assert (found.low, found.high, found.limit) == (-0.25, 2.0, 2.0)
    found = fit(seen([3.0, 4.0]), None, "min-max")
    assert (found.low, found.high) == (0.0, 4.0)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_percentiles_are_quantiles(scale: float) -> None:
    values = np.random.default_rng(2).standard_t(5, 100_000).astype(np.float32) * np.float32(scale)
    found = fit(seen(values), None, "percentile")
    width = 2 * float(np.abs(values).max()) / BINS
    assert found.low == pytest.approx(np.quantile(values, PERCENTILE / 2, method="inverted_cdf"), abs=2 * width)
    assert found.high == pytest.approx(np.quantile(values, 1 - PERCENTILE / 2, method="inverted_cdf"), abs=2 * width)
    assert found.limit == pytest.approx(
        np.quantile(np.abs(values), 1 - PERCENTILE, method="inverted_cdf"), abs=2 * width
    )
    assert found.high < 0.8 * values.max()


# ---- the activation behind ----


@pytest.mark.parametrize("method", ["auto", "squared"])
def test_before_silu_large_negative_values_are_given_up(method: Any) -> None:
    values = np.random.default_rng(2).uniform(-30, 4, 20_000).astype(np.float32)
    statistics = seen(values)
    plain, behind = fit(statistics, None, method), fit(statistics, silu, method)
    assert plain.low < -28
    assert behind.low > -14
    errors = [np.mean((silu(affine(values, one.low, one.high)) - silu(values)) ** 2) for one in (plain, behind)]
    assert errors[1] < 0.4 * errors[0]
    wanted = silu(values.astype(np.float64))
    assert behind.error == pytest.approx(np.sqrt(errors[1] / wanted.var()), rel=0.1)


def test_nothing_seen_and_nothing_but_zeros() -> None:
    nothing = fit(TensorStatistics())
    assert (nothing.low, nothing.high, nothing.limit, nothing.method) == (0, 0, 0, "nothing")
    infinite = fit(seen(np.full(3, -np.inf)))
    assert infinite.method == "nothing"
    for method in ("auto", *METHODS):
        zeros = fit(seen(np.zeros(50), np.zeros(50)), silu, method)  # type: ignore[arg-type]
        assert (zeros.low, zeros.high, zeros.limit, zeros.error) == (0, 0, 0, 0)
        assert zeros.method in METHODS


# ---- the squared error ----


@pytest.mark.parametrize("limit", [0.7, 3.0, 20.0])
def test_the_squared_error_is_that_of_the_raw_values(limit: float) -> None:
    values = np.random.default_rng(8).normal(0, 1, 50_000).astype(np.float32).astype(np.float64)
    wanted = float(np.mean((symmetric(values, limit) - values) ** 2))
    assert squared_error(seen(values), limit) == pytest.approx(wanted, rel=0.03)


def test_no_grid_has_no_squared_error() -> None:
    assert squared_error(TensorStatistics(), 1.0) == 0
    assert squared_error(seen([1.0, 2.0]), 0.0) == 0
