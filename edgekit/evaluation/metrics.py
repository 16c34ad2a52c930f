"""What a measurement gives: one record for each kind of it, each with a main figure from 0 to 1."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["boxes", "masks", "keypoints"]

MEASURES: dict[Kind, str] = {"boxes": "mAP", "masks": "mask mAP", "keypoints": "OKS mAP"}
"""What the average precision of each kind is called where several stand side by side."""


class Metrics(msgspec.Struct, frozen=True, rename={"map": "mAP", "map50": "mAP50", "map75": "mAP75"}):
    """Average precision of boxes, masks or keypoints, 0..1.

    ``map`` is over IoU (of boxes, of masks) or OKS (of keypoints) 0.50:0.95; ``per_class`` the same for each class with
    objects.
    """

    map: float
    map50: float
    map75: float
    per_class: dict[str, float]
    images: int
    objects: int
    detections: int
    kind: Kind = "boxes"

    @property
    def main(self) -> float:
        """``map``."""
        return self.map

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        name = MEASURES[self.kind]
        return {name: self.map, f"{name}50": self.map50, f"{name}75": self.map75}


class ClassMetrics(msgspec.Struct, frozen=True):
    """Accuracy of classification, 0..1: how often the true class is the best one, and among the best five.

    ``per_class`` is the share of each class's images of which it is the best one.
    """

    top1: float
    top5: float
    per_class: dict[str, float]
    images: int
    kind: Literal["classes"] = "classes"

    @property
    def main(self) -> float:
        """``top1``."""
        return self.top1

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        return {"top-1": self.top1, "top-5": self.top5}


class LabelMetrics(msgspec.Struct, frozen=True, rename={"map": "mAP"}):
    """Average precision of multi-label classification, 0..1: ``map`` is the mean over the classes with images."""

    map: float
    per_class: dict[str, float]
    images: int
    kind: Literal["labels"] = "labels"

    @property
    def main(self) -> float:
        """``map``."""
        return self.map

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        return {"label mAP": self.map}


class TrackMetrics(
    msgspec.Struct,
    frozen=True,
    rename={"hota": "HOTA", "det_a": "DetA", "ass_a": "AssA", "idf1": "IDF1", "mota": "MOTA"},
):
    """How well objects are tracked. All but ``mota``, which has no lower bound, are 0..1.

    ``hota`` is the mean over IoU 0.05:0.95 (Luiten et al. 2020), ``det_a`` and ``ass_a`` its parts: detection and
    association; ``idf1`` (Ristani et al. 2016) and ``mota`` (Bernardin and Stiefelhagen 2008) are at IoU 0.5.
    ``switches`` counts how often the id of an object changes; ``objects`` and ``found`` count boxes over all frames.
    """

    hota: float
    det_a: float
    ass_a: float
    idf1: float
    mota: float
    switches: int
    frames: int
    objects: int
    found: int
    kind: Literal["tracks"] = "tracks"

    @property
    def main(self) -> float:
        """``hota``."""
        return self.hota

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        return {"HOTA": self.hota, "IDF1": self.idf1, "MOTA": self.mota}

    @property
    def images(self) -> int:
        """``frames``."""
        return self.frames

    @property
    def per_class(self) -> dict[str, float]:
        """Nothing: tracks are measured whatever their class."""
        return {}


AnyMetrics = Metrics | ClassMetrics | LabelMetrics | TrackMetrics

Report = tuple[AnyMetrics, ...]
"""All that one model was measured by. The first is what its task is for: masks, keypoints, boxes, classes, tracks."""
