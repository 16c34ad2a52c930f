"""Golden frames of a bundle: pictures, and what the source and the bundle found in them when it was converted.

They lie in the folder ``golden`` of a bundle: `FILE`, and a PNG for each picture, which is in the size of the input
already. Replaying them on a device needs neither the source nor any data (`edgekit.runtimes.selfcheck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import BundleError
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import GOLDEN, ProofWord, Record
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import (
    Classification,
    Detections,
    Embedding,
    Instances,
    LabelMap,
    OrientedBoxes,
    Poses,
    Result,
)
from edgekit.runtimes.tasks.rotated import rotated_agreement
from edgekit.runtimes.tasks.similarity import box_iou
from edgekit.structures import from_json

FILE = f"{GOLDEN}/frames.json"

MOST_BYTES = 64 << 20
"""The most bytes of `FILE`; label maps and masks are runs, which take little."""

VALUES = 256
"""Values that are kept of a raw output, at most."""


class GoldenOutput(Record, frozen=True, kw_only=True):
    """Every ``step``-th value of a raw output, in C order from the first one on."""

    name: str
    step: Annotated[int, msgspec.Meta(ge=1)]
    values: Annotated[tuple[float, ...], msgspec.Meta(max_length=VALUES)]

    @classmethod
    def of(cls, name: str, output: Floats) -> GoldenOutput:
        """Of a raw output."""
        step = max(1, -(-output.size // VALUES))
        values = np.asarray(output, np.float32).reshape(-1)[::step]
        return cls(name=name, step=step, values=tuple(float(str(value)) for value in values))

    def cosine(self, output: Floats) -> float:
        """The cosine between these values and the same of another run; 1 where both are 0, -1 where they do not fit."""
        mine, other = np.array(self.values), np.asarray(output, np.float64).reshape(-1)[:: self.step]
        if mine.shape != other.shape:
            return -1.0
        lengths = float(np.linalg.norm(mine) * np.linalg.norm(other))
        return float(mine @ other) / lengths if lengths else float(not (mine.any() or other.any()))


class GoldenFrame(Record, frozen=True, kw_only=True):
    """One picture. ``source`` and ``bundle`` are results as `Result.to_dict` gives them, without class names.

    ``source`` is what the trained model found: the truth that the evidence is about. ``bundle`` is what the bundle
    found with the engine that it was proven with, quantisation and all: what a device has to reproduce. It is None,
    and ``outputs`` are empty, where nothing could run the bundle when it was converted.
    """

    image: str
    source: dict[str, Any]
    bundle: dict[str, Any] | None = None
    outputs: tuple[GoldenOutput, ...] = ()


class GoldenFrames(Record, frozen=True, kw_only=True):
    """All golden frames of a bundle, the thresholds they were decoded with, and the word and engine of that run."""

    schema: int = 1
    word: ProofWord
    engine: str
    score: float
    iou: float
    frames: tuple[GoldenFrame, ...]


class Margins(Record, frozen=True, kw_only=True):
    """How far two results of one picture may be apart and still agree.

    Attributes:
        score: of an object or a class. Objects less than this above the threshold may be missing.
        iou: of the boxes or masks of an object, at least.
        keypoint: distance of a keypoint, in sizes of its box (the square root of its area), on average.
        pixels: share of a label map that is the same, at least.
        cosine: of vectors and of the values of raw outputs, at least.
    """

    score: float
    iou: float
    keypoint: float
    pixels: float
    cosine: float


SAME = Margins(score=0.05, iou=0.9, keypoint=0.03, pixels=0.99, cosine=0.99)
"""Between two runs of one bundle: engines order sums differently, and round INT8 differently on other instructions."""

SOURCE = Margins(score=0.25, iou=0.7, keypoint=0.1, pixels=0.95, cosine=0.9)
"""Between a bundle that has never run and its source, which quantisation lies between, too."""


def read_frames(bundle: Bundle) -> GoldenFrames | None:
    """The golden frames of an open bundle; None where it has none.

    Raises:
        BundleError: they are not valid, or a picture of theirs is not one of the bundle's files.
    """
    listed = {file.path: file.bytes for file in bundle.manifest.files}
    if FILE not in listed:
        return None
    path = bundle.file(FILE)
    if listed[FILE] > MOST_BYTES:
        raise BundleError(f"{path}: {listed[FILE]} bytes, and golden frames have no more than {MOST_BYTES}")
    try:
        found = from_json(path.read_bytes(), GoldenFrames)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise BundleError(f"{path}: the golden frames are not valid ({error}); convert the model again") from error
    for frame in found.frames:
        if f"{GOLDEN}/{frame.image}" not in listed:
            raise BundleError(f"{path}: the picture {frame.image!r} is not one of the bundle's files; convert it again")
    return found


def picture(bundle: Bundle, frame: GoldenFrame) -> Image:
    """The picture of a golden frame, uint8 (height, width, 3) BGR in the size of the bundle's input.

    Raises:
        InputError: it cannot be read. BundleError: it has another size.
    """
    from edgekit.runtimes.inputs.media import read_image

    path = bundle.file(f"{GOLDEN}/{frame.image}")
    image, size = read_image(path), bundle.manifest.contract.image.size
    if image.shape[:2] != size:
        shown = "x".join(map(str, image.shape[:2]))
        raise BundleError(f"{path}: is {shown} (height x width), and the input {size[0]}x{size[1]}; convert it again")
    return image


def whole(size: tuple[int, int]) -> Transform:
    """The map of a picture that has the input's size (height, width) already: nothing changes."""
    return Transform(1.0, 1.0, 0.0, 0.0, size[1], size[0], (size[1], size[0]))


