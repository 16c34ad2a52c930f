"""Agreement of a converted graph's decoded results with the source's, which is what evidence consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.evaluation.object_sizes import SizeTally, judge_sizes
from edgekit.runtimes.bundle.manifest import Agreement, Gate, OutputDrift
from edgekit.runtimes.results import Detections
from edgekit.runtimes.tasks import Task
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.rotated import angle_between
from edgekit.runtimes.tasks.similarity import box_agreement, box_areas

SCORE_FLOOR = 0.3
"""The source's detections above this score have to be found again."""

SLACK = 0.5
"""Partners may score down to this share of the floor: a score that moves from 0.301 to 0.299 is drift, not a loss."""

IOUS = (0.5, 0.75, 0.9, 0.95)

GATES = {
    "fp32": Gate(iou=0.95, matched=0.99, score_drift=0.005, extra=0.02, small=0.98, medium=0.98, large=0.98),
    "fp16": Gate(iou=0.9, matched=0.98, score_drift=0.02, extra=0.05, small=0.95, medium=0.95, large=0.95),
    "int8": Gate(iou=0.5, matched=0.90, score_drift=0.06, extra=0.12, small=0.8, medium=0.85, large=0.85),
    "w8a8": Gate(iou=0.5, matched=0.90, score_drift=0.06, extra=0.12, small=0.8, medium=0.85, large=0.85),
    "w8a32": Gate(iou=0.5, matched=0.90, score_drift=0.06, extra=0.12, small=0.8, medium=0.85, large=0.85),
}
"""Bounds by precision. Good INT8 of real detectors passes them and bad INT8 fails (docs/EVIDENCE.md)."""

COSINES = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97, "w8a8": 0.97, "w8a32": 0.97}
"""Least cosine of each raw output, asked for only where too few detections exist to compare."""

ANGLES = {"fp32": 0.5, "fp16": 1.0, "int8": 5.0, "w8a8": 5.0, "w8a32": 5.0}
"""Largest mean angle in degrees between oriented boxes of the source and of the bundle."""

Similarity = Callable[[Candidates, Candidates], Floats]
"""How alike each object of one run is to each of another, (n, m) 0..1 (`edgekit.runtimes.tasks.Task.similarity`)."""


def boxes_alike(first: Candidates, second: Candidates) -> Floats:
    """The IoU of boxes, (n, m)."""
    return box_agreement(first.boxes, second.boxes)


