"""Top-down pose: a detector finds the people, a pose model runs on each of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekit.arrays import Floats, Image, ImageLike
from edgekit.errors import UsageError
from edgekit.runtimes.inputs.images import Transform, warp_matrix
from edgekit.runtimes.model import Model, read
from edgekit.runtimes.results import Detections, Poses, Result, Timings
from edgekit.runtimes.tasks.similarity import AREA_SHARE, box_areas, keypoint_suppression
from edgekit.runtimes.tasks.skeletons import sigmas_of

MARGIN = 1.25
"""Size of the part that a pose model sees, over the box: what ViTPose, HRNet and RTMPose were trained with."""

DOUBLE = 0.9
"""OKS above which two poses are taken for one (SimpleBaselines and after it)."""


class TopDown:
    """A detector and a pose model as one: image in, poses of all its people out. As its models, for one thread at a
    time.

    Args:
        detector: finds boxes.
        pose: sees one object in its input; run once for each box.
        classes: of the detector that have this pose; ``person`` when it knows that name, else all.
        margin: size of the part that is looked at, over the box.
        double: OKS above which the worse of two poses is dropped.

    Raises:
        UsageError: models of other tasks, or a class that the detector does not know.
    """

    def __init__(
        self,
        detector: Model[Result],
        pose: Model[Result],
        *,
        classes: Sequence[str] | None = None,
        margin: float = MARGIN,
        double: float = DOUBLE,
    ) -> None:
        if pose.contract.task != "pose" or pose.contract.skeleton is None:
            raise UsageError(f"the second model must be one of poses, not of the task {pose.contract.task!r}")
        if detector.contract.task not in ("detect", "segment"):
            raise UsageError(f"the first model must find boxes, not be one of the task {detector.contract.task!r}")
        if margin < 1:
            raise UsageError(f"margin must be at least 1, not {margin:g}")
        self.detector, self.pose = detector, pose
        self.skeleton = pose.contract.skeleton
        known = detector.contract.classes
        self.classes = tuple(classes) if classes is not None else ("person",) if "person" in known else known
        Detections.empty(known, (1, 1)).filter(classes=self.classes)  # refuses a class that is not known
        self._margin, self._double = margin, double
        height, width = pose.contract.image.size
        self._aspect = width / height

    def __call__(self, source: ImageLike, *, score: float | None = None, iou: float | None = None) -> Poses:
        """The poses in one image, best first; the arguments are those of the detector.

        Boxes are the detector's; scores are its score times the pose's (the mean of its keypoints').

        Raises:
            InputError: not an image. EngineError: an engine failed.
        """
        image, name = read(source)
        found = self.detector.predict(image, score=score, iou=iou)
        if not isinstance(found, Detections):
            raise UsageError(f"a {self.detector.contract.task} model finds no boxes")
        return dataclasses.replace(self.on_boxes(image, found.filter(classes=self.classes)), source=name)

    def stream(
        self,
        source: Any,
        *,
        score: float | None = None,
        iou: float | None = None,
        reconnect: float = 0.0,
        silence: float | None = None,
    ) -> Iterator[Poses]:
        """Poses one image after the other; arguments and errors are those of `Model.stream`."""
        from edgekit.runtimes.inputs.reader import Reader

        with Reader(source, reconnect=reconnect, silence=silence) as reader:
            for frame in reader:
                yield dataclasses.replace(self(frame.image, score=score, iou=iou), source=frame.name, time=frame.time)

    def on_boxes(self, image: Image, found: Detections) -> Poses:
        """The pose of every detection, duplicates removed.

        Args:
            image: uint8 (h, w, 3) BGR.
            found: in that image; track ids stay.
        """
        begun = time.perf_counter()
        points = np.zeros((len(found), len(self.skeleton.names), 3), np.float32)
        spent = 0.0
        with self.pose.exclusive:
            for row, box in enumerate(found.boxes):
                part, mapping = self._part(image, box)
                tensor = self.pose.preprocess.normalise(part)
                start = time.perf_counter()
                outputs = self.pose.outputs(tensor)
                spent += time.perf_counter() - start
                seen = self.pose.task.result(outputs, mapping, score=-1.0)
                if isinstance(seen, Poses) and len(seen):
                    points[row] = seen.keypoints[0]
        scores = found.scores * points[..., 2].mean(1)
        areas = AREA_SHARE * box_areas(found.boxes)
        kept = (
            keypoint_suppression(points, scores, areas, sigmas_of(self.skeleton), self._double)
            if len(found)
            else np.zeros(0, int)
        )
        rest = 1e3 * (time.perf_counter() - begun - spent)
        timings = found.timings and Timings(
            found.timings.pre, found.timings.inference + 1e3 * spent, found.timings.post + rest
        )
        poses = Poses(
            boxes=found.boxes,
            scores=scores,
            class_ids=found.class_ids,
            track_ids=found.track_ids,
            keypoints=points,
            skeleton=self.skeleton,
            classes=found.classes,
            size=found.size,
            source=found.source,
            time=found.time,
            timings=timings,
        )
        return poses[kept]

    def crops(self, image: Image, found: Detections) -> list[Image]:
        """The crop of every detection for the pose model, uint8 (h, w, 3) BGR in the size of its input.

        Calibrate a pose model for INT8 on such crops: whole photographs have other ranges.
        """
        return [self._part(image, box)[0] for box in found.boxes]

    def _part(self, image: Image, box: Floats) -> tuple[Image, Transform]:
        """The region around a box in the shape of the pose model's input, and the inverse transform."""
        import cv2

        centre = (box[:2].astype(np.float64) + box[2:]) / 2
        width, height = np.maximum(box[2:].astype(np.float64) - box[:2], 1.0) * self._margin
        # Grown, not stretched, to the input's shape: people keep their proportions.
        width, height = max(width, height * self._aspect), max(height, width / self._aspect)
        rows, columns = self.pose.contract.image.size
        scale = columns / width, rows / height
        offset = columns / 2 - centre[0] * scale[0], rows / 2 - centre[1] * scale[1]
        matrix = warp_matrix(scale, offset)
        grey = self.pose.contract.image.padding
        part = cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=grey)
        size = (image.shape[1], image.shape[0])
        resized = (round(size[0] * scale[0]), round(size[1] * scale[1]))
        return np.asarray(part, np.uint8), Transform(scale[0], scale[1], offset[0], offset[1], *size, resized)


def top_down(
    detector: Model[Result],
    pose: Model[Result],
    *,
    classes: Sequence[str] | None = None,
    margin: float = MARGIN,
    double: float = DOUBLE,
) -> TopDown:
    """A detector and a pose model as one: `TopDown`, whose arguments and errors these are."""
    return TopDown(detector, pose, classes=classes, margin=margin, double=double)


pipeline = top_down
"""The former name."""