def apart(expected: Result, found: Result, margins: Margins, threshold: float) -> list[str]:
    """In what two results of one picture differ by more than the margins, a sentence each.

    Args:
        expected: what was found before.
        found: what is found now, of the same type.
        margins: how far they may be apart.
        threshold: the score that objects were found with.
    """
    if isinstance(expected, Detections) and isinstance(found, Detections):
        missing = [f"{text} is missing" for text in _alone(expected, found, margins, threshold)]
        return missing + [f"{text} is new" for text in _alone(found, expected, margins, threshold)]
    if isinstance(expected, Classification) and isinstance(found, Classification):
        away = np.abs(expected.scores - found.scores)
        worst = int(away.argmax())
        if away[worst] <= margins.score:
            return []
        return [f"{expected.classes[worst]} has {found.scores[worst]:.3f}, not {expected.scores[worst]:.3f}"]
    if isinstance(expected, LabelMap) and isinstance(found, LabelMap):
        same = float((expected.labels == found.labels).mean())
        return [] if same >= margins.pixels else [f"{same:.1%} of the pixels have the same class"]
    if isinstance(expected, Embedding) and isinstance(found, Embedding):
        cosine = float(expected.vector @ found.vector)
        return [] if cosine >= margins.cosine else [f"the cosine of the vectors is {cosine:.3f}"]
    raise TypeError(f"{type(expected).__name__} and {type(found).__name__} cannot be compared")


def _alone(one: Detections, other: Detections, margins: Margins, threshold: float) -> list[str]:
    """The certain objects of one result that have no partner in the other."""
    overlap = box_iou(one.boxes, other.boxes)
    found = []
    for row in np.flatnonzero(one.scores >= threshold + margins.score).tolist():
        near = (overlap[row] >= margins.iou) & (other.class_ids == one.class_ids[row])
        near &= np.abs(other.scores - one.scores[row]) <= margins.score
        if not any(_alike(one, row, other, column, margins) for column in np.flatnonzero(near).tolist()):
            found.append(
                f"{one.classes[one.class_ids[row]]} {one.scores[row]:.3f} at {one.boxes[row].round().tolist()}"
            )
    return found


def _alike(one: Detections, row: int, other: Detections, column: int, margins: Margins) -> bool:
    """Whether two objects whose boxes agree agree in keypoints and masks, too."""
    if isinstance(one, OrientedBoxes) and isinstance(other, OrientedBoxes):
        return bool(rotated_agreement(one.oriented[[row]], other.oriented[[column]])[0, 0] >= margins.iou)
    if isinstance(one, Poses) and isinstance(other, Poses):
        size = float(np.sqrt(np.prod(np.maximum(one.boxes[row, 2:] - one.boxes[row, :2], 1))))
        away = np.linalg.norm(one.keypoints[row, :, :2] - other.keypoints[column, :, :2], axis=1).mean() / size
        return bool(away <= margins.keypoint)
    if (
        isinstance(one, Instances)
        and isinstance(other, Instances)
        and one.masks is not None
        and other.masks is not None
    ):
        first, second = one.masks[[row]], other.masks[[column]]
        empty = not (first.areas.any() or second.areas.any())
        return empty or bool(first.iou(second)[0, 0] >= margins.iou - 0.05)
    return True


def outputs_apart(frame: GoldenFrame, names: Sequence[str], outputs: Sequence[Floats], margins: Margins) -> list[str]:
    """The raw outputs whose values are not those of the golden frame, a sentence each."""
    known = dict(zip(names, outputs, strict=True))
    cosines = {one.name: one.cosine(known[one.name]) if one.name in known else -1.0 for one in frame.outputs}
    return [f"output {name!r}: cosine {value:.4f}" for name, value in cosines.items() if value < margins.cosine]
