"""The shapes detector with further heads: poses, masks, and which classes an image shows, from one trained network.

Keypoints and mask coefficients are predicted beside the boxes (YOLO-Pose, arXiv 2204.06806; YOLACT, arXiv 1904.02689).
Every task is a network of its own that leaves out what it does not need. This module imports torch, as
`edgekit.shapes.detector` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from edgekit.shapes.detector import STRIDES, ConvBlock, Head, SeparableBlock, ShapesDetector, load_weights
from edgekit.shapes.outlines import CLASSES, KEYPOINTS

PROTOTYPES = 16
"""Masks that every instance's mask is a weighted sum of."""

PROTOTYPE_STRIDE = 4
WEIGHTS = Path(__file__).with_name("tasks.safetensors")


def branch(width: int, outputs: int) -> nn.Sequential:
    """The head of one stride: two separable blocks, then raw values for every cell."""
    return nn.Sequential(SeparableBlock(width, width), SeparableBlock(width, width), nn.Conv2d(width, outputs, 1))


class Prototypes(nn.Module):
    """Planes at stride 4, from the pyramid at stride 8 and the finer features before it: prototypes of masks."""

    def __init__(self, fine: int, width: int, planes: int = PROTOTYPES) -> None:
        super().__init__()
        self.lateral = ConvBlock(fine, width)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.mix = nn.Sequential(SeparableBlock(width, width), SeparableBlock(width, width))
        self.last = nn.Conv2d(width, planes, 1)

    def forward(self, p4: Tensor, n8: Tensor) -> Tensor:
        """Map features at strides 4 and 8 to (N, planes, H / 4, W / 4), raw."""
        mixed: Tensor = self.last(self.mix(self.lateral(p4) + self.upsample(n8)))
        return mixed


class TaskOutputs(NamedTuple):
    """All that the network says, raw: `detections` as of `ShapesDetector`, the rest by stride where it is a tuple."""

    detections: tuple[Tensor, ...]
    keypoints: tuple[Tensor, ...]
    coefficients: tuple[Tensor, ...]
    prototypes: Tensor
    labels: Tensor


class ShapesTasks(nn.Module):
    """The detector with all further heads, as it is trained.

    Input as of `ShapesDetector`. Keypoints (N, 15, h, w) hold x, y and a score's logit of each of `KEYPOINTS`; a point
    is at (value * 2 + cell) * stride. Coefficients (N, PROTOTYPES, h, w) weigh the prototypes. Labels (N, classes) hold
    the logit of each class being anywhere in the image.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.detector = ShapesDetector(width=width)
        self.keypoints = nn.ModuleList(branch(width, 3 * len(KEYPOINTS)) for _ in STRIDES)
        self.coefficients = nn.ModuleList(branch(width, PROTOTYPES) for _ in STRIDES)
        self.prototypes = Prototypes(24, width)
        self.labels = Labels(128, len(CLASSES))

    def forward(self, images: Tensor) -> TaskOutputs:
        """Map images (N, 3, H, W), sides multiples of 32, to everything."""
        p4 = self.detector.backbone.fine(images)
        p8, p16, p32 = self.detector.backbone.coarse(p4)
        features = self.detector.pyramid(p8, p16, p32)
        return TaskOutputs(
            tuple(raw for head, x in zip(self.detector.heads, features, strict=True) for raw in head(x)),
            tuple(head(x) for head, x in zip(self.keypoints, features, strict=True)),
            tuple(head(x) for head, x in zip(self.coefficients, features, strict=True)),
            self.prototypes(p4, features[0]),
            self.labels(p32),
        )


class Labels(nn.Sequential):
    """Logits (N, classes) of what an image shows, from features (N, C, h, w)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(
            SeparableBlock(inputs, inputs), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)
        )


class PoseNetwork(nn.Module):
    """Poses alone: (boxes, classes, keypoints) of strides 8, 16 and 32, nine raw outputs."""

    def __init__(self, tasks: ShapesTasks) -> None:
        super().__init__()
        self.backbone, self.pyramid = tasks.detector.backbone, tasks.detector.pyramid
        self.heads, self.keypoints = tasks.detector.heads, tasks.keypoints

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W) to the raw outputs."""
        return by_stride(self.heads, self.keypoints, self.pyramid(*self.backbone(images)))


class SegmentNetwork(nn.Module):
    """Instances alone: (boxes, classes, coefficients) of strides 8, 16 and 32, then prototypes, ten raw outputs."""

    def __init__(self, tasks: ShapesTasks) -> None:
        super().__init__()
        self.backbone, self.pyramid = tasks.detector.backbone, tasks.detector.pyramid
        self.heads, self.coefficients = tasks.detector.heads, tasks.coefficients
        self.prototypes = tasks.prototypes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W) to the raw outputs."""
        p4 = self.backbone.fine(images)
        features = self.pyramid(*self.backbone.coarse(p4))
        return *by_stride(self.heads, self.coefficients, features), self.prototypes(p4, features[0])


class ClassifyNetwork(nn.Module):
    """Labels alone: one raw output (N, classes)."""

    def __init__(self, tasks: ShapesTasks) -> None:
        super().__init__()
        self.backbone, self.labels = tasks.detector.backbone, tasks.labels

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes)."""
        logits: Tensor = self.labels(self.backbone(images)[2])
        return logits


def by_stride(heads: nn.ModuleList, further: nn.ModuleList, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Boxes, classes and what a further head says, stride after stride."""
    outputs: list[Tensor] = []
    for head, more, feature in zip(heads, further, features, strict=True):
        if not isinstance(head, Head):
            raise TypeError(f"{type(head).__name__} is no head of boxes and classes")
        outputs.extend((*head(feature), more(feature)))
    return tuple(outputs)


def trained_tasks() -> ShapesTasks:
    """The trained network of all tasks in eval mode; its weights are kept in float16 and computed with in float32.

    Raises:
        SourceError: the weights beside this file are missing or do not fit.
    """
    model = ShapesTasks()
    load_weights(model, WEIGHTS, "examples/train_shapes_tasks.py")
    return model.eval()
