"""Retrieval of images by text and texts by image: recall at k, and how well true pairs are separated from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import InputError
from edgekit.evaluation.metrics import RetrievalMetrics

AT = (1, 5, 10)


def measure(similarity: Floats, texts: Sequence[str], matching: float) -> RetrievalMetrics:
    """Recall at 1, 5 and 10 in both directions.

    Args:
        similarity: (images, different texts) of each image and each of the different texts, in order of appearance.
        texts: of each image; equal ones count as the same text.
        matching: share of pairs that are told rightly (`mismatched`).

    Raises:
        InputError: all images have the same text, so that nothing can be told apart.
    """
    columns = columns_of(texts)
    different = int(columns.max()) + 1
    right = np.zeros((len(texts), different), np.bool_)
    right[np.arange(len(texts)), columns] = True
    if different < 2:
        raise InputError("all images have the same first caption, so that nothing is to be found; give others")
    to_text, to_image = ranks(similarity, right), ranks(similarity.T, right.T)
    return RetrievalMetrics(
        image_to_text={str(k): float((to_text < k).mean()) for k in AT},
        text_to_image={str(k): float((to_image < k).mean()) for k in AT},
        matching=matching,
        images=len(texts),
        texts=different,
    )


def columns_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """The number of each text among the different ones, in order of appearance."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return np.array([numbers[text] for text in texts], np.int64)


def ranks(similarity: Floats, right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of wrong candidates ranked above the best right one in each row, int64 (rows,).

    A wrong one that is as similar stands before it: a model to which all is alike finds nothing.
    """
    best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
    return np.asarray(((similarity >= best) & ~right).sum(1), np.int64)


def mismatched(captions: Sequence[Sequence[str]]) -> list[str | None]:
    """For each image a caption of another image that it does not share; None if there is none."""
    found: list[str | None] = []
    for number, own in enumerate(captions):
        others = (captions[(number + step) % len(captions)][0] for step in range(1, len(captions)))
        found.append(next((text for text in others if text not in own), None))
    return found
