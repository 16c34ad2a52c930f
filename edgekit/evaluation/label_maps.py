"""mIoU of label maps: images, and for each a PNG file with the class of every pixel."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.evaluation.metrics import SemanticMetrics
from edgekit.runtimes.inputs.label_maps import IGNORED, read_label_map
from edgekit.runtimes.inputs.media import IMAGE_SUFFIXES, read_image
from edgekit.runtimes.results import LabelMap, Result

IMAGES, LABELS = "images", "labels"
"""Names of the two folders of a data set."""


MAPS_NEEDED = "give a folder of PNG files with the class id of every pixel, named like the images"
"""Advice for a model of label maps."""


class Labelled(NamedTuple):
    """An image and its label map."""

    image: Path
    labels: Path


def find_label_maps(path: Path, images: Path | None) -> tuple[Labelled, ...]:
    """The images and label maps of a folder or a text file; none where it has no label maps.

    A folder has PNG files, or a folder ``labels`` with them; the images have the same names but for the ending, and
    are in ``images``, else in a folder ``images`` beside the label maps, else among them. A text file has an image and
    its label map in each line, with a comma between them.

    Raises:
        InputError: a label map without an image.
    """
    if path.is_dir():
        return _of_folder(path, images)
    return _of_text(path, path.parent if images is None else images) if path.suffix.lower() == ".csv" else ()


def _of_folder(path: Path, images: Path | None) -> tuple[Labelled, ...]:
    folder = path / LABELS if (path / LABELS).is_dir() else path
    if any(child.is_dir() and child.name not in (IMAGES, LABELS) for child in path.iterdir()):
        return ()  # sub-folders are classes
    maps = sorted(file for file in folder.glob("*.png") if not file.name.startswith("."))
    places = [images] if images is not None else [folder.parent / IMAGES, folder]
    known = {
        file.stem: file
        for place in reversed(places)
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES and file not in maps
    }
    for file in maps:
        if file.stem not in known:
            where = " and ".join(str(place) for place in places)
            raise InputError(f"{file}: no image of this name in {where}; give the folder of the images (--data)")
    return tuple(Labelled(known[file.stem], file) for file in maps)


def _of_text(path: Path, images: Path) -> tuple[Labelled, ...]:
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row]
    except (OSError, UnicodeDecodeError):
        return ()  # whoever reads it as classes says what is wrong
    pairs = [(images / row[0].strip(), path.parent / row[1].strip()) for row in rows if len(row) == 2]
    found = tuple(Labelled(image, labels) for image, labels in pairs if labels.suffix.lower() == ".png")
    for one in found:
        for file in one:
            if not file.is_file():
                raise InputError(f"{path}: {file}: no such file; paths of images start from {images}")
    return found


def run(
    model: Callable[[Image], Result], data: Sequence[Labelled], progress: Callable[[int, int], None] | None = None
) -> Iterator[Result]:
    """The results of a model on the images, in order; ``progress`` is told how many are done, and of how many."""
    for done, entry in enumerate(data, 1):
        yield model(read_image(entry.image))
        if progress is not None:
            progress(done, len(data))


def measure(data: Sequence[Labelled], results: Iterator[Result]) -> SemanticMetrics:
    """Metrics of a model's label maps. Pixels labelled `IGNORED` do not count.

    Raises:
        InputError: results of another task, label maps of another size than the images, or ids that no class has.
    """
    counts: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    for entry, result in zip(data, results, strict=True):
        if not isinstance(result, LabelMap):
            raise InputError(
                f"{entry.labels} has a class for every pixel, and this model gives {type(result).__name__}; give the "
                "labels of its task"
            )
        classes = result.classes
        counts = np.zeros((len(classes),) * 2, np.int64) if counts is None else counts
        true = read_label_map(entry.labels)
        if true.shape != result.labels.shape:
            shapes = (f"{width}x{height}" for height, width in (true.shape, result.labels.shape))
            raise InputError("{}: {} pixels, but its image has {}".format(entry.labels, *shapes))
        known = true != IGNORED
        if len(classes) <= IGNORED and known.any() and int(true[known].max()) >= len(classes):
            raise InputError(
                f"{entry.labels}: class id {int(true[known].max())}, but the model has {len(classes)} classes (0 to "
                f"{len(classes) - 1}); {IGNORED} is for pixels that do not count"
            )
        pairs = true[known].astype(np.int64) * len(classes) + result.labels[known]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    if counts is None or not counts.sum():
        raise InputError("no pixel has a label, so there is nothing to measure against")
    return _metrics(counts, classes, len(data))


def _metrics(counts: NDArray[np.int64], classes: tuple[str, ...], images: int) -> SemanticMetrics:
    """Figures from the number of pixels of each true class (rows) that were taken for each class (columns)."""
    right = np.diag(counts)
    either = counts.sum(0) + counts.sum(1) - right
    ious = {classes[i]: float(right[i] / either[i]) for i in np.flatnonzero(either).tolist()}
    return SemanticMetrics(float(np.mean(list(ious.values()))), float(right.sum() / counts.sum()), ious, images)
