"""Measure the mAP that bundles lose, with a 95 % interval: on 50 photographs, mAP moves by .01 by chance.

    python docs/loss.py variants LABELS FOLDER         write six variants of each photograph: original, mirrored, ...
    python docs/loss.py compare LABELS BUNDLE...       compare bundles with the first one, usually the float bundle

LABELS is a COCO file with its images beside it; ``variants`` writes such a file to FOLDER, always the same one. The
interval comes from 200 paired bootstraps over photographs; a photograph is drawn with all its variants.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edgekit
from edgekit.emulators import proof_device
from edgekit.evaluation.annotations import category_ids, read_annotations
from edgekit.evaluation.coco import SCORE_THRESHOLD, run
from edgekit.results import Detections
from edgekit.runtimes.bundle.folder import open_bundle

DRAWS, SEED, PAD = 200, 7, 114
KEPT = 0.4
"""The share of an object that must remain in a crop. Objects that are cut more become crowds, which do not count."""

Row = dict[str, Any]
Variant = tuple[str, Any, list[tuple[Row, list[float], bool]]]
"""A name, the picture, and for each object its row, its box, and whether a detector should find it."""


# Variants


def write_variants(labels: Path, folder: Path) -> int:
    """Write six variants of each photograph with their labels; returns the number of images."""
    given = json.loads(labels.read_text(encoding="utf-8"))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(SEED)
    images: list[Row] = []
    annotations: list[Row] = []
    for photograph in given["images"]:
        objects = [one for one in given["annotations"] if one["image_id"] == photograph["id"]]
        beside = labels.parent / "images" / photograph["file_name"]
        picture = cv2.imread(str(beside if beside.exists() else labels.parent / photograph["file_name"]))
        for kind, changed, rows in _variants(picture, objects, generator):
            name = f"{photograph['id']}_{kind}.png"
            cv2.imwrite(str(folder / "images" / name), changed)
            height, width = changed.shape[:2]
            entry = {"id": len(images) + 1, "file_name": name, "width": width, "height": height}
            images.append(entry | {"photo": photograph["id"], "kind": kind})
            for row, box, findable in rows:
                kept = {key: value for key, value in row.items() if key != "segmentation"}
                kept |= {"id": len(annotations) + 1, "image_id": entry["id"], "bbox": box, "area": box[2] * box[3]}
                annotations.append(kept | {"iscrowd": row.get("iscrowd", 0) if findable else 1})
    written = {"images": images, "annotations": annotations, "categories": given["categories"]}
    (folder / "annotations.json").write_text(json.dumps(written), encoding="utf-8")
    return len(images)


def _variants(picture: Any, objects: list[Row], generator: np.random.Generator) -> Iterator[Variant]:
    height, width = picture.shape[:2]
    same = [(row, row["bbox"], True) for row in objects]
    mirrored = [(row, [width - row["bbox"][0] - row["bbox"][2], *row["bbox"][1:]], True) for row in objects]
    yield "original", picture, same
    yield "mirrored", picture[:, ::-1], mirrored
    yield "cropped", *_cropped(picture, objects, generator)
    small = np.full_like(picture, PAD)
    inner = cv2.resize(picture, (int(width * 0.6), int(height * 0.6)), interpolation=cv2.INTER_AREA)
    left, top = (width - inner.shape[1]) // 2, (height - inner.shape[0]) // 2
    small[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    across, down = inner.shape[1] / width, inner.shape[0] / height
    boxes = [
        [x * across + left, y * down + top, w * across, h * down] for x, y, w, h in (row["bbox"] for row in objects)
    ]
    yield "smaller", small, [(row, box, True) for row, box in zip(objects, boxes, strict=True)]
    yield "darker", np.round(picture * 0.55).astype(np.uint8)[:, ::-1], mirrored
    yield "paler", np.clip(picture.astype(np.float32) * 0.7 + 75, 0, 255).round().astype(np.uint8), same


def _cropped(picture: Any, objects: list[Row], generator: np.random.Generator) -> tuple[Any, list[Any]]:
    height, width = picture.shape[:2]
    across, down = int(0.8 * width), int(0.8 * height)
    left, top = (int(generator.integers(0, most + 1)) for most in (width - across, height - down))
    rows = []
    for row in objects:
        x, y, w, h = row["bbox"]
        x1, y1 = max(x, left), max(y, top)
        x2, y2 = min(x + w, left + across), min(y + h, top + down)
        if x2 > x1 and y2 > y1:
            box = [float(x1 - left), float(y1 - top), float(x2 - x1), float(y2 - y1)]
            rows.append((row, box, box[2] * box[3] >= KEPT * w * h))
    return picture[top : top + down, left : left + across], rows


# Precision of images that are drawn, some of them several times


def matched(labels: Path, rows: list[Row]) -> Any:
    """Match detections with the labels: a COCOeval of pycocotools, evaluated, of the classes that are labelled."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    given = json.loads(labels.read_text(encoding="utf-8"))
    true, found = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        for one, its in ((true, given["annotations"]), (found, rows)):
            areas = [{"iscrowd": 0} | row | {"area": row["bbox"][2] * row["bbox"][3]} for row in its]
            annotations = [row | {"id": number} for number, row in enumerate(areas, 1)]
            one.dataset = {"images": given["images"], "categories": given["categories"], "annotations": annotations}
            one.createIndex()
        evaluation = COCOeval(true, found, "bbox")
        evaluation.params.catIds = sorted({row["category_id"] for row in given["annotations"]})
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    return evaluation


