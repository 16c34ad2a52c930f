"""Array types that the whole package shares."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""An image, (height, width, 3), BGR as OpenCV reads it."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class PilImage(Protocol):
    """A PIL image, as far as types need to know it."""

    @property
    def mode(self) -> str:
        """Its kind of pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""


ImageLike = str | os.PathLike[str] | NDArray[Any] | PilImage
"""One image: a path, a uint8 array (height, width, 3) BGR as OpenCV gives it, or a PIL image."""

ImageLikes = list[Any] | tuple[Any, ...]
"""Several images."""
