"""Bicubic resizing as Pillow does it, which is what vision-language models and many classifiers were trained with.

OpenCV's ``INTER_CUBIC`` is another kernel (a = -0.75 where Pillow has -0.5) and looks at four pixels however far an
image is scaled down; Pillow widens the kernel with the scale, so that no pixel is passed over. The order is that of
Pillow up to 12; 13 goes down first where the height shrinks much more than the width, which moves a few grey levels.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image

REACH = 2.0
"""Half the width of the kernel, in pixels of the smaller of the two images."""

ROWS = 256
"""Rows resized at a time: as float64 a large photograph would take eight times its memory."""

ONE = 2**22
"""Pillow's weights are whole multiples of 1 / ONE. Sums of them are whole numbers that float64 holds exactly."""

Weights = NDArray[np.float64]


def bicubic(image: Image, size: tuple[int, int]) -> Image:
    """An image in another size: across first and then down, rounded to whole grey levels in between.

    Args:
        image: uint8 (h, w, channels).
        size: (width, height), both at least 1.
    """
    width, height = size
    across = weights(image.shape[1], width).T
    strips = (image[start : start + ROWS] for start in range(0, len(image), ROWS))
    parts = [_levels(np.tensordot(strip.astype(np.float64), across, (1, 0))) for strip in strips]
    narrow = np.concatenate(parts).transpose(0, 2, 1)  # tensordot puts the new axis last
    return _levels(np.tensordot(weights(image.shape[0], height), narrow.astype(np.float64), (1, 0)))


@functools.lru_cache(maxsize=16)
def weights(old: int, new: int) -> Weights:
    """Integer weights of the old pixels for each new one along one axis, (new, old); rows sum to `ONE` but
    for rounding.

    The kernel is Keys' cubic convolution with a = -0.5 (IEEE Trans. ASSP 29, 1981), centred at the middle of the new
    pixel, cut off at the border and normalised.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum(np.floor(centres - REACH * stretch + 0.5), 0)
    last = np.minimum(np.floor(centres + REACH * stretch + 0.5), old)
    places = np.arange(old)
    seen = (places >= first[:, None]) & (places < last[:, None])
    values = np.where(seen, _kernel((places + 0.5 - centres[:, None]) / stretch), 0.0)
    shares = values / values.sum(1, keepdims=True) * ONE
    whole: Weights = np.trunc(shares + np.copysign(0.5, shares))
    whole.flags.writeable = False
    return whole


def _kernel(x: Weights) -> Weights:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < REACH, far, 0.0))


def _levels(sums: Weights) -> Image:
    """Sums of weighted grey levels, rounded to levels."""
    levels: Image = np.clip(np.floor((sums + ONE // 2) / ONE), 0, 255).astype(np.uint8)
    return levels
