"""Heatmaps of keypoints: SimpleBaselines, HRNet, ViTPose."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, decoder
from edgekit.runtimes.tasks.decoders.points import CENTRE, one_person


class Heatmaps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the place of a peak is refined between cells, and the kernel (cells, odd) of the blur that DARK starts with.

    ``quarter`` moves a quarter of a cell towards the higher neighbour (SimplePose), ``dark`` takes the peak of a
    Gaussian (DARK). ``aligned`` (UDP) when the first and the last cell are at the input's edges, not half a cell off.
    """

    refine: Literal["none", "quarter", "dark"] = "quarter"
    kernel: Annotated[int, msgspec.Meta(ge=1, le=255)] = 11
    aligned: bool = False


@decoder("heatmaps", task="pose", whole=("heatmaps",))
def heatmaps(heads: Heads, options: Heatmaps, frame: Frame, threshold: float) -> Candidates:
    """One heatmap a keypoint, role ``heatmaps`` (1, k, rows, columns): the peak's place, and its height as score.

    Sub-pixel places as in SimpleBaselines (Xiao et al. 2018) or DARK (Zhang et al. 2020); unbiased coordinates as in
    UDP (Huang et al. 2020). ViTPose and HRNet too.
    """
    (maps,) = heads["heatmaps"]
    if maps.ndim != 4:
        raise ValueError(f"{maps.shape} where (1, keypoints, rows, columns) is needed")
    count, rows, columns = maps.shape[1:]
    check_finite(maps)
    peaks = maps[0].reshape(count, -1).argmax(1)
    y, x = peaks // columns, peaks % columns
    scores = maps[0, np.arange(count), y, x]
    place = np.stack([x, y], 1).astype(np.float32)
    if options.refine == "quarter":
        place += _quarter(maps[0], x, y)
    elif options.refine == "dark":
        place += _dark(maps[0], x, y, options.kernel)
    size, grid = np.array([frame.width, frame.height], np.float32), np.array([columns, rows], np.float32)
    place = CENTRE + (place * (size - 1) / (grid - 1) if options.aligned else place * (size / grid))
    points = np.concatenate([place, np.clip(scores, 0, 1)[:, None]], 1).astype(np.float32)
    return one_person(points, frame, threshold)


def _quarter(maps: Floats, x: Ints, y: Ints) -> Floats:
    """Shift by a quarter of a cell towards the higher neighbour, (k, 2); zero at the border."""
    count, rows, columns = maps.shape
    each = np.arange(count)
    inside = (x > 0) & (x < columns - 1) & (y > 0) & (y < rows - 1)
    left, right = maps[each, y, np.maximum(x - 1, 0)], maps[each, y, np.minimum(x + 1, columns - 1)]
    above, below = maps[each, np.maximum(y - 1, 0), x], maps[each, np.minimum(y + 1, rows - 1), x]
    moved = np.sign(np.stack([right - left, below - above], 1)) * np.float32(0.25)
    return np.where(inside[:, None], moved, np.float32(0)).astype(np.float32)


def _dark(maps: Floats, x: Ints, y: Ints, kernel: int) -> Floats:
    """One Newton step on the logarithm of the blurred heatmap, (k, 2): exact for a Gaussian."""
    import cv2

    count, rows, columns = maps.shape
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, not {kernel}")
    moved = np.zeros((count, 2), np.float32)
    for index in range(count):
        column, row = int(x[index]), int(y[index])
        if not (2 <= column < columns - 2 and 2 <= row < rows - 2):
            continue
        blurred = cv2.GaussianBlur(maps[index], (kernel, kernel), 0)
        window = np.log(np.maximum(blurred[row - 2 : row + 3, column - 2 : column + 3], np.float32(1e-10)))
        slope = 0.5 * np.array([window[2, 3] - window[2, 1], window[3, 2] - window[1, 2]])
        xx = 0.25 * (window[2, 4] - 2 * window[2, 2] + window[2, 0])
        yy = 0.25 * (window[4, 2] - 2 * window[2, 2] + window[0, 2])
        xy = 0.25 * (window[3, 3] - window[1, 3] - window[3, 1] + window[1, 1])
        determinant = xx * yy - xy * xy
        if determinant > 0:
            step = -np.array([yy * slope[0] - xy * slope[1], xx * slope[1] - xy * slope[0]]) / determinant
            moved[index] = np.clip(step, -1, 1)
    return moved
