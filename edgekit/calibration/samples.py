"""A calibration or proof stream: images decoded and resized once, kept as bytes on disk, read one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edgekit.arrays import Floats, Image
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.structures import from_json


def new_stack(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """A new memory-mapped ``.npy`` file with all of its space on the disk: where that were missing later, the process
    would be ended by a signal.

    Raises:
        OSError: the disk is full.
    """
    stack = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
    return stack


def names_beside(stack: Path) -> Path:
    """The file that has the names of the images of a stack."""
    return stack.with_suffix(".names.json")


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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images, in their order; empty if they were not written down."""
        place = names_beside(self.path)
        return from_json(place.read_bytes(), tuple[str, ...]) if place.is_file() else ()

    def sha256(self) -> str:
        """Hash of the pixels, in order."""
        total = hashlib.sha256()
        for image in self.images:
            total.update(np.ascontiguousarray(image).tobytes())
        return total.hexdigest()
