"""A network of the oriented boxes of long things: YOLOv8-obb's heads on the features of the detector of shapes.

This module imports torch, as `edgekit.shapes.tasks` does.
"""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor, nn

from edgekit.shapes.bars import LONG_CLASSES
from edgekit.shapes.detector import REG_MAX, STRIDES, Head, load_weights
from edgekit.shapes.tasks import ShapesTasks, branch, trained_tasks

WEIGHTS = Path(__file__).with_name("oriented.safetensors")
"""Of the heads alone."""

WIDTH = 64


class OrientedHeads(nn.Module):
    """Boxes, classes and angles of every stride, by separate branches; raw outputs."""

    def __init__(self) -> None:
        super().__init__()
        counts = (4 * REG_MAX, len(LONG_CLASSES), 1)
        self.levels = nn.ModuleList(nn.ModuleList(branch(WIDTH, count) for count in counts) for _ in STRIDES)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Map features (N, 64, h, w), finest first, to (boxes, classes, angles) of each."""
        levels: list[nn.ModuleList] = list(self.levels)  # type: ignore[arg-type]
        return tuple(one(feature) for level, feature in zip(levels, features, strict=True) for one in level)


class OrientedNetwork(nn.Module):
    """Raw heads: boxes (N, 4 * REG_MAX, h, w), classes (N, classes, h, w) and angles (N, 1, h, w), stride after stride.

    A box is as of `ShapesDetector`, in axes that are turned by (sigmoid(angle) - 1/4) * pi around the cell's centre.
    """

    def __init__(self, tasks: ShapesTasks) -> None:
        super().__init__()
        self.backbone, self.pyramid = tasks.detector.backbone, tasks.detector.pyramid
        self.heads = OrientedHeads()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), sides multiples of 32, to the raw heads."""
        outputs: tuple[Tensor, ...] = self.heads(*self.pyramid(*self.backbone(images)))
        return outputs


def untrained_oriented() -> OrientedNetwork:
    """The network before its training: the branches begin as those of the boxes, classes and keypoints of shapes."""
    tasks = trained_tasks()
    model = OrientedNetwork(tasks)
    for level, head, points in zip(model.heads.levels, tasks.detector.heads, tasks.keypoints, strict=True):
        if not (isinstance(level, nn.ModuleList) and isinstance(head, Head)):
            raise TypeError(f"{type(head).__name__} is no head of boxes and classes")
        for new, known in zip(level, (head.boxes, head.classes, points), strict=True):
            for place in (0, 1):
                new[place].load_state_dict(copy.deepcopy(known[place].state_dict()))  # type: ignore[index]
        level[0][2].load_state_dict(head.boxes[2].state_dict())  # type: ignore[index]
        nn.init.constant_(level[1][2].bias, -4.6)  # type: ignore[index]
    return model


def trained_oriented() -> OrientedNetwork:
    """The trained network in eval mode; the weights of its heads are kept in float16 and computed with in float32.

    Raises:
        SourceError: the weights beside this file are missing or do not fit.
    """
    model = OrientedNetwork(trained_tasks())
    load_weights(model.heads, WEIGHTS, "examples/train_shapes_oriented.py")
    return model.eval()
