"""Mistakes that source and bundle share weaken a proof: those that leave nothing of it are refused, others reported.

A sentence that is said becomes part of the evidence, behind the words on how its reference was obtained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.calibration.samples import Samples
from edgekit.conversion.reference import ENOUGH
from edgekit.errors import SourceError
from edgekit.evaluation.agreement import SCORE_FLOOR
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.similarity import box_areas

TOLERANCE = 1e-5
"""Difference between two results, as a share of the largest value, up to which they are the same."""


def noise(rule: ImageRule) -> Floats:
    """An image of random pixels as the network sees it, (1, 3, height, width)."""
    pixels = np.random.default_rng(0).integers(0, 256, (*rule.size, 3), np.uint8)
    return Preprocessor(rule).normalise(pixels).copy()


def refuse_unstable(names: Sequence[str], first: Sequence[Floats], again: Sequence[Floats]) -> None:
    """Refuse a source that gives two results for one image: its own results could not be told from a bundle's errors.

    Raises:
        SourceError: dropout, noise, or statistics that go on being counted.
    """
    for name, one, other in zip(names, first, again, strict=True):
        if not _same(one, other):
            raise SourceError(
                f"the source gives two results for one image: output {name!r} differs by {_distance(one, other):.3g}; "
                "put the network in eval mode (.eval(), dropout off) before it is saved or returned"
            )


def refuse_blind(names: Sequence[str], first: Sequence[Floats], other: Sequence[Floats]) -> None:
    """Refuse a source whose results are the same for an image and for noise: any file that gives these agrees.

    Raises:
        SourceError: no output depends on the image.
    """
    if all(np.array_equal(one, two) for one, two in zip(first, other, strict=True)):
        raise SourceError(
            f"the source gives the same for every image, in all of its outputs ({', '.join(names)}): nothing could be "
            "proven; check that its weights were loaded, and scale, mean and std of the image rule"
        )


CLEARLY = 10 * TOLERANCE
"""From this share on an output clearly depends on the image."""


class Sameness:
    """Which outputs have been the same for all images so far, up to a share of their largest value."""

    def __init__(self, names: Sequence[str], tolerance: float = TOLERANCE) -> None:
        self._names, self._tolerance = names, tolerance
        self._first: list[Floats] = []
        self._moved = [False] * len(names)

    def add(self, outputs: Sequence[Floats]) -> None:
        """Look at the outputs of one more image."""
        if not self._first:
            self._first = [np.array(output) for output in outputs]
            return
        for place, (first, output) in enumerate(zip(self._first, outputs, strict=True)):
            self._moved[place] = self._moved[place] or not _same(first, output, self._tolerance)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs that never changed."""
        return tuple(name for name, moved in zip(self._names, self._moved, strict=True) if not moved)


def of_images(proof: Samples) -> tuple[str, ...]:
    """Doubts about proof images: nothing on them, or always the same."""
    images = proof.images
    said = []
    flat = sum(_is_flat(image) for image in images)
    if 2 * flat > len(images):
        which = "every proof image is" if flat == len(images) else f"{flat} of {len(images)} proof images are"
        said.append(f"{which} of one colour, with nothing to find")
    elif are_equal(proof):
        said.append("all proof images are equal")
    return tuple(said)


def are_equal(proof: Samples) -> bool:
    """Whether there are several proof images, and all show the same."""
    images = proof.images
    return len(images) > 1 and all(np.array_equal(images[0], image) for image in images[1:])


def of_results(found: Sequence[Candidates], constant: Sequence[str], trained: str) -> tuple[str, ...]:
    """Doubts about the source's results: none, few, or the same whatever the image.

    Args:
        found: its detections in each image.
        constant: outputs that are the same for all images, where these differ.
        trained: what to say of the source where it finds nothing.
    """
    said = []
    count = sum(int((one.scores > SCORE_FLOOR).sum()) for one in found)
    if not count:
        said.append(f"the source finds nothing in the proof images, so only its raw outputs are compared; {trained}")
    elif count < ENOUGH:
        said.append(f"the source finds only {count} in the proof images, so its best anchors are compared")
    elif len(found) > 1 and all(_equal(found[0], one) for one in found[1:]):
        said.append("the source finds exactly the same in every image")
    strong = [one.boxes[one.scores > SCORE_FLOOR] for one in found]
    empty = sum(int((box_areas(boxes) <= 0).sum()) for boxes in strong)
    if 2 * empty > count:
        said.append(
            f"{empty} of the source's {count} boxes have no area (the right side is not beyond the left one, or the "
            "bottom not below the top): is it trained, and is the decoder the right one?"
        )
    said += [f"output {name!r} is the same for every image" for name in constant]
    return tuple(said)


def _is_flat(image: Image) -> bool:
    """Whether an image is of one colour, but for padding on two sides."""
    return bool((image == image[:1]).all() or (image == image[:, :1]).all())


def _same(one: Floats, other: Floats, tolerance: float = TOLERANCE) -> bool:
    scale = max(float(np.abs(one).max(initial=0)), float(np.abs(other).max(initial=0)))
    return _distance(one, other) <= tolerance * scale


def _distance(one: Floats, other: Floats) -> float:
    return float(np.abs(one.astype(np.float64) - other).max(initial=0))


def _equal(one: Candidates, other: Candidates) -> bool:
    columns = ((one.boxes, other.boxes), (one.scores, other.scores), (one.class_ids, other.class_ids))
    return len(one) == len(other) and all(bool(np.allclose(a, b, rtol=TOLERANCE)) for a, b in columns)
