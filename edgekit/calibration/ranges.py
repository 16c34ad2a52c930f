"""Statistics of a tensor over one pass, in memory that does not grow with the number of images, and the 8-bit grids.

`edgekit.calibration.fitting` fits a grid to it: symmetric (-127 to 127 steps) or affine (256 steps with a zero point).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats

LEVELS = 127
"""A symmetric grid goes from -127 to 127."""

STEPS = 255
"""Steps of an affine grid."""

BINS = 4096

SHARES = np.geomspace(1.0, 1 / 50, 60)
"""Shares of an extreme that are tried as the end of the range."""

ENOUGH = 1 << 17
"""Values of one tensor and sample that go into the histogram, evenly chosen; the extremes are those of all values."""

FINITE = 1e30
"""Beyond this a value stands for infinity, as in the padding of a max-pool."""


@dataclass
class TensorStatistics:
    """Extremes and histogram of one tensor over all samples, of a size that does not depend on their number.

    The histogram spans [-limit, limit]. When a value falls outside, the limit doubles and the bins merge in pairs.
    """

    low: float = 0.0
    high: float = 0.0
    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: Floats) -> None:
        """Take in the tensor of one sample, of any shape."""
        flat = values.reshape(-1)
        flat = flat[np.abs(flat) < FINITE]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
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
