"""Mean average precision over a COCO annotations file, by pycocotools.

The measure is that of the COCO detection challenge (https://cocodataset.org/#detection-eval): average precision over
101 recall points and IoU thresholds 0.50:0.05:0.95, at most 100 detections per image and class, crowds ignored.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.errors import InputError, UsageError
from edgekit.images import Image
from edgekit.media import read_image
from edgekit.results import Detections

SCORE_THRESHOLD = 0.001
"""What a model has to be run with: precision is integrated over all scores, so a higher threshold lowers mAP."""

Progress = Callable[[int, int], None]
"""Called after each image with how many are done and how many there are."""


class CocoImage(msgspec.Struct, frozen=True):
    """An image of an annotations file. Width and height are pixels, 0 where the file does not say."""

    id: int
    file_name: str
    width: int = 0
    height: int = 0


class CocoBox(msgspec.Struct, frozen=True):
    """An object of an annotations file: ``bbox`` is x, y, width, height in pixels."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


class CocoCategory(msgspec.Struct, frozen=True):
    """A class of an annotations file."""

    id: int
    name: str


class Annotations(msgspec.Struct, frozen=True):
    """What edgekit reads of a COCO annotations file; segmentations, licences and the like are passed over."""

    images: tuple[CocoImage, ...]
    annotations: tuple[CocoBox, ...]
    categories: tuple[CocoCategory, ...]

    def scored_categories(self) -> list[CocoCategory]:
        """The categories that have at least one object, in order of id; the others have no precision."""
        used = {box.category_id for box in self.annotations if not box.iscrowd}
        return sorted((c for c in self.categories if c.id in used), key=lambda category: category.id)


class Metrics(msgspec.Struct, frozen=True, rename={"map": "mAP", "map50": "mAP50", "map75": "mAP75"}):
    """Average precision, 0..1. ``map`` is over IoU 0.50:0.95; ``per_class`` the same for each class with objects."""

    map: float
    map50: float
    map75: float
    per_class: dict[str, float]
    images: int
    objects: int
    detections: int


def read_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Read and check a COCO annotations file.

    Raises:
        InputError: missing, not such a file, without images or objects, or referring to what is not in it.
    """
    try:
        annotations = msgspec.json.decode(Path(path).read_bytes(), type=Annotations)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a COCO annotations file (json)") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); give a COCO annotations file (json)") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a COCO annotations file with images, annotations and categories ({error})"
        ) from error
    _check_references(annotations, path)
    return annotations


def _check_references(annotations: Annotations, path: str | os.PathLike[str]) -> None:
    images = {image.id for image in annotations.images}
    categories = {category.id for category in annotations.categories}
    for what, ids, entries in (
        ("images", images, annotations.images),
        ("categories", categories, annotations.categories),
    ):
        if len(ids) != len(entries):
            raise InputError(f"{path}: two {what} have the same id")
    if not any(not box.iscrowd for box in annotations.annotations):
        raise InputError(f"{path}: no annotated object in this file, so there is nothing to measure against")
    for place, box in enumerate(annotations.annotations):
        if box.image_id not in images:
            raise InputError(f"{path}: annotation {place} is of image {box.image_id}, which is not in the file")
        if box.category_id not in categories:
            raise InputError(f"{path}: annotation {place} is of category {box.category_id}, which is not in the file")


def category_ids(classes: Sequence[str], annotations: Annotations) -> list[int | None]:
    """The category id of each class of a model; None for a class that the file does not have.

    By name, ignoring case; every category with objects has to be found. Where not one name is shared and the file
    counts its categories from 0 or 1 without gaps, as many as the model has classes, by position.

    Raises:
        InputError: the classes and the categories do not fit together.
    """
    by_name = {_key(category.name): category.id for category in annotations.categories}
    found = [by_name.get(_key(name)) for name in classes]
    missing = [category.name for category in annotations.scored_categories() if category.id not in found]
    if not missing:
        return found
    ids = sorted(category.id for category in annotations.categories)
    if not any(one is not None for one in found) and ids in (
        list(range(len(classes))),
        list(range(1, len(classes) + 1)),
    ):
        return list(ids)
    raise InputError(
        f"the model does not know {_some(missing)} of the annotations; "
        f"it knows {_some(classes)}. Rename the categories of the file to the model's classes"
    )


def _key(name: str) -> str:
    return name.strip().casefold()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def evaluate(
    model: Callable[[Image], Detections],
    annotations: str | os.PathLike[str] | Annotations,
    images_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Run a model over all images of an annotations file and measure it.

    Args:
        model: image uint8 (h, w, 3) BGR -> its detections, with `SCORE_THRESHOLD` and up to 100 per class.
        annotations: a COCO annotations file, or one that was read.
        images_dir: folder that the file names start from; by default the file's own folder or ``images`` beside it.
        progress: see `Progress`.

    Raises:
        InputError: the file or an image cannot be read, an image has another size than the file says (its boxes
            would not fit), or the model's classes are not the file's.
    """
    if isinstance(annotations, Annotations):
        truth, beside = annotations, None
    else:
        truth, beside = read_annotations(annotations), Path(annotations)
    if images_dir is not None:
        folder = Path(images_dir)
    elif beside is not None:
        folder = _images_beside(beside, truth)
    else:
        raise UsageError("images_dir is needed where the annotations are not a file")
    paths = [folder / image.file_name for image in truth.images]
    missing = [path for path in paths if not path.is_file()]
    if missing:  # found before the first image is run, not after an hour
        raise InputError(f"{missing[0]}: no such image, {len(missing)} of {len(paths)} are missing; give their folder")

    def results() -> Iterable[tuple[int, Detections]]:
        for done, (path, entry) in enumerate(zip(paths, truth.images, strict=True), 1):
            image = read_image(path)
            stated = (entry.width or image.shape[1], entry.height or image.shape[0])
            if stated != (image.shape[1], image.shape[0]):
                raise InputError(
                    f"{path} is {image.shape[1]}x{image.shape[0]} pixels, the annotations say {stated[0]}x{stated[1]}; "
                    "their boxes are for another version of the image"
                )
            yield entry.id, model(image)
            if progress is not None:
                progress(done, len(paths))

    return measure(truth, results())


