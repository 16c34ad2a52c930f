"""MoveNet: a person's centre, and keypoints from heatmaps, regressions and offsets."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite, sigmoid
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, NoOptions, decoder
from edgekit.runtimes.tasks.decoders.points import one_person

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
