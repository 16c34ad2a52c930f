"""Instances: detections with a mask each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import UsageError
from edgekit.runtimes.results.columns import Column, Size
from edgekit.runtimes.results.detections import ColorBy, Detections
from edgekit.runtimes.results.masks import Masks


@dataclass(frozen=True)
class MaskColumn(Column):
    """A column of `Masks`, in JSON as COCO's run lengths."""

    def checked(self, name: str, value: Any, count: int, size: Size) -> Masks | None:
        """The masks themselves, one per row and of the result's image."""
        if value is None and self.optional:
            return None
        if not isinstance(value, Masks):
            raise UsageError(
                f"{name} must be edgekit.results.Masks, not {type(value).__name__}; see Masks.from_bitmaps"
            )
        if len(value) != count or value.size != tuple(size):
            raise UsageError(f"{name} must be {count} masks, one per row, in {size[0]}x{size[1]} pixels, not {value!r}")
        return value

    def blank(self, size: Size) -> Masks:
        """No masks."""
        return Masks((), (), size)

    def same(self, one: Masks | None, other: Masks | None) -> bool:
        """The same pixels."""
        return one == other

    def written(self, value: Masks) -> list[dict[str, Any]]:
        """Compressed run lengths of each."""
        return value.to_rle()

    def read(self, entries: list[Any], size: Size) -> Masks:
        """The masks of their run lengths."""
        return Masks.from_rle(entries, size)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Instances(Detections):
    """The objects found in one image and which pixels are theirs.

    Args:
        masks: one mask per detection, in pixels of the ORIGINAL image.

    The others are those of `Detections`.

    Raises:
        UsageError: as `Detections`, or masks of another number or of another image size.
    """

    masks: Masks = field(metadata={"column": MaskColumn("mask")})

    def label_map(self, background: int = -1) -> NDArray[np.int32]:
        """The class id of every pixel, int32 (height, width): the best object's where several lie over each other.

        Args:
            background: the value where there is no object.
        """
        labels = np.full(self.size[::-1], background, np.int32)
        for index in self._worst_first().tolist():
            labels[self.masks.place(index)][self.masks.crops[index]] = self.class_ids[index]
        return labels

    def draw(
        self,
        image: Image,
        *,
        labels: bool = True,
        scores: bool = True,
        thickness: int | None = None,
        color_by: ColorBy | None = None,
        boxes: bool = True,
        opacity: float = 0.45,
    ) -> Image:
        """A new image with masks and boxes drawn, the best on top.

        Args:
            image, labels, scores, thickness, color_by: as `Detections.draw`.
            boxes: draw the boxes and their labels too.
            opacity: of the fill, 0..1.
        """
        from edgekit.runtimes import drawing

        self._check_image(image)
        masks = self.masks[order := self._worst_first()]
        colors = self._color_ids(color_by)[order]
        drawn = drawing.draw_masks(image, masks.crops, masks.corners, colors, opacity, thickness)
        if not boxes:
            return drawn
        return super().draw(drawn, labels=labels, scores=scores, thickness=thickness, color_by=color_by)

    def _coco(self) -> Sequence[dict[str, Any]]:
        """``segmentation`` as compressed run lengths."""
        encoded = self.masks.to_rle()
        return [{**row, "segmentation": one} for row, one in zip(super()._coco(), encoded, strict=True)]

    def to_supervision(self) -> Any:
        """As `Detections.to_supervision`, with the masks as bool (n, height, width)."""
        other = super().to_supervision()
        other.mask = self.masks.bitmaps()
        return other
