"""A label map: the class of every pixel of one image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Bools, Image
from edgekit.errors import InputError, UsageError, choices
from edgekit.runtimes.results.columns import Column, Size
from edgekit.runtimes.results.result import Result, converted

BACKGROUND = "background"
"""The class of what is none of the others."""


class _Runs(msgspec.Struct):
    class_ids: list[int]
    lengths: list[int]


@dataclass(frozen=True)
class _Plane(Column):
    """The labels of all pixels: not a column of rows, but compared like one."""

    def checked(self, name: str, value: Any, count: int, size: Size) -> NDArray[np.integer[Any]]:
        """The array in the smallest of uint8 and uint16 that holds ``count`` classes."""
        array = np.asarray(value)
        if array.dtype.kind not in "iu" or array.shape != size[::-1]:
            raise UsageError(
                f"{name} must be whole numbers of the shape {size[::-1]} (height, width), not {array.dtype} "
                f"{array.shape}"
            )
        if array.min() < 0 or array.max() >= count:
            raise UsageError(f"{name} must be class ids 0..{count - 1}, not {array.min()}..{array.max()}")
        return np.asarray(array, np.uint8 if count <= 256 else np.uint16)

    def blank(self, size: Size) -> NDArray[np.uint8]:
        """All pixels of the first class."""
        return np.zeros(size[::-1], np.uint8)

    def same(self, one: Any, other: Any) -> bool:
        """Whether all pixels have the same class."""
        return np.array_equal(one, other)

    def written(self, value: NDArray[Any]) -> list[int]:
        """The labels row after row."""
        flat: list[int] = value.ravel().tolist()
        return flat

    def read(self, entries: list[Any], size: Size) -> NDArray[np.int64]:
        """The inverse of `written`."""
        return np.array(entries, np.int64).reshape(size[::-1])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LabelMap(Result):
    """The class of every pixel.

    Args:
        labels: class ids (height, width) in original pixels, uint8, or uint16 of more than 256 classes.
        classes, size, source, time, timings: as for every `Result`.

    Raises:
        UsageError: labels of another shape, or ids that no class has.
    """

    labels: NDArray[np.integer[Any]] = field(metadata={"column": _Plane("labels")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise UsageError("classes must have at least one name, not none")
        checked = _Plane("labels").checked("labels", self.labels, len(self.classes), self.size)
        object.__setattr__(self, "labels", checked)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"{self.source + ': ' if self.source else ''}{parts}"

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image, 0..1, of each class that has a pixel, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        shares: dict[str, float] = {}
        for class_id in order[counts[order] > 0].tolist():  # several may be called alike
            name = self.classes[class_id]
            shares[name] = shares.get(name, 0.0) + float(counts[class_id] / self.labels.size)
        return shares

    def mask(self, name: str) -> Bools:
        """Where the image shows a class, bool (height, width).

        Raises:
            UsageError: no class of that name.
        """
        ids = [class_id for class_id, known in enumerate(self.classes) if known == name]
        if not ids:
            raise UsageError(f"class {choices(name, self.classes)}")
        return np.isin(self.labels, ids)

    def draw(
        self,
        image: Image,
        *,
        labels: bool = True,
        scores: bool = True,
        thickness: int | None = None,
        opacity: float = 0.5,
    ) -> Image:
        """A new image with each pixel in the colour of its class, and plates with the classes' names.

        A class called ``background`` is left as it is.

        Args:
            image, labels: as `Result.draw`.
            scores: write how much of the image each class has, in per cent.
            thickness: not used, there are no lines.
            opacity: of the colours, from 0 (none) to 1.

        Raises:
            UsageError: an opacity outside 0..1, or an image of another size.
        """
        import cv2

        from edgekit.runtimes import drawing

        self._check_image(image)
        if not 0 <= opacity <= 1:
            raise UsageError(f"opacity must be 0..1, not {opacity}")
        table = np.array([drawing.color_of(class_id) for class_id in range(len(self.classes))], np.uint8)
        painted = np.asarray(cv2.addWeighted(image, 1 - opacity, table[self.labels], opacity, 0), np.uint8)
        behind = [class_id for class_id, name in enumerate(self.classes) if name.strip("_").lower() == BACKGROUND]
        if behind:
            plain = np.isin(self.labels, behind)
            painted[plain] = image[plain]
        if not labels:
            return painted
        shares = self.shares
        ids = [self.classes.index(name) for name in shares]
        return drawing.draw_list(painted, [f"{n} {s:.0%}" if scores else n for n, s in shares.items()], ids)

    def to_png(self, path: str | os.PathLike[str]) -> Path:
        """Write the class ids as a grey PNG, which `from_png` and ``edgekit evaluate --labels`` read.

        Raises:
            InputError: it cannot be written.
        """
        import cv2

        try:
            Path(path).write_bytes(cv2.imencode(".png", self.labels)[1].tobytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        return Path(path)

    @classmethod
    def from_png(cls, path: str | os.PathLike[str], classes: tuple[str, ...]) -> LabelMap:
        """The inverse of `to_png`.

        Raises:
            InputError: it cannot be read, or is no label map of these classes.
        """
        from edgekit.runtimes.inputs.label_maps import read_label_map

        labels = read_label_map(Path(path))
        try:
            return cls(labels=labels, classes=classes, size=(labels.shape[1], labels.shape[0]))
        except UsageError as error:
            raise InputError(f"{path}: {error}") from error

    def _body(self) -> dict[str, Any]:
        """Runs of equal labels, row after row from the top left."""
        flat = self.labels.ravel()
        starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        lengths = np.diff(np.concatenate([starts, [flat.size]]))
        return {"class_ids": flat[starts].tolist(), "lengths": lengths.tolist(), "shares": self.shares}

    @classmethod
    def _from_body(cls, document: dict[str, Any], size: Size) -> dict[str, Any]:
        runs = converted(document, _Runs)
        lengths = np.array(runs.lengths, np.int64)
        if len(runs.class_ids) != len(lengths) or (lengths < 1).any() or lengths.sum() != size[0] * size[1]:
            raise InputError(f"not a result that edgekit wrote: its runs do not fill {size[0]} x {size[1]} pixels")
        return {"labels": np.repeat(np.array(runs.class_ids, np.int64), lengths).reshape(size[::-1])}
