"""Poses that are the same person's, dropped by object keypoint similarity (OKS); the similarities themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgekit.runtimes.tasks.similarity import keypoint_similarity, keypoint_suppression
from edgekit.runtimes.tasks.skeletons import COCO
from golden.cases import Case, Planned, Recurrence, Tree
from golden.closeness import apart

TOLERANCE = {"similarity": 1e-5}


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    yield _case("crowd", "poses near each other", 41, [0, 1, 2.5, 8, 40, 0.5], COCO.sigmas, 0.9)
    yield _case("crowd-loose", "a lower limit drops more", 41, [0, 1, 2.5, 8, 40, 0.5], COCO.sigmas, 0.5)
    yield _case("skeleton", "four keypoints, one of them vague", 42, [0, 3, 6, 9], (0.05, 0.06, 0.07, 0.3), 0.7)
    yield _case("no-area", "objects without an area", 43, [0, 0, 1], (0.05, 0.05, 0.05, 0.05), 0.9, area=0.0)

    def back(expected: Tree) -> None:
        expected["kept"] = np.append(expected["kept"], 1)

    def less(expected: Tree) -> None:
        expected["similarity"][0, 1] -= 1e-3

    for name, spoil in (("one-more", back), ("similarity", less)):
        control = _case(f"must-fail-{name}", f"planted: {name}", 41, [0, 1, 2.5, 8, 40, 0.5], COCO.sigmas, 0.9)
        yield dataclasses.replace(control, spoil=spoil)


def _case(
    name: str,
    about: str,
    seed: int,
    shifts: Sequence[float],
    sigmas: Sequence[float],
    limit: float,
    area: float = 4000.0,
) -> Planned:
    """Copies of one pose, each moved by so many pixels."""
    pose = Recurrence((len(sigmas), 3), seed, 0, 100).array()
    pose[:, 2] /= 100
    points = np.stack([pose + np.array([shift, 0.5 * shift, 0], np.float32) for shift in shifts]).astype(np.float32)
    scores = Recurrence((len(shifts),), seed + 1, 0.3, 0.6).array()
    given = {
        "keypoints": points,
        "scores": scores,
        "areas": np.full(len(shifts), area, np.float32),
        "sigmas": list(sigmas),
        "limit": limit,
    }
    return Planned(name, about, given, dict(TOLERANCE))


def answer(given: Tree, folder: Path) -> Tree:
    """Indices of the kept poses, best first, and OKS (n, n) with the areas of the rows' objects."""
    points, areas = given["keypoints"], given["areas"]
    return {
        "kept": keypoint_suppression(points, given["scores"], areas, given["sigmas"], given["limit"]),
        "similarity": keypoint_similarity(points, points, areas, given["sigmas"]),
    }


def differences(case: Case, answered: Tree) -> list[str]:
    """Other poses, or similarities that are further apart than the case allows."""
    return apart(case.expected, answered, case.tolerance)
