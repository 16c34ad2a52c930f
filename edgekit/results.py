"""What a task returns: arrays in the pixels of the original image, with names, drawing and export.

The family grows by columns: a column is an array with one entry per detection, declared with `column`. Selecting,
filtering, comparing, exporting and reading back treat all columns alike, so a result with keypoints, masks or track
ids is a subclass that adds a column and, where it looks different, a drawing.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from edgekit.errors import InputError, UsageError, choices
from edgekit.images import Floats, Image

Ids = NDArray[np.int64]
AnyDetections = TypeVar("AnyDetections", bound="Detections")


@dataclass(frozen=True)
class Column:
    """An array with one entry per detection: its name in JSON (one row's), dtype, and the shape of one entry.

    An optional column may be None for the whole result.
    """

    key: str
    dtype: DTypeLike
    shape: tuple[int, ...] = ()
    optional: bool = False


def column(key: str, dtype: DTypeLike, shape: tuple[int, ...] = (), *, optional: bool = False) -> dict[str, Column]:
    """Metadata that makes a dataclass field a `Column`; an optional one also needs ``default=None``."""
    return {"column": Column(key, dtype, shape, optional)}


@dataclass(frozen=True)
class Timings:
    """Milliseconds that one image took: before, in, and after the engine."""

    pre: float
    inference: float
    post: float

    @property
    def total(self) -> float:
        """Sum of the three, in ms."""
        return self.pre + self.inference + self.post


@dataclass(frozen=True)
class Detection:
    """One row of `Detections` in plain Python values: box xyxy in pixels of the original image."""

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str


class _Document(msgspec.Struct):
    """The fixed part of `Detections.to_dict`."""

    width: int
    height: int
    detections: list[dict[str, Any]]
    image: str = ""
    classes: tuple[str, ...] | None = None
    time: float | None = None
    timings: Timings | None = None


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detections:
    """The objects found in one image, best score first when a task made them.

    Args:
        boxes: float32 (n, 4) xyxy in continuous pixels of the ORIGINAL image.
        scores: float32 (n,), 0..1.
        class_ids: int64 (n,), indices into ``classes``.
        classes: names of all classes the model knows.
        size: (width, height) of the original image in pixels.
        source: name of the image, as `edgekit.media.Frame.name`.
        time: seconds since the start of the video, None for stills.
        timings: what this image cost, None when not measured.

    Arrays are converted to those dtypes where needed (and not copied where not).

    Raises:
        UsageError: an array has the wrong shape, holds NaN or infinity, or a class id has no name.
    """

    boxes: Floats = field(metadata=column("box", np.float32, (4,)))
    scores: Floats = field(metadata=column("score", np.float32))
    class_ids: Ids = field(metadata=column("class_id", np.int64))
    classes: tuple[str, ...]
    size: tuple[int, int]
    source: str = ""
    time: float | None = None
    timings: Timings | None = None

    def __post_init__(self) -> None:
        for name, spec in columns(type(self)).items():
            object.__setattr__(self, name, _checked(name, spec, getattr(self, name), len(self.scores)))
        object.__setattr__(self, "classes", tuple(self.classes))
        width, height = self.size
        if width < 1 or height < 1:
            raise UsageError(f"size must be (width, height) of the original image, at least 1 x 1, not {self.size}")
        if len(self) and not 0 <= self.class_ids.min() <= self.class_ids.max() < len(self.classes):
            raise UsageError(
                f"class ids must be 0..{len(self.classes) - 1}, one per name in classes, "
                f"not {self.class_ids.min()}..{self.class_ids.max()}"
            )

    @classmethod
    def empty(cls: type[AnyDetections], classes: Sequence[str], size: tuple[int, int], **rest: Any) -> AnyDetections:
        """The result for an image in which nothing was found; ``rest`` is source, time, timings."""
        blank: dict[str, Any] = {
            name: np.zeros((0, *spec.shape), spec.dtype) for name, spec in columns(cls).items() if not spec.optional
        }
        return cls(**blank, classes=tuple(classes), size=size, **rest)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, class_id in zip(
            self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True
        ):
            yield Detection(tuple(box), score, class_id, self.classes[class_id])

    def __getitem__(self: AnyDetections, index: SupportsIndex | slice | ArrayLike) -> AnyDetections:
        """The chosen detections, in the order asked for: by position, slice, boolean mask (n,) or index array.

        Raises:
            IndexError: out of range, or neither integers nor a mask of the right length.
        """
        chosen = _selector(index, len(self))
        picked: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[chosen] for name in columns(type(self))
        }
        return dataclasses.replace(self, **picked)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

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

    def draw(self, image: Image, *, labels: bool = True, scores: bool = True, thickness: int | None = None) -> Image:
        """A new image with the boxes drawn; see `edgekit.drawing.draw_boxes`.

        Args:
            image: uint8 (height, width, 3) BGR, the one these detections were found in.
            labels: write the class name on a plate at each box.
            scores: write the score behind the name, in per cent.
            thickness: of the box lines in pixels; by default it follows the size of the image.

        Raises:
            InputError: not such an image. UsageError: an image of another size.
        """
        from edgekit import drawing, images

        images.check(image)
        if (image.shape[1], image.shape[0]) != tuple(self.size):
            raise UsageError(
                f"these detections are in the pixels of a {self.size[0]}x{self.size[1]} image, "
                f"not {image.shape[1]}x{image.shape[0]}; draw on the image they were found in"
            )
        texts = [f"{name} {score:.0%}" if scores else name for name, score in zip(self.names, self.scores, strict=True)]
        worst_first = np.argsort(self.scores, kind="stable")  # so that the best is drawn on top
        return drawing.draw_boxes(
            image,
            self.boxes[worst_first],
            self.class_ids[worst_first],
            [texts[i] for i in worst_first] if labels else None,
            thickness,
        )

    def to_dict(self, *, classes: bool = True) -> dict[str, Any]:
        """Plain Python values: ``image``, ``width``, ``height``, ``detections``, and what else is known.

        Each detection is ``{"box": [x1, y1, x2, y2], "score", "class_id", "name"}``. Floats are written as the
        shortest decimal that gives the same float32, so `from_dict` gets back exactly these arrays.

        Args:
            classes: include the names of all classes, which `from_dict` otherwise has to be given.
        """
        rows = {
            spec.key: _plain(getattr(self, name))
            for name, spec in columns(type(self)).items()
            if getattr(self, name) is not None
        }
        rows["name"] = self.names
        document: dict[str, Any] = {
            "image": self.source,
            "width": int(self.size[0]),
            "height": int(self.size[1]),
            "detections": [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)],
        }
        if self.time is not None:
            document["time"] = float(self.time)
        if self.timings is not None:
            document["timings"] = dataclasses.asdict(self.timings)
        if classes:
            document["classes"] = list(self.classes)
        return document

    def to_json(self, *, classes: bool = True) -> str:
        """`to_dict` as one line of JSON."""
        return msgspec.json.encode(self.to_dict(classes=classes)).decode()

    @classmethod
    def from_dict(
        cls: type[AnyDetections], document: dict[str, Any], classes: Sequence[str] | None = None
    ) -> AnyDetections:
        """The inverse of `to_dict`; ``classes`` replaces the names it carries.

        Raises:
            InputError: not what `to_dict` writes, or no class names in it and none given.
        """
        try:
            fixed = msgspec.convert(document, _Document)
        except msgspec.ValidationError as error:
            raise InputError(f"not a result that edgekit wrote: {error}") from error
        names = classes if classes is not None else fixed.classes
        if names is None:
            raise InputError("the result was written without its class names; pass classes=")
        arrays: dict[str, Any] = {name: _gathered(spec, fixed.detections) for name, spec in columns(cls).items()}
        size = (fixed.width, fixed.height)
        try:
            return cls(
                **arrays, classes=tuple(names), size=size, source=fixed.image, time=fixed.time, timings=fixed.timings
            )
        except UsageError as error:
            raise InputError(f"not a result that edgekit wrote: {error}") from error

    @classmethod
    def from_json(cls: type[AnyDetections], text: str | bytes, classes: Sequence[str] | None = None) -> AnyDetections:
        """The inverse of `to_json`.

        Raises:
            InputError: not JSON, or not what `to_json` writes.
        """
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"not a result that edgekit wrote: {error}") from error
        return cls.from_dict(document, classes)

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``, with the names under ``data["class_name"]``.

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
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )


def columns(result: type[Detections]) -> dict[str, Column]:
    """The columns of a class of results, by field name, in order of declaration."""
    return {f.name: f.metadata["column"] for f in dataclasses.fields(result) if "column" in f.metadata}


def _checked(name: str, spec: Column, value: Any, count: int) -> NDArray[Any] | None:
    if value is None and spec.optional:
        return None
    array = np.asarray(value, spec.dtype)
    if array.size == 0 and count == 0:
        array = array.reshape(0, *spec.shape)
    if array.shape != (count, *spec.shape):
        raise UsageError(f"{name} must have the shape {(count, *spec.shape)}, as many as scores, not {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{name} must be finite numbers, not {array[~np.isfinite(array)][0]}")
    return array


def _selector(index: SupportsIndex | slice | ArrayLike, count: int) -> slice | NDArray[Any]:
    if isinstance(index, slice):
        return index
    if not isinstance(index, np.ndarray | list | tuple):
        position = operator.index(index)  # type: ignore[arg-type]
        if not -count <= position < count:
            raise IndexError(f"detection {position} of {count}")
        return np.array([position])
    array = np.asarray(index)
    return array.astype(np.int64) if array.size == 0 else array


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def _plain(array: NDArray[Any]) -> list[Any]:
    """An array as nested lists; float32 as the shortest decimal that gives it back (0.9, not 0.8999999761)."""
    if array.dtype != np.float32:
        exact: list[Any] = array.tolist()
        return exact
    flat = np.array([float(str(value)) for value in array.ravel()], np.float64)
    # The decimal is read as float64 first: where that second rounding would miss, keep all digits.
    flat = np.where(flat.astype(np.float32) == array.ravel(), flat, array.ravel().astype(np.float64))
    rows: Any = flat.reshape(array.shape).tolist()
    return list(rows)


def _gathered(spec: Column, rows: list[dict[str, Any]]) -> NDArray[Any] | None:
    if spec.optional and not any(spec.key in row for row in rows):
        return None
    try:
        values = [row[spec.key] for row in rows]
        return np.asarray(values, spec.dtype).reshape(len(rows), *spec.shape)
    except KeyError as error:
        raise InputError(f"not a result that edgekit wrote: a detection without {spec.key!r}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not a result that edgekit wrote: {spec.key!r} cannot be read ({error})") from error
