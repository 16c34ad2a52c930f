"""A detector of shapes with ReLU: separable blocks and residual ones, and a pyramid that adds.

Depthwise and pointwise convolutions, each with BatchNorm and ReLU (MobileNetV1, arXiv 1704.04861), residual blocks that
activate after the sum (ResNet, arXiv 1512.03385), and a top-down pyramid (FPN, arXiv 1612.03144).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.shapes import CLASSES

from .contract import REG_MAX, STRIDES, with_weights

WEIGHTS = Path(__file__).with_name("relu.safetensors")


class ConvBlock(nn.Sequential):
    """Convolution, BatchNorm and (unless ``linear``) ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([] if linear else [nn.ReLU()]))


class SeparableBlock(nn.Sequential):
    """Depthwise 3x3, then pointwise 1x1, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(ConvBlock(inputs, inputs, 3, stride, groups=inputs), ConvBlock(inputs, outputs))


class ResidualBlock(nn.Module):
    """Pointwise, depthwise 5x5, linear pointwise; added to the input, then ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(width, width), ConvBlock(width, width, 5, groups=width), ConvBlock(width, width, linear=True)
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW float32 to the same shape."""
        y: Tensor = self.activation(x + self.layers(x))
        return y


class Head(nn.Module):
    """Boxes and classes of one stride, by separate branches; raw outputs."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(
            SeparableBlock(width, width), SeparableBlock(width, width), nn.Conv2d(width, 4 * REG_MAX, 1)
        )
        self.classes = nn.Sequential(
            SeparableBlock(width, width), SeparableBlock(width, width), nn.Conv2d(width, classes, 1)
        )
        with torch.no_grad():
            # Start from "an object is rare" (RetinaNet, arXiv 1708.02002) and from boxes a few strides wide.
            for final, bias in ((self.classes[-1], -4.6), (self.boxes[-1], 1.0)):
                if isinstance(final, nn.Conv2d) and final.bias is not None:
                    final.bias.fill_(bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (N, C, h, w) to box logits (N, 64, h, w) and class logits (N, classes, h, w)."""
        return self.boxes(x), self.classes(x)


class ReluDetector(nn.Module):
    """Detector of the shape classes; outputs as `edgekit.shapes.detector.ShapesDetector`, input (N, 3, 192, 192)."""

    def __init__(self, classes: int = len(CLASSES), width: int = 56) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 16, 3, 2)
        self.stage4 = nn.Sequential(SeparableBlock(16, 32, 2), SeparableBlock(32, 32))
        self.stage8 = nn.Sequential(SeparableBlock(32, 64, 2), ResidualBlock(64), SeparableBlock(64, 64))
        self.stage16 = nn.Sequential(SeparableBlock(64, 96, 2), ResidualBlock(96), ResidualBlock(96))
        self.stage32 = nn.Sequential(SeparableBlock(96, 128, 2), ResidualBlock(128))
        self.lateral = nn.ModuleList(ConvBlock(inputs, width) for inputs in (64, 96, 128))
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.smooth = nn.ModuleList(SeparableBlock(width, width) for _ in STRIDES)
        self.heads = nn.ModuleList(Head(width, classes) for _ in STRIDES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), sides multiples of 32, to boxes and classes at strides 8, 16 and 32."""
        p8: Tensor = self.stage8(self.stage4(self.stem(images)))
        p16: Tensor = self.stage16(p8)
        n32 = self.smooth[2](self.lateral[2](self.stage32(p16)))
        n16 = self.smooth[1](self.lateral[1](p16) + self.upsample(n32))
        n8 = self.smooth[0](self.lateral[0](p8) + self.upsample(n16))
        outputs: list[Tensor] = []
        for head, feature in zip(self.heads, (n8, n16, n32), strict=True):
            outputs.extend(head(feature))
        return tuple(outputs)


def network() -> nn.Module:
    """The network before training."""
    return ReluDetector()


def detector() -> nn.Module:
    """The trained detector with ReLU, with its ``contract``.

    Raises:
        SourceError: its weights are missing.
    """
    return with_weights(ReluDetector(), WEIGHTS)
