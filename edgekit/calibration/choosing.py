"""Choose a few of many images for calibration: the most different ones by their descriptors, or evenly spaced frames of
a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.inputs.media import ImageReference

THUMBNAIL = 8
PIXELS = THUMBNAIL * THUMBNAIL * 3

SAME = 2.0
"""Images whose thumbnails differ by no more levels (of 255, root mean square) are one image: the same photograph
compressed twice differs by less than 1, the next frame of a still scene in which something moves by 3 and more."""

CANDIDATES = 4
"""Images of which every choice is the best one."""


def most_informative(
    references: Sequence[ImageReference], count: int, rule: ImageRule, *, seed: int = 0
) -> list[ImageReference]:
    """The ``count`` images that represent all of them best, without two that are nearly the same.

    Every image is opened once, in order, and described by a thumbnail and a few statistics as the model sees it; what
    is kept of it is under 1 kB. They are then chosen by greedy k-means++ (Arthur and Vassilvitskii, 2007): one after
    the other, at random by the squared distance to the nearest one chosen, of a few candidates that which brings all
    images nearest. Rare kinds of images are so taken early, which a random choice misses; the farthest-point rule would
    find them more surely, but fills the choice with outliers and damaged images.

    Args:
        references: images to choose from (`edgekit.runtimes.inputs.media.references`).
        count: how many; fewer come back if fewer are different.
        rule: the model's, for images are judged as it sees them.
        seed: the same images, count and seed give the same choice.

    Returns:
        The chosen ones in the order of ``references``.

    Raises:
        UsageError: a count below 1.
        InputError: an image cannot be read.
    """
    _check(count)
    if not references:
        return []
    preprocess = Preprocessor(rule)
    descriptors = np.stack([_describe(preprocess.resize(reference.open())[0]) for reference in references])
    chosen = _greedy(_scaled(descriptors), descriptors[:, :PIXELS], count, np.random.default_rng(seed))
    return [references[index] for index in sorted(chosen)]


def evenly_spaced(references: Sequence[ImageReference], count: int) -> list[ImageReference]:
    """``count`` images at equal distances, from the middle of the first stretch on: for videos, whose neighbours are
    alike and which take too long to look at whole. All where there are no more.

    Raises:
        UsageError: a count below 1.
    """
    _check(count)
    total = len(references)
    count = min(count, total)
    return [references[(2 * place + 1) * total // (2 * count)] for place in range(count)]


def _check(count: int) -> None:
    if count < 1:
        raise UsageError(f"count must be at least 1, not {count}")


def _describe(image: Image) -> Floats:
    """The descriptor of an image: a colour thumbnail (8 x 8 x 3, levels), and its statistics.

    The statistics are brightness, contrast, the darkest and brightest hundredth, colourfulness and edges: what sets the
    ranges of a network's first layers, and is lost in a thumbnail.
    """
    import cv2

    thumbnail = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_16S)).mean()
    dark, bright = np.percentile(grey, (1, 99))
    colour = (image.max(2) - image.min(2)).mean()
    statistics = (grey.mean(), grey.std(), dark, bright, colour, 8 * np.sqrt(edges))  # edges in levels, like the rest
    return np.concatenate([thumbnail.ravel(), np.array(statistics, np.float32)])


def _scaled(descriptors: Floats) -> Floats:
    """Looks (n, features) with thumbnails and statistics of the same weight: both have variance 1 in all."""
    thumbnails, statistics = descriptors[:, :PIXELS], descriptors[:, PIXELS:]
    spread = np.sqrt(thumbnails.var(0).sum()) or 1.0
    each = statistics.std(0) * np.sqrt(statistics.shape[1])
    # One level is no difference to speak of: a statistic that all images share must not be blown up to one.
    return np.concatenate([thumbnails / max(spread, 1.0), statistics / np.maximum(each, 1.0)], 1)


def _greedy(descriptors: Floats, thumbnails: Floats, count: int, random: np.random.Generator) -> list[int]:
    """Indices by greedy k-means++; near-duplicates of what is chosen are out."""
    chosen = [int(random.integers(len(descriptors)))]
    nearest = np.full(len(descriptors), np.inf, np.float64)
    apart: NDArray[np.bool_] = np.ones(len(descriptors), np.bool_)
    while True:
        last = chosen[-1]
        nearest = np.minimum(nearest, _squares(descriptors, descriptors[last]))
        apart &= _squares(thumbnails, thumbnails[last]) > SAME**2 * thumbnails.shape[1]
        weights = np.where(apart, nearest, 0.0)
        if len(chosen) == count or not weights.any():
            return chosen
        candidates = random.choice(len(descriptors), CANDIDATES, p=weights / weights.sum())
        left = [np.minimum(nearest, _squares(descriptors, descriptors[candidate])).sum() for candidate in candidates]
        chosen.append(int(candidates[int(np.argmin(left))]))


def _squares(points: Floats, point: Floats) -> NDArray[np.float64]:
    """Squared distances (n,)."""
    squares: NDArray[np.float64] = np.square(points - point).sum(1, dtype=np.float64)
    return squares
