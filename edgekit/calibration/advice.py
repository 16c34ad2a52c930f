"""Advice on a set of calibration images: whether there are enough, and which ones are unlike all others.

Both are read from two numbers per tensor and image: the lowest and the highest value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Doubles
from edgekit.calibration.plan import Advice, Outlier
from edgekit.calibration.ranges import FINITE
from edgekit.calibration.split import FEW
from edgekit.errors import UsageError

STEADY = 0.02
"""Ranges that change by less than this share have converged."""

ORDERS = 16
"""Random orders that the convergence curve is averaged over."""

FEWEST = 12
"""Among fewer images nothing can be called unusual."""

GAP = 3.0
"""An image whose width at some tensor is this many times more, or less, than that of all others is an outlier. Among
photographs and generated scenes the largest such factor was below 2.8."""

GROUP = 5
"""At most so many images can be outliers together at one tensor: more of them are another kind of image."""

MOST_NAMED = 5
"""Outliers that get a sentence of their own."""


class ImageStatistics:
    """The extremes of every tensor, image by image, of one pass over the calibration images.

    Args:
        names: of the images, by their place in the stream; those without one are called by that.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = names
        self._tensors: tuple[str, ...] = ()
        self._images: list[int] = []
        self._rows: list[Doubles] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, index: int, extremes: Mapping[str, tuple[float, float]]) -> None:
        """Take in one image.

        Args:
            index: its place in the stream, from 0.
            extremes: lowest and highest value of every tensor.

        Raises:
            UsageError: other tensors than those of the images before.
        """
        tensors = self._tensors or tuple(extremes)
        differing = sorted({*tensors} ^ extremes.keys())
        if differing or not tensors:
            raise UsageError(
                f"image {index} has other tensors than the first image ({', '.join(differing[:3]) or 'it has none'}); "
                "observe all images on one graph"
            )
        self._tensors = tensors
        self._images.append(index)
        low = np.nan_to_num([extremes[name][0] for name in tensors], nan=-FINITE)
        high = np.nan_to_num([extremes[name][1] for name in tensors], nan=FINITE)
        self._rows.append(np.clip([low, high], -FINITE, FINITE))

    def advice(self) -> Advice:
        """The same for the same images.

        Raises:
            UsageError: no image was added.
        """
        if not self._rows:
            raise UsageError("no image was observed, so there is no advice; add images first")
        rows = np.stack(self._rows)
        outliers = _outliers(rows)
        curve = _convergence(np.delete(rows, [one.row for one in outliers], 0))
        enough, sentence = _length(curve, besides=bool(outliers))
        return Advice(
            curve=tuple(curve),
            enough=enough,
            outliers=tuple(
                Outlier(
                    image=self._images[one.row],
                    distance=one.times,
                    tensor=self._tensors[one.tensor],
                    name=self._named(one),
                )
                for one in outliers
            ),
            sentences=(sentence, *self._sentences(outliers)),
        )

    def _named(self, one: _Outlier) -> str:
        place = self._images[one.row]
        return self._names[place] if place < len(self._names) else ""

    def _called(self, one: _Outlier) -> str:
        return self._named(one) or f"image {self._images[one.row]}"

    def _sentences(self, outliers: list[_Outlier]) -> list[str]:
        said = []
        for one in outliers[:MOST_NAMED]:
            times = f"{one.times:.1f} times" if one.times < 100 else "more than 100 times"
            how = f"reaches {times} further than" if one.wide else f"spans {times} less than"
            tensor = self._tensors[one.tensor]
            said.append(f"{self._called(one)} {how} all others at {tensor}: look at it or leave it out")
        if rest := outliers[MOST_NAMED:]:
            named = ", ".join(self._called(one) for one in rest)
            said.append(f"{len(rest)} more images are as unusual: {named}")
        return said


def _convergence(rows: Doubles) -> list[tuple[int, float]]:
    """Relative distance of the ranges after n images from those of all, averaged over tensors and seeded orders.

    The range of a tensor is the mean of its images' extremes. The extremes over all images would not do: a single image
    sets them, and they grow with the number of images for ever.

    Half of n images, drawn without repetition, are as far from the mean of all n (variance s^2/n: half of the s^2/(n/2)
    of independent draws) as these n are from the mean of endlessly many. So the distance at half tells the error at the
    end, where the curve itself is 0.
    """
    count = len(rows)
    final = rows.mean(0)
    width = final[1] - final[0]
    used = width > 0
    sizes = sorted({*(1 << power for power in range(count.bit_length())), max(count // 2, 1), count})
    distances = np.zeros(len(sizes))
    random = np.random.default_rng(0)
    for _ in range(ORDERS):
        order, total, taken = random.permutation(count), np.zeros_like(final), 0
        for place, size in enumerate(sizes[:-1]):
            total += rows[order[taken:size]].sum(0)
            taken = size
            moved = np.abs(total / size - final).sum(0)[used] / width[used]
            distances[place] += moved.mean() / ORDERS if moved.size else 0.0
    return [(size, float(distance)) for size, distance in zip(sizes, distances, strict=True)]


def _length(curve: list[tuple[int, float]], *, besides: bool) -> tuple[bool, str]:
    """Whether there are enough images, and the sentence that says so."""
    count = curve[-1][0]
    if count < FEWEST:
        return False, f"{count} image{'s are' if count > 1 else ' is'} too few to know the ranges: use {FEW} or more"
    half = count // 2
    change = dict(curve)[half]
    others = " besides the unusual ones" if besides else ""
    said = f"{count} images{others}; the ranges changed by {100 * change:.1f} % over the last {count - half}"
    if change < STEADY:
        return True, f"{said}: more images would not help"
    needed = count * (change / STEADY) ** 2  # the distance falls with the square root of the number of images
    unit = 10 ** max(int(math.log10(needed)) - 1, 0)
    return False, f"{said}: about {math.ceil(needed / unit) * unit} images would bring that below {100 * STEADY:.0f} %"


@dataclass(frozen=True)
class _Outlier:
    """An image by its row, how many times wider (or narrower) than all others it is, and at which tensor."""

    row: int
    times: float
    tensor: int
    wide: bool


def _outliers(rows: Doubles) -> list[_Outlier]:
    """The unusual images, the most unusual first.

    A frame of which a part is damaged is not found where the rest reaches as far as ever: it harms no ranges.
    """
    if len(rows) < FEWEST:
        return []
    widths = rows[:, 1] - rows[:, 0]
    median = np.median(widths, 0)
    tensors = np.flatnonzero(median > 0)  # the others are mostly constant
    widths = np.maximum(widths[:, tensors], 1e-3 * median[tensors])
    found: dict[int, _Outlier] = {}
    for wide, values in ((False, 1 / widths), (True, widths)):
        beyond = _beyond(values)
        for row in np.flatnonzero(beyond.max(1, initial=0.0)).tolist():
            column = int(beyond[row].argmax())
            times = float(min(beyond[row, column], 1e6))
            found[row] = _Outlier(row, times, int(tensors[column]), wide)
    return sorted(found.values(), key=lambda one: (-one.times, one.row))


def _beyond(values: Doubles) -> Doubles:
    """How many times beyond all others an image, alone or in a small group, is at each tensor; 0: less than `GAP`."""
    ordered = np.sort(values, 0)
    result = np.zeros_like(values)
    for together in range(1, min(GROUP, max(1, len(values) // 20)) + 1):
        least, others = ordered[-together], ordered[-together - 1]
        behind = (least >= GAP * others) & (values >= least)
        result = np.maximum(result, np.where(behind, values / others, 0.0))
    return result
