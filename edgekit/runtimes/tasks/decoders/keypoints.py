"""The pose heads edgekit knows: keypoints beside boxes, and networks that see one person in the whole input."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders import (
    Candidates,
    Frame,
    Heads,
    NoOptions,
    at_anchors,
    attached,
    check_finite,
    decoder,
    sigmoid,
)
from edgekit.runtimes.tasks.decoders.boxes import AnchorFree, Decoded, decoded_attached, matrix


@attached("anchor_free", "keypoints")
def _anchor_free_keypoints(heads: Heads, options: AnchorFree, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints of the anchors (n, k, 3); a head of two values a keypoint gives each the score 1."""
    values, levels = at_anchors(heads["keypoints"], anchors)
    points = _points(values, frame.keypoints)
    if points.shape[2] == 3 and values.shape[1] == 3 * frame.keypoints:
        points[..., 2] = sigmoid(points[..., 2])
    grids = np.array([head.shape[2:] for head in heads["keypoints"]])
    first = np.concatenate([[0], grids.prod(1).cumsum()[:-1]])
    cells, columns = anchors - first[levels], grids[levels, 1]
    corner = np.stack([cells % columns, cells // columns], 1).astype(np.float32)[:, None]
    stride = np.array(options.strides, np.float32)[levels][:, None, None]
    scale, offset = np.float32(options.keypoint_scale), np.float32(options.keypoint_offset)
    points[..., :2] = (points[..., :2] * scale + (corner + offset)) * stride
    return points


@attached("decoded", "keypoints")
def _decoded_keypoints(heads: Heads, options: Decoded, frame: Frame, anchors: Ints) -> Floats:
    """Keypoints that the graph decoded itself, in the pixels (or the share) of the input that its boxes are in."""
    points = _points(decoded_attached(heads, options, anchors), frame.keypoints)
    if options.normalized:
        points[..., :2] *= np.array([frame.width, frame.height], np.float32)
    return points


def _points(values: Floats, keypoints: int) -> Floats:
    """Values (n, 2 k or 3 k) as points (n, k, 3); without a third value the score is 1.

    Raises:
        ValueError: another number of values.
    """
    count = values.shape[1]
    if keypoints == 0 or count not in (2 * keypoints, 3 * keypoints):
        raise ValueError(f"{count} keypoint values, but {2 * keypoints} or {3 * keypoints} are needed")
    points = np.ones((len(values), keypoints, 3), np.float32)
    points[..., : count // keypoints] = values.reshape(len(values), keypoints, count // keypoints)
    return points


VISIBLE = 0.2
"""Keypoints above this score say where a person is; MoveNet's own cropping goes by the same figure."""


def one_person(points: Floats, frame: Frame, threshold: float) -> Candidates:
    """The one person of an input as a candidate: its score is its keypoints' mean, its box is round the sure ones.

    Args:
        points: (k, 3) x, y in input pixels and score 0..1.
        frame: of the contract.
        threshold: nobody is there when the score is not above it.

    Raises:
        ValueError: another number of keypoints than the contract's.
    """
    if len(points) != frame.keypoints:
        raise ValueError(f"{len(points)} keypoints, but the skeleton names {frame.keypoints}")
    check_finite(points)
    score = points[:, 2].mean(keepdims=True).astype(np.float32)
    keep = score > threshold
    sure = points[points[:, 2] > VISIBLE, :2] if (points[:, 2] > VISIBLE).any() else points[:, :2]
    box = np.concatenate([sure.min(0), sure.max(0)])[None].astype(np.float32)
    zero = np.zeros(1, np.int64)
    return Candidates(box[keep], score[keep], zero[keep], zero[keep], points[None][keep].astype(np.float32))


class PointTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a table of keypoints is written: the order of a row's values, and whether places are shares of the input."""

    order: Literal["xys", "yxs"] = "xys"
    normalized: bool = True


@decoder("keypoints", task="pose")
def keypoints(heads: Heads, options: PointTable, frame: Frame, threshold: float) -> Candidates:
    """Keypoints decoded by the graph, role ``predictions`` (..., k, 3), of one person. MoveNet as published: yxs."""
    (predictions,) = heads["predictions"]
    points = matrix(predictions).astype(np.float32)
    if points.shape[1] != 3:
        raise ValueError(f"{points.shape[1]} values for each keypoint, but 3 are needed")
    points = points[:, [options.order.index(letter) for letter in "xys"]]
    if options.normalized:
        points[:, :2] *= np.array([frame.width, frame.height], np.float32)
    return one_person(points, frame, threshold)


CENTRE_SPREAD = 1.8
"""Cells; what MoveNet adds to a distance before it divides by it, so that the nearest cells weigh about alike."""


def _movenet_channels(options: NoOptions, classes: int) -> dict[str, int]:
    # Fewer keypoints than COCO's would be another network; all published MoveNets have 17.
    return {"centers": 1, "regressions": 34, "heatmaps": 17, "offsets": 34}


def _movenet_fused(options: dict[str, Any], shape: tuple[int, ...], classes: int) -> Decoder | None:
    fits = len(shape) == 4 and shape[3] == 3
    return Decoder(name="keypoints", options={"order": "yxs"}) if fits else None


@decoder("movenet", channels=_movenet_channels, fused=_movenet_fused, task="pose")
def movenet(heads: Heads, options: NoOptions, frame: Frame, threshold: float) -> Candidates:
    """MoveNet single-pose from its raw heads, (1, channels, rows, columns) each, of which x and y alternate as (y, x).

    The person is at the best centre, weighted down with the distance from the middle of the input; each keypoint at
    the best cell of its heatmap, weighted down with the distance from where the centre's regression points; then
    refined by that cell's offset (https://blog.tensorflow.org/2021/05/next-generation-pose-detection-with-movenet).
    """
    (centers,), (regressions,), (heatmaps,), (offsets,) = (
        heads[role] for role in ("centers", "regressions", "heatmaps", "offsets")
    )
    rows, columns = centers.shape[2:]
    count = heatmaps.shape[1]
    row, column = np.mgrid[0:rows, 0:columns].astype(np.float32)
    for head in (centers, heatmaps):
        check_finite(head)
    from_middle = np.hypot(row - rows // 2, column - columns // 2) + np.float32(CENTRE_SPREAD)
    centre_row, centre_column = divmod(int((sigmoid(centers[0, 0]) / from_middle).argmax()), columns)
    target = regressions[0, :, centre_row, centre_column].reshape(count, 2)
    target = target + np.array([centre_row, centre_column], np.float32)
    away = np.hypot(row - target[:, :1, None], column - target[:, 1:, None]) + np.float32(CENTRE_SPREAD)
    heat = sigmoid(heatmaps[0])
    cells = (heat / away).reshape(count, -1).argmax(1)
    each = np.arange(count)
    refined = offsets[0].reshape(count, 2, -1)[each, :, cells]
    points = np.stack(
        [
            (cells % columns + refined[:, 1]) * (frame.width / columns),
            (cells // columns + refined[:, 0]) * (frame.height / rows),
            heat.reshape(count, -1)[each, cells],
        ],
        1,
    )
    return one_person(points.astype(np.float32), frame, threshold)


CENTRE = np.float32(0.5)
"""Heatmaps and SimCC are trained on places that count from the centre of the first pixel; edgekit's from its corner."""


class Heatmaps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the place of a peak is refined between cells, and the kernel (cells, odd) of the blur that DARK starts with.

    ``quarter`` moves a quarter of a cell towards the higher neighbour (SimplePose), ``dark`` takes the peak of a
    Gaussian (DARK). ``aligned`` (UDP) when the first and the last cell are at the input's edges, not half a cell off.
    """

    refine: Literal["none", "quarter", "dark"] = "quarter"
    kernel: Annotated[int, msgspec.Meta(ge=1)] = 11
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
    """A quarter of a cell towards the higher neighbour, (k, 2); nothing at the border."""
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


class SimCC(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``split`` bins to a pixel."""

    split: Annotated[float, msgspec.Meta(gt=0)] = 2.0


@decoder("simcc", task="pose", whole=("x", "y"))
def simcc(heads: Heads, options: SimCC, frame: Frame, threshold: float) -> Candidates:
    """Two classifications a keypoint, roles ``x`` (1, k, width * split) and ``y`` (1, k, height * split).

    The best bins are the place, the lower of the two values the score (SimCC, Li et al. 2022; RTMPose takes the same).
    """
    (horizontal,), (vertical,) = heads["x"], heads["y"]
    across, down = matrix(horizontal), matrix(vertical)
    for values, wanted in ((across, frame.width * options.split), (down, frame.height * options.split)):
        if values.shape[1] != round(wanted):
            raise ValueError(f"{values.shape[1]} bins where {round(wanted)} are needed for split {options.split:g}")
    scores = np.minimum(across.max(1), down.max(1))
    place = CENTRE + np.stack([across.argmax(1), down.argmax(1)], 1) / np.float32(options.split)
    points = np.concatenate([place, np.clip(scores, 0, 1)[:, None]], 1).astype(np.float32)
    return one_person(points, frame, threshold)
