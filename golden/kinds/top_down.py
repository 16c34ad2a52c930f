"""Top-down pose: the part of a picture around each box, and the poses that are read in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections
from edgekit.runtimes.top_down import DOUBLE, MARGIN, TopDown
from edgekit.structures import from_builtins
from golden.cases import Case, Planned, Recurrence, Tree
from golden.closeness import apart
from golden.contracts import ARROW, Heads, contract, document
from golden.kinds.preprocess import ROUNDING, picture

TOLERANCE: Tree = {"levels": 1, "share": 0.05, "score": 1e-6, "keypoint": 1e-3}

PICTURE = (90, 61)
"""Width and height of the picture of all cases."""

BOXES = ((20.0, 12.0, 51.5, 50.25), (60.0, -4.0, 95.0, 30.0), (5.0, 40.0, 9.0, 60.0))
"""One inside, one over the border, one that is small: its part is enlarged."""

TOP = (0.9, 0.8, 0.7)


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    yield _case("keypoints", "three boxes, keypoints as x, y, score", _keypoints())
    yield _case("heatmaps", "heatmaps", contract("heatmaps", {}, ("heatmaps",), **_PERSON), peaks=True)
    levels: Tree = {"color": "bgr", "pad": (10, 20, 30), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    yield _case("padding", "three levels of padding, BGR, normalised", _keypoints(**levels))
    yield _case("wide", "an input that is wider than high, a larger margin", _keypoints(size=(24, 32)), margin=1.6)
    yield _case("tight", "a margin of 1", _keypoints(), margin=1.0)
    odd = ((30.0, 20.0, 30.0, 40.0), (70.0, 50.0, 70.5, 50.5), (200.0, 200.0, 240.0, 260.0))
    yield _case("odd-boxes", "without width, less than a pixel, outside of the picture", _keypoints(), boxes=odd)
    twice = (BOXES[0], BOXES[0], BOXES[1])
    yield _case("double", "the same pose twice: the worse is dropped", _keypoints(), boxes=twice, seeds=(3, 3, 4))
    kept: Tree = {"boxes": twice, "seeds": (3, 3, 4)}
    yield _case("double-kept", "a limit of 1 keeps both", _keypoints(), double=1.0, **kept)
    yield _case("none", "no box", _keypoints(), boxes=())
    yield from _controls()


_PERSON: Tree = {"task": "pose", "classes": ("person",), "skeleton": ARROW, "image": {"size": (32, 24)}}


def _keypoints(**image: Any) -> Contract:
    return contract("keypoints", {}, ("predictions",), **{**_PERSON, "image": {"size": (32, 24), **image}})


def _controls() -> Iterator[Planned]:
    def shifted(expected: Tree) -> None:
        expected["tensors"] = np.roll(expected["tensors"], 1, 3)

    def stretched(expected: Tree) -> None:
        expected["transforms"][0]["scale_x"] *= 1.01

    def again(expected: Tree) -> None:
        for name in ("boxes", "scores", "class_ids", "keypoints"):
            expected[name] = np.concatenate([expected[name], expected[name][:1]])

    for name, spoil in (("one-pixel", shifted), ("stretched", stretched), ("one-more", again)):
        yield dataclasses.replace(_case(f"must-fail-{name}", f"planted: {name}", _keypoints()), spoil=spoil)


def _case(
    name: str,
    about: str,
    pose: Contract,
    *,
    boxes: Sequence[Sequence[float]] = BOXES,
    seeds: Sequence[int] = (1, 2, 3),
    margin: float = MARGIN,
    double: float = DOUBLE,
    peaks: bool = False,
) -> Planned:
    """Boxes in the picture, and what the pose network gives for each."""
    points = len(ARROW.names)
    grid = (points, 8, 6)
    given: Tree = {
        "image": picture(*PICTURE),
        "contract": document(pose),
        "margin": margin,
        "double": double,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(TOP[: len(boxes)], np.float32),
        "class_ids": np.zeros(len(boxes), np.int32),
        "outputs": [
            [
                _maps(seed, grid)
                if peaks
                else Recurrence((1, points, 3), seed, 0, 1, tuple((3 * k + 2, 0.9) for k in range(points)))
            ]
            for seed, _ in zip(seeds, boxes, strict=False)
        ],
    }
    return Planned(name, about, given, dict(TOLERANCE))


def _maps(seed: int, grid: tuple[int, int, int]) -> Any:
    heads, (points, rows, columns) = Heads(seed), grid
    tops = [(k * rows * columns + (7 * seed + 11 * k) % (rows * columns), 0.8 + 0.04 * k) for k in range(points)]
    return heads.noise((1, *grid), 0, 0.3, tops)


class _Recorded:
    """A pose network that gives what a case says, and keeps what it is given."""

    placement = Placement("cpu")

    def __init__(self, outputs: Sequence[Sequence[Floats]]) -> None:
        self.outputs = iter(outputs)
        self.seen: list[Floats] = []

    def run(self, inputs: Sequence[Floats]) -> Sequence[Floats]:
        self.seen.append(inputs[0][0].copy())
        return next(self.outputs)


class _Parts(TopDown):
    """Keeps the transforms."""

    def _part(self, image: Any, box: Floats) -> Any:
        part, mapping = super()._part(image, box)
        self.transforms = [*getattr(self, "transforms", []), mapping]
        return part, mapping


def answer(given: Tree, folder: Path) -> Tree:
    """Tensors (n, 3, height, width) and transforms of the parts, and the poses."""
    pose = from_builtins(given["contract"], Contract)
    rule = Contract(
        image=ImageRule(size=(64, 64)),
        classes=("person",),
        decoder=Decoder(name="decoded", options={"layout": "detections", "box_format": "xyxy"}),
        outputs=(Output(name="predictions", role="predictions"),),
    )
    network = _Recorded(given["outputs"])
    both = _Parts(Model(rule, _Recorded([])), Model(pose, network), margin=given["margin"], double=given["double"])
    image = given["image"].pixels
    columns = {"boxes": given["boxes"], "scores": given["scores"], "class_ids": given["class_ids"]}
    found = Detections(**columns, classes=("person",), size=(image.shape[1], image.shape[0]))
    poses = both.on_boxes(image, found)
    height, width = pose.image.size
    return {
        "tensors": np.array(network.seen, np.float32).reshape(-1, 3, height, width),
        "transforms": [{key: getattr(one, key) for key in PLACES} for one in getattr(both, "transforms", [])],
        "boxes": poses.boxes,
        "scores": poses.scores,
        "class_ids": poses.class_ids,
        "keypoints": poses.keypoints,
    }


PLACES = ("scale_x", "scale_y", "offset_x", "offset_y")


def differences(case: Case, answered: Tree) -> list[str]:
    """Grey levels that the tensors are apart, and the rest within the tolerances."""
    rest = {"scores": case.tolerance["score"], "keypoints": case.tolerance["keypoint"], **dict.fromkeys(PLACES, 1e-9)}
    expected, tensors = dict(case.expected), dict(answered)
    one, other = expected.pop("tensors"), tensors.pop("tensors")
    found = apart(expected, tensors, rest)
    if one.shape != other.shape:
        return [*found, f"tensors: shape {other.shape}, not {one.shape}"]
    if one.size:
        rule = case.given["contract"]["image"]
        step = rule["scale"] / np.array(rule["std"])[:, None, None]
        levels = np.abs(one.astype(np.float64) - other) / step
        most, share = float(levels.max()), float((levels > ROUNDING).mean())
        if most > case.tolerance["levels"] + ROUNDING or share > case.tolerance["share"]:
            found.append(f"tensors: {most:.2f} levels apart, {share:.4f} of the values differ")
    return found
