"""Masks of the objects in one image, each kept as a bitmap of its own window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Bools, Floats, Ints
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.results import rle
from edgekit.runtimes.results.columns import Selector, Size, selector


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """Masks of n objects in the pixels of the ORIGINAL image. Nothing of the image's size is made unless asked for.

    Args:
        crops: n bitmaps, bool (h, w) each, of any sizes (0 x 0 for an empty mask). Not copied.
        corners: whole numbers (n, 2), x and y of each bitmap's top-left pixel in the image.
        size: (width, height) of the image in pixels.

    Two Masks are equal where all their pixels are, whatever the windows.

    Raises:
        UsageError: bitmaps of another type, one that is not wholly inside the image, or other than one corner each.
    """

    crops: tuple[Bools, ...]
    corners: Ints
    size: Size

    def __init__(self, crops: Sequence[Bools], corners: Any, size: Size) -> None:
        object.__setattr__(self, "crops", tuple(crops))
        object.__setattr__(self, "corners", _whole(corners, len(self.crops)))
        object.__setattr__(self, "size", (int(size[0]), int(size[1])))
        if min(self.size) < 1:
            raise UsageError(f"size must be (width, height) of the original image, at least 1 x 1, not {self.size}")
        for index, crop in enumerate(self.crops):
            if not isinstance(crop, np.ndarray) or crop.dtype != np.bool_ or crop.ndim != 2:
                given = f"{crop.dtype} {crop.shape}" if isinstance(crop, np.ndarray) else type(crop).__name__
                raise UsageError(f"mask {index} must be a bool array (h, w), not {given}; compare it with a threshold")
        windows = self.windows
        outside = (windows[:, :2] < 0).any(axis=1) | (windows[:, 2:] > self.size).any(axis=1)
        if outside.any():
            index = int(np.argmax(outside))
            raise UsageError(
                f"mask {index} covers the pixels {windows[index].tolist()} (x1, y1, x2, y2), not wholly inside the "
                f"{self.size[0]}x{self.size[1]} image; cut it off at the edge"
            )

    @classmethod
    def from_bitmaps(cls, bitmaps: NDArray[np.bool_]) -> Masks:
        """From bool (n, height, width), each cut to the smallest window that holds it.

        Raises:
            UsageError: not such an array.
        """
        if bitmaps.dtype != np.bool_ or bitmaps.ndim != 3:
            raise UsageError(f"bitmaps must be bool (n, height, width), not {bitmaps.dtype} {bitmaps.shape}")
        found = [_trimmed(bitmap, (0, 0)) for bitmap in bitmaps]
        return cls([crop for crop, _ in found], [corner for _, corner in found], bitmaps.shape[:0:-1])

    @classmethod
    def from_rle(cls, encoded: Sequence[Mapping[str, Any]], size: Size | None = None) -> Masks:
        """From COCO's run lengths: ``{"size": [height, width], "counts": ...}`` each.

        Args:
            encoded: ``counts`` is a compressed string (str or bytes), or the list of lengths itself.
            size: (width, height) of the image; by default the first mask's.

        Raises:
            InputError: not such a list, or masks of another size. UsageError: an empty list and no size.
        """
        if size is None and not encoded:
            raise UsageError("an empty list does not tell the size of the image; pass size=(width, height)")
        found = []
        for index, one in enumerate(encoded):
            try:
                counts, own = _counts(one)
                size = size or own
                if tuple(size) != own:
                    raise InputError(f"it is of a {own[0]}x{own[1]} image, not {size[0]}x{size[1]}")
                found.append(rle.window_of(counts, own))
            except InputError as error:
                raise InputError(f"mask {index} cannot be read: {error}") from error
        return cls([crop for crop, _, _ in found], [(left, top) for _, left, top in found], size or (0, 0))

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[Bools]:
        """The bitmap of each mask in the size of the image, one at a time."""
        return (self.bitmap(index) for index in range(len(self)))

    def __getitem__(self, index: Selector) -> Masks:
        """The chosen masks, in the order asked for: by position, slice, boolean mask (n,) or index array.

        Raises:
            IndexError: out of range, or neither integers nor a mask of the right length.
        """
        chosen = np.arange(len(self))[selector(index, len(self))]
        return Masks([self.crops[i] for i in chosen.tolist()], self.corners[chosen], self.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return (
            self.size == other.size
            and len(self) == len(other)
            and all(map(_same, self.crops, self.corners.tolist(), other.crops, other.corners.tolist()))
        )

    def __repr__(self) -> str:
        return f"{len(self)} mask{'' if len(self) == 1 else 's'} in {self.size[0]}x{self.size[1]} pixels"

    @property
    def windows(self) -> Ints:
        """The pixels that the bitmaps cover, int64 (n, 4) x1, y1, x2, y2 with the second corner exclusive."""
        shapes = np.array([crop.shape[::-1] for crop in self.crops], np.int64).reshape(-1, 2)
        return np.concatenate([self.corners, self.corners + shapes], axis=1)

    @property
    def areas(self) -> NDArray[np.int64]:
        """Number of pixels of each mask, int64 (n,)."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], np.int64)

    def bitmap(self, index: int) -> Bools:
        """One mask in the size of the image, bool (height, width)."""
        whole = np.zeros(self.size[::-1], np.bool_)
        whole[self.place(index)] = self.crops[index]
        return whole

    def bitmaps(self) -> NDArray[np.bool_]:
        """All masks in the size of the image, bool (n, height, width)."""
        whole = np.zeros((len(self), *self.size[::-1]), np.bool_)
        for index, crop in enumerate(self.crops):
            whole[index][self.place(index)] = crop
        return whole

    def place(self, index: int) -> tuple[slice, slice]:
        """Where a bitmap lies in an array of the image: rows, columns."""
        (left, top), (rows, columns) = self.corners[index].tolist(), self.crops[index].shape
        return slice(top, top + rows), slice(left, left + columns)

    def to_rle(self) -> list[dict[str, Any]]:
        """COCO's compressed run lengths, ``{"size": [height, width], "counts": str}`` each (`results.rle`)."""
        places = zip(self.crops, self.corners.tolist(), strict=True)
        runs = (rle.counts_of(crop, left, top, self.size) for crop, (left, top) in places)
        return [{"size": [self.size[1], self.size[0]], "counts": rle.compressed(counts)} for counts in runs]

    def polygons(self, index: int, tolerance: float = 0.0) -> list[Floats]:
        """The outer outlines of one mask, float32 (m, 2) x, y each, in continuous pixels of the image.

        They run along the edges of the pixels, not through their centres: each encloses exactly as much area as it has
        pixels. Parts that touch in a corner are one; holes are not cut out.

        Args:
            index: of the mask.
            tolerance: leave out points while the outline stays within this many pixels (Douglas-Peucker).
        """
        import cv2

        # Every pixel as four: the outline through the centres of these, rounded up to whole pixels, is the outline
        # along the edges of the pixels (left halves go to the left edge, right halves to the right one).
        crop = self.crops[index]
        if not crop.any():
            return []
        doubled = crop.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        found, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outlines = [_turning_points((np.asarray(one)[:, 0].astype(np.int64) + 1) // 2) for one in found]
        whole = [(outline + self.corners[index]).astype(np.float32) for outline in outlines]
        if tolerance <= 0:
            return whole
        simple = [np.asarray(cv2.approxPolyDP(one, tolerance, True), np.float32)[:, 0] for one in whole]
        return [one for one in simple if len(one) >= 3]

    def iou(self, other: Masks) -> Floats:
        """Intersection over union of each mask with each of another, float32 (n, m); 0 where both are empty.

        Pixels are compared only where the windows of a pair overlap.

        Raises:
            UsageError: masks of images of another size.
        """
        if self.size != other.size:
            raise UsageError(f"masks of {self.size} and {other.size} pixels (width, height) cannot be compared")
        ours, theirs = self.windows[:, None], other.windows[None]
        start, end = np.maximum(ours[..., :2], theirs[..., :2]), np.minimum(ours[..., 2:], theirs[..., 2:])
        shared = np.zeros((len(self), len(other)), np.int64)
        for i, j in np.argwhere((end > start).all(axis=2)).tolist():
            one = _part(self.crops[i], start[i, j] - self.corners[i], end[i, j] - self.corners[i])
            two = _part(other.crops[j], start[i, j] - other.corners[j], end[i, j] - other.corners[j])
            shared[i, j] = np.count_nonzero(one & two)
        either = self.areas[:, None] + other.areas[None] - shared
        return np.asarray(shared / np.maximum(either, 1), np.float32)

    def refined(self, open: int = 0, close: int = 0, largest: bool = False) -> Masks:  # noqa: A002 - as it is called
        """Smoother masks: morphological opening, then closing, then only the largest part.

        Args:
            open: radius in pixels of the ellipse that has to fit into what stays; removes specks and thin bridges.
            close: radius in pixels of the ellipse that has to fit into what stays out; fills holes and thin gaps.
            largest: keep only the largest of the parts that hang together, corners included.

        Raises:
            UsageError: a negative radius.
        """
        if open < 0 or close < 0:
            raise UsageError(f"open and close are radii in pixels, at least 0, not {open} and {close}")
        return Masks([_refined(crop, open, close, largest) for crop in self.crops], self.corners, self.size)


def _whole(corners: Any, count: int) -> Ints:
    try:
        array = np.asarray(corners)
    except ValueError as error:
        raise UsageError(f"corners must be whole numbers (n, 2): {error}") from error
    if array.size == 0 and count == 0:
        return np.zeros((0, 2), np.int64)
    if array.dtype.kind not in "iu" or array.shape != (count, 2):
        raise UsageError(f"corners must be whole numbers ({count}, 2), one per mask, not {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _counts(encoded: Mapping[str, Any]) -> tuple[Ints, Size]:
    """The lengths of the runs in one of COCO's encodings, and the (width, height) it is for."""
    try:
        (height, width), given = encoded["size"], encoded["counts"]
        size = (int(width), int(height))
        counts = rle.expanded(given) if isinstance(given, str | bytes) else np.asarray(given, np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not {{'size': [height, width], 'counts': ...}} ({error!r})") from error
    if min(size) < 1 or counts.ndim != 1:
        raise InputError(f"its size is {size} (width, height), and its counts have {counts.ndim} dimensions")
    return counts, size


def _trimmed(crop: Bools, corner: Sequence[int]) -> tuple[Bools, tuple[int, int]]:
    """A bitmap cut to the smallest window that holds the mask, and the corner of that."""
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    if not len(rows):
        return np.zeros((0, 0), np.bool_), (0, 0)
    window = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return window.copy(), (corner[0] + int(columns[0]), corner[1] + int(rows[0]))


def _part(crop: Bools, start: Ints, end: Ints) -> Bools:
    return crop[start[1] : end[1], start[0] : end[0]]


def _same(one: Bools, corner: list[int], other: Bools, its_corner: list[int]) -> bool:
    if corner == its_corner and one.shape == other.shape:
        return np.array_equal(one, other)
    (crop, place), (its_crop, its_place) = _trimmed(one, corner), _trimmed(other, its_corner)
    return place == its_place and np.array_equal(crop, its_crop)


def _turning_points(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """A closed path of horizontal and vertical steps without the points where it goes straight on or stands still."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = np.sign(ring - np.roll(ring, 1, axis=0)), np.sign(np.roll(ring, -1, axis=0) - ring)
    turns = np.any(before != after, axis=1)
    return ring[turns]


def _refined(crop: Bools, opening: int, closing: int, largest: bool) -> Bools:
    import cv2

    if not crop.any():
        return crop
    # What is outside the window (or the image) is background. Neither operation can grow a mask beyond its window, but
    # closing needs the room around it on its way.
    room = max(opening, closing)
    image = np.pad(crop, room).astype(np.uint8)
    for radius, operation in ((opening, cv2.MORPH_OPEN), (closing, cv2.MORPH_CLOSE)):
        if radius:
            ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
            image = np.asarray(cv2.morphologyEx(image, operation, ellipse), np.uint8)
    image = image[room : room + crop.shape[0], room : room + crop.shape[1]]
    if largest and image.any():
        _, parts, statistics, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(image), connectivity=8)
        return np.asarray(parts == 1 + np.argmax(statistics[1:, cv2.CC_STAT_AREA]), np.bool_)
    return image.astype(np.bool_)
