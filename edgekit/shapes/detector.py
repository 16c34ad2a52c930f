"""A small anchor-free detector of shapes, built as mobile detectors are: the offline default model of edgekit.

Inverted residual blocks of depthwise-separable convolutions (MobileNetV2, arXiv 1801.04381) with SiLU and BatchNorm, a
top-down and bottom-up pyramid (PANet, arXiv 1803.01534) and decoupled heads with distribution focal loss boxes (GFL,
arXiv 2006.04388), at strides 8, 16 and 32. This module imports torch; nothing else in edgekit.shapes imports it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.errors import SourceError
from edgekit.shapes.outlines import CLASSES

INPUT_SIZE = 256
STRIDES: tuple[int, ...] = (8, 16, 32)
REG_MAX = 16
WEIGHTS = Path(__file__).with_name("detector.safetensors")


class ConvBlock(nn.Sequential):
    """Convolution, BatchNorm and (unless `linear`) SiLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([] if linear else [nn.SiLU()]))


class SeparableBlock(nn.Sequential):
    """Depthwise 3x3, then pointwise 1x1, each with BatchNorm and SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(ConvBlock(inputs, inputs, 3, stride, groups=inputs), ConvBlock(inputs, outputs))


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise convolution, linear projection; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 2, kernel: int = 3) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            ConvBlock(inputs, hidden),
            ConvBlock(hidden, hidden, kernel, stride, groups=hidden),
            ConvBlock(hidden, outputs, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW float32 to NCHW float32, at 1/stride of the size."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Backbone(nn.Module):
    """Features at strides 8, 16 and 32."""

    def __init__(self, widths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        stem, c4, c8, c16, c32 = widths
        self.stem = ConvBlock(3, stem, 3, 2)
        self.stage4 = nn.Sequential(SeparableBlock(stem, c4, 2), InvertedResidual(c4, c4))
        self.stage8 = nn.Sequential(
            InvertedResidual(c4, c8, 2, 3), InvertedResidual(c8, c8), InvertedResidual(c8, c8, kernel=5)
        )
        self.stage16 = nn.Sequential(
            InvertedResidual(c8, c16, 2, 3), InvertedResidual(c16, c16), InvertedResidual(c16, c16, kernel=5)
        )
        self.stage32 = nn.Sequential(InvertedResidual(c16, c32, 2), InvertedResidual(c32, c32, kernel=5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map images (N, 3, H, W) to features at strides 8, 16, 32."""
        return self.coarse(self.fine(x))

    def fine(self, x: Tensor) -> Tensor:
        """Map images to features at stride 4."""
        features: Tensor = self.stage4(self.stem(x))
        return features

    def coarse(self, p4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map features at stride 4 to those at strides 8, 16, 32."""
        p8: Tensor = self.stage8(p4)
        p16: Tensor = self.stage16(p8)
        p32: Tensor = self.stage32(p16)
        return p8, p16, p32


class Pyramid(nn.Module):
    """Mixes the features of all strides, top-down and then bottom-up, at one width."""

    def __init__(self, widths: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBlock(inputs, width) for inputs in widths)
        self.context = nn.MaxPool2d(5, 1, 2)
        self.merge32 = ConvBlock(2 * width, width)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.down16 = SeparableBlock(2 * width, width)
        self.down8 = SeparableBlock(2 * width, width)
        self.reduce8 = SeparableBlock(width, width, 2)
        self.up16 = SeparableBlock(width, width)
        self.reduce16 = SeparableBlock(width, width, 2)
        self.up32 = SeparableBlock(width, width)

    def forward(self, p8: Tensor, p16: Tensor, p32: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map features at strides 8, 16, 32 to as many of one width."""
        l8, l16, l32 = self.lateral[0](p8), self.lateral[1](p16), self.lateral[2](p32)
        t32 = self.merge32(torch.cat((l32, self.context(l32)), 1))
        t16 = self.down16(torch.cat((l16, self.upsample(t32)), 1))
        n8 = self.down8(torch.cat((l8, self.upsample(t16)), 1))
        n16 = self.up16(t16 + self.reduce8(n8))
        n32 = self.up32(t32 + self.reduce16(n16))
        return n8, n16, n32


class Head(nn.Module):
    """Boxes and classes of one stride, by separate branches; raw outputs."""

    def __init__(self, width: int, classes: int, stride: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(
            SeparableBlock(width, width), SeparableBlock(width, width), nn.Conv2d(width, 4 * REG_MAX, 1)
        )
        self.classes = nn.Sequential(
            SeparableBlock(width, width), SeparableBlock(width, width), nn.Conv2d(width, classes, 1)
        )
        with torch.no_grad():
            # Start from "an object is rare" (RetinaNet, arXiv 1708.02002) and from boxes a few strides wide.
            final_boxes, final_classes = self.boxes[-1], self.classes[-1]
            for final, bias in ((final_classes, -4.6), (final_boxes, 1.0)):
                if isinstance(final, nn.Conv2d) and final.bias is not None:
                    final.bias.fill_(bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (N, C, h, w) to box logits (N, 64, h, w) and class logits (N, classes, h, w)."""
        return self.boxes(x), self.classes(x)


class ShapesDetector(nn.Module):
    """Detector of the shape classes.

    Input: float32 (N, 3, 256, 256), RGB / 255, letterboxed with grey 114. Output: a tuple of six raw tensors
    (boxes_8, classes_8, boxes_16, classes_16, boxes_32, classes_32); boxes (N, 4 * REG_MAX, h, w) hold, side after side
    (left, top, right, bottom), the logits of the distribution of the distance from the cell's centre ((i + 0.5) *
    stride) in strides; classes (N, len(CLASSES), h, w) hold logits.
    """

    def __init__(self, classes: int = len(CLASSES), width: int = 64) -> None:
        super().__init__()
        self.backbone = Backbone((16, 24, 48, 80, 128))
        self.pyramid = Pyramid((48, 80, 128), width)
        self.heads = nn.ModuleList(Head(width, classes, stride) for stride in STRIDES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), sides multiples of 32, to the six raw outputs."""
        features = self.pyramid(*self.backbone(images))
        outputs: list[Tensor] = []
        for head, feature in zip(self.heads, features, strict=True):
            outputs.extend(head(feature))
        return tuple(outputs)


def demo_detector() -> nn.Module:
    """Return the trained detector of shapes in eval mode.

    Raises SourceError when the weights beside this file are missing or do not fit.
    """
    model = ShapesDetector()
    load_weights(model, WEIGHTS, "examples/train_shapes_detector.py")
    return model.eval()


def load_weights(module: nn.Module, path: Path, script: str) -> None:
    """Load the weights that come with edgekit, in float16 or float32, into a network or a part of one.

    Args:
        module: computes in float32.
        path: a file of safetensors beside this one.
        script: trains it, for the messages.

    Raises:
        SourceError: the file is missing or does not fit.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise SourceError(f"{path} is missing: reinstall edgekit, or train it with {script}")
    try:
        module.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except RuntimeError as error:
        raise SourceError(f"{path} does not fit the network, train it again: {error}") from error


def decode(outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Decode raw outputs: boxes (N, anchors, 4) xyxy in input pixels and class scores (N, anchors, classes)."""
    boxes: list[Tensor] = []
    scores: list[Tensor] = []
    for index, stride in enumerate(STRIDES):
        box_logits, class_logits = outputs[2 * index], outputs[2 * index + 1]
        count, _, height, width = box_logits.shape
        bins = torch.arange(REG_MAX, dtype=box_logits.dtype, device=box_logits.device)
        logits = box_logits.reshape(count, 4, REG_MAX, height * width)
        sides = (logits.softmax(2) * bins[:, None]).sum(2)
        centres = cell_centres(height, width, stride, box_logits.device)
        low, high = centres - sides[:, :2].transpose(1, 2) * stride, centres + sides[:, 2:].transpose(1, 2) * stride
        boxes.append(torch.cat((low, high), 2))
        scores.append(class_logits.flatten(2).transpose(1, 2).sigmoid())
    return torch.cat(boxes, 1), torch.cat(scores, 1)


def cell_centres(height: int, width: int, stride: int, device: torch.device | None = None) -> Tensor:
    """Centres (height * width, 2) x, y of a grid's cells in input pixels, row after row."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.stack((x, y), -1).reshape(-1, 2) * stride
