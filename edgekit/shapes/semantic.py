"""A network that says of every pixel which shape it shows: a head on the features of the network of all tasks.

This module imports torch, as `edgekit.shapes.tasks` does.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from edgekit.shapes.detector import ConvBlock, load_weights
from edgekit.shapes.outlines import CLASSES
from edgekit.shapes.tasks import Prototypes, ShapesTasks, trained_tasks

LABELS = ("background", *CLASSES)
"""The classes of pixels."""

WEIGHTS = Path(__file__).with_name("semantic.safetensors")
"""Of the head alone."""


class LabelHead(nn.Module):
    """Logits of cells at stride 4, from the pyramid, coarse to fine, and the finer features before it."""

    def __init__(self, fine: int, width: int) -> None:
        super().__init__()
        self.coarse, self.middle = ConvBlock(width, width), ConvBlock(width, width)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.planes = Prototypes(fine, width, len(LABELS))

    def forward(self, p4: Tensor, n8: Tensor, n16: Tensor, n32: Tensor) -> Tensor:
        """Map features at strides 4 to 32 to logits (N, classes, H / 4, W / 4)."""
        wide = self.middle(n16 + self.upsample(self.coarse(n32)))
        logits: Tensor = self.planes(p4, n8 + self.upsample(wide))
        return logits


class SemanticNetwork(nn.Module):
    """Logits (N, classes, H / 4, W / 4) of the class of each cell."""

    def __init__(self, tasks: ShapesTasks) -> None:
        super().__init__()
        self.backbone, self.pyramid = tasks.detector.backbone, tasks.detector.pyramid
        self.labels = LabelHead(24, 64)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), sides multiples of 32, to logits."""
        p4 = self.backbone.fine(images)
        logits: Tensor = self.labels(p4, *self.pyramid(*self.backbone.coarse(p4)))
        return logits


def trained_semantic() -> SemanticNetwork:
    """The trained network in eval mode; the weights of its head are kept in float16 and computed with in float32.

    Raises:
        SourceError: the weights beside this file are missing or do not fit.
    """
    model = SemanticNetwork(trained_tasks())
    load_weights(model.labels, WEIGHTS, "examples/train_shapes_semantic.py")
    return model.eval()