@dataclass
class Tally:
    """Sums over the images of a decoded comparison.

    ``similarity`` and its name ``measure`` are the task's; IoU stands for it in all other names. ``cells`` counts the
    cells of label maps besides, ``sizes`` objects by the size of their boxes, ``angles`` has the angles in degrees
    between matched oriented boxes.
    """

    gate_iou: float
    similarity: Similarity = boxes_alike
    measure: str = "IoU"
    cells: CellTally | None = None
    sizes: SizeTally | None = None
    areas: Callable[[Candidates], Floats] = lambda found: box_areas(found.boxes)
    angles: list[float] | None = None
    detections: int = 0
    found: int = 0
    extra: int = 0
    flips: int = 0
    ious: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    sure_drifts: list[float] = field(default_factory=list)
    top: float = 0.0
    top_source: float = 0.0

    @classmethod
    def of(cls, task: Task, gate_iou: float) -> Tally:
        """A tally that compares as a task does."""
        cells = CellTally() if task.dense else None
        sizes = SizeTally() if issubclass(task.gives, Detections) else None
        angles = list[float]() if task.oriented else None
        return cls(gate_iou, task.similarity, task.measure, cells, sizes, task.areas, angles)

    def add_detections(self, source: Candidates, target: Candidates) -> None:
        """Compare what two runs found on one image.

        Both hold their detections after NMS with scores above ``SCORE_FLOOR * SLACK``, best first.
        """
        if self.cells is not None:
            self.cells.add(source, target)
        self._tops(source, target)
        sure = np.flatnonzero(source.scores > SCORE_FLOOR)
        claims = np.flatnonzero(target.scores > SCORE_FLOOR)
        self.detections += len(sure)
        self.found += len(claims)
        overlaps = self.similarity(source, target)
        same = source.class_ids[:, None] == target.class_ids[None, :]
        partners, values = match(np.where(same, overlaps, 0.0)[sure])
        self.ious += values.tolist()
        good = values >= self.gate_iou
        if self.sizes is not None:
            self.sizes.add(self.areas(source[sure]), good)
        self._add_angles(source[sure[good]], target[partners[good]])
        self.drifts += np.abs(source.scores[sure][good] - target.scores[partners[good]]).tolist()
        self.flips += int(((~good) & (overlaps[sure].max(1, initial=0) >= self.gate_iou)).sum())
        _, known = match(np.where(same, overlaps, 0.0).T[claims])
        self.extra += int((known < min(self.gate_iou, 0.5)).sum())

    def add_candidates(self, source: Candidates, target: Candidates, most: int = 100) -> None:
        """Compare the source's best anchors with the same anchors of the target, where detections are too few.

        Both hold every anchor, in any order; one that the target lacks counts as unmatched. Classes are not required
        to agree: on an untrained model they are noise.
        """
        pairs = paired(source, target, most)
        self.add_pairs(source, target, pairs, source[pairs.source], target[pairs.target])

    def add_pairs(
        self, source: Candidates, target: Candidates, pairs: Pairs, ours: Candidates, theirs: Candidates
    ) -> None:
        """As `add_candidates`, of the pairs that were found in all anchors of both; ``ours`` and ``theirs`` are those
        of the source and of the target, row for row, with all that is compared.
        """
        if self.cells is not None:
            self.cells.add(ours, theirs)
        self._tops(source, target)
        self.detections += len(pairs.source) + pairs.lost
        self.found += len(pairs.source) + pairs.lost
        self.ious += [0.0] * pairs.lost
        self.ious += [float(self.similarity(ours[i], theirs[i])[0, 0]) for i in np.arange(len(ours))[:, None]]
        self._add_angles(ours, theirs)
        drifts = np.abs(ours.scores - theirs.scores)
        self.drifts += drifts.tolist()
        self.sure_drifts += drifts[ours.scores > SCORE_FLOOR].tolist()
        self.flips += int((ours.class_ids != theirs.class_ids).sum())

    def agreement(self) -> Agreement:
        """Shares and means over all images added.

        Where anchors were compared, the mean drift of those above the floor counts alone if it is larger: a few
        detections whose scores collapse would vanish among many empty anchors.
        """
        values = np.array(self.ious, np.float32)
        drifts = max((float(np.mean(some)) for some in (self.drifts, self.sure_drifts) if some), default=0.0)
        return Agreement(
            score_floor=SCORE_FLOOR,
            iou=self.gate_iou,
            detections=self.detections,
            matched=_share(values >= self.gate_iou),
            matched_at={f"{iou:g}": _share(values >= iou) for iou in IOUS},
            score_drift=drifts,
            score_drift_max=float(np.max(self.drifts)) if self.drifts else 0.0,
            class_flips=self.flips,
            extra=self.extra / max(self.found, 1),
            top_score=self.top,
            top_score_source=self.top_source,
            measure=self.measure,
            pixels=msgspec.UNSET if self.cells is None else self.cells.same_share,
            miou=msgspec.UNSET if self.cells is None else self.cells.miou,
            by_size=(self.sizes.agreement() if self.sizes else {}) or msgspec.UNSET,
            angle=msgspec.UNSET if self.angles is None else float(np.mean(self.angles)) if self.angles else 0.0,
        )

    def _add_angles(self, source: Candidates, target: Candidates) -> None:
        """Compare the angles of pairs, row for row."""
        if self.angles is not None and source.attached is not None and target.attached is not None:
            self.angles += angle_between(source.attached, target.attached).tolist()

    def _tops(self, source: Candidates, target: Candidates) -> None:
        self.top_source = max(self.top_source, float(source.scores.max(initial=0)))
        self.top = max(self.top, float(target.scores.max(initial=0)))


@dataclass
class CellTally:
    """Counts over the cells of label maps, of which each candidate's mask is the region of one class."""

    cells: int = 0
    same: int = 0
    shared: dict[int, int] = field(default_factory=dict)
    either: dict[int, int] = field(default_factory=dict)

    def add(self, source: Candidates, target: Candidates) -> None:
        """Compare the regions of one image; cells that are in no region of the source do not count."""
        if source.attached is None or target.attached is None:
            raise TypeError("cells are compared by masks, which these candidates lack")
        if not len(source):
            return
        ours, theirs = _labels(source, source.attached.shape[1:]), _labels(target, source.attached.shape[1:])
        known = ours >= 0
        self.cells += int(known.sum())
        self.same += int((ours == theirs)[known].sum())
        for class_id in np.unique(ours[known]).tolist():
            one, other = ours == class_id, theirs == class_id
            self.shared[class_id] = self.shared.get(class_id, 0) + int((one & other).sum())
            self.either[class_id] = self.either.get(class_id, 0) + int((one | other).sum())

    @property
    def same_share(self) -> float:
        """Share of the cells with the same class."""
        return self.same / self.cells if self.cells else 1.0

    @property
    def miou(self) -> float:
        """The mean over classes of the IoU of all their cells."""
        return float(np.mean([self.shared[key] / self.either[key] for key in self.either])) if self.either else 1.0


