"""Mean average precision of boxes, masks, keypoints and oriented boxes over a COCO annotations file, by pycocotools.

The measures are those of the COCO challenges (https://cocodataset.org/#detection-eval and #keypoints-eval): average
precision over 101 recall points and thresholds 0.50:0.05:0.95 of the IoU of boxes, masks or oriented boxes, or of
object keypoint similarity; at most 100 objects (20 poses) per image and class, crowds ignored. Coordinates are compared
as they are written: edgekit's are continuous pixels, and half a pixel is not added to those of a file that counts
pixels.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation.annotations import Annotations as Annotations
from edgekit.evaluation.annotations import CocoBox as CocoBox
from edgekit.evaluation.annotations import CocoCategory as CocoCategory
from edgekit.evaluation.annotations import CocoImage as CocoImage
from edgekit.evaluation.annotations import category_ids as category_ids
from edgekit.evaluation.annotations import read_annotations as read_annotations
from edgekit.evaluation.coco_truth import Row, Size, spans, true_boxes, true_keypoints, true_masks, true_oriented
from edgekit.evaluation.label_maps import MAPS_NEEDED
from edgekit.evaluation.metrics import Kind
from edgekit.evaluation.metrics import Metrics as Metrics
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.inputs.media import read_image
from edgekit.runtimes.results import Detections, Instances, LabelMap, OrientedBoxes, Poses, Result
from edgekit.runtimes.tasks.rotated import rotated_iou
from edgekit.runtimes.tasks.skeletons import sigmas_of

SCORE_THRESHOLD = 0.001
"""The score threshold for mAP: precision is integrated over all scores, so a higher threshold lowers mAP."""

Progress = Callable[[int, int], None]
"""Called after each image with how many are done and how many there are."""

IOU_TYPES: dict[Kind, str] = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints", "oriented": "bbox"}


def kinds(result: Result) -> tuple[Kind, ...]:
    """The kinds of annotation that a result can be measured by, the main kind first.

    Raises:
        InputError: it has no boxes.
    """
    if isinstance(result, Instances):
        return ("masks", "boxes")
    if isinstance(result, Poses):
        return ("keypoints", "boxes")
    if isinstance(result, OrientedBoxes):
        return ("oriented", "boxes")
    if isinstance(result, Detections):
        return ("boxes",)
    if isinstance(result, LabelMap):
        raise InputError(f"label maps have no boxes to compare with annotated objects; {MAPS_NEEDED}")
    raise InputError(
        f"a {type(result).__name__.lower()} has no boxes to compare with annotated objects; "
        "give a folder with one sub-folder of images for each class, or a text file with 'path,class' in each line"
    )


def evaluate(
    model: Callable[[Image], Result],
    annotations: str | os.PathLike[str] | Annotations,
    images_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Run a model over all images of an annotations file and measure the main kind of what it finds.

    Args:
        model: image uint8 (h, w, 3) BGR -> what it finds, with `SCORE_THRESHOLD` and up to 100 per class.
        annotations: a COCO annotations file, or one that was read.
        images_dir: folder that the file names start from; by default the file's own folder or ``images`` beside it.
        progress: see `Progress`.

    Raises:
        InputError: the file or an image cannot be read, an image has another size than the file says (its boxes
            would not fit), the model's classes or keypoints are not the file's, or it lacks masks or keypoints.
    """
    return evaluate_kinds(model, annotations, images_dir, progress)[0]


def evaluate_kinds(
    model: Callable[[Image], Result],
    annotations: str | os.PathLike[str] | Annotations,
    images_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Metrics, ...]:
    """As `evaluate`, of all kinds that the results have, the main one first."""
    if isinstance(annotations, Annotations):
        truth, path = annotations, None
    else:
        truth, path = read_annotations(annotations), Path(annotations)
    return measure_kinds(truth, run(model, truth, path, images_dir, progress))


def run(
    model: Callable[[Image], Result],
    truth: Annotations,
    path: Path | None,
    images_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Result]]:
    """The results of a model on the images of an annotations file (``path``: where that is), with their ids.

    Raises:
        InputError, UsageError: as `evaluate`; before the first image is run where one is missing.
    """
    if images_dir is not None:
        folder = Path(images_dir)
    elif path is not None:
        folder = _images_beside(path, truth)
    else:
        raise UsageError("images_dir is needed where the annotations are not a file")
    paths = [folder / image.file_name for image in truth.images]
    missing = [path for path in paths if not path.is_file()]
    if missing:  # found before the first image is run, not after an hour
        raise InputError(f"{missing[0]}: no such image, {len(missing)} of {len(paths)} are missing; give their folder")
    for done, (file, entry) in enumerate(zip(paths, truth.images, strict=True), 1):
        image = read_image(file)
        stated = (entry.width or image.shape[1], entry.height or image.shape[0])
        if stated != (image.shape[1], image.shape[0]):
            raise InputError(
                f"{file} is {image.shape[1]}x{image.shape[0]} pixels, the annotations say {stated[0]}x{stated[1]}; "
                "their boxes are for another version of the image"
            )
        yield entry.id, model(image)
        if progress is not None:
            progress(done, len(paths))


def _images_beside(path: Path, truth: Annotations) -> Path:
    inside = path.parent / "images"
    return inside if truth.images and (inside / truth.images[0].file_name).is_file() else path.parent


