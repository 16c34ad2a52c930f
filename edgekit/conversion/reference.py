"""The source's results: which are compared, how stages store them, and at which level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats
from edgekit.evaluation.agreement import SCORE_FLOOR, SLACK, Tally, paired
from edgekit.runtimes.tasks import Task
from edgekit.runtimes.tasks.decoders import Candidates

ENOUGH = 10
"""With fewer source detections than this the anchors are compared instead."""


def detections(task: Task, outputs: Sequence[Floats]) -> Candidates:
    """Detections after NMS, with scores down to a margin below the threshold."""
    kept = task.suppressed(task.candidates(outputs, SCORE_FLOOR * SLACK))
    return task.comparable(outputs, kept)


def are_enough(found: Sequence[Candidates]) -> bool:
    """Whether the source has enough detections for a detection-level comparison."""
    return sum(int((one.scores > SCORE_FLOOR).sum()) for one in found) >= ENOUGH


def add_anchors(
    tally: Tally, source: Task, source_outputs: Sequence[Floats], target: Task, target_outputs: Sequence[Floats]
) -> None:
    """Compare the source's highest-scoring anchors in one image with the same anchors of the target."""
    ours, theirs = source.candidates(source_outputs, -1.0), target.candidates(target_outputs, -1.0)
    pairs = paired(ours, theirs)
    tally.add_pairs(
        ours,
        theirs,
        pairs,
        source.comparable(source_outputs, ours[pairs.source]),
        target.comparable(target_outputs, theirs[pairs.target]),
    )


_COLUMNS = ("boxes", "scores", "class_ids", "anchors", "attached")


def save_detections(path: Path, found: Sequence[Candidates]) -> None:
    """Write the detections of all images to one file."""
    counts = np.array([len(one) for one in found], np.int64)
    names = [name for name in _COLUMNS if getattr(found[0], name) is not None]
    columns = {name: np.concatenate([getattr(one, name) for one in found]) for name in names}
    np.savez(path, allow_pickle=False, counts=counts, **columns)


def read_detections(path: Path) -> list[Candidates]:
    """Read the file of `save_detections`."""
    with np.load(path) as file:
        ends = np.cumsum(file["counts"])[:-1]
        columns = {name: np.split(file[name], ends) for name in _COLUMNS if name in file}
    return [
        Candidates(**{name: parts[index] for name, parts in columns.items()}) for index in range(len(columns["boxes"]))
    ]
