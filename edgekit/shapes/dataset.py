"""Writing scenes as a folder of PNG images with a COCO annotations.json: objects, captions and questions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.shapes.language import Question, captions, questions
from edgekit.shapes.outlines import CLASSES, KEYPOINTS, SKELETON
from edgekit.shapes.types import Scene, SceneObject, SceneOptions
from edgekit.shapes.world import scene

ANNOTATIONS = "annotations.json"

Asking = Callable[[Scene], Sequence[Question]]
"""The questions about a scene."""


class RunLengths(TypedDict):
    """COCO's uncompressed run-length encoding: counts of alternating 0s and 1s, column after column."""

    size: list[int]
    counts: list[int]


class CocoQuestion(TypedDict):
    """A question about an image with its only right answer."""

    question: str
    answer: str
    kind: str


class CocoImageEntry(TypedDict):
    """One image of a COCO file, with captions of its scene and questions about it."""

    id: int
    file_name: str
    height: int
    width: int
    captions: list[str]
    questions: list[CocoQuestion]


class CocoAnnotation(TypedDict):
    """One object of a COCO file, with the truth that COCO has no word for: visibility, colour, rotation, track."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: RunLengths
    keypoints: list[float]
    num_keypoints: int
    visibility: float
    colour: str
    rotation: float
    track_id: int


class CocoCategoryEntry(TypedDict):
    """One class of a COCO file; ids are class ids, from 0."""

    id: int
    name: str
    supercategory: str
    keypoints: list[str]
    skeleton: list[list[int]]


class CocoDataset(TypedDict):
    """A COCO file."""

    images: list[CocoImageEntry]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategoryEntry]


def run_lengths(mask: npt.NDArray[np.bool_]) -> RunLengths:
    """Encode a mask bool (H, W) as COCO's uncompressed RLE (column-major, beginning with the count of 0s)."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": [int(side) for side in mask.shape], "counts": [0, *counts] if flat[0] else counts}


def _annotation(item: SceneObject, number: int, image_id: int, min_visibility: float) -> CocoAnnotation:
    x1, y1, x2, y2 = (float(value) for value in item.box)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": item.class_id,
        "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": float(np.count_nonzero(item.mask)),
        "iscrowd": int(item.visibility < min_visibility),
        "segmentation": run_lengths(item.mask),
        "keypoints": [round(float(value), 3) for value in item.keypoints.ravel()],
        "num_keypoints": int(np.count_nonzero(item.keypoints[:, 2])),
        "visibility": round(item.visibility, 4),
        "colour": item.colour,
        "rotation": round(item.rotation, 3),
        "track_id": item.track_id,
    }


def _image(number: int, name: str, item: Scene, ask: Asking) -> CocoImageEntry:
    height, width = item.image.shape[:2]
    asked: list[CocoQuestion] = [{"question": one.text, "answer": one.answer, "kind": one.kind} for one in ask(item)]
    described: CocoImageEntry = {
        "id": number,
        "file_name": name,
        "height": height,
        "width": width,
        "captions": captions(item),
        "questions": asked,
    }
    return described


def coco_dataset(
    scenes: Iterable[tuple[str, Scene]], min_visibility: float = 0.3, ask: Asking = questions
) -> CocoDataset:
    """Gather (file name, scene) pairs as a COCO dataset; image and annotation ids count from 1.

    Objects of which less than `min_visibility` can be seen get iscrowd = 1: finding them or not is neither right nor
    wrong (pycocotools ignores them).
    """
    images: list[CocoImageEntry] = []
    annotations: list[CocoAnnotation] = []
    for image_id, (name, item) in enumerate(scenes, start=1):
        images.append(_image(image_id, name, item, ask))
        for found in item.objects:
            annotations.append(_annotation(found, len(annotations) + 1, image_id, min_visibility))
    skeleton = [[first + 1, second + 1] for first, second in SKELETON]  # COCO counts keypoints from 1
    categories: list[CocoCategoryEntry] = [
        {"id": index, "name": name, "supercategory": "shape", "keypoints": list(KEYPOINTS), "skeleton": skeleton}
        for index, name in enumerate(CLASSES)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_scenes(
    folder: Path, scenes: Iterable[tuple[str, Scene]], min_visibility: float = 0.3, ask: Asking = questions
) -> Path:
    """Write (file name, scene) pairs, frames of a moving scene for instance, and return the path of annotations.json.

    The images go beside it; it is written last and atomically, so that a folder with one is complete.
    Raises InputError where an image cannot be written.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)

    def saved() -> Iterable[tuple[str, Scene]]:
        for name, item in scenes:
            if not cv2.imwrite(str(folder / name), item.image):
                raise InputError(f"cannot write {folder / name}: check that the folder is writable and has room")
            yield name, item

    dataset = coco_dataset(saved(), min_visibility, ask)
    partial = folder / f".{ANNOTATIONS}.{os.getpid()}"
    partial.write_text(json.dumps(dataset), encoding="utf-8")
    partial.replace(folder / ANNOTATIONS)
    return folder / ANNOTATIONS


def write_coco(
    folder: str | Path,
    seeds: Sequence[int],
    size: tuple[int, int] = (256, 256),
    options: SceneOptions | None = None,
    min_visibility: float = 0.3,
) -> Path:
    """Write the scenes of some seeds as PNG images with annotations.json in one folder; return that file's path.

    `size` is (height, width). Category ids are class ids, from 0; segmentations are exact (uncompressed RLE).
    """
    named = ((f"{seed:08d}.png", scene(seed, size, options)) for seed in seeds)
    return write_scenes(Path(folder), named, min_visibility)


def write_label_maps(
    folder: str | Path,
    seeds: Sequence[int],
    size: tuple[int, int] = (256, 256),
    options: SceneOptions | None = None,
) -> Path:
    """Write the scenes of some seeds into ``images`` and, under the same names, their label maps into ``labels``.

    A pixel is 0 where no shape is, else the class id of its shape plus 1. Returns the folder.

    Raises:
        InputError: an image cannot be written.
    """
    import cv2

    places = [Path(folder) / name for name in ("images", "labels")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        drawn = scene(seed, size, options)
        labels = np.zeros(size, np.uint8)
        for item in drawn.objects:
            labels[item.mask] = item.class_id + 1
        for place, image in zip(places, (drawn.image, labels), strict=True):
            path = place / f"{seed:08d}.png"
            if not cv2.imwrite(str(path), image):
                raise InputError(f"cannot write {path}: check that the folder is writable and has room")
    return Path(folder)
