"""One evaluation for all tasks: the data decides the kind of labels, the results decide the metrics."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.evaluation import classes, coco, label_maps
from edgekit.evaluation.annotations import Annotations
from edgekit.evaluation.class_labels import SUFFIXES, labels_of, read_class_labels
from edgekit.evaluation.formats import format_of, formats
from edgekit.evaluation.label_maps import LABELS, Labelled, find_label_maps
from edgekit.evaluation.metrics import Report
from edgekit.runtimes.results import Classification, Result


def evaluate(
    model: Callable[[Image], Result],
    data: str | os.PathLike[str],
    images_dir: str | os.PathLike[str] | None = None,
    progress: coco.Progress | None = None,
) -> Report:
    """Run a model over labelled images and measure it: all that its results can be measured by, the main one first.

    Args:
        model: image uint8 (h, w, 3) BGR -> its result, with `coco.SCORE_THRESHOLD` and up to 100 objects per class.
        data: annotated objects in one of the `formats` (COCO, YOLO, Pascal VOC), for boxes, masks and keypoints; for
            classes a folder with one sub-folder of images each, or a text file (`read_class_labels`). A multi-label
            model takes annotated objects too: an image shows the classes of its objects. For label maps see
            `find_label_maps`.
        images_dir: folder of the images; by default where the format has them.
        progress: see `coco.Progress`.

    Raises:
        InputError: the data or an image cannot be read, the model's classes or keypoints are not the data's, or the
            data does not tell what the model's task needs.
        UsageError: the library of a measure is not installed.
    """
    path = Path(data)
    found = format_of(path)
    maps: tuple[Labelled, ...] = ()
    if found is None or any((path / LABELS).glob("*.png")):  # YOLO's folders are called alike, with text files in them
        maps = find_label_maps(path, None if images_dir is None else Path(images_dir))
    if maps:
        return (label_maps.measure(maps, label_maps.run(model, maps, progress)),)
    if found is None and (path.is_dir() or path.suffix.lower() in SUFFIXES):
        labels = read_class_labels(path, images_dir)
        return (classes.measure(labels, classes.run(model, labels, progress)),)
    if found is None and not path.exists():
        raise InputError(f"{path}: no such file or folder; give {_kinds()}")
    if found is None:
        raise InputError(f"{path}: labels of no known kind; give {_kinds()}")
    truth = found.read(path, None if images_dir is None else Path(images_dir))
    return _measured(truth, path, coco.run(model, truth, path, Path(), progress))


def _kinds() -> str:
    return (
        f"{', '.join(formats())}, a folder with a sub-folder of images for each class, or a text file (.csv, .txt) "
        "with 'path,class' in each line"
    )


def _measured(truth: Annotations, path: Path, results: Iterator[tuple[int, Result]]) -> Report:
    first = next(results, None)
    if first is None:
        raise InputError(f"{path}: no image in this file, so there is nothing to run the model on")
    results = itertools.chain((first,), results)
    if isinstance(first[1], Classification) and first[1].multi_label:
        return (classes.measure(labels_of(truth, str(path)), (result for _, result in results)),)
    return coco.measure_kinds(truth, results)
