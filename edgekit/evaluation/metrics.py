"""Metrics: one record per kind of evaluation, each with a main figure from 0 to 1 (except CIDEr)."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["boxes", "masks", "keypoints", "oriented"]

MEASURES: dict[Kind, str] = {
    "boxes": "mAP",
    "masks": "mask mAP",
    "keypoints": "OKS mAP",
    "oriented": "oriented mAP",
}
"""The names of the average precision of each kind, where several are shown together."""


class Metrics(msgspec.Struct, frozen=True, rename={"map": "mAP", "map50": "mAP50", "map75": "mAP75"}):
    """Average precision of boxes, masks, keypoints or oriented boxes, 0..1.

    ``map`` is over IoU (of boxes, of masks, of oriented boxes) or OKS (of keypoints) 0.50:0.95; ``per_class`` the same
    for each class with objects.
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


class SemanticMetrics(msgspec.Struct, frozen=True, rename={"miou": "mIoU"}):
    """Accuracy of label maps, 0..1: ``miou`` is the mean over classes of the IoU of all their pixels in all images.

    ``pixel_accuracy`` is the share of pixels with the right class. ``per_class`` has the IoU of each class that is in
    the labels or was found.
    """

    miou: float
    pixel_accuracy: float
    per_class: dict[str, float]
    images: int
    kind: Literal["semantic"] = "semantic"

    @property
    def main(self) -> float:
        """``miou``."""
        return self.miou

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        return {"mIoU": self.miou, "pixel accuracy": self.pixel_accuracy}


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


class AnswerMetrics(msgspec.Struct, frozen=True):
    """Accuracy of answers to questions, 0..1, as VQA v2 counts it; ``per_class`` by kind of question."""

    accuracy: float
    per_class: dict[str, float]
    images: int
    questions: int
    kind: Literal["answers"] = "answers"

    @property
    def main(self) -> float:
        """``accuracy``."""
        return self.accuracy

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        return {"VQA accuracy": self.accuracy}


class CaptionMetrics(msgspec.Struct, frozen=True):
    """Captions against references. All are 0..1 but ``cider``, which is 0..10 (papers print it times 100).

    CIDEr: Vedantam et al. 2015; it weighs words by the images of the same run, so few images make it meaningless.
    ``exact`` is the share that equals a reference word by word. ``meteor`` is None, and ``tokenizer`` is ``simple``,
    where Java is missing.
    """

    cider: float
    bleu4: float
    rouge_l: float
    meteor: float | None
    exact: float
    tokenizer: str
    images: int
    kind: Literal["captions"] = "captions"

    @property
    def main(self) -> float:
        """``cider``."""
        return self.cider

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first."""
        meteor = {} if self.meteor is None else {"METEOR": self.meteor}
        return {"CIDEr": self.cider, "BLEU-4": self.bleu4, "ROUGE-L": self.rouge_l, **meteor, "exact": self.exact}

    @property
    def per_class(self) -> dict[str, float]:
        """Nothing."""
        return {}


class RetrievalMetrics(msgspec.Struct, frozen=True):
    """Recall at k, 0..1, among ``images`` images and ``texts`` different texts, by k (``"1"``, ``"5"``, ``"10"``).

    ``matching`` is the share of pairs, as many true as false ones, that image-text matching tells rightly.
    """

    image_to_text: dict[str, float]
    text_to_image: dict[str, float]
    matching: float
    images: int
    texts: int
    kind: Literal["retrieval"] = "retrieval"

    @property
    def main(self) -> float:
        """Recall at 1, the mean of both directions."""
        return (self.image_to_text["1"] + self.text_to_image["1"]) / 2

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names, the main one first; TR: image to text, IR: text to image."""
        to_text = {f"TR@{k}": value for k, value in self.image_to_text.items()}
        to_image = {f"IR@{k}": value for k, value in self.text_to_image.items()}
        return {"R@1": self.main, **to_text, **to_image, "ITM": self.matching}

    @property
    def per_class(self) -> dict[str, float]:
        """Nothing."""
        return {}


AnyMetrics = (
    Metrics
    | ClassMetrics
    | LabelMetrics
    | SemanticMetrics
    | TrackMetrics
    | AnswerMetrics
    | CaptionMetrics
    | RetrievalMetrics
)

Report = tuple[AnyMetrics, ...]
"""All that one model was measured by. The first is what its task is for: masks, keypoints, boxes, classes, label
maps, tracks, answers, captions, retrieval."""
