"""Accuracy of classification: top-1 and top-5, or for multi-label models the mean average precision over classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation.class_labels import ClassLabels, class_ids
from edgekit.evaluation.label_maps import MAPS_NEEDED
from edgekit.evaluation.metrics import ClassMetrics, LabelMetrics
from edgekit.runtimes.inputs.media import read_image
from edgekit.runtimes.results import Classification, LabelMap, Result

BEST = 5
"""Among how many classes the true one has to be for top-5; all of them where a model has fewer."""


def run(
    model: Callable[[Image], Result], labels: ClassLabels, progress: Callable[[int, int], None] | None = None
) -> Iterator[Result]:
    """The results of a model on labelled images, in order; ``progress`` is told how many are done, and of how many."""
    for done, entry in enumerate(labels.images, 1):
        yield model(read_image(entry.path))
        if progress is not None:
            progress(done, len(labels.images))


def measure(labels: ClassLabels, results: Iterable[Result]) -> ClassMetrics | LabelMetrics:
    """Metrics of the scores of a model for labelled images.

    Args:
        labels: the images and what they show.
        results: one for each image, in the same order, all of one model.

    Raises:
        InputError: results of another task, names that are not the model's classes, or an image of several classes or
            of none where the model gives one.
        UsageError: no image, or scikit-learn is not installed (for multi-label models).
    """
    found: list[Classification] = []
    ids: dict[str, tuple[int, ...]] = {}
    for result in results:
        if not isinstance(result, Classification):
            if isinstance(result, LabelMap):
                raise InputError(f"the model gives label maps, which {labels.origin} does not have; {MAPS_NEEDED}")
            raise InputError(
                f"the model finds objects ({type(result).__name__}), which {labels.origin} does not have; "
                "give a COCO annotations file (json)"
            )
        if not found:  # before all the other images are run
            ids = class_ids(result.classes, labels)
            if not result.multi_label:
                _check_single(labels)
        found.append(result)
    if not found or len(found) != len(labels.images):
        raise UsageError(f"one result for each image is measured, not {len(found)} for {len(labels.images)}")
    true = np.zeros((len(found), len(found[0].classes)), np.bool_)
    for row, entry in zip(true, labels.images, strict=True):
        for name in entry.names:
            row[list(ids[name])] = True
    return _labels(true, found) if found[0].multi_label else _accuracy(true, found, labels)


def _check_single(labels: ClassLabels) -> None:
    for entry in labels.images:
        if len(entry.names) != 1:
            raise InputError(
                f"{labels.origin}: {entry.path} has {len(entry.names)} classes, "
                "but the model gives one to each image; only multi-label models are measured by several or none"
            )


def _accuracy(true: NDArray[np.bool_], found: list[Classification], labels: ClassLabels) -> ClassMetrics:
    hits = np.array([row[result.top_ids(BEST)] for row, result in zip(true, found, strict=True)])
    first = hits[:, 0]
    shown = np.array([entry.names[0] for entry in labels.images])
    per_class = {name: float(first[shown == name].mean()) for name in labels.names}
    return ClassMetrics(float(first.mean()), float(hits.any(axis=1).mean()), per_class, len(found))


def _labels(true: NDArray[np.bool_], found: list[Classification]) -> LabelMetrics:
    try:
        from sklearn.metrics import average_precision_score  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise UsageError("mAP of labels needs the package scikit-learn; pip install scikit-learn") from error
    scores = np.stack([result.scores for result in found])
    per_class = {
        name: float(average_precision_score(true[:, class_id], scores[:, class_id]))
        for class_id, name in enumerate(found[0].classes)
        if true[:, class_id].any()
    }
    if not per_class:
        raise InputError("no image shows any class, so there is nothing to measure against")
    return LabelMetrics(float(np.mean(list(per_class.values()))), per_class, len(found))
