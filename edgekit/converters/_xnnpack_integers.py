"""Weights of linear layers as XNNPACK's kernels take them, for the targets that compute with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.graph.blip2.forms import ROWS


def channels(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Integers of 8 bits (outputs, inputs) around 0, and a scale for each output."""
    largest = np.abs(weight).max(1)
    steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(weight / steps[:, None]), -127, 127).astype(np.int8), steps


def blocks(weight: Floats, size: int) -> tuple[NDArray[np.int8], Floats]:
    """Integers from -7 to 7 (outputs, inputs), and scales (outputs, blocks), one for ``size`` inputs of an output.

    Scales have seven bits behind the point (bfloat16): that is all that the kernels read of them. Blocks have to
    divide the inputs.
    """
    import ml_dtypes

    outputs, inputs = weight.shape
    integers, scales = np.empty((outputs, inputs), np.int8), np.empty((outputs, inputs // size), np.float32)
    # Some outputs at a time: what rounding needs in between is several times as large as the weight.
    for first in range(0, outputs, ROWS):
        rows = slice(first, first + ROWS)
        some = weight[rows].reshape(-1, inputs // size, size)
        largest = np.abs(some).max(-1)
        scales[rows] = np.where(largest > 0, largest / 7, 1).astype(ml_dtypes.bfloat16)
        integers[rows] = np.clip(np.rint(some / scales[rows][..., None]), -7, 7).reshape(-1, inputs)
    return integers, scales
