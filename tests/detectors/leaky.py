"""A detector of shapes with LeakyReLU(0.1): plain 3x3 convolutions, max-pool, and a neck that concatenates.

As the tiny Darknets are built (YOLOv3, arXiv 1804.02767; Scaled-YOLOv4, arXiv 2011.08036).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.shapes import CLASSES

from .contract import REG_MAX, STRIDES, with_weights

WEIGHTS = Path(__file__).with_name("leaky.safetensors")


class ConvBlock(nn.Sequential):
    """Convolution, BatchNorm and LeakyReLU(0.1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.1),
        )


class Head(nn.Module):
    """Boxes and classes of one stride, by separate branches; raw outputs."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(ConvBlock(inputs, width), nn.Conv2d(width, 4 * REG_MAX, 1))
        self.classes = nn.Sequential(ConvBlock(inputs, width), nn.Conv2d(width, classes, 1))
        with torch.no_grad():
            # Start from "an object is rare" (RetinaNet, arXiv 1708.02002) and from boxes a few strides wide.
            for final, bias in ((self.classes[-1], -4.6), (self.boxes[-1], 1.0)):
                if isinstance(final, nn.Conv2d) and final.bias is not None:
                    final.bias.fill_(bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (N, C, h, w) to box logits (N, 64, h, w) and class logits (N, classes, h, w)."""
        return self.boxes(x), self.classes(x)


class LeakyDetector(nn.Module):
    """Detector of the shape classes; outputs as `edgekit.shapes.detector.ShapesDetector`, input (N, 3, 192, 192)."""

    def __init__(self, classes: int = len(CLASSES), width: int = 48) -> None:
        super().__init__()
        self.stage4 = nn.Sequential(ConvBlock(3, 16, 3, 2), nn.MaxPool2d(2), ConvBlock(16, 32))
        self.stage8 = nn.Sequential(nn.MaxPool2d(2), ConvBlock(32, 48), ConvBlock(48, 48))
        self.stage16 = nn.Sequential(nn.MaxPool2d(2), ConvBlock(48, 80))
        self.stage32 = nn.Sequential(nn.MaxPool2d(2), ConvBlock(80, 96))
        self.neck32 = ConvBlock(96, width, 1)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.neck16 = ConvBlock(80 + width, width, 1)
        self.neck8 = ConvBlock(48 + width, width, 1)
        self.heads = nn.ModuleList(Head(width, 40, classes) for _ in STRIDES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), sides multiples of 32, to boxes and classes at strides 8, 16 and 32."""
        p8: Tensor = self.stage8(self.stage4(images))
        p16: Tensor = self.stage16(p8)
        n32: Tensor = self.neck32(self.stage32(p16))
        n16: Tensor = self.neck16(torch.cat((p16, self.upsample(n32)), 1))
        n8: Tensor = self.neck8(torch.cat((p8, self.upsample(n16)), 1))
        outputs: list[Tensor] = []
        for head, feature in zip(self.heads, (n8, n16, n32), strict=True):
            outputs.extend(head(feature))
        return tuple(outputs)


def network() -> nn.Module:
    """The network before training."""
    return LeakyDetector()


def detector() -> nn.Module:
    """The trained detector with LeakyReLU, with its ``contract``.

    Raises:
        SourceError: its weights are missing.
    """
    return with_weights(LeakyDetector(), WEIGHTS)
