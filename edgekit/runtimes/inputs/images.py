"""From an image to the input tensor and back: resize rules, colour, normalisation, and the exact inverse.

Coordinates are continuous: pixel (i, j) covers [j, j+1) x [i, i+1), so a box that spans an image of width w goes
from 0 to w. A `Transform` is computed once per image; the way in and the way out use the very same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.errors import InputError
from edgekit.runtimes.bundle.manifest import ImageRule

STRIP = 8
"""An image that "crop" would resize to more than this many times the input's pixels is sampled directly instead:
resized as a whole, a strip of 1x3000 pixels would take 3.7 GB at an input of 640x640."""


@dataclass(frozen=True)
class Transform:
    """The map from original pixels to input pixels: ``x' = x * scale_x + offset_x``, and the same for y.

    The two scales differ by the rounding of the resized size to whole pixels (and freely when stretched).
    ``width`` and ``height`` are the original's, ``resized`` is the (width, height) the whole original is scaled to.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    height: int
    resized: tuple[int, int]

    def to_input(self, boxes: Floats) -> Floats:
        """Boxes (n, 4) xyxy from original pixels to input pixels."""
        scale, offset = self._vectors()
        return (np.asarray(boxes, np.float64) * scale + offset).astype(np.float32)

    def to_original(self, boxes: Floats, clip: bool = True) -> Floats:
        """Boxes (n, 4) xyxy from input pixels to original pixels, clipped to the image unless ``clip=False``."""
        scale, offset = self._vectors()
        mapped = ((np.asarray(boxes, np.float64) - offset) / scale).astype(np.float32)
        if clip:
            limit = np.array([self.width, self.height, self.width, self.height], np.float32)
            np.clip(mapped, 0, limit, out=mapped)
        return mapped

    def points_to_original(self, points: Floats) -> Floats:
        """Points (..., 2 or more), x and y first, from input pixels to original pixels, also outside the image."""
        scale, offset = self._vectors()
        mapped = np.array(points, np.float32)
        mapped[..., :2] = (mapped[..., :2] - offset[:2]) / scale[:2]
        return mapped

    def _vectors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        offset = np.array([self.offset_x, self.offset_y, self.offset_x, self.offset_y])
        return scale, offset


