"""Try other image rules on the source: with a wrong contract it often finds clearly less than with the right one.

No labels are needed. The measure of a rule is the sum of the squared scores of the detections that the source finds
both in an image and in its mirror image. Squares favour confident detections. A wrong scale makes some networks
overconfident: they find ten times as much, all with a score of 1, but little of it again, and in other boxes. So scales
have another measure, which takes that into account (`Twice.steady`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.errors import EngineError
from edgekit.evaluation.agreement import match
from edgekit.runtimes.bundle.manifest import Contract, ImageRule
from edgekit.runtimes.inputs.images import Preprocessor, tables
from edgekit.runtimes.inputs.media import ImageReference
from edgekit.runtimes.tasks import Task, open_task
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.similarity import box_iou

FIRST, MOST, LEAST = 12, 40, 4
"""Images that every rule is tried on, that one is tried on which found more on these, and with fewer none is."""

SECONDS = 20.0
"""CPU time that all trials may take; slower networks see fewer images, or none."""

FLOOR = 0.2
"""Detections with lower scores do not count."""

BETTER = 1.06
"""How much more another colour order, resize rule or alignment has to find, as a ratio, to be suggested."""

BETTER_SCALE = 1.5
"""The same for another scale, mean and std: a wrong one costs far more, and some networks hardly mind theirs."""

SURE = 2.5
"""How many standard errors above zero the mean difference of the images has to be."""

WORTH = 0.1
"""The minimum that another rule has to find per image on average: for example one detection with a score of 0.32."""

Network = Callable[[Floats], Sequence[Floats]]
"""The source: a tensor (1, 3, height, width) -> its raw outputs."""


@dataclass(frozen=True)
class Alternative:
    """Another image rule, in the words of a contract file, and the contract's own rule; whether it is another scale,
    mean or std."""

    text: str
    stated: str
    rule: ImageRule
    better: float = BETTER
    scale: bool = False


class Twice(NamedTuple):
    """The detections that an image and its mirror image have in common.

    ``squares`` is the sum of squared scores of the detections found in both. ``steady`` is the same with each times
    0..1 for an IoU of 0.5..1 of its boxes, and the sum times the share of all squared scores that is found in both.
    """

    squares: float
    steady: float


RESIZED = {"grid": ("letterbox", "corner"), "anchors": ("letterbox", "center"), "fastestdet": ("stretch", "")}
"""How the networks of a decoder are resized for in training, and where a letterbox puts the image. Other decoders read
networks of several trainings."""


def _trained_with(contract: Contract) -> tuple[str, str]:
    """As `RESIZED`, and of ``anchor_free`` by its options: NanoDet-Plus, of four levels, is trained stretched; NanoDet,
    YOLOv8 and 11 with the image in the middle. What is not known is the contract's own."""
    options = contract.decoder.options
    if contract.decoder.name == "anchor_free":
        bins, levels = options.get("reg_max", 16), len(options["strides"])
        if bins == 8 and levels == 4:
            return "stretch", ""
        if bins in (8, 16):
            return "letterbox", "center"
    return RESIZED.get(contract.decoder.name, (contract.image.resize, ""))


def unusual(contract: Contract) -> str:
    """Another resizing or alignment than a decoder's networks are trained with, in a sentence; empty for the usual one.

    A wrong alignment costs YOLOX a hundredth of its mAP and a wrong resizing four, too little for `suggestion` to see.
    """
    rule = contract.image
    resize, align = _trained_with(contract)
    stated = f"resize: {rule.resize}" if rule.resize != resize else f"align: {rule.align}"
    usual = f"resize: {resize}" if rule.resize != resize else f"align: {align}"
    if rule.resize == resize and (not align or rule.align == align):
        return ""
    return (
        f"the contract says {stated}, but networks of the decoder {contract.decoder.name!r} are usually trained with "
        f"{usual}: check the contract; nothing was changed"
    )


def suggestion(network: Network, contract: Contract, images: Sequence[ImageReference]) -> str:
    """The one image rule with which the source finds clearly more than with the contract's, in a sentence.

    Args:
        network: the source.
        contract: as it was stated.
        images: photographs like those that the device will see.

    Returns:
        A warning; empty where no rule is clearly better, or where there are too few images to tell.
    """
    if contract.task == "embed" or len(images) < LEAST:
        return ""
    pictures = [image.open() for image in images[:MOST]]
    own = _Measured(network, contract)
    own.see(pictures[:1])
    begun = time.process_time()  # of the second image: the first one takes longer
    own.see(pictures[1:2])
    others = alternatives(contract)
    affordable = SECONDS / (len(others) + 1) / max(time.process_time() - begun, 1e-6)
    first = min(FIRST, len(pictures), int(affordable))
    if first < LEAST:
        return ""
    own.see(pictures[2:first])
    promising = []
    for other in others:
        measured = _Measured(network, msgspec.structs.replace(contract, image=other.rule))
        measured.see(pictures[:first])
        if measured.values(other).sum() > own.values(other).sum():
            promising.append((other, measured))
    most = min(len(pictures), int(affordable * (len(others) + 1) / (len(promising) + 1)))
    if promising:
        own.see(pictures[first:most])
    for _, measured in promising:
        measured.see(pictures[first:most])
    found = [
        (measured.values(other), own.values(other), other)
        for other, measured in promising
        if _clearly(measured.values(other), own.values(other), other.better)
    ]
    if not found:
        return ""
    values, stated, best = max(found, key=lambda one: float(one[0].sum()) / max(float(one[1].sum()), 1e-6))
    return (
        f"the source finds clearly more with {best.text} than with the contract's {best.stated} ({values.sum():.1f} "
        f"against {stated.sum():.1f} in {len(values)} images, squared scores of detections that the mirror image "
        "has too): check the contract; nothing was changed"
    )