def _labels(found: Candidates, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The class of each cell, -1 where there is none."""
    labels = np.full(shape, -1)
    masks = () if found.attached is None else found.attached
    for class_id, mask in zip(found.class_ids.tolist(), masks, strict=True):
        labels[mask] = class_id
    return labels


class Pairs(NamedTuple):
    """Positions of the same anchors in two runs, best score of the source first, and how many the target lacks."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    lost: int


def paired(source: Candidates, target: Candidates, most: int = 100) -> Pairs:
    """The source's best anchors and the positions of the same anchors in the target."""
    best = np.argsort(-source.scores, kind="stable")[:most]
    where = np.full(int(max(source.anchors.max(initial=0), target.anchors.max(initial=0))) + 1, -1)
    where[target.anchors] = np.arange(len(target))
    partners = where[source.anchors[best]]
    there = partners >= 0
    return Pairs(best[there], partners[there], int((~there).sum()))


def match(overlaps: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Greedy one-to-one matching, rows in order (best score first), each to its best free column.

    Returns:
        The column of each row (0 where there is none) and its overlap (0 where there is none).
    """
    rows, columns = overlaps.shape
    partners, values = np.zeros(rows, np.int64), np.zeros(rows, np.float32)
    free = np.ones(columns, bool)
    for row in range(rows if columns else 0):
        masked = np.where(free, overlaps[row], 0.0)
        best = int(masked.argmax())
        if masked[best] > 0:
            partners[row], values[row] = best, masked[best]
            free[best] = False
    return partners, values


@dataclass
class DriftTally:
    """Sums over the images of one raw output's comparison."""

    name: str
    dot: float = 0.0
    source_norm: float = 0.0
    target_norm: float = 0.0
    largest: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, source: Floats, target: Floats) -> None:
        """Add one image's output of the source and of the target, of the same shape."""
        a, b = source.ravel().astype(np.float64), target.ravel().astype(np.float64)
        error = np.abs(a - b)
        self.dot += float((a * b).sum())
        self.source_norm += float((a * a).sum())
        self.target_norm += float((b * b).sum())
        self.largest = max(self.largest, float(error.max()))
        self.total += float(error.sum())
        self.count += error.size

    def drift(self) -> OutputDrift:
        """Cosine over all images, largest and mean error. The cosine with an output that is all zeros is 0."""
        scale = float(np.sqrt(self.source_norm) * np.sqrt(self.target_norm))
        cosine = self.dot / scale if scale else float(self.source_norm == self.target_norm)
        return OutputDrift(
            name=self.name, cosine=cosine, max_error=self.largest, mean_error=self.total / max(self.count, 1)
        )


def quality(decoded: Agreement, *, up_to: float = 1.0) -> float:
    """One number (0..1) to rank recipes by: 1 when nothing differs from the source.

    The mean share of detections matched at those of `IOUS` that are not above ``up_to``, less the mean score drift,
    less the share of extra ones; of label maps also less the share of cells with another class.
    """
    shares = [share for iou, share in decoded.matched_at.items() if float(iou) <= up_to]
    matched = sum(shares) / len(shares)
    pixels = 1.0 if decoded.pixels is msgspec.UNSET else decoded.pixels
    return max(0.0, matched * pixels * (1 - decoded.score_drift) * (1 - decoded.extra))


def judge(
    decoded: Agreement, outputs: Sequence[OutputDrift], gate: Gate, least_cosine: float | None = None
) -> tuple[str, ...]:
    """All violations of a gate, each as a sentence with the measured value and the bound.

    ``least_cosine`` bounds the raw outputs too, for comparisons without detections.
    """
    failures = []
    if decoded.matched < gate.matched:
        failures.append(
            f"matched {decoded.matched:.3f} of {decoded.detections} {decoded.bound}, at least {gate.matched:g}"
        )
    if decoded.pixels is not msgspec.UNSET and decoded.pixels < gate.matched:
        failures.append(f"{decoded.pixels:.4f} of all cells have the same class, at least {gate.matched:g}")
    if gate.angle is not msgspec.UNSET and decoded.angle is not msgspec.UNSET and decoded.angle > gate.angle:
        failures.append(f"mean angle between boxes {decoded.angle:.2f} degrees, at most {gate.angle:g}")
    if decoded.score_drift > gate.score_drift:
        failures.append(f"mean score drift {decoded.score_drift:.4f}, at most {gate.score_drift:g}")
    if decoded.extra > gate.extra:
        failures.append(f"extra detections {decoded.extra:.3f}, at most {gate.extra:g}")
    if decoded.top_score_source > SCORE_FLOOR and decoded.top_score < SCORE_FLOOR:
        failures.append(
            f"scores collapsed: the largest is {decoded.top_score:.3f}, the source's {decoded.top_score_source:.3f}"
        )
    failures += judge_sizes(decoded, gate)
    for output in outputs:
        if least_cosine is not None and not output.cosine >= least_cosine:
            failures.append(f"output {output.name}: cosine {output.cosine:.5f}, at least {least_cosine:g}")
    return tuple(failures)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if hits.size else 1.0
