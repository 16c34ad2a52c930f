"""What is kept of a tensor."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hypothesis_numpy
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.calibration.ranges import BINS, TensorStatistics

tensors = hypothesis_numpy.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


@settings(deadline=None)
@given(st.lists(tensors, min_size=1, max_size=6))
@example([np.zeros(1, np.float32), np.ones(1, np.float32)])  # zeros count before anything else was seen, too
def test_statistics_hold_all_values_in_constant_memory(samples: list[Any]) -> None:
    statistics = TensorStatistics()
    for sample in samples:
        statistics.add(sample)
    values = np.concatenate(samples)
    assert statistics.low == min(0, values.min())
    assert statistics.high == max(0, values.max())
    assert statistics.counts.shape == (BINS,)
    if statistics.limit:
        assert statistics.counts.sum() == values.size
        width = 2 * statistics.limit / BINS
        centres = (np.arange(BINS) + 0.5) * width - statistics.limit
        mean = (statistics.counts * centres).sum() / values.size
        assert abs(mean - values.astype(np.float64).mean()) <= width


def test_what_stands_for_infinity_is_no_value() -> None:
    statistics = TensorStatistics()
    statistics.add(np.array([1, -np.inf, np.nan, -3.4e38, 2], np.float32))
    assert (statistics.low, statistics.high, statistics.counts.sum()) == (0, 2, 2)
    nothing = TensorStatistics()
    nothing.add(np.full(4, -np.inf, np.float32))
    assert (nothing.low, nothing.high, nothing.counts.sum()) == (0, 0, 0)


@pytest.mark.parametrize("value", [1e-45, 5e-39, 1e29])
def test_subnormal_and_huge_values_are_counted(value: float) -> None:
    statistics = TensorStatistics()
    statistics.add(np.array([value, -value], np.float32))
    assert statistics.counts.sum() == 2