def alternatives(contract: Contract) -> list[Alternative]:
    """The image rules to try: each differs from the contract's in one thing.

    Of a classification and of label maps only the colour order is tried: whatever makes their inputs larger makes their
    classes surer.
    """
    rule = contract.image
    other = "rgb" if rule.color == "bgr" else "bgr"
    mean, std = tuple(reversed(rule.mean)), tuple(reversed(rule.std))
    found = [_changed(f"color: {other}", f"color: {rule.color}", rule, color=other, mean=mean, std=std)]
    if len(set(rule.mean)) > 1 or len(set(rule.std)) > 1:
        found.append(_changed(f"color: {other} (mean and std as they are)", f"color: {rule.color}", rule, color=other))
    return found if contract.task in ("classify", "semantic") else [*found, *_scales(rule), *_resizings(rule)]


def _scales(rule: ImageRule) -> Iterator[Alternative]:
    """The usual normalisations that are not the rule's own."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    imagenet = (mean, std) if rule.color == "rgb" else (mean[::-1], std[::-1])
    none = ((0.0,) * 3, (1.0,) * 3)
    usual = {
        "scale: 0.003922 (1/255) without mean and std": (1 / 255, *none),
        "scale: 1.0 without mean and std": (1.0, *none),
        "scale: 0.003922 (1/255), mean and std of ImageNet": (1 / 255, *imagenet),
        "scale: 0.003922 (1/255), mean and std 0.5": (1 / 255, (0.5,) * 3, (0.5,) * 3),
    }
    stated = f"scale: {rule.scale:.4g}, mean {list(rule.mean)}, std {list(rule.std)}"
    for text, (scale, its_mean, its_std) in usual.items():
        other = replace(
            _changed(text, stated, rule, scale=scale, mean=its_mean, std=its_std), better=BETTER_SCALE, scale=True
        )
        if not np.allclose(tables(other.rule), tables(rule), rtol=0.02, atol=0.02 * float(np.ptp(tables(rule)))):
            yield other


def _resizings(rule: ImageRule) -> Iterator[Alternative]:
    ways = {"stretch": ("stretch", "center"), "letterbox": ("letterbox", rule.align)}
    for name, (resize, align) in ways.items():
        if name != rule.resize:
            yield _changed(f"resize: {name}", f"resize: {rule.resize}", rule, resize=resize, align=align, crop=1.0)
    if rule.resize == "letterbox":
        align = "corner" if rule.align == "center" else "center"
        yield _changed(f"align: {align}", f"align: {rule.align}", rule, align=align)


def _changed(text: str, stated: str, rule: ImageRule, **changes: object) -> Alternative:
    return Alternative(text, stated, msgspec.structs.replace(rule, **changes))


def _clearly(values: NDArray[np.float64], own: NDArray[np.float64], better: float) -> bool:
    """Whether another rule finds more than the own one: in ratio, in nearly every sample of images, and at all."""
    error = float((values - own).std(ddof=1)) / len(values) ** 0.5
    return bool(
        values.sum() >= better * own.sum()
        and (values - own).mean() >= SURE * error
        and values.sum() >= WORTH * len(values)
    )


class _Measured:
    """The results of the source with one image rule, image by image."""

    def __init__(self, network: Network, contract: Contract) -> None:
        self._network, self._task = network, open_task(contract)
        self._preprocess = Preprocessor(contract.image)
        self._seen: list[Twice] = []

    def values(self, tried: Alternative) -> NDArray[np.float64]:
        """Of each image, by the measure that the alternative is judged by."""
        return np.array([one.steady if tried.scale else one.squares for one in self._seen])

    def see(self, images: Sequence[Image]) -> None:
        """Measure further images."""
        for image in images:
            plain = self._found(image)
            mirrored = self._found(np.ascontiguousarray(image[:, ::-1]))
            self._seen.append(_found_twice(plain, mirrored, image.shape[1]))

    def _found(self, image: Image) -> Candidates:
        """Detections after NMS in original pixels; none where the outputs are no numbers."""
        tensor, mapping = self._preprocess(image)
        found = _detected(self._task, self._network(tensor.copy()))
        return Candidates(mapping.to_original(found.boxes, clip=False), found.scores, found.class_ids, found.anchors)


def _detected(task: Task, outputs: Sequence[Floats]) -> Candidates:
    try:
        return task.suppressed(task.candidates(outputs, FLOOR))
    except EngineError:  # outputs or boxes that are no numbers: a rule may be so wrong that exp overflows
        nothing = np.zeros((0, 4), np.float32)
        return Candidates(nothing, nothing[:, 0], np.zeros(0, np.int64), np.zeros(0, np.int64))


def _found_twice(plain: Candidates, mirrored: Candidates, width: int) -> Twice:
    boxes = mirrored.boxes.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    same = plain.class_ids[:, None] == mirrored.class_ids[None, :]
    partners, overlaps = match(np.where(same, box_iou(plain.boxes, boxes), 0.0))
    good = overlaps >= 0.5
    if not good.any():
        return Twice(0.0, 0.0)
    common = np.minimum(plain.scores[good], mirrored.scores[partners[good]]) ** 2
    share = 2 * common.sum() / ((plain.scores**2).sum() + (mirrored.scores**2).sum())
    return Twice(float(common.sum()), float((common * (2 * overlaps[good] - 1)).sum() * share))
