"""docs/loss.py: its precision is pycocotools' own, and its variants keep their boxes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs the extra 'convert'")
cv2 = pytest.importorskip("cv2", reason="needs opencv")

from edgekit.evaluation.coco import measure, read_annotations
from edgekit.runtimes.results import Detections

SIZE = 100


def script() -> Any:
    spec = importlib.util.spec_from_file_location("loss", Path(__file__).parents[1] / "docs" / "loss.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def labels(folder: Path) -> Path:
    """Six images with some boxes of two classes, every fifth of them a crowd."""
    generator = np.random.default_rng(3)
    images = [{"id": n, "file_name": f"{n}.png", "width": SIZE, "height": SIZE, "photo": n // 2} for n in range(6)]
    annotations = []
    for number in range(40):
        x, y, w, h = (float(value) for value in generator.integers(5, 45, 4))
        row = {"id": number + 1, "image_id": number % 6, "category_id": number % 2, "bbox": [x, y, w, h]}
        annotations.append(row | {"area": w * h, "iscrowd": int(number % 5 == 0)})
    categories = [{"id": number, "name": name} for number, name in enumerate("ab")]
    for image in images:
        picture = np.random.default_rng(int(image["id"])).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), picture)
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def found(path: Path, shift: float) -> list[dict[str, Any]]:
    """The labelled boxes a little elsewhere, and some that are nowhere."""
    generator = np.random.default_rng(5)
    rows = []
    for row in json.loads(path.read_text())["annotations"]:
        moved = [value + float(generator.normal(0, shift)) for value in row["bbox"]]
        for box in (moved, [float(value) for value in generator.integers(5, 45, 4)]):
            kept = {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": box}
            rows.append(kept | {"score": float(generator.random())})
    return rows


def results(rows: list[dict[str, Any]]) -> list[tuple[int, Detections]]:
    """The same as edgekit's results."""
    made = []
    for image in range(6):
        own = [row for row in rows if row["image_id"] == image]
        boxes = np.array([row["bbox"] for row in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([row["score"] for row in own], np.float32)
        classes = np.array([row["category_id"] for row in own], np.int64)
        one = Detections(boxes=boxes, scores=scores, class_ids=classes, classes=("a", "b"), size=(SIZE, SIZE))
        made.append((image, one))
    return made


def test_precision_is_that_of_pycocotools_with_crowds_too(tmp_path: Path) -> None:
    loss, path = script(), labels(tmp_path)
    rows = found(path, 2.0)
    evaluation, every = loss.matched(path, rows), list(range(6))
    wanted = measure(read_annotations(path), results(rows)).map
    assert 0.05 < wanted < 0.8
    assert loss.mean_precision(evaluation, every) == pytest.approx(wanted, abs=1e-4)
    assert loss.mean_precision(evaluation, every * 3) == pytest.approx(wanted, abs=1e-4)
    assert loss.mean_precision(evaluation, [0] * 5 + [1, 2, 3, 4]) != pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("drawn", [[0, 0, 1, 3], [5, 2, 2, 2, 4, 1], [3]])
def test_an_image_counts_as_often_as_it_is_drawn(drawn: list[int], tmp_path: Path) -> None:
    """The oracle is a file in which these images stand so often, under ids of their own."""
    loss, path = script(), labels(tmp_path)
    given, rows = json.loads(path.read_text()), found(path, 2.0)
    written: dict[str, Any] = {"categories": given["categories"], "images": [], "annotations": []}
    copies = []
    for number, image in enumerate(drawn):
        written["images"].append(given["images"][image] | {"id": number})
        for row in (one for one in given["annotations"] if one["image_id"] == image):
            written["annotations"].append(row | {"id": len(written["annotations"]) + 1, "image_id": number})
        copies += [row | {"image_id": number} for row in rows if row["image_id"] == image]
    (other := tmp_path / "drawn.json").write_text(json.dumps(written))
    truth = [(number, one) for number, one in results(copies) if number < len(drawn)]
    wanted = measure(read_annotations(other), truth).map
    assert loss.mean_precision(loss.matched(path, rows), drawn) == pytest.approx(wanted, abs=1e-4)


def test_what_is_worse_loses_and_the_same_loses_nothing(tmp_path: Path) -> None:
    loss, path = script(), labels(tmp_path)
    good, bad = found(path, 0.5), found(path, 4.0)
    first, same, worse = loss.compare(path, [good, good, bad])
    assert same == [first[0], "0.0000", "[0.0000, 0.0000]"]
    low, high = json.loads(worse[2])
    assert 0 < low < float(worse[1]) < high


def test_variants_are_the_same_every_time_and_their_boxes_are_inside(tmp_path: Path) -> None:
    loss, path = script(), labels(tmp_path)
    assert loss.write_variants(path, tmp_path / "one") == 36
    loss.write_variants(path, tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "annotations.json").read_text()) for name in ("one", "two"))
    assert one == two
    sizes = {image["id"]: (image["width"], image["height"]) for image in one["images"]}
    for row in one["annotations"]:
        (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
        assert min(x, y) >= 0
        assert x + w <= width
        assert y + h <= height
    crowds = [row["iscrowd"] for row in one["annotations"]]
    assert sum(crowds) > 6 * 8  # what crops leave little of is one, too