def warp_matrix(
    scale: tuple[float, float] | NDArray[np.float64], offset: tuple[float, float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """The map ``x' = x * scale + offset`` as ``cv2.warpAffine`` wants it, float64 (2, 3).

    OpenCV counts from the centres of pixels, half a pixel off the corner that a `Transform` counts from.
    """
    return np.array(
        [
            [scale[0], 0.0, offset[0] + (scale[0] - 1) / 2],
            [0.0, scale[1], offset[1] + (scale[1] - 1) / 2],
        ]
    )


def transform(rule: ImageRule, width: int, height: int) -> Transform:
    """The map that an image rule means for an original of ``width`` x ``height`` pixels."""
    target_height, target_width = rule.size
    if rule.resize == "stretch":
        resized = (target_width, target_height)
    else:
        ratios = (target_width / width, target_height / height)
        ratio = min(ratios) if rule.resize == "letterbox" else max(ratios) / rule.crop
        resized = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        if rule.resize == "crop":  # rounding must not leave a border uncovered
            resized = (max(resized[0], target_width), max(resized[1], target_height))
    left, top = 0, 0
    if rule.align == "center":
        # Whole-pixel offsets: a half-pixel pad would shift every box by half a pixel against what was drawn.
        left, top = (target_width - resized[0]) // 2, (target_height - resized[1]) // 2
    return Transform(resized[0] / width, resized[1] / height, left, top, width, height, resized)


class Preprocessor:
    """Turns images into input tensors by one rule, reusing its buffers from image to image.

    Not thread-safe: one per thread, like the session it feeds.
    """

    def __init__(self, rule: ImageRule) -> None:
        self.rule = rule
        height, width = rule.size
        self._canvas: Image = np.full((height, width, 3), rule.padding, np.uint8)
        self._covered: tuple[int, int] = (0, 0)
        self._planes: list[Image] = [np.empty((height, width), np.uint8) for _ in range(3)]
        self._tensor: Floats = np.empty((1, 3, height, width), np.float32)
        self._tables = tables(rule)

    def __call__(self, image: Image) -> tuple[Floats, Transform]:
        """Tensor (1, 3, height, width) and the transform. The tensor is reused by the next call: copy to keep it.

        Args:
            image: uint8 (h, w, 3) BGR.

        Raises:
            InputError: not such an array.
        """
        resized, mapping = self.resize(image)
        return self.normalise(resized), mapping

    def resize(self, image: Image) -> tuple[Image, Transform]:
        """The image as uint8 (height, width, 3) BGR in input size, and the transform. The array is reused."""
        import cv2

        check(image)
        mapping = transform(self.rule, image.shape[1], image.shape[0])
        if self.rule.interpolation != "linear" and not self._is_strip(mapping):
            from edgekit.runtimes.inputs.resampling import resample

            # What follows finds it in its size already.
            image = resample(image, mapping.resized, self.rule.interpolation)
        if self.rule.resize == "stretch":
            return _as_image(cv2.resize(image, mapping.resized, dst=self._canvas)), mapping
        if self.rule.resize == "crop":
            return self._crop(image, mapping), mapping
        width, height = mapping.resized
        if (width, height) != self._covered:
            self._canvas[...] = self.rule.padding
            self._covered = (width, height)
        left, top = int(mapping.offset_x), int(mapping.offset_y)
        # Writes straight into the canvas: dst has the right size and type, so OpenCV does not reallocate it.
        cv2.resize(image, mapping.resized, dst=self._canvas[top : top + height, left : left + width])
        return self._canvas, mapping

    def _crop(self, image: Image, mapping: Transform) -> Image:
        import cv2

        left, top = -int(mapping.offset_x), -int(mapping.offset_y)
        height, width = self.rule.size
        if self._is_strip(mapping):
            return _sampled(image, mapping, width, height)
        resized = cv2.resize(image, mapping.resized)
        return _as_image(np.ascontiguousarray(resized[top : top + height, left : left + width]))

    def _is_strip(self, mapping: Transform) -> bool:
        (width, height), (rows, columns) = mapping.resized, self.rule.size
        return width * height > STRIP * rows * columns  # never, unless cropped

    def normalise(self, resized: Image) -> Floats:
        """Tensor (1, 3, height, width) of an image that has the input size already."""
        import cv2

        # A table of 256 floats per channel does colour order, scale, mean and std in one pass over the pixels:
        # 0.34 ms at 640x640 where cv2.dnn.blobFromImage takes 5.6 ms (OpenCV 5.0).
        cv2.split(resized, self._planes)
        order = (2, 1, 0) if self.rule.color == "rgb" else (0, 1, 2)
        for channel, plane in enumerate(order):
            cv2.LUT(self._planes[plane], self._tables[channel], dst=self._tensor[0, channel])
        return self._tensor


def tables(rule: ImageRule) -> Floats:
    """Normalised value of every pixel level, (3, 256), per channel in the model's colour order."""
    levels = np.arange(256, dtype=np.float64) * rule.scale
    mean, std = np.array(rule.mean)[:, None], np.array(rule.std)[:, None]
    return np.asarray((levels - mean) / std, np.float32)


def check(image: object) -> None:
    """Refuse what is not an image.

    Raises:
        InputError: not a uint8 array of shape (height, width, 3) with at least one pixel.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"an image must be a numpy array, not {type(image).__name__}; read files with edgekit.runtimes.inputs.media"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"an image must be uint8 of shape (height, width, 3), BGR, not {image.dtype} {image.shape}; "
            f"{_remedy(image)}"
        )


def _remedy(image: NDArray[Any]) -> str:
    """How to make an image of an array that is none."""
    if image.size == 0:
        return "it has no pixels: was the file read, the camera open?"
    if image.dtype == np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        return "convert grey or RGBA images first (cv2.cvtColor)"
    if np.issubdtype(image.dtype, np.floating):
        values = "0..1: (image * 255)" if float(np.nanmax(image)) <= 1 else "0..255: image"
        return f"its values look like {values}.round().astype(np.uint8) makes one; normalising is done here"
    return "scale its values to 0..255 and convert with .astype(np.uint8)"


def _sampled(image: Image, mapping: Transform, width: int, height: int) -> Image:
    """The middle of a resized image, of the same pixels but for rounding, without the rest of it in memory."""
    import cv2

    x, y = -mapping.offset_x / mapping.scale_x, -mapping.offset_y / mapping.scale_y
    # Only the part that is seen, with a pixel round it: warpAffine takes no image of more than 32767 pixels a side.
    left, top = max(0, int(x) - 1), max(0, int(y) - 1)
    part = image[top : int(y + height / mapping.scale_y) + 2, left : int(x + width / mapping.scale_x) + 2]
    matrix = warp_matrix((1 / mapping.scale_x, 1 / mapping.scale_y), (x - left, y - top))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _as_image(cv2.warpAffine(part, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _as_image(array: object) -> Image:
    return np.asarray(array, np.uint8)
