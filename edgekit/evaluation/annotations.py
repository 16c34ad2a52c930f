"""A COCO annotations file: what is in it, read and checked, and which of its categories is which class of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError
from edgekit.structures import from_json


class CocoImage(msgspec.Struct, frozen=True):
    """An image of an annotations file. Width and height are pixels, 0 where the file does not say."""

    id: int
    file_name: str
    width: int = 0
    height: int = 0


class CocoBox(msgspec.Struct, frozen=True):
    """An object of an annotations file: ``bbox`` is x, y, width, height in pixels.

    ``segmentation`` is as the file has it: polygons, or run lengths; it is looked at when masks are measured.
    ``keypoints`` are x, y, visibility (0: not labelled) of one after the other.
    """

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0
    segmentation: list[Any] | dict[str, Any] | None = None
    keypoints: tuple[float, ...] | None = None

    @property
    def labelled_keypoints(self) -> int:
        """Number of labelled keypoints."""
        return sum(1 for visibility in (self.keypoints or ())[2::3] if visibility > 0)


class CocoCategory(msgspec.Struct, frozen=True):
    """A class of an annotations file, and the names of its keypoints where it has some."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()


class Annotations(msgspec.Struct, frozen=True):
    """The parts of a COCO annotations file that edgekit reads; licences, captions and the like are ignored."""

    images: tuple[CocoImage, ...]
    annotations: tuple[CocoBox, ...]
    categories: tuple[CocoCategory, ...]

    def scored_categories(self) -> list[CocoCategory]:
        """The categories that have at least one object, in order of id; the others have no precision."""
        used = {box.category_id for box in self.annotations if not box.iscrowd}
        return sorted((c for c in self.categories if c.id in used), key=lambda category: category.id)


def read_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Read and check a COCO annotations file.

    Raises:
        InputError: missing, not such a file, without images or objects, or referring to what is not in it.
    """
    try:
        annotations = from_json(Path(path).read_bytes(), Annotations)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a COCO annotations file (json)") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); give a COCO annotations file (json)") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a COCO annotations file with images, annotations and categories ({error})"
        ) from error
    _check_references(annotations, path)
    return annotations


def _check_references(annotations: Annotations, path: str | os.PathLike[str]) -> None:
    images = {image.id for image in annotations.images}
    categories = {category.id for category in annotations.categories}
    for what, ids, entries in (
        ("images", images, annotations.images),
        ("categories", categories, annotations.categories),
    ):
        if len(ids) != len(entries):
            raise InputError(f"{path}: two {what} have the same id")
    if not any(not box.iscrowd for box in annotations.annotations):
        raise InputError(f"{path}: no annotated object in this file, so there is nothing to measure against")
    for place, box in enumerate(annotations.annotations):
        if box.image_id not in images:
            raise InputError(f"{path}: annotation {place} is of image {box.image_id}, which is not in the file")
        if box.category_id not in categories:
            raise InputError(f"{path}: annotation {place} is of category {box.category_id}, which is not in the file")


def category_ids(classes: Sequence[str], annotations: Annotations) -> list[int | None]:
    """The category id of each class of a model; None for a class that the file does not have.

    By name, ignoring case; every category with objects has to be found. Where not one name is shared and the file
    counts its categories from 0 or 1 without gaps, as many as the model has classes, by position.

    Raises:
        InputError: the classes and the categories do not fit together.
    """
    by_name = {key(category.name): category.id for category in annotations.categories}
    found = [by_name.get(key(name)) for name in classes]
    missing = [category.name for category in annotations.scored_categories() if category.id not in found]
    if not missing:
        return found
    ids = sorted(category.id for category in annotations.categories)
    if not any(one is not None for one in found) and ids in (
        list(range(len(classes))),
        list(range(1, len(classes) + 1)),
    ):
        return list(ids)
    raise InputError(
        f"the model does not know {some(missing)} of the annotations; "
        f"it knows {some(classes)}. Rename the categories of the file to the model's classes"
    )


def key(name: str) -> str:
    """A normalised name, equal for different spellings of the same name."""
    return name.strip().casefold()


def some(names: Sequence[str]) -> str:
    """Names for a message, at most ten of them."""
    shown = ", ".join(repr(name) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
