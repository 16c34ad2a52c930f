"""Detections: boxes, scores and classes of the objects in one image, and their track ids where they are tracked.

The family grows by columns: a result with keypoints or masks is a subclass that adds a column and, where it looks
different, a drawing. Selecting, filtering, comparing, exporting and reading back treat all columns alike.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from edgekit.arrays import Floats, Image, Ints
from edgekit.errors import UsageError, choices
from edgekit.runtimes.results.columns import Selector, Size, column, columns, selector
from edgekit.runtimes.results.result import Result, converted

ColorBy = Literal["class", "track"]
AnyDetections = TypeVar("AnyDetections", bound="Detections")


@dataclass(frozen=True)
class Detection:
    """One row of `Detections` in plain Python values: box xyxy in pixels of the original image."""

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str
    track_id: int | None = None


class _Rows(msgspec.Struct):
    detections: list[dict[str, Any]]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detections(Result):
    """The objects found in one image, best score first when a task made them.

    Args:
        boxes: float32 (n, 4) xyxy in continuous pixels of the ORIGINAL image.
        scores: float32 (n,), 0..1.
        class_ids: int64 (n,), indices into ``classes``.
        track_ids: int64 (n,), the same number for the same object in every frame; None where nothing is tracked.
        classes, size, source, time, timings: as for every `Result`.

    Arrays are converted to those dtypes where needed (and not copied where not).

    Raises:
        UsageError: an array has the wrong shape, holds NaN or infinity, or a class id has no name.
    """

    boxes: Floats = field(metadata=column("box", np.float32, (4,)))
    scores: Floats = field(metadata=column("score", np.float32))
    class_ids: Ints = field(metadata=column("class_id", np.int64))
    track_ids: Ints | None = field(default=None, metadata=column("track_id", np.int64, optional=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, spec in columns(type(self)).items():
            object.__setattr__(self, name, spec.checked(name, getattr(self, name), len(self.scores), self.size))
        if len(self) and not 0 <= self.class_ids.min() <= self.class_ids.max() < len(self.classes):
            raise UsageError(
                f"class ids must be 0..{len(self.classes) - 1}, one per name in classes, "
                f"not {self.class_ids.min()}..{self.class_ids.max()}"
            )

    @classmethod
    def empty(cls: type[AnyDetections], classes: Sequence[str], size: Size, **rest: Any) -> AnyDetections:
        """The result for an image in which nothing was found; ``rest`` is source, time, timings, skeleton."""
        blank = {name: spec.blank(size) for name, spec in columns(cls).items() if not spec.optional}
        return cls(**blank, classes=tuple(classes), size=size, **rest)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        tracks: list[Any] = [None] * len(self) if self.track_ids is None else self.track_ids.tolist()
        for box, score, class_id, track_id in zip(
            self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist(), tracks, strict=True
        ):
            yield Detection(tuple(box), score, class_id, self.classes[class_id], track_id)

    def __getitem__(self: AnyDetections, index: Selector) -> AnyDetections:
        """The chosen detections, in the order asked for: by position, slice, boolean mask (n,) or index array.

        Raises:
            IndexError: out of range, or neither integers nor a mask of the right length.
        """
        chosen = selector(index, len(self))
        picked: dict[str, Any] = {
            name: spec.select(getattr(self, name), chosen) for name, spec in columns(type(self)).items()
        }
        return dataclasses.replace(self, **picked)

    def __repr__(self) -> str:
        found = Counter(self.names)
        parts = ", ".join(
            f"{count} {name}" for name, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        )
        total = f"{len(self)} detection{'' if len(self) == 1 else 's'}"
        return f"{self.source + ': ' if self.source else ''}{total}{': ' + parts if parts else ''}"

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.classes[class_id] for class_id in self.class_ids.tolist()]

    def filter(
        self: AnyDetections,
        score: float | None = None,
        classes: str | int | Iterable[str | int] | None = None,
    ) -> AnyDetections:
        """The detections with at least this score and of these classes (names or ids).

        Raises:
            UsageError: a class that the model does not know.
        """
        keep = np.ones(len(self), np.bool_)
        if score is not None:
            keep &= self.scores >= np.float32(score)
        if classes is not None:
            wanted = [classes] if isinstance(classes, str | int) else classes
            keep &= np.isin(self.class_ids, [self._class_id(one) for one in wanted])
        return self[keep]

    def _class_id(self, wanted: str | int) -> int:
        if isinstance(wanted, str):
            if wanted in self.classes:
                return self.classes.index(wanted)
            raise UsageError(f"class {choices(wanted, self.classes)}")
        if 0 <= wanted < len(self.classes):
            return int(wanted)
        raise UsageError(f"class id {wanted} is not one of 0..{len(self.classes) - 1}")

    def crop(self, image: Image, margin: float = 0.0) -> list[Image]:
        """The part of the image in each box, as separate images (copies), for example for a second model.

        Args:
            image: uint8 (height, width, 3) BGR, the one these detections were found in.
            margin: how much more to take on every side, as a share of the box's width and height.

        Returns:
            One uint8 (h, w, 3) per detection: every pixel that its box touches inside the image. It is empty (h or w
            is 0) where that is none.

        Raises:
            InputError: not such an image. UsageError: an image of another size, or a negative margin.
        """
        self._check_image(image)
        if not margin >= 0:
            raise UsageError(f"margin must be at least 0, a share of the box's width and height, not {margin}")
        boxes = self.boxes.astype(np.float64)
        more = margin * (boxes[:, 2:] - boxes[:, :2])
        first = np.clip(np.floor(boxes[:, :2] - more), 0, self.size).astype(int).tolist()
        last = np.clip(np.ceil(boxes[:, 2:] + more), 0, self.size).astype(int).tolist()
        return [image[y1:y2, x1:x2].copy() for (x1, y1), (x2, y2) in zip(first, last, strict=True)]

    def draw(
        self,
        image: Image,
        *,
        labels: bool = True,
        scores: bool = True,
        thickness: int | None = None,
        color_by: ColorBy | None = None,
    ) -> Image:
        """A new image with the boxes drawn, the best on top; see `edgekit.runtimes.drawing.draw_boxes`.

        Args:
            image: uint8 (height, width, 3) BGR, the one these detections were found in.
            labels: write the class name, and ``#`` and the track id, on a plate at each box.
            scores: write the score behind the name, in per cent.
            thickness: of the box lines in pixels; by default it follows the size of the image.
            color_by: one colour per ``class`` or per ``track``; by default per track where there are track ids.

        Raises:
            InputError: not such an image. UsageError: an image of another size, or no track ids to colour by.
        """
        from edgekit.runtimes import drawing

        self._check_image(image)
        order = self._worst_first()
        texts = self._labels(scores)
        return drawing.draw_boxes(
            image,
            self._outlines()[order],
            self._color_ids(color_by)[order],
            [texts[i] for i in order] if labels else None,
            thickness,
        )

    def _outlines(self) -> Floats:
        """The shapes to draw: boxes (n, 4) xyxy, or corners (n, 4, 2)."""
        return self.boxes

    def _worst_first(self) -> Ints:
        """The order of drawing, in which the best comes last and so on top; among equals the first."""
        return np.asarray(np.argsort(-self.scores, kind="stable")[::-1], np.int64)

    def _color_ids(self, color_by: ColorBy | None) -> Ints:
        if color_by not in (None, "class", "track"):
            raise UsageError(f"color_by {choices(color_by, ('class', 'track'))}")
        if color_by == "class" or (color_by is None and self.track_ids is None):
            return self.class_ids
        if self.track_ids is None:
            raise UsageError("color_by='track' needs track ids; these detections have none")
        return self.track_ids

    def _labels(self, scores: bool) -> list[str]:
        return [
            one.name + ("" if one.track_id is None else f" #{one.track_id}") + (f" {one.score:.0%}" if scores else "")
            for one in self
        ]

    def _body(self) -> dict[str, Any]:
        rows = {
            spec.key: spec.written(getattr(self, name))
            for name, spec in columns(type(self)).items()
            if getattr(self, name) is not None
        }
        rows["name"] = self.names
        return {"detections": [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]}

    @classmethod
    def _from_body(cls, document: dict[str, Any], size: Size) -> dict[str, Any]:
        rows = converted(document, _Rows).detections
        return {name: spec.gathered(rows, size) for name, spec in columns(cls).items()}

    def to_coco(self, image_id: int, category_ids: Sequence[int | None] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file (https://cocodataset.org/#format-results), ``bbox`` as x, y, width, height.

        Args:
            image_id: of the image, in the annotations.
            category_ids: the category of each class; None leaves its detections out. By default COCO's own ids (1 to
                90) for its 80 classes, the class ids for others.

        Raises:
            UsageError: not one category per class.
        """
        ids = _category_ids(self.classes) if category_ids is None else category_ids
        if len(ids) != len(self.classes):
            raise UsageError(f"category_ids must have one for each of the {len(self.classes)} classes, not {len(ids)}")
        rows = []
        for one, more in zip(self, self._coco(), strict=True):
            if (category := ids[one.class_id]) is not None:
                x1, y1, x2, y2 = one.box
                bbox = [x1, y1, x2 - x1, y2 - y1]
                rows.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": one.score, **more})
        return rows

    def _coco(self) -> Sequence[dict[str, Any]]:
        """The fields that a kind of result adds to its rows of a COCO results file."""
        return [{}] * len(self)

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``, with the names under ``data["class_name"]`` and track ids as ``tracker_id``.

        Raises:
            UsageError: the optional package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UsageError("to_supervision() needs the package supervision; pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )


_UNUSED = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""Category ids that COCO's first list of 91 has and none of its annotations."""


def _category_ids(classes: Sequence[str]) -> Sequence[int]:
    """COCO's ids where these are its 80 classes in their usual order, else the places in the list."""
    coco = [number for number in range(1, 91) if number not in _UNUSED]
    theirs = len(classes) == len(coco) and (classes[0], classes[-1]) == ("person", "toothbrush")
    return coco if theirs else range(len(classes))
