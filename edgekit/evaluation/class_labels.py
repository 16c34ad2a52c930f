"""Images and the classes they show: a folder with one sub-folder for each class, or a text file of ``path,class``."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgekit.errors import InputError
from edgekit.evaluation.annotations import Annotations, key, some
from edgekit.runtimes.inputs.media import IMAGE_SUFFIXES

SUFFIXES = frozenset((".csv", ".tsv", ".txt"))
"""Endings of files with ``path,class`` in each line."""


_NUMBERED = re.compile(r"(class|label)?[ _-]?\d+", re.IGNORECASE)
_WORDNET = re.compile(r"n\d{8}")


class LabelledImage(NamedTuple):
    """An image file and the names of the classes that it shows: one, or any number for multi-label models."""

    path: Path
    names: tuple[str, ...]


class ClassLabels(NamedTuple):
    """Images with the classes they show. ``folders``: the names are those of sub-folders."""

    images: tuple[LabelledImage, ...]
    origin: str
    folders: bool = False

    @property
    def names(self) -> list[str]:
        """All names, each once, sorted."""
        return sorted({name for image in self.images for name in image.names})


def read_class_labels(path: str | os.PathLike[str], images_dir: str | os.PathLike[str] | None = None) -> ClassLabels:
    """Read the images and classes of a folder or of a text file.

    A folder has one sub-folder for each class, with the images somewhere in it. A text file has an image and its class
    in each line, with a comma, a tab or (where there is neither) a space between them; several classes of an image are
    further cells of its line, and an empty cell is none. A class is a name, or a class id counted from 0. A first line
    that names the columns is passed over, and so are empty ones and those that begin with ``#``.

    Args:
        path: the folder or the text file.
        images_dir: folder that the paths in a text file start from; by default the file's own.

    Raises:
        InputError: it cannot be read, an image is missing, or there is none.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    return _of_text(path, path.parent if images_dir is None else Path(images_dir))


def labels_of(truth: Annotations, origin: str) -> ClassLabels:
    """The classes of the objects in each image of a COCO annotations file, for multi-label models."""
    names = {category.id: category.name for category in truth.categories}
    shown: dict[int, set[str]] = {image.id: set() for image in truth.images}
    for box in truth.annotations:
        if not box.iscrowd:
            shown[box.image_id].add(names[box.category_id])
    images = (LabelledImage(Path(image.file_name), tuple(sorted(shown[image.id]))) for image in truth.images)
    return ClassLabels(tuple(images), origin)


def _of_folder(path: Path) -> ClassLabels:
    found = [
        LabelledImage(file, (folder.name,))
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not found:
        raise InputError(
            f"{path}: no sub-folder with images; make one for each class, named like it, or give a text file with "
            "'path,class' in each line, or a COCO annotations file"
        )
    return ClassLabels(tuple(found), str(path), folders=True)


def _of_text(path: Path, folder: Path) -> ClassLabels:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a text file with 'path,class' in each line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a text file with 'path,class' in each line ({error})") from error
    found = []
    given = [
        (number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")
    ]
    for place, (number, line) in enumerate(given):
        name, *classes = _cells(line)
        file = folder / name
        if not file.is_file():
            if place == 0 and not file.suffix:
                continue  # the names of the columns
            raise InputError(f"{path}, line {number}: {file}: no such image; paths start from {folder}")
        if not classes:
            raise InputError(f"{path}, line {number}: {line.strip()!r} has no class; write 'path,class' in each line")
        found.append(LabelledImage(file, tuple(dict.fromkeys(one for one in classes if one))))
    if not found:
        raise InputError(f"{path}: names no image; write 'path,class' in each line")
    return ClassLabels(tuple(found), str(path))


def _cells(line: str) -> list[str]:
    if "," in line or "\t" in line:
        cells = next(csv.reader([line], delimiter="," if "," in line else "\t"))
    else:
        cells = line.strip().rsplit(None, 1)
    return [cell.strip() for cell in cells]


def class_ids(classes: Sequence[str], labels: ClassLabels) -> dict[str, tuple[int, ...]]:
    """The ids of the classes that each name of the labels stands for: several where a model's classes share a name.

    By name, ignoring case; every one has to be found. Where not one name is shared, whole numbers are ids from 0. As
    many sub-folders as classes are taken in sorted order, as torchvision's ``ImageFolder`` counts them, where names
    cannot be compared: folders named by WordNet ids, as ImageNet's, or a model that only numbers its classes.

    Raises:
        InputError: the classes and the labels do not fit together.
    """
    by_name: dict[str, list[int]] = {}
    for class_id, name in enumerate(classes):
        by_name.setdefault(key(name), []).append(class_id)
    names = labels.names
    missing = [name for name in names if key(name) not in by_name]
    if not missing:
        return {name: tuple(by_name[key(name)]) for name in names}
    if len(missing) == len(names):
        if all(name.isdecimal() and int(name) < len(classes) for name in names):
            return {name: (int(name),) for name in names}
        numbered = all(map(_NUMBERED.fullmatch, classes)) or all(map(_WORDNET.fullmatch, names))
        if labels.folders and len(names) == len(classes) and numbered:
            return {name: (class_id,) for class_id, name in enumerate(names)}
    raise InputError(
        f"the model does not know {some(missing)} of {labels.origin}; it knows {some(classes)}. "
        "Rename them to the model's classes, or number them by class id from 0"
    )