def _images_beside(path: Path, truth: Annotations) -> Path:
    inside = path.parent / "images"
    return inside if truth.images and (inside / truth.images[0].file_name).is_file() else path.parent


def measure(truth: Annotations, results: Iterable[tuple[int, Detections]]) -> Metrics:
    """Metrics of detections against annotations; images without a result count as empty.

    Args:
        truth: what is there.
        results: image id and what was found in it, each image at most once.

    Raises:
        InputError: as `category_ids`.
        UsageError: pycocotools is not installed.
    """
    found: list[dict[str, Any]] = []
    ids: dict[tuple[str, ...], list[int | None]] = {}
    for image_id, result in results:
        if result.classes not in ids:
            ids[result.classes] = category_ids(result.classes, truth)
        found.extend(_coco_boxes(image_id, result, ids[result.classes]))
    for number, box in enumerate(found, 1):
        box["id"] = number
    return _measured(truth, found)


def _coco_boxes(image_id: int, result: Detections, ids: list[int | None]) -> Iterable[dict[str, Any]]:
    for box, score, class_id in zip(
        result.boxes.tolist(), result.scores.tolist(), result.class_ids.tolist(), strict=True
    ):
        category = ids[class_id]
        if category is not None:
            width, height = box[2] - box[0], box[3] - box[1]
            yield {
                "image_id": image_id,
                "category_id": category,
                "bbox": [box[0], box[1], width, height],
                "area": width * height,
                "score": score,
                "iscrowd": 0,
            }


def _measured(truth: Annotations, found: list[dict[str, Any]]) -> Metrics:
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UsageError("mAP needs the package pycocotools; pip install edgekit[convert]") from error
    # pycocotools reports on stdout, which belongs to the caller's own output (--json).
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, _true_boxes(truth)), _coco(truth, found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # IoU, recall, class, area, most detections; -1 where there is no object
    scored = {category.id: category.name for category in truth.scored_categories()}
    per_class = {
        scored[category]: float(np.mean(precision[:, :, place, 0, -1]))
        for place, category in enumerate(evaluation.params.catIds)
        if category in scored
    }
    overall, at50, at75 = (float(number) for number in evaluation.stats[:3])
    objects = sum(not box.iscrowd for box in truth.annotations)
    return Metrics(overall, at50, at75, per_class, len(truth.images), objects, len(found))


def _true_boxes(truth: Annotations) -> list[dict[str, Any]]:
    # Numbered from 1, whatever the file says: pycocotools takes the id 0 for "not matched".
    return [
        {
            "id": number,
            "image_id": box.image_id,
            "category_id": box.category_id,
            "bbox": list(box.bbox),
            "area": box.bbox[2] * box.bbox[3] if box.area is None else box.area,
            "iscrowd": box.iscrowd,
        }
        for number, box in enumerate(truth.annotations, 1)
    ]


def _coco(truth: Annotations, boxes: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image.id} for image in truth.images],
        "categories": [{"id": category.id, "name": category.name} for category in truth.categories],
        "annotations": boxes,
    }
    coco.createIndex()
    return coco
