"""Non-maximum suppression: by class and across classes, ties, boxes without an area, negative places."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgekit.runtimes.tasks.nms import non_maximum_suppression
from golden.cases import Case, Planned, Recurrence, Tree
from golden.closeness import apart

Boxes = Sequence[Sequence[float]]


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; what is small is worked out by hand."""
    two = [[0, 0, 10, 10], [1, 0, 11, 10]]  # IoU 9 / 11
    yield _case("empty", "no boxes", [], [], [], [])
    yield _case("one", "one box", [[0, 0, 1, 1]], [0.5], [0], [0])
    yield _case("overlap", "the worse of two is dropped", two, [0.4, 0.9], [0, 0], [1])
    yield _case("classes", "another class stays", two, [0.4, 0.9], [0, 1], [1, 0])
    yield _case("agnostic", "another class is dropped, too", two, [0.4, 0.9], [0, 1], [1], class_agnostic=True)
    yield _case("below", "IoU 9/11 is not above 0.82", two, [0.9, 0.4], [0, 0], [0, 1], iou=0.82)
    yield _case("above", "IoU 9/11 is above 0.81", two, [0.9, 0.4], [0, 0], [0], iou=0.81)
    yield _case(
        "zero",
        "any overlap is too much",
        [[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 4, 4]],
        [0.9, 0.8, 0.7],
        [0, 0, 0],
        [0, 2],
        iou=0.0,
    )
    yield _case("one-limit", "nothing is above 1", [[0, 0, 2, 2], [0, 0, 2, 2]], [0.9, 0.8], [0, 0], [0, 1], iou=1.0)
    yield _case("ties", "equal scores: the first is kept", two, [0.5, 0.5], [0, 0], [0])
    three = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]
    yield _case("chain", "what a dropped box would drop stays", three, [0.9, 0.8, 0.7], [0, 0, 0], [0, 2], iou=0.3)
    nothing = [[5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 3, 3]]
    yield _case(
        "no-area", "boxes without an area count as one, wherever they are", nothing, [0.9, 0.8, 0.7], [0, 0, 0], [0]
    )
    low = [[-50, -40, -30, -20], [-51, -40, -31, -20], [-50, -40, -30, -20]]
    yield _case("negative", "left of and above the picture", low, [0.9, 0.8, 0.7], [0, 0, 1], [0, 2])
    for name, agnostic in (("crowd", False), ("crowd-agnostic", True)):
        yield _crowd(name, agnostic)
    spoiled = _case("must-fail-unsorted", "planted: two indices in the wrong order", two, [0.4, 0.9], [0, 1], [0, 1])
    yield dataclasses.replace(spoiled, spoil=lambda expected: None)
    crowd = _crowd("must-fail-one-more", False)

    def more(expected: Tree) -> None:
        left = np.setdiff1d(np.arange(200), expected["kept"])
        expected["kept"] = np.append(expected["kept"], left[0])

    yield dataclasses.replace(crowd, about="planted: a box that was dropped", spoil=more)


def _crowd(name: str, agnostic: bool) -> Planned:
    """200 boxes of 5 classes in a small place."""
    corner, size = Recurrence((200, 2), 11, 0, 60).array(), Recurrence((200, 2), 12, 40, 20).array()
    boxes = np.concatenate([corner, corner + size], 1)
    scores = Recurrence((200,), 13, 0.05, 0.9).array()
    classes = (Recurrence((200,), 14, 0, 5).array()).astype(np.int64)
    given: Tree = {"boxes": boxes, "scores": scores, "class_ids": classes, "iou": 0.45, "class_agnostic": agnostic}
    return Planned(name, f"200 boxes of five classes, {'across them' if agnostic else 'by class'}", given)


def _case(
    name: str,
    about: str,
    boxes: Boxes,
    scores: Sequence[float],
    class_ids: Sequence[int],
    kept: Sequence[int] | None,
    iou: float = 0.45,
    class_agnostic: bool = False,
) -> Planned:
    given: Tree = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32),
        "class_ids": np.array(class_ids, np.int64),
        "iou": iou,
        "class_agnostic": class_agnostic,
    }
    expected = None if kept is None else {"kept": np.array(kept, np.int64)}
    return Planned(name, about, given, expected=expected)


def answer(given: Tree, folder: Path) -> Tree:
    """Indices of the kept boxes, best first."""
    kept = non_maximum_suppression(
        given["boxes"],
        given["scores"],
        given["class_ids"].astype(np.int64),
        given["iou"],
        class_agnostic=given["class_agnostic"],
    )
    return {"kept": kept}


def differences(case: Case, answered: Tree) -> list[str]:
    """Other indices, or another order."""
    return apart(case.expected, answered, {})
