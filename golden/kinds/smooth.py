"""Keypoints of a video smoothed by the One-Euro filter, per track."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekit.errors import UsageError
from edgekit.runtimes.results import Poses
from edgekit.runtimes.smoothing import OneEuro
from golden.cases import Case, Planned, Tree
from golden.closeness import apart
from golden.contracts import ARROW

TOLERANCE = {"keypoint": 1e-3}


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    yield _case("steady", "a hand that trembles, 30 frames/s", 31, {}, [1 / 30] * 20)
    yield _case("fast", "other options", 32, {"cutoff": 0.5, "beta": 0.0, "speed_cutoff": 2.0}, [1 / 30] * 12)
    gaps = [0.03, 0.04, 0.1, 0.033, 1.5, 0.03, 0.0, 0.03, 0.5, 0.5, 0.9]
    yield _case("gaps", "uneven times, one gap beyond forget_seconds, one time that stands still", 33, {}, gaps)
    yield _case("two", "two tracks, one of which comes later and leaves", 34, {}, [1 / 15] * 12, tracks=2)

    def raw(expected: Tree) -> None:
        expected["frames"][5]["keypoints"][0][0][0] += 0.01

    control = _case("must-fail-place", "planted: a keypoint a hundredth of a pixel off", 31, {}, [1 / 30] * 20)
    yield dataclasses.replace(control, spoil=raw)
    for name, options in (("cutoff", {"cutoff": 0.0}), ("beta", {"beta": -1.0})):
        given: Tree = {"options": options, "frames": []}
        yield Planned(f"bad-{name}", f"an option out of range: {name}", given, expected={"error": "usage"})


def _case(name: str, about: str, seed: int, options: Tree, steps: list[float], tracks: int = 1) -> Planned:
    draw, time, frames = random.Random(seed), 10.0, []  # noqa: S311 - a trembling hand, no secret
    for number, step in enumerate(steps):
        time = round(time + step, 4)
        seen = [1] if tracks == 1 or not 3 <= number <= 8 else [2, 1]
        boxes, points = [], []
        for track in seen:
            x, y = 50 + 60 * track + 30 * (number > 6) * (number - 6), 80 + 2 * number
            boxes.append([x, y, x + 40, y + 90])
            corners = [[x, y], [x + 40, y + 90], [x, y + 45], [x + 20, y + 20]]
            points.append([[round(a + draw.gauss(0, 2), 2), round(b + draw.gauss(0, 2), 2), 0.5] for a, b in corners])
        frames.append({"time": time, "track_ids": seen, "boxes": boxes, "keypoints": points})
    return Planned(name, about, {"options": options, "frames": frames}, dict(TOLERANCE))


def answer(given: Tree, folder: Path) -> Tree:
    """The keypoints of every frame."""
    try:
        smooth, frames = OneEuro(**given["options"]), []
    except UsageError:
        return {"error": "usage"}
    for frame in given["frames"]:
        boxes = np.array(frame["boxes"], np.float32)
        poses = Poses(
            boxes=boxes,
            scores=np.ones(len(boxes), np.float32),
            class_ids=np.zeros(len(boxes), np.int64),
            track_ids=np.array(frame["track_ids"], np.int64),
            keypoints=np.array(frame["keypoints"], np.float32),
            skeleton=ARROW,
            classes=("arrow",),
            size=(640, 480),
            time=frame["time"],
        )
        frames.append({"keypoints": [[[float(str(v)) for v in p] for p in one] for one in smooth(poses).keypoints]})
    return {"frames": frames}


def differences(case: Case, answered: Tree) -> list[str]:
    """Places that are further apart than the case allows."""
    return apart(case.expected, answered, {"keypoints": case.tolerance.get("keypoint", 0)})
