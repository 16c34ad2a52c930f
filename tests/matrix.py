"""The detector that the short suite and ``make test-all`` convert to every target, and pictures for it.

The short suite takes the small one of `tiny_models`, whose answers are known beforehand: exporters walk a network node
by node, and the trained one takes five times as long. ``make test-all`` takes that one, and measures its accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import tiny_models
from target_lists import EVERYTHING
from tiny_conversions import write_pictures

from edgekit.arrays import Image
from edgekit.runtimes.model import Model
from edgekit.shapes import scene, write_coco
from edgekit.shapes.trained import SOURCE as TRAINED
from edgekit.shapes.trained import detector as trained
from edgekit.sources.session import TorchSession

SOURCE = TRAINED if EVERYTHING else "tiny_models:detector"

OUTPUTS = 6 if EVERYTHING else 2
"""How many the detector has."""


def picture(seed: int, size: tuple[int, int] | None = None) -> Image:
    """A picture with objects to find; ``size`` is (height, width) where it is not square."""
    if EVERYTHING:
        return scene(seed, size).image if size else scene(seed).image
    image = tiny_models.picture(seed)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST) if size else image


def write_calibration(folder: Path) -> Path:
    """Pictures to calibrate and to prove on; returns their folder."""
    return write_coco(folder, range(100_000, 100_080)).parent if EVERYTHING else write_pictures(folder, 56)


def in_pytorch() -> Model[Any]:
    """The detector behind the runtime, computed by PyTorch."""
    module: Any = trained() if EVERYTHING else tiny_models.detector()
    return Model(module.contract, TorchSession(module))
