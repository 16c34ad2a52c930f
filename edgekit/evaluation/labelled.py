"""One evaluation for all tasks: the data decides the kind of labels, the results decide the metrics."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.evaluation import classes, coco, label_maps
from edgekit.evaluation.annotations import Annotations, read_annotations
from edgekit.evaluation.class_labels import SUFFIXES, labels_of, read_class_labels
from edgekit.evaluation.label_maps import find_label_maps
from edgekit.evaluation.metrics import Report
from edgekit.runtimes.results import Classification, Result

ANNOTATIONS = "annotations.json"
"""A folder with a file of this name is a COCO dataset."""


def evaluate(
    model: Callable[[Image], Result],
    data: str | os.PathLike[str],
    images_dir: str | os.PathLike[str] | None = None,
    progress: coco.Progress | None = None,
) -> Report:
    """Run a model over labelled images and measure it: all that its results can be measured by, the main one first.

    Args:
        model: image uint8 (h, w, 3) BGR -> its result, with `coco.SCORE_THRESHOLD` and up to 100 objects per class.
        data: a COCO annotations file (or a folder with `ANNOTATIONS`), for boxes, masks and keypoints; for classes a
            folder with one sub-folder of images each, or a text file (`read_class_labels`). A multi-label model takes
            COCO annotations too: an image shows the classes of its objects. For label maps see `find_label_maps`.
        images_dir: folder of the images; by default beside the file.
        progress: see `coco.Progress`.

    Raises:
        InputError: the data or an image cannot be read, the model's classes or keypoints are not the data's, or the
            data does not tell what the model's task needs.
        UsageError: the library of a measure is not installed.
    """
    path = Path(data)
    if path.is_dir() and (path / ANNOTATIONS).is_file():
        path /= ANNOTATIONS
    maps = find_label_maps(path, None if images_dir is None else Path(images_dir))
    if maps:
        return (label_maps.measure(maps, label_maps.run(model, maps, progress)),)
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        labels = read_class_labels(path, images_dir)
        return (classes.measure(labels, classes.run(model, labels, progress)),)
    truth = read_annotations(path)
    return _measured(truth, path, coco.run(model, truth, path, images_dir, progress))


def _measured(truth: Annotations, path: Path, results: Iterator[tuple[int, Result]]) -> Report:
    first = next(results, None)
    if first is None:
        raise InputError(f"{path}: no image in this file, so there is nothing to run the model on")
    results = itertools.chain((first,), results)
    if isinstance(first[1], Classification) and first[1].multi_label:
        return (classes.measure(labels_of(truth, str(path)), (result for _, result in results)),)
    return coco.measure_kinds(truth, results)