def measure(truth: Annotations, results: Iterable[tuple[int, Result]]) -> Metrics:
    """Metrics of the main kind of what was found against annotations; images without a result count as empty.

    Args:
        truth: what is there.
        results: image id and what was found in it, each image at most once, all of one type.

    Raises:
        InputError: as `category_ids`; the file lacks masks or keypoints, or has other keypoints.
        UsageError: results of several types or skeletons, or pycocotools is not installed.
    """
    found = _gathered(truth, results)
    return _measured(truth, found, found.kinds[0])


def measure_kinds(truth: Annotations, results: Iterable[tuple[int, Result]]) -> tuple[Metrics, ...]:
    """As `measure`, of all kinds that the results have, the main one first."""
    found = _gathered(truth, results)
    return tuple(_measured(truth, found, kind) for kind in found.kinds)


@dataclass
class _Found:
    """The results for all images, as rows of a COCO results file."""

    kinds: tuple[Kind, ...] = ("boxes",)
    skeleton: Skeleton | None = None
    rows: list[Row] = field(default_factory=list)
    sizes: dict[int, Size] = field(default_factory=dict)


def _gathered(truth: Annotations, results: Iterable[tuple[int, Result]]) -> _Found:
    found = _Found()
    first: Detections | None = None
    ids: dict[tuple[str, ...], list[int | None]] = {}
    for image_id, result in results:
        mine = kinds(result)
        if not isinstance(result, Detections):  # `kinds` has refused them; this is for the type checker
            continue
        if first is None:
            first, found.kinds = result, mine
            found.skeleton = result.skeleton if isinstance(result, Poses) else None
        elif type(result) is not type(first):
            raise UsageError(
                f"results of one type are measured, not {type(first).__name__} and {type(result).__name__}"
            )
        if isinstance(result, Poses) and result.skeleton != found.skeleton:
            raise UsageError("poses of one skeleton are measured; these have several")
        if result.classes not in ids:
            ids[result.classes] = category_ids(result.classes, truth)
        if len(result):
            found.rows.extend(result.to_coco(image_id, ids[result.classes]))
        found.sizes[image_id] = (int(result.size[0]), int(result.size[1]))
    return found


def _measured(truth: Annotations, found: _Found, kind: Kind) -> Metrics:
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UsageError("mAP needs the package pycocotools; pip install edgekit[convert]") from error
    true = _true(truth, found, kind)
    # pycocotools reports on stdout, which belongs to the caller's own output (--json).
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, true), _coco(truth, _rows(found, kind)), IOU_TYPES[kind])
        if found.skeleton is not None and kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas_of(found.skeleton))
        if kind == "oriented":
            evaluation.computeIoU = lambda image, category: _oriented_overlaps(evaluation, image, category)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scored = [row for row in true if not row["iscrowd"] and row.get("num_keypoints", 1)]
    overall, at50, at75 = (float(number) for number in evaluation.stats[:3])
    per_class = _per_class(truth, evaluation, {row["category_id"] for row in scored})
    return Metrics(overall, at50, at75, per_class, len(truth.images), len(scored), len(found.rows), kind)


def _oriented_overlaps(evaluation: Any, image: int, category: int) -> Any:
    """IoU of the oriented boxes (found, true) of one image and class, as `COCOeval.computeIoU` gives that of upright
    ones: the best found ones first, no more than are counted, and an empty list where there are neither."""
    true, found = evaluation._gts[image, category], evaluation._dts[image, category]
    if not true and not found:
        return []
    best = np.argsort([-row["score"] for row in found], kind="mergesort")[: evaluation.params.maxDets[-1]]
    ranked = np.array([found[place]["oriented"] for place in best], np.float64).reshape(-1, 5)
    return rotated_iou(ranked, np.array([row["oriented"] for row in true], np.float64).reshape(-1, 5))


def _per_class(truth: Annotations, evaluation: Any, scored: set[int]) -> dict[str, float]:
    names = {category.id: category.name for category in truth.categories}
    precision = evaluation.eval["precision"]  # threshold, recall, class, area, most objects; -1 where there is none
    return {
        names[category]: float(np.mean(precision[:, :, place, 0, -1]))
        for place, category in enumerate(evaluation.params.catIds)
        if category in scored
    }


def _true(truth: Annotations, found: _Found, kind: Kind) -> list[Row]:
    if kind == "masks":
        return true_masks(truth, found.sizes)
    if kind == "keypoints" and found.skeleton is not None:
        return true_keypoints(truth, found.skeleton)
    if kind == "oriented":
        return true_oriented(truth)
    return true_boxes(truth)


def _rows(found: _Found, kind: Kind) -> list[Row]:
    """Detections as pycocotools expects them: numbered from 1, with the area that decides their size class."""
    if kind == "masks":
        from pycocotools import mask

        areas = [float(mask.area(row["segmentation"])) for row in found.rows]
    elif kind == "keypoints":
        areas = [spans(row["keypoints"]) for row in found.rows]
    elif kind == "oriented":
        areas = [row["oriented"][2] * row["oriented"][3] for row in found.rows]
    else:
        areas = [row["bbox"][2] * row["bbox"][3] for row in found.rows]
    # Copies: pycocotools writes into the rows, and those of one kind must not meet the next one's.
    # A pose's number of keypoints only has to be above 0, or it would be ignored.
    return [
        {**row, "id": number, "area": area, "iscrowd": 0, "num_keypoints": 1}
        for number, (row, area) in enumerate(zip(found.rows, areas, strict=True), 1)
    ]


def _coco(truth: Annotations, rows: list[Row]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": one.id, "height": one.height, "width": one.width} for one in truth.images],
        "categories": [{"id": category.id, "name": category.name} for category in truth.categories],
        "annotations": rows,
    }
    coco.createIndex()
    return coco
