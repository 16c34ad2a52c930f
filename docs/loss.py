"""What a bundle loses of its source's mAP, with an interval: by few photographs one mAP moves by .01 by chance.

    python docs/loss.py variants LABELS FOLDER        six of each photograph: as it is, mirrored, cropped, smaller, ...
    python docs/loss.py compare LABELS SOURCE BUNDLE...    against the first, which may be the float bundle

LABELS is a COCO file with its images beside it; ``variants`` writes such a file to FOLDER. The interval is that of 200
paired bootstraps over photographs, each with all its variants. The images are made by a seed, so that they are the same
every time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
"""Share of an object that a crop has to leave of it; of less it is a crowd, which is neither hit nor missed."""

RECALLS = np.linspace(0, 1, 101)

Row = dict[str, Any]
Variant = tuple[str, Any, list[tuple[Row, list[float], bool]]]
"""A name, the picture, and of each object its row, its box, and whether it is still to be found."""


# Variants


def write_variants(labels: Path, folder: Path) -> int:
    """Write six variants of each photograph, and the labels of them; returns how many images there are."""
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


# Precision, with photographs drawn by weight


class Class(NamedTuple):
    """What was found of a class, the best first: image, hit and miss at each IoU; and objects by image."""

    images: Any
    hits: Any
    misses: Any
    objects: list[tuple[int, int]]


def matched(labels: Path, rows: list[Row]) -> list[Class]:
    """Match what was found with the labels, by pycocotools."""
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
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    images, many = evaluation.params.imgIds, len(evaluation.params.imgIds)
    starts = range(0, many * len(evaluation.params.catIds), many)
    classes = [list(zip(images, evaluation.evalImgs[start : start + many], strict=True)) for start in starts]
    return [one for one in map(_class, classes) if sum(count for _, count in one.objects)]


def _class(matches: list[tuple[int, Any]]) -> Class:
    there = [(image, match) for image, match in matches if match is not None]
    objects = [(image, int((~match["gtIgnore"].astype(bool)).sum())) for image, match in there]
    if not there:
        return Class(None, None, None, objects)
    scores = np.concatenate([match["dtScores"] for _, match in there])
    order = np.argsort(-scores, kind="mergesort")
    images = np.concatenate([np.full(len(match["dtScores"]), image) for image, match in there])
    hits = np.concatenate([match["dtMatches"] for _, match in there], 1) > 0
    counted = ~np.concatenate([match["dtIgnore"] for _, match in there], 1).astype(bool)
    return Class(images[order], (hits & counted)[:, order], (~hits & counted)[:, order], objects)


def mean_precision(classes: list[Class], weights: dict[int, int]) -> float:
    """mAP50-95 where each image counts as often as its weight says."""
    found = []
    for one in classes:
        objects = sum(count * weights[image] for image, count in one.objects)
        if objects:
            weight = np.array([weights[image] for image in one.images], float)
            hits, misses = np.cumsum(one.hits * weight, 1), np.cumsum(one.misses * weight, 1)
            found.append(np.mean([_precision(*pair, objects) for pair in zip(hits, misses, strict=True)]))
    return float(np.mean(found))


def _precision(hits: Any, misses: Any, objects: int) -> float:
    if not len(hits):
        return 0.0
    precisions = np.maximum.accumulate((hits / np.maximum(hits + misses, 1e-12))[::-1])[::-1]
    places = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(np.append(precisions, 0.0)[places].mean())


def compare(labels: Path, found: list[list[Row]]) -> list[list[str]]:
    """A row of each but the first: mAP, how much less that is than the first's, and the interval of that."""
    given = json.loads(labels.read_text(encoding="utf-8"))
    photographs = {image["id"]: image.get("photo", image["id"]) for image in given["images"]}
    names = sorted(set(photographs.values()))
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        drawn = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names))
        often = dict(zip(names, (int(number) for number in drawn), strict=True))
        draws.append({image: often[photograph] for image, photograph in photographs.items()})
    everything = dict.fromkeys(photographs, 1)
    measured = [matched(labels, rows) for rows in found]
    values = [[mean_precision(classes, weights) for weights in (everything, *draws)] for classes in measured]
    table = [[f"{values[0][0]:.4f}", "", ""]]
    for own in values[1:]:
        lost = np.subtract(values[0], own)
        low, high = np.percentile(lost[1:], (2.5, 97.5))
        table.append([f"{own[0]:.4f}", f"{lost[0]:.4f}", f"[{low:.4f}, {high:.4f}]"])
    return table


def found_by(path: Path, labels: Path) -> list[Row]:
    """What a bundle finds in the images of a COCO file."""
    manifest = open_bundle(path).manifest
    model = edgekit.load(path, unit=proof_device(manifest.engine, manifest.graphs[0]))
    truth = read_annotations(labels)
    predict: Callable[[Any], Any] = lambda image: model.predict(image, score=SCORE_THRESHOLD)  # noqa: E731
    ids = category_ids(tuple(manifest.contract.classes), truth)
    found = run(predict, truth, labels)
    return [row for image, result in found if isinstance(result, Detections) for row in result.to_coco(image, ids)]


def main() -> None:
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
