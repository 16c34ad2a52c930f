"""Every tracker over sequences with varying frame times: crossings, gaps, weak detections, empty frames, refusals."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import UsageError
from edgekit.runtimes.tracking import State, open_tracker, tracker_names
from golden.cases import Case, Planned, Tree, shortest
from golden.closeness import apart

TOLERANCE = {"box": 1e-3, "score": 1e-6}

Frame = dict[str, Any]


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    for tracker in tracker_names():
        options = {"camera_motion": "off"} if tracker == "botsort" else {}
        for name, frames in _sequences().items():
            yield _case(f"{tracker}-{name}", f"{tracker}: {ABOUT[name]}", tracker, options, frames)
        strict: Tree = {**options, "class_aware": True, "confirm_seconds": 0.0, "lost_seconds": 0.3}
        yield _case(
            f"{tracker}-options", f"{tracker}: by class, believed at once, soon lost", tracker, strict, _waver()
        )
    for tracker in tracker_names():
        options = {"boxes": "detection", **({"camera_motion": "off"} if tracker == "botsort" else {})}
        about = f"{tracker}: the detections' own boxes in place of the filter's"
        yield _case(f"{tracker}-detections", about, tracker, options, _crossing()[:20])
    yield _case(
        "botsort-appearance",
        "botsort: two that meet and turn back, told apart by their looks",
        "botsort",
        {"camera_motion": "off"},
        _bounce(),
    )
    backwards = [_frame(1.0, [(10, 10, 50, 50, 0.9, 0)]), _frame(0.5, []), _frame(1.0, []), _frame(1.1, [])]
    yield _case("bad-time", "a time that is not later than the last", "sort", {}, backwards)
    wrong = [_frame(1.0, [(50, 10, 10, 50, 0.9, 0)]), _frame(1.1, [(10, 10, 50, 50, 1.5, 0)]), _frame(1.2, [])]
    yield _case("bad-boxes", "swapped corners, a score above 1", "sort", {}, wrong)
    for name, options in (("option", {"nonsense": 1}), ("range", {"min_iou": 2.0}), ("order", {"high_score": 0.9})):
        given: Tree = {"tracker": "sort" if name == "range" else "bytetrack", "options": options, "frames": []}
        yield Planned(f"bad-{name}", f"options that are refused: {options}", given, expected={"error": "usage"})
    yield from _controls()


ABOUT = {
    "crossing": "two that cross, uneven times, scores that dip, half a second unseen",
    "crowd": "twelve objects with noise, misses and false alarms",
    "slow": "five frames a second, with predictions between them",
    "empty": "empty frames first, in between and last",
}


def _sequences() -> dict[str, list[Frame]]:
    return {"crossing": _crossing(), "crowd": _crowd(), "slow": _slow(), "empty": _empty()}


def _frame(time: float, rows: list[tuple[float, ...]], embeddings: list[list[float]] | None = None) -> Frame:
    """Detections of a frame: rows x1, y1, x2, y2, score, class, rounded so that they are short."""
    frame: Frame = {
        "time": round(time, 4),
        "boxes": [[round(value, 2) for value in row[:4]] for row in rows],
        "scores": [round(row[4], 3) for row in rows],
        "class_ids": [int(row[5]) for row in rows],
    }
    return frame if embeddings is None else {**frame, "embeddings": embeddings}


def _crossing() -> list[Frame]:
    draw, time, frames = random.Random(51), 3.0, []  # noqa: S311 - noise of a scene, no secret
    for number in range(45):
        time += (0.02, 0.033, 0.05, 0.033)[number % 4]
        rows = []
        for index, (x, y, across) in enumerate(((40.0, 60.0, 8.0), (400.0, 90.0, -8.0))):
            if index == 1 and 15 <= number < 26:
                continue  # half a second behind something
            place = x + across * number + draw.gauss(0, 1), y + draw.gauss(0, 1)
            score = 0.35 if number % 9 in (4, 5) else 0.9 - 0.01 * index + draw.uniform(-0.05, 0.05)
            rows.append((*place, place[0] + 60, place[1] + 120, score, index))
        draw.shuffle(rows)
        frames.append(_frame(time, rows))
    return frames


def _crowd() -> list[Frame]:
    draw, time, frames = random.Random(52), 0.0, []  # noqa: S311 - noise of a scene, no secret
    objects = [
        (draw.uniform(0, 500), draw.uniform(0, 300), draw.uniform(-60, 60), draw.uniform(-40, 40)) for _ in range(12)
    ]
    for _ in range(40):
        time += draw.choice((0.03, 0.04, 0.08))
        rows: list[tuple[float, ...]] = []
        for index, (x, y, across, down) in enumerate(objects):
            if draw.random() < 0.12:
                continue
            left, top = x + across * time + draw.gauss(0, 1.5), y + down * time + draw.gauss(0, 1.5)
            size = 40 + 3 * index
            score = draw.choice((0.93, 0.85, 0.75, 0.45, 0.2)) + draw.uniform(-0.04, 0.04)
            rows.append((left, top, left + size, top + 1.6 * size + draw.gauss(0, 1), score, index % 3))
        if draw.random() < 0.3:
            x, y = draw.uniform(0, 600), draw.uniform(0, 400)
            rows.append((x, y, x + 30, y + 30, draw.uniform(0.3, 0.8), 1))
        frames.append(_frame(time, rows))
    return frames


def _slow() -> list[Frame]:
    frames = []
    for number in range(14):
        time, angle = 0.2 * number, 0.25 * number
        x, y = 200 + 90 * math.cos(angle), 150 + 60 * math.sin(angle)
        frames.append(_frame(time, [(x, y, x + 80 + number, y + 60, 0.8, 0), (20, 20, 70, 90, 0.9, 1)]))
        frames.extend({"time": round(time + step, 4), "predict": True} for step in (0.07, 0.13))
    return frames


def _empty() -> list[Frame]:
    seen = [(30.0, 40.0, 90.0, 140.0, 0.95, 0)]
    times = [0.1 * number for number in range(1, 30)]
    return [_frame(t, [] if n < 3 or 8 <= n < 12 or 15 <= n < 26 else seen) for n, t in enumerate(times)]


def _waver() -> list[Frame]:
    """An object whose class wavers, and one that is away for longer than it is remembered."""
    frames = []
    for number in range(24):
        x = 50.0 + 5 * number
        rows = [(x, 50.0, x + 50, 120.0, 0.9, int(number % 6 == 5))]
        if not 8 <= number < 16:
            rows.append((300.0, 60.0 + number, 360.0, 150.0 + number, 0.8, 2))
        frames.append(_frame(number / 20 + 0.001 * (number % 3), rows))
    return frames


def _bounce() -> list[Frame]:
    """Two that come together and turn back; their embeddings are noisy, and once there is none (zeros)."""
    draw, frames = random.Random(53), []  # noqa: S311 - noise of a scene, no secret
    looks = ((1.0, 0.2, 0.0, 0.1), (0.1, 0.0, 1.0, 0.3))
    for number in range(30):
        near = min(number, 30 - number) * 6.0
        rows, vectors = [], []
        for index, x in enumerate((60.0 + near, 250.0 - near)):
            rows.append((x, 80.0 + index, x + 70, 220.0 + index, 0.9 - 0.02 * index, 0))
            seen = [round(value + draw.gauss(0, 0.05), 3) for value in looks[index]]
            vectors.append([0.0] * 4 if (number, index) == (9, 1) else seen)
        frames.append(_frame(number / 25, rows, vectors))
    return frames


def _case(name: str, about: str, tracker: str, options: Tree, frames: list[Frame]) -> Planned:
    return Planned(name, about, {"tracker": tracker, "options": options, "frames": frames}, dict(TOLERANCE))


def _controls() -> Iterator[Planned]:
    def swapped(expected: Tree) -> None:
        ids = expected["frames"][20]["track_ids"]
        ids[0], ids[1] = ids[1], ids[0]

    def forgotten(expected: Tree) -> None:
        expected["frames"][20]["lost"] = []

    def moved(expected: Tree) -> None:
        expected["frames"][7]["boxes"][0][0] += 0.01

    for name, frames, spoil in (("ids", _crowd(), swapped), ("lost", _crossing(), forgotten), ("box", _slow(), moved)):
        control = _case(f"must-fail-{name}", f"planted: {name}", "bytetrack", {}, frames)
        yield dataclasses.replace(control, spoil=spoil)


def answer(given: Tree, folder: Path) -> Tree:
    """The visible tracks of every frame, and the ids of the lost ones."""
    try:
        tracker = open_tracker(given["tracker"], **given["options"])
    except UsageError:
        return {"error": "usage"}
    frames: list[Tree] = []
    for frame in given["frames"]:
        try:
            if frame.get("predict"):
                tracks = tracker.predict(frame["time"])
            else:
                tracks = tracker.update(
                    frame["boxes"],
                    frame["scores"],
                    np.array(frame["class_ids"], np.int64),
                    time=frame["time"],
                    embeddings=frame.get("embeddings"),
                )
        except UsageError:
            frames.append({"error": "usage"})
            continue
        seen = tracks.visible
        frames.append(
            {
                "track_ids": seen.track_ids.tolist(),
                "boxes": [[shortest(value) for value in box] for box in seen.boxes],
                "scores": [shortest(score) for score in seen.scores],
                "class_ids": seen.class_ids.tolist(),
                "detections": seen.detections.tolist(),
                "lost": tracks.track_ids[tracks.states == State.LOST].tolist(),
            }
        )
    return {"frames": frames}


def differences(case: Case, answered: Tree) -> list[str]:
    """Other ids, or boxes that are further apart than the case allows."""
    allowed = {"boxes": case.tolerance.get("box", 0), "scores": case.tolerance.get("score", 0)}
    return apart(case.expected, answered, allowed)
