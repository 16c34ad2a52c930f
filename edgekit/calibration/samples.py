"""A calibration or proof stream: images decoded and resized once, kept as bytes on disk, read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor


@dataclass(frozen=True)
class Samples:
    """Images in input size, uint8 (n, height, width, 3) BGR in a ``.npy`` file that is memory-mapped.

    Iterating yields normalised tensors (1, 3, height, width) float32, each a new array.
    """

    path: Path
    rule: ImageRule

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Floats]:
        preprocess = Preprocessor(self.rule)
        for image in self.images:
            yield preprocess.normalise(np.ascontiguousarray(image)).copy()

    @property
    def images(self) -> Image:
        """All images as one memory-mapped array."""
        images: Image = np.load(self.path, mmap_mode="r")
        return images

    def sha256(self) -> str:
        """Hash of the pixels, in order."""
        total = hashlib.sha256()
        for image in self.images:
            total.update(np.ascontiguousarray(image).tobytes())
        return total.hexdigest()
