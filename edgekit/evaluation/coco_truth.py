"""Annotated objects in the form that pycocotools expects, for boxes, masks, keypoints or oriented boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.errors import InputError
from edgekit.evaluation.annotations import Annotations, CocoBox, CocoCategory, CocoImage, key, some
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.results import Masks
from edgekit.runtimes.tasks.similarity import AREA_SHARE

Size = tuple[int, int]
Row = dict[str, Any]


def true_boxes(truth: Annotations) -> list[Row]:
    """The objects with their boxes."""
    return [
        _row(number, box, box.bbox[2] * box.bbox[3] if box.area is None else box.area)
        for number, box in enumerate(truth.annotations, 1)
    ]


def _row(number: int, box: CocoBox, area: float) -> Row:
    # Numbered from 1, whatever the file says: pycocotools takes the id 0 for "not matched".
    return {
        "id": number,
        "image_id": box.image_id,
        "category_id": box.category_id,
        "bbox": list(box.bbox),
        "area": area,
        "iscrowd": box.iscrowd,
    }


def true_masks(truth: Annotations, sizes: Mapping[int, Size]) -> list[Row]:
    """The objects with their masks as compressed run lengths.

    Args:
        sizes: (width, height) of the images that something was looked for in.

    Raises:
        InputError: an object without a segmentation, or with one that cannot be read; an image of another size.
    """
    from pycocotools import mask

    known = {one.id: _size(one, sizes.get(one.id)) for one in truth.images}
    rows = []
    for number, box in enumerate(truth.annotations, 1):
        where = f"annotation {number - 1} (image {box.image_id})"
        size = known[box.image_id]
        if not box.segmentation:
            raise InputError(f"{where} has no segmentation, so masks cannot be measured; give a file that has them")
        if size is None:
            raise InputError(f"{where} is of an image whose width and height the file does not say")
        encoded = _run_lengths(box.segmentation, size, where)
        area = float(mask.area(encoded)) if box.area is None else box.area
        rows.append({**_row(number, box, area), "segmentation": encoded})
    return rows


def _size(image: CocoImage, seen: Size | None) -> Size | None:
    if not (image.width and image.height):
        return seen
    stated = (image.width, image.height)
    if seen not in (None, stated):
        raise InputError(
            f"masks of image {image.id} are of {seen} pixels (width, height), the annotations say {stated}"
        )
    return stated


def _run_lengths(segmentation: list[Any] | dict[str, Any], size: Size, where: str) -> Row:
    if isinstance(segmentation, dict):
        try:
            return Masks.from_rle([segmentation], size).to_rle()[0]
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    from pycocotools import mask

    width, height = size
    polygons = [_polygon(part, size, where) for part in segmentation]
    joined: Row = mask.merge(mask.frPyObjects(polygons, height, width))
    return joined


def _polygon(part: Any, size: Size, where: str) -> list[float]:
    """One outline; pycocotools allocates what its length is, so one that leaves the image far behind is refused."""
    numbers = isinstance(part, list) and all(isinstance(one, int | float) and math.isfinite(one) for one in part)
    if not numbers or len(part) < 6 or len(part) % 2:
        raise InputError(f"{where}: a polygon is at least three pairs of numbers x, y, not {str(part)[:60]}")
    if max(map(abs, part)) > 4 * max(size):
        raise InputError(
            f"{where}: a polygon reaches {max(map(abs, part)):g}, far outside its {size[0]}x{size[1]} image"
        )
    return [float(one) for one in part]


def true_keypoints(truth: Annotations, skeleton: Skeleton) -> list[Row]:
    """The objects with their keypoints in the order of a skeleton. Those without labelled ones are not scored.

    Raises:
        InputError: no object has keypoints, or they are not the skeleton's.
    """
    used = {box.category_id for box in truth.annotations if box.labelled_keypoints}
    if not used:
        raise InputError(
            "no annotation has labelled keypoints, so keypoints cannot be measured; give a file that has them "
            "(COCO's is person_keypoints_*.json)"
        )
    orders = {one.id: _order(skeleton, one) for one in truth.categories if one.id in used}
    blank = [0.0] * (3 * len(skeleton.names))
    rows = []
    for number, box in enumerate(truth.annotations, 1):
        points = list(box.keypoints or blank)
        if box.labelled_keypoints:
            if len(points) != len(blank):
                raise InputError(
                    f"annotation {number - 1} (image {box.image_id}) has {len(points)} numbers of keypoints; "
                    f"the model's {len(skeleton.names)} keypoints are {len(blank)}: x, y, visibility of each"
                )
            points = np.array(points).reshape(-1, 3)[orders[box.category_id]].ravel().tolist()
        else:
            points = blank
        # OKS divides by the area of the outline; where only the box is known, by the usual share of that.
        area = AREA_SHARE * box.bbox[2] * box.bbox[3] if box.area is None else box.area
        row = _row(number, box, area)
        rows.append({**row, "keypoints": points, "num_keypoints": box.labelled_keypoints})
    return rows


def true_oriented(truth: Annotations) -> list[Row]:
    """The objects with their oriented boxes: the smallest rectangles around their polygons, which of four corners are
    usually the rectangles themselves.

    Raises:
        InputError: an object without a polygon.
    """
    import cv2

    sizes = {one.id: (one.width, one.height) for one in truth.images}
    rows = []
    for number, box in enumerate(truth.annotations, 1):
        where = f"annotation {number - 1} (image {box.image_id})"
        if not isinstance(box.segmentation, list) or len(box.segmentation) != 1:
            raise InputError(
                f"{where} has no single polygon, so oriented boxes cannot be measured; give the four corners of each "
                "box: 'segmentation': [[x1, y1, ... x4, y4]] in COCO's format, 'class x1 y1 ... x4 y4' in YOLO's"
            )
        size = sizes[box.image_id] if all(sizes[box.image_id]) else (10**6, 10**6)
        points = np.array(_polygon(box.segmentation[0], size, where), np.float32).reshape(-1, 2)
        (x, y), (width, height), degrees = cv2.minAreaRect(points)
        oriented = [x, y, width, height, math.radians(degrees)]
        rows.append({**_row(number, box, width * height), "oriented": oriented})
    return rows


def _order(skeleton: Skeleton, category: CocoCategory) -> list[int]:
    """Where each keypoint of the skeleton is in the file: by name, or by position where no name is shared.

    Raises:
        InputError: other keypoints.
    """
    names, ours = [key(name) for name in category.keypoints], [key(name) for name in skeleton.names]
    if sorted(names) == sorted(ours):
        return [names.index(name) for name in ours]
    if not names or (len(names) == len(ours) and not set(names) & set(ours)):
        return list(range(len(ours)))
    raise InputError(
        f"the keypoints of {category.name!r} in the annotations are {some(category.keypoints)}; "
        f"the model's are {some(skeleton.names)}. Rename or reorder them in the file or in the contract's skeleton"
    )


def spans(points: Sequence[float]) -> float:
    """Area of the smallest box around keypoints x, y, score: what pycocotools takes for the size of a found pose."""
    x, y = points[0::3], points[1::3]
    return (max(x) - min(x)) * (max(y) - min(y))
