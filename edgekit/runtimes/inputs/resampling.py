"""Bilinear and bicubic resizing as Pillow does it, which is what transformers and most classifiers were trained with.

OpenCV looks at two or four pixels a side however far an image is scaled down; Pillow widens the kernel with the scale,
so that no pixel is passed over (antialiasing). OpenCV's ``INTER_CUBIC`` is another kernel too (a = -0.75 where Pillow
has -0.5). The order is that of Pillow up to 12; 13 goes down first where the height shrinks much more than the width,
which moves a few grey levels.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image

Kernel = Literal["bilinear", "bicubic"]

REACH: dict[Kernel, float] = {"bilinear": 1.0, "bicubic": 2.0}
"""Half the width of each kernel, in pixels of the smaller of the two images."""

ROWS = 256
"""Rows resized at a time: as float64 a large photograph would take eight times its memory."""

BAND = 16
"""New rows or columns computed at a time."""

ONE = 2**22
"""Pillow's weights are whole multiples of 1 / ONE. Sums of them are whole numbers that float64 holds exactly."""

Weights = NDArray[np.float64]


def resample(image: Image, size: tuple[int, int], kernel: Kernel) -> Image:
    """An image in another size: across first and then down, rounded to whole grey levels in between.

    Args:
        image: uint8 (h, w, channels).
        size: (width, height), both at least 1.
        kernel: which of Pillow's.
    """
    width, height = size
    strips = (image[start : start + ROWS] for start in range(0, len(image), ROWS))
    parts = [_levels(_along(strip.transpose(1, 0, 2), width, kernel)) for strip in strips]
    narrow = np.concatenate(parts, 1).transpose(1, 0, 2)
    return _levels(_along(narrow, height, kernel))


def _along(image: Image, new: int, kernel: Kernel) -> Weights:
    """Sums of weighted grey levels along the first axis, (new, ...), `BAND` at a time: each sees but a few pixels."""
    shares = weights(len(image), new, kernel)
    sums = np.empty((new, *image.shape[1:]))
    for start in range(0, new, BAND):
        some = shares[start : start + BAND]
        seen = np.flatnonzero(some.any(0))
        first, last = int(seen[0]), int(seen[-1]) + 1
        part = image[first:last].astype(np.float64).reshape(last - first, -1)
        sums[start : start + BAND] = (some[:, first:last] @ part).reshape(-1, *image.shape[1:])
    return sums


@functools.lru_cache(maxsize=16)
def weights(old: int, new: int, kernel: Kernel) -> Weights:
    """Integer weights of the old pixels for each new one along one axis, (new, old); rows sum to `ONE` but
    for rounding.

    The kernel is a triangle, or Keys' cubic convolution with a = -0.5 (IEEE Trans. ASSP 29, 1981), centred at the
    middle of the new pixel, cut off at the border and normalised.
    """
    shape, reach = (_triangle if kernel == "bilinear" else _cubic), REACH[kernel]
    scale = old / new
    stretch = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum(np.floor(centres - reach * stretch + 0.5), 0)
    last = np.minimum(np.floor(centres + reach * stretch + 0.5), old)
    places = np.arange(old)
    seen = (places >= first[:, None]) & (places < last[:, None])
    values = np.where(seen, shape((places + 0.5 - centres[:, None]) / stretch), 0.0)
    shares = values / values.sum(1, keepdims=True) * ONE
    whole: Weights = np.trunc(shares + np.copysign(0.5, shares))
    whole.flags.writeable = False
    return whole


def _triangle(x: Weights) -> Weights:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Weights) -> Weights:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < REACH["bicubic"], far, 0.0))


def _levels(sums: Weights) -> Image:
    """Sums of weighted grey levels, rounded to levels."""
    levels: Image = np.clip(np.floor((sums + ONE // 2) / ONE), 0, 255).astype(np.uint8)
    return levels