def mean_precision(evaluation: Any, images: Sequence[int]) -> float:
    """mAP50-95 of these images (ids); an image counts as often as it is named."""
    every = evaluation.params.imgIds
    places = [every.index(image) for image in images]
    matches = np.array(evaluation.evalImgs, dtype=object).reshape(-1, len(every))[:, places]
    drawn = copy.copy(evaluation)
    drawn.params = drawn._paramsEval = copy.copy(evaluation.params)
    drawn.params.imgIds, drawn.evalImgs = list(images), list(matches.reshape(-1))
    with contextlib.redirect_stdout(io.StringIO()):
        drawn.accumulate()
    precision = drawn.eval["precision"]
    return float(precision[precision > -1].mean())  # -1: a class without objects


def compare(labels: Path, found: list[list[Row]]) -> list[list[str]]:
    """For each: mAP, and how much lower it is than the first's, with the 95 % interval."""
    given = json.loads(labels.read_text(encoding="utf-8"))
    variants: dict[Any, list[int]] = {}
    for image in given["images"]:
        variants.setdefault(image.get("photo", image["id"]), []).append(image["id"])
    names, generator = sorted(variants), np.random.default_rng(0)
    draws = [generator.integers(0, len(names), len(names)) for _ in range(DRAWS)]
    samples = [[image for place in drawn for image in variants[names[place]]] for drawn in (range(len(names)), *draws)]
    evaluations = [matched(labels, rows) for rows in found]
    values = [[mean_precision(evaluation, images) for images in samples] for evaluation in evaluations]
    table = [[f"{values[0][0]:.4f}", "", ""]]
    for own in values[1:]:
        lost = np.subtract(values[0], own)
        low, high = np.percentile(lost[1:], (2.5, 97.5))
        table.append([f"{own[0]:.4f}", f"{lost[0]:.4f}", f"[{low:.4f}, {high:.4f}]"])
    return table


def found_by(path: Path, labels: Path) -> list[Row]:
    """The detections of a bundle in the images of a COCO file."""
    manifest = open_bundle(path).manifest
    model = edgekit.load(path, unit=proof_device(manifest.engine, manifest.graphs[0]))
    truth = read_annotations(labels)
    predict: Callable[[Any], Any] = lambda image: model.predict(image, score=SCORE_THRESHOLD)  # noqa: E731
    ids = category_ids(tuple(manifest.contract.classes), truth)
    found = run(predict, truth, labels)
    return [row for image, result in found if isinstance(result, Detections) for row in result.to_coco(image, ids)]


def main() -> None:
    """Write variants, or print one line for each bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("variants")
    making.add_argument("labels", type=Path)
    making.add_argument("folder", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("labels", type=Path)
    comparing.add_argument("bundles", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "variants":
        sys.stdout.write(f"{write_variants(given.labels, given.folder)} images in {given.folder}\n")
        return
    table = compare(given.labels, [found_by(path, given.labels) for path in given.bundles])
    for path, row in zip(given.bundles, table, strict=True):
        sys.stdout.write(" ".join((path.name, *row)) + "\n")


if __name__ == "__main__":
    main()
