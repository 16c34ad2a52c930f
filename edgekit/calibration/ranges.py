"""Ranges of activations: what was seen of a tensor in one pass, and the range with the least error on an 8-bit grid.

Two grids: symmetric (-127..127 around zero, `Histogram` and `Observation`) and affine (256 steps with a zero point,
`Statistics` and `best_range`). What is kept of a tensor does not grow with the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.images import Floats

Doubles = NDArray[np.float64]

LEVELS = 127
"""A symmetric grid goes from -127 to 127."""

STEPS = 255
"""Steps of an affine grid."""

BINS = 4096

SHARES = np.geomspace(1.0, 1 / 50, 60)
"""Shares of an extreme that are tried as the end of the range."""

ENOUGH = 1 << 17
"""Values of one tensor and sample that `Statistics` takes, evenly chosen; the extremes are those of all values."""

MOMENTUM = 0.05
"""What one more sample weighs in a moving average."""

FINITE = 1e30
"""Beyond this a value stands for infinity, as in the padding of a max-pool."""


class Histogram:
    """Histogram of absolute values from zero up, in one pass: its range doubles when a larger value comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0

    def add(self, values: Floats) -> None:
        """Count absolute values (any shape)."""
        top = float(values.max(initial=0.0))
        if top <= 0.0:
            return
        self.limit = self.limit or top
        while self.limit < top:
            halved = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate((halved, np.zeros_like(halved)))
            self.limit *= 2
        bins = np.minimum((values.ravel() / self.limit * BINS).astype(np.int64), BINS - 1)  # BINS / limit may overflow
        self.counts += np.bincount(bins, minlength=BINS)

    def threshold(self, exponent: float) -> float:
        """The threshold with the least mean of |error| ** exponent after rounding to +-127 levels; 0: all were zero.

        Exponent 1 clips rare large values to keep small ones fine, 2 is the mean squared error, 3 hardly clips.
        """
        used = np.flatnonzero(self.counts)
        if not len(used):
            return 0.0
        width = self.limit / BINS
        centres = (used + 0.5) * width
        candidates = (used[-1] + 1) * width * np.geomspace(0.02, 1.0, 160)
        steps = candidates[:, None] / LEVELS
        errors = np.abs(np.minimum(np.rint(centres / steps), LEVELS) * steps - centres)
        return float(candidates[int((errors**exponent @ self.counts[used]).argmin())])


class Observation:
    """What was seen at the input of one convolution: absolute values, and the mean of each channel."""

    def __init__(self, channels: int) -> None:
        self.histogram = Histogram()
        self._sums = np.zeros(channels, np.float64)
        self._count = 0

    def add(self, blob: Floats) -> None:
        """Take in one image's input (channels, height, width)."""
        self.histogram.add(np.abs(blob))
        self._sums += blob.sum((1, 2), dtype=np.float64)
        self._count += blob.shape[1] * blob.shape[2]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of each channel over all images."""
        return self._sums / max(self._count, 1)


@dataclass
class Statistics:
    """What one tensor held over all samples; its size does not depend on their number.

    The histogram spans [-limit, limit]. When a value falls outside, the limit doubles and the bins merge in pairs.
    """

    low: float = 0.0
    high: float = 0.0
    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    average_low: float = 0.0
    average_high: float = 0.0
    """Moving averages of each sample's extremes."""

    samples: int = 0

    def add(self, values: Floats) -> None:
        """Take in the tensor of one sample, of any shape."""
        flat = values.reshape(-1)
        flat = flat[np.abs(flat) < FINITE]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += 1
        share = max(1 / self.samples, MOMENTUM)
        self.average_low += (low - self.average_low) * share
        self.average_high += (high - self.average_high) * share
        self._reach(max(-self.low, self.high))
        chosen = flat[:: 1 + flat.size // ENOUGH // 2 * 2]  # an odd step visits all channels of a power of two
        if self.limit > 0:
            bins = ((chosen / self.limit + 1) * (BINS / 2)).astype(np.int64)
            self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        else:  # nothing but zeros so far, whose bin does not depend on the limit
            self.counts[BINS // 2] += chosen.size

    def _reach(self, largest: float) -> None:
        if self.limit == 0:
            self.limit = largest
        while self.limit < largest:
            self.counts = np.pad(self.counts.reshape(-1, 2).sum(1), BINS // 4)
            self.limit *= 2


def best_range(statistics: Statistics, silu: bool) -> tuple[float, float]:
    """The range (low, high) whose 8-bit grid gives the least squared error over the histogram.

    The ends are searched in turn, from the extremes inwards. With ``silu`` the error is taken behind x * sigmoid(x),
    where large negative values do not differ any more. The range contains 0, as a zero point demands.
    """
    filled = np.flatnonzero(statistics.counts)
    if not filled.size:
        return 0.0, 0.0
    weights = statistics.counts[filled].astype(np.float64)
    values: Doubles = (filled.astype(np.float64) + 0.5) * (2 * statistics.limit / BINS) - statistics.limit
    respond = _silu if silu else _same
    wanted = respond(values)

    def error(low: float, high: float) -> float:
        step = max(high - low, 1e-12) / STEPS
        zero = np.round(low / step)
        held = np.clip(np.round(values / step), zero, zero + STEPS) * step
        return float(weights @ np.square(respond(held) - wanted))

    low, high = statistics.low, statistics.high
    for _ in range(2):
        high = statistics.high * float(SHARES[np.argmin([error(low, statistics.high * share) for share in SHARES])])
        low = statistics.low * float(SHARES[np.argmin([error(statistics.low * share, high) for share in SHARES])])
    return low, high


def _silu(x: Doubles) -> Doubles:
    result: Doubles = x / (1 + np.exp(-np.clip(x, -60, 60)))
    return result


def _same(x: Doubles) -> Doubles:
    return x
