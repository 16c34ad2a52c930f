"""What a calibration stream says about itself: whether it is long enough, what is odd in it, what is missing from it.

Everything is found from three numbers a tensor and image: its lowest and highest value, and its mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles
from edgekit.calibration.plan import Advice, Outlier
from edgekit.calibration.ranges import FINITE
from edgekit.calibration.split import FEW
from edgekit.errors import UsageError

STEADY = 0.02
"""Ranges that are this near to final count as final."""

ORDERS = 16
"""Random orders that the convergence curve is the mean of."""

FEWEST = 12
"""Among fewer images nothing can be called unusual."""

GAP = 3.0
"""An image that spans so many times more, or less, than all others do is an outlier. Among photographs and generated
scenes the largest such factor was below 2.8, but for tensors that fire at one photograph in ten."""

GROUP = 5
"""At most so many images can be outliers together at a tensor: more of them are another kind of image."""

NEIGHBOURS = 5
FAR, FAR_AT_LEAST = 2.5, 1.5
"""An outlier's distance to its nearest neighbours: in medians of that distance, and in standard deviations. The second
holds in videos, where nearly all images have a neighbour that is nearly the same."""

MOST_COMPARED = 256
"""Images of a stream that others are compared with; more of them would not say more."""

PERMUTATIONS = 400
SIGNIFICANCE = 0.01
TELLING = 0.3
"""Streams that differ by less are worth no sentence."""


class Witness:
    """Takes note of every image of one observation pass; of an image it keeps three numbers a tensor."""

    def __init__(self) -> None:
        self._tensors: tuple[str, ...] = ()
        self._images: list[int] = []
        self._rows: list[Doubles] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, index: int, extremes: Mapping[str, tuple[float, float]], means: Mapping[str, float]) -> None:
        """Take in one image.

        Show a photograph once: its mirror image is no second witness.

        Args:
            index: its place in the stream, from 0.
            extremes: lowest and highest value of every tensor.
            means: mean value of every tensor.

        Raises:
            UsageError: other tensors than those of the images before.
        """
        tensors = self._tensors or tuple(extremes)
        differing = sorted({*tensors} ^ extremes.keys() | {*tensors} ^ means.keys())
        if differing or not tensors:
            raise UsageError(
                f"image {index} has not the extremes and means of the same tensors as those before "
                f"({', '.join(differing[:3]) or 'it has none'}); observe all images on one graph"
            )
        self._tensors = tensors
        self._images.append(index)
        low = np.nan_to_num([extremes[name][0] for name in tensors], nan=-FINITE)
        high = np.nan_to_num([extremes[name][1] for name in tensors], nan=FINITE)
        mean = np.nan_to_num([means[name] for name in tensors], nan=0.0)
        self._rows.append(np.clip([low, high, mean], -FINITE, FINITE))

    def advice(self, scoring: Witness | None = None) -> Advice:
        """What the images say, the same for the same images.

        Args:
            scoring: what was noted of the images that the conversion is judged on.

        Raises:
            UsageError: no image was added, or the other witness saw other tensors.
        """
        rows = self._table()
        odd = dict(_outliers(rows))
        curve = _convergence(np.delete(rows, list(odd), 0))
        difference = _difference(rows, self._same(scoring)) if scoring is not None else None
        enough, sentence = _length(curve, " besides the unusual ones" * bool(odd))
        sentences = [sentence, *self._oddities(odd)]
        if difference is not None:
            sentences += difference.sentences(self._tensors)
        outliers = [
            Outlier(image=self._images[row], distance=oddity.distance, tensor=self._tensors[oddity.tensor])
            for row, oddity in odd.items()
        ]
        return Advice(
            curve=tuple(curve),
            enough=enough,
            outliers=tuple(outliers),
            unlike=difference.size if difference else 0.0,
            sentences=tuple(sentences),
        )

    def _table(self) -> Doubles:
        """All that was noted, (images, 3, tensors): lowest, highest, mean."""
        if not self._rows:
            raise UsageError("no image was observed, so there is nothing to advise on; add images first")
        return np.stack(self._rows)

    def _same(self, other: Witness) -> Doubles:
        """What another witness noted, with the tensors in the order of this one."""
        rows = other._table()
        if differing := sorted({*self._tensors} ^ {*other._tensors}):
            raise UsageError(
                f"the scoring images were observed at other tensors ({', '.join(differing[:3])}); "
                "observe both on one graph"
            )
        return rows[:, :, [other._tensors.index(name) for name in self._tensors]]

    def _oddities(self, odd: Mapping[int, _Oddity], most: int = 5) -> Iterator[str]:
        for row in list(odd)[:most]:
            said = odd[row].words.format(tensor=self._tensors[odd[row].tensor])
            yield f"image {self._images[row]} {said}: look at it or leave it out"
        if len(odd) > most:
            rest = ", ".join(str(self._images[row]) for row in list(odd)[most:])
            yield f"{len(odd) - most} more images are as unusual: {rest}"


# --- is it long enough? ----------------------------------------------------------------------------------------------


def _convergence(rows: Doubles) -> list[tuple[int, float]]:
    """Mean relative distance of the ranges after so many images to those of all, averaged over seeded orders.

    The range of a tensor is the mean of its images' extremes. The extremes of all images would not do: one image sets
    them, they grow for ever with the number of images, and ranges that are chosen by error do not follow them.

    Half of n images, drawn without repetition, are as far from the mean of all n (variance s^2/n: half of the s^2/(n/2)
    of independent draws) as these n are from the mean of endlessly many. So the distance at half tells the error at the
    end, where the curve itself is 0.
    """
    extremes, count = rows[:, :2], len(rows)
    final = extremes.mean(0)
    width = final[1] - final[0]
    used = width > 0
    sizes = sorted({*(1 << power for power in range(count.bit_length())), max(count // 2, 1), count})
    distances = np.zeros(len(sizes))
    random = np.random.default_rng(0)
    for _ in range(ORDERS):
        order, total, taken = random.permutation(count), np.zeros_like(final), 0
        for place, size in enumerate(sizes[:-1]):
            total += extremes[order[taken:size]].sum(0)
            taken = size
            moved = np.abs(total / size - final).sum(0)[used] / width[used]
            distances[place] += moved.mean() / ORDERS if moved.size else 0.0
    return [(size, float(distance)) for size, distance in zip(sizes, distances, strict=True)]


def _length(curve: list[tuple[int, float]], besides: str) -> tuple[bool, str]:
    """Whether there are enough images, and the sentence that says so."""
    count = curve[-1][0]
    if count < FEWEST:
        return False, f"{count} image{'s' * (count > 1)} can hardly tell how far the ranges go: take {FEW} or more"
    half = count // 2
    change = dict(curve)[half]
    said = f"{count} images{besides}; the ranges changed by {change:.1%} over the last {count - half}".replace(
        "%", " %"
    )
    if change < STEADY:
        return True, f"{said}: more images would not help"
    # The distance falls with the square root of the number of images.
    needed = count * (change / STEADY) ** 2
    rounded = int(np.ceil(needed / (unit := 10 ** max(int(np.log10(needed)) - 1, 0))) * unit)
    return False, f"{said}: about {rounded} images would bring that below {STEADY:.0%}".replace("2%", "2 %")


# --- what is odd? ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Oddity:
    """How far off an image is, the place of the tensor that says so, and words with a gap for its name."""

    distance: float
    tensor: int
    words: str


def _outliers(rows: Doubles) -> list[tuple[int, _Oddity]]:
    """Rows of unusual images, the most unusual first.

    An image is unusual where one tensor says so beyond doubt (it spans several times more or less than at any other
    image), or all of them together (it is far from its nearest neighbours). Neighbours, and not the distance from the
    centre, so that the night pictures among day pictures are another kind of image and not outliers.

    A frame of which part is damaged is not found where the rest reaches as far as ever: it harms no ranges.
    """
    if len(rows) < FEWEST:
        return []
    wide, usual = _widths(rows)
    found = dict(_lonely(rows))
    found |= _apart(1 / wide, usual, "spans {times} less than all others at {{tensor}}")
    found |= _apart(wide, usual, "reaches {times} further than the others at {{tensor}}")
    return sorted(found.items(), key=lambda item: (-item[1].distance, item[0]))


def _apart(wide: Doubles, usual: NDArray[np.intp], words: str) -> dict[int, _Oddity]:
    """Images behind a gap: at some tensor they, alone or few together, are GAP times beyond all others."""
    ordered = np.sort(wide, 0)
    beyond = np.zeros_like(wide)
    for together in range(1, min(GROUP, max(1, len(wide) // 20)) + 1):
        least, others = ordered[-together], ordered[-together - 1]
        behind = (least >= GAP * others) & (wide >= least)
        beyond = np.maximum(beyond, np.where(behind, wide / others, 0.0))
    found = {}
    for row in np.flatnonzero(beyond.max(1, initial=0.0)):
        column = int(beyond[row].argmax())
        distance = float(min(beyond[row, column], 1e6))
        found[int(row)] = _Oddity(distance, int(usual[column]), words.format(times=_times(distance)))
    return found


def _times(distance: float) -> str:
    return f"{distance:.1f} times" if distance < 100 else "more than 100 times"


def _lonely(rows: Doubles) -> Iterator[tuple[int, _Oddity]]:
    """Images that are far from their nearest neighbours, over all tensors."""
    features, tensors = _features(rows)
    order = np.random.default_rng(0).permutation(len(rows))[:MOST_COMPARED]
    distances = np.stack([np.abs(features - features[row]).mean(1) for row in order], 1)
    distances[order, np.arange(len(order))] = np.inf  # no image is its own neighbour
    nearest = np.partition(distances, NEIGHBOURS, 1)[:, :NEIGHBOURS].mean(1)
    usual = float(np.median(nearest))
    for row in np.flatnonzero((nearest >= FAR * usual) & (nearest >= FAR_AT_LEAST)):
        distance = float(nearest[row]) / max(usual, 1e-5)  # frames of a still scene are no distance apart
        tensor = int(tensors[np.abs(features[row]).argmax()])
        words = f"is {_times(distance)} as far from the images most like it as others are, mostly at {{tensor}}"
        yield int(row), _Oddity(distance, tensor, words)


def _widths(rows: Doubles) -> tuple[Doubles, NDArray[np.intp]]:
    """Highest minus lowest at the tensors that usually are not constant, (images, tensors), and which these are."""
    wide = rows[:, 1] - rows[:, 0]
    median = np.median(wide, 0)
    usual = np.flatnonzero(median > 0)
    return np.maximum(wide[:, usual], 1e-3 * median[usual]), usual


def _features(rows: Doubles) -> tuple[Doubles, NDArray[np.intp]]:
    """Log width and relative mean of each tensor, (images, features), and the tensor of each feature.

    They are in robust standard deviations (median and MAD: Rousseeuw and Croux, 1993) from the median, at most 10 of
    them: no single tensor shall decide. Deviations are not taken for less than 5 % of the width, which matter to no
    range, however constant a tensor is.
    """
    wide, usual = _widths(rows)
    means = rows[:, 2, usual] / np.median(wide, 0)
    raw = np.concatenate([np.log(wide), means], 1)
    centre = np.median(raw, 0)
    least = np.repeat([0.05, 0.01], len(usual))  # means vary less than extremes do
    scale = np.maximum(1.4826 * np.median(np.abs(raw - centre), 0), least)
    return np.clip((raw - centre) / scale, -10, 10), np.tile(usual, 2)


# --- what is missing? ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Difference:
    """How well two streams can be told apart, 0 to 1, and where it shows: a tensor, what is compared, both values."""

    size: float
    tested: bool = True
    tensor: int = 0
    what: str = ""
    mine: float = 0.0
    theirs: float = 0.0

    def sentences(self, tensors: tuple[str, ...]) -> list[str]:
        """What to do about it; nothing where too few images were compared, or the difference is slight."""
        if self.size < TELLING:
            same = self.tested and not self.size
            return ["the calibration images cannot be told from the scoring images"] if same else []
        told = f"{int(50 * (1 + self.size))} %"
        where = f"at {tensors[self.tensor]} their {self.what} is {self.mine:.3g} against {self.theirs:.3g}"
        return [
            f"the calibration images look unlike the scoring images ({told} of pairs are told apart; {where}): "
            "take some from where the device will look"
        ]


def _difference(mine: Doubles, theirs: Doubles) -> _Difference:
    """Compare two streams; a difference that chance may have made is none (permutation test)."""
    random = np.random.default_rng(0)
    mine, theirs = (rows[random.permutation(len(rows))[:MOST_COMPARED]] for rows in (mine, theirs))
    fewer = min(len(mine), len(theirs))
    if fewer < 4:
        return _Difference(0.0, tested=False)
    features, tensors = _features(np.concatenate([mine, theirs]))
    if not features.size:
        return _Difference(0.0, tested=False)
    alike = features @ features.T
    found = _area(alike, len(mine))
    orders = (random.permutation(len(alike)) for _ in range(PERMUTATIONS))
    beaten = sum(_area(alike[np.ix_(order, order)], len(mine)) >= found for order in orders)
    size = 2 * found - 1
    if size <= 0 or (1 + beaten) / (1 + PERMUTATIONS) > SIGNIFICANCE:
        return _Difference(0.0, tested=fewer >= FEWEST)
    shift = np.abs(features[: len(mine)].mean(0) - features[len(mine) :].mean(0))
    column = int((shift / (features.std(0) + 0.1)).argmax())
    tensor, of_mean = int(tensors[column]), column >= len(tensors) // 2
    ours, other = (float(np.median(_seen(rows, tensor, of_mean))) for rows in (mine, theirs))
    return _Difference(size, True, tensor, "mean" if of_mean else "width", ours, other)


def _seen(rows: Doubles, tensor: int, of_mean: bool) -> Doubles:
    return rows[:, 2, tensor] if of_mean else rows[:, 1, tensor] - rows[:, 0, tensor]


def _area(alike: Doubles, first: int, folds: int = 5) -> float:
    """Cross-validated area under the ROC curve of the linear classifier between the means of two classes.

    The first ``first`` rows are one class. ``alike`` (n, n) holds the inner products of the images' features, all that
    this classifier needs: an image's score is its mean product with one class less that with the other, and an image is
    only scored against others than those of its fold.
    """
    second = len(alike) - first
    folds = min(folds, first, second)
    fold = np.concatenate([np.arange(first) % folds, np.arange(second) % folds])
    is_first = np.arange(len(alike)) < first
    total = 0.0
    for number in range(folds):
        tested, known = fold == number, fold != number
        products = alike[tested]
        scores = products[:, known & is_first].mean(1) - products[:, known & ~is_first].mean(1)
        higher = scores[is_first[tested], None] - scores[None, ~is_first[tested]]
        total += float((higher > 0).mean() + (higher == 0).mean() / 2)
    return total / folds
