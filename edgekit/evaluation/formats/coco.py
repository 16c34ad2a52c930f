"""COCO: one json file with images, annotations and categories, or a folder with it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.errors import InputError
from edgekit.evaluation.annotations import Annotations, read_annotations
from edgekit.evaluation.formats import LabelFormat

ANNOTATIONS = "annotations.json"
"""A folder with a file of this name is a COCO dataset."""


def _matches(path: Path) -> bool:
    return path.suffix.lower() == ".json" or (path / ANNOTATIONS).is_file()


def _read(path: Path, images: Path | None) -> Annotations:
    path = path / ANNOTATIONS if path.is_dir() else path
    truth = read_annotations(path)
    folder = images or _images_beside(path, truth)
    moved = (msgspec.structs.replace(one, file_name=str(folder / one.file_name)) for one in truth.images)
    return msgspec.structs.replace(truth, images=tuple(moved))


def _images_beside(path: Path, truth: Annotations) -> Path:
    """The file's own folder, or ``images`` in it.

    Raises:
        InputError: no image in the file.
    """
    if not truth.images:
        raise InputError(f"{path}: no image in this file, so there is nothing to run the model on")
    inside = path.parent / "images"
    return inside if (inside / truth.images[0].file_name).is_file() else path.parent


FORMAT = LabelFormat("COCO annotations (json)", _matches, _read)
