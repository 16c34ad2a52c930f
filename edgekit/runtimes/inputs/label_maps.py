"""Label maps from PNG files: class ids as grey levels, or as places in a palette (as Pascal VOC's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.runtimes.inputs.files import read_file
from edgekit.runtimes.inputs.media import read_image

IGNORED = 255
"""The label of pixels that are of no known class: borders of objects in VOC, for instance."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """The labels (height, width) of a PNG file, uint8 or uint16.

    Raises:
        InputError: it cannot be read, or has colours instead of labels.
    """
    import cv2

    data = read_file(path)
    if not data.startswith(_SIGNATURE):
        raise InputError(f"{path}: a label map is a PNG file: other formats change the labels")
    kind = data[25] if len(data) > 25 else -1  # the colour type in the header: 0 grey, 3 a palette
    if kind not in (0, 3):
        raise InputError(f"{path}: has colours; a label map has class ids as grey levels or in a palette")
    shown = read_image(path)  # whose checks of size come first
    if kind == 3:
        return _places(path, shown, _palette(data))
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    labels = np.asarray(grey)
    depth = data[24]
    return labels if depth >= 8 else np.asarray(labels // (255 // ((1 << depth) - 1)), np.uint8)


def _palette(data: bytes) -> NDArray[np.uint8]:
    """The colours of a palette, BGR (n, 3)."""
    place = len(_SIGNATURE)
    while place + 8 <= len(data):
        length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if name == b"PLTE":
            return np.frombuffer(data[place + 8 : place + 8 + length // 3 * 3], np.uint8).reshape(-1, 3)[:, ::-1]
        place += 12 + length
    return np.zeros((0, 3), np.uint8)


def _places(path: Path, shown: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The place of each pixel's colour in the palette, (height, width).

    Raises:
        InputError: a colour that is used stands there twice, so that its place cannot be told.
    """
    wide = palette.astype(np.int64) @ (1, 256, 65536)
    pixels = shown.astype(np.int64) @ (1, 256, 65536)
    used, inverse = np.unique(pixels, return_inverse=True)
    order = [np.flatnonzero(wide == colour) for colour in used]
    if any(len(found) != 1 for found in order):
        raise InputError(f"{path}: a colour stands twice in its palette; save the labels as grey levels")
    places = np.array([found[0] for found in order], np.uint8)
    return np.asarray(places[inverse.reshape(pixels.shape)])
