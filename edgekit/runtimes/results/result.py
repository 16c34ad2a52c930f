"""The base of all results: names, size, source, time and cost of the image; written as JSON and read back."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.results.columns import Size
from edgekit.structures import from_builtins

AnyResult = TypeVar("AnyResult", bound="Result")
AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


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


class _Heading(msgspec.Struct):
    """The fields that the documents of all results have in common."""

    width: int
    height: int
    image: str = ""
    classes: tuple[str, ...] | None = None
    time: float | None = None
    timings: Timings | None = None


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result(ABC):
    """The result of a task on one image; see its subclasses.

    Args:
        classes: names of all classes the model knows.
        size: (width, height) of the original image in pixels.
        source: name of the image, as `edgekit.runtimes.inputs.media.SourceFrame.name`.
        time: seconds since the start of the video, None for stills.
        timings: what this image cost, None when not measured.

    Raises:
        UsageError: the size is not one.
    """

    classes: tuple[str, ...]
    size: Size
    source: str = ""
    time: float | None = None
    timings: Timings | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        width, height = self.size
        if width < 1 or height < 1:
            raise UsageError(f"size must be (width, height) of the original image, at least 1 x 1, not {self.size}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((f, getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return all(
            f.metadata["column"].same(one, two) if "column" in f.metadata else bool(one == two) for f, one, two in pairs
        )

    @abstractmethod
    def draw(self, image: Image, *, labels: bool = True, scores: bool = True, thickness: int | None = None) -> Image:
        """A new image with the result drawn on it.

        Args:
            image: uint8 (height, width, 3) BGR, the one this was found in.
            labels: write the class names.
            scores: write the scores behind the names, in per cent.
            thickness: of lines in pixels; by default it follows the size of the image.

        Raises:
            InputError: not such an image. UsageError: an image of another size.
        """

    @abstractmethod
    def _body(self) -> dict[str, Any]:
        """The fields of this kind of result, besides the heading."""

    @classmethod
    @abstractmethod
    def _from_body(cls, document: dict[str, Any], size: Size) -> dict[str, Any]:
        """The arguments of the constructor that `_body` tells; raises InputError where it cannot."""

    def to_dict(self, *, classes: bool = True) -> dict[str, Any]:
        """Plain Python values: ``image``, ``width``, ``height``, what was found, and what else is known.

        Floats are written as the shortest decimal that gives the same float32, so `from_dict` gets back exactly
        these arrays.

        Args:
            classes: include the names of all classes, which `from_dict` otherwise has to be given.
        """
        document: dict[str, Any] = {"image": self.source, "width": int(self.size[0]), "height": int(self.size[1])}
        document |= self._body()
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
    def from_dict(cls: type[AnyResult], document: dict[str, Any], classes: Sequence[str] | None = None) -> AnyResult:
        """The inverse of `to_dict`; ``classes`` replaces the names it carries.

        Raises:
            InputError: not what `to_dict` writes, or no class names in it and none given.
        """
        heading = converted(document, _Heading)
        names = classes if classes is not None else heading.classes
        if names is None:
            raise InputError("the result was written without its class names; pass classes=")
        size = (heading.width, heading.height)
        try:
            return cls(
                **cls._from_body(document, size),
                classes=tuple(names),
                size=size,
                source=heading.image,
                time=heading.time,
                timings=heading.timings,
            )
        except UsageError as error:
            raise InputError(f"not a result that edgekit wrote: {error}") from error

    @classmethod
    def from_json(cls: type[AnyResult], text: str | bytes, classes: Sequence[str] | None = None) -> AnyResult:
        """The inverse of `to_json`.

        Raises:
            InputError: not JSON, or not what `to_json` writes.
        """
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"not a result that edgekit wrote: {error}") from error
        return cls.from_dict(document, classes)

    def _check_image(self, image: Image) -> None:
        from edgekit.runtimes.inputs import images

        images.check(image)
        if (image.shape[1], image.shape[0]) != tuple(self.size):
            raise UsageError(
                f"this result is in the pixels of a {self.size[0]}x{self.size[1]} image, "
                f"not {image.shape[1]}x{image.shape[0]}; give the image it was found in"
            )


def converted(document: object, kind: type[AnyStruct]) -> AnyStruct:
    """A part of a document as a structure; keys that the structure does not have are left alone.

    Raises:
        InputError: the document does not have it.
    """
    try:
        return from_builtins(document, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"not a result that edgekit wrote: {error}") from error
