"""mAP against annotations: known answers, a second library, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation.coco import (
    Annotations,
    CocoBox,
    CocoCategory,
    CocoImage,
    Metrics,
    category_ids,
    evaluate,
    measure,
    read_annotations,
)
from edgekit.runtimes.results import Detections

pytest.importorskip("pycocotools", reason="needs pycocotools (pip install edgekit[convert])")

NAMES = ("circle", "square", "star")
SIZE = (200, 150)


def annotated(images: int = 6, seed: int = 0, first_id: int = 0) -> Annotations:
    """Boxes of three sizes and three classes; annotation and image ids start at 0, as some files have them."""
    generator = np.random.default_rng(seed)
    boxes = []
    for image in range(images):
        for _ in range(int(generator.integers(2, 6))):
            width, height = generator.uniform(8, 100, 2).round(2).tolist()
            x, y = generator.uniform(0, 40, 2).round(2).tolist()
            boxes.append(CocoBox(image, int(generator.integers(0, 3)) + first_id, (x, y, width, height)))
    return Annotations(
        tuple(CocoImage(i, f"{i}.png", *SIZE) for i in range(images)),
        tuple(boxes),
        tuple(CocoCategory(i + first_id, name) for i, name in enumerate(NAMES)),
    )


def detections(boxes: list[tuple[float, ...]], scores: list[float], ids: list[int], **rest: Any) -> Detections:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes=array, scores=scores, class_ids=ids, classes=NAMES, size=SIZE, **rest)  # type: ignore[arg-type]


def truth_of(truth: Annotations, image: int, shift: float = 0.0, first_id: int = 0) -> Detections:
    own = [box for box in truth.annotations if box.image_id == image and not box.iscrowd]
    boxes = [(x + shift, y, x + shift + w, y + h) for x, y, w, h in (box.bbox for box in own)]
    return detections(boxes, [0.9] * len(own), [box.category_id - first_id for box in own])


def noisy(truth: Annotations, seed: int = 1) -> list[tuple[int, Detections]]:
    """Detections as a fair model makes them: moved boxes, misses, false ones, some of the wrong class."""
    generator = np.random.default_rng(seed)
    found = []
    for image in truth.images:
        own = truth_of(truth, image.id)
        boxes = own.boxes + generator.normal(0, 4, own.boxes.shape).astype(np.float32)
        ids = np.where(generator.random(len(own)) < 0.85, own.class_ids, (own.class_ids + 1) % 3)
        keep = generator.random(len(own)) < 0.9
        extra = np.sort(generator.uniform(0, 140, (3, 2, 2)), axis=1).reshape(3, 4).astype(np.float32)
        found.append(
            (
                image.id,
                Detections(
                    boxes=np.concatenate([boxes[keep], extra]),
                    scores=generator.uniform(0.01, 1, int(keep.sum()) + 3).astype(np.float32),
                    class_ids=np.concatenate([ids[keep], generator.integers(0, 3, 3)]),
                    classes=NAMES,
                    size=SIZE,
                ),
            )
        )
    return found


def second_opinion(truth: Annotations, found: list[tuple[int, Detections]]) -> list[float]:
    """The same numbers from faster-coco-eval, fed from plain dictionaries made here."""
    faster = pytest.importorskip("faster_coco_eval", reason="needs the second library, faster-coco-eval")
    annotations = [
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
    coco = faster.COCO(
        {
            "images": [msgspec.to_builtins(image) for image in truth.images],
            "categories": [msgspec.to_builtins(category) for category in truth.categories],
            "annotations": annotations,
        }
    )
    by_name = {category.name: category.id for category in truth.categories}
    rows = [
        {
            "image_id": image,
            "category_id": by_name[row.name],
            "bbox": [row.box[0], row.box[1], row.box[2] - row.box[0], row.box[3] - row.box[1]],
            "score": row.score,
        }
        for image, result in found
        for row in result
        if row.name in by_name
    ]
    evaluation = faster.COCOeval_faster(coco, coco.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(number) for number in evaluation.stats[:3]]


class TestKnownAnswers:
    def test_the_truth_itself_scores_one(self) -> None:
        truth = annotated()
        metrics = measure(truth, [(image.id, truth_of(truth, image.id)) for image in truth.images])
        assert (metrics.map, metrics.map50, metrics.map75) == pytest.approx((1, 1, 1))
        assert metrics.per_class == pytest.approx(dict.fromkeys(NAMES, 1.0))
        assert metrics.images == 6
        assert metrics.objects == metrics.detections == len(truth.annotations)

    def test_shifted_boxes_score_less(self) -> None:
        truth = annotated()
        scores = []
        for shift in (0, 1, 3, 8, 20):
            scores.append(measure(truth, [(i.id, truth_of(truth, i.id, shift)) for i in truth.images]).map)
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 5
        assert scores[-1] < 0.3

    def test_a_shift_that_is_known_in_closed_form(self) -> None:
        """One box of 100x100 moved by 25: IoU = 75/125 = 0.6, so it counts at 0.50, 0.55 and 0.60 of ten thresholds."""
        truth = Annotations((CocoImage(5, "a"),), (CocoBox(5, 0, (0, 0, 100, 100)),), (CocoCategory(0, "star"),))
        metrics = measure(truth, [(5, detections([(25, 0, 125, 100)], [0.5], [2]))])
        assert metrics.map == pytest.approx(0.3)
        assert (metrics.map50, metrics.map75) == pytest.approx((1.0, 0.0))

    def test_nothing_found_scores_zero(self) -> None:
        truth = annotated()
        empty = Detections.empty(NAMES, SIZE)
        for results in ([], [(image.id, empty) for image in truth.images]):
            metrics = measure(truth, results)
            assert (metrics.map, metrics.map50, metrics.map75, metrics.detections) == (0, 0, 0, 0)
            assert metrics.per_class == dict.fromkeys(NAMES, 0.0)

    def test_the_wrong_class_scores_zero(self) -> None:
        truth = annotated()
        wrong = [(i.id, truth_of(truth, i.id)) for i in truth.images]
        wrong = [
            (i, detections(r.boxes.tolist(), r.scores.tolist(), [(c + 1) % 3 for c in r.class_ids])) for i, r in wrong
        ]
        assert measure(truth, wrong).map < 0.2

    def test_a_missing_image_costs_recall(self) -> None:
        truth = annotated()
        half = measure(truth, [(image.id, truth_of(truth, image.id)) for image in truth.images[:3]])
        assert 0.2 < half.map < 0.8

    def test_crowds_are_neither_right_nor_wrong(self) -> None:
        truth = annotated(2)
        crowd = CocoBox(0, 0, (120, 60, 60, 60), iscrowd=1)
        with_crowd = msgspec.structs.replace(truth, annotations=(*truth.annotations, crowd))
        own = truth_of(truth, 0)
        inside = detections([*own.boxes.tolist(), (130, 70, 150, 90)], [0.5] * len(own) + [0.99], [*own.class_ids, 0])
        rest = (1, truth_of(truth, 1))
        assert measure(with_crowd, [(0, inside), rest]).map == pytest.approx(1.0)
        assert measure(truth, [(0, inside), rest]).map < 1.0
        assert measure(with_crowd, [(0, inside), rest]).objects == len(truth.annotations)

    def test_pycocotools_stays_silent(self, capfd: pytest.CaptureFixture[str]) -> None:
        truth = annotated(2)
        measure(truth, noisy(truth))
        assert capfd.readouterr() == ("", "")

    def test_as_json(self) -> None:
        document = json.loads(msgspec.json.encode(Metrics(0.5, 0.7, 0.6, {"star": 0.5}, 1, 2, 3)))
        assert document["mAP"] == 0.5
        assert document["mAP50"] == 0.7
        assert document["mAP75"] == 0.6


class TestSecondLibrary:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_same_numbers(self, seed: int) -> None:
        truth = annotated(20, seed)
        found = noisy(truth, seed + 100)
        metrics = measure(truth, found)
        assert 0.05 < metrics.map < 0.95, "a case between the trivial ones"
        assert [metrics.map, metrics.map50, metrics.map75] == pytest.approx(second_opinion(truth, found), abs=1e-9)
        assert np.mean(list(metrics.per_class.values())) == pytest.approx(metrics.map, abs=1e-9)

    def test_the_same_numbers_on_real_annotations(self, shared_data: Path) -> None:
        truth = read_annotations(shared_data / "voc50" / "annotations.json")
        names = tuple(category.name for category in truth.categories)
        place = {category.id: index for index, category in enumerate(truth.categories)}
        generator = np.random.default_rng(0)
        found = []
        for image in truth.images:
            own = [box for box in truth.annotations if box.image_id == image.id]
            boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (box.bbox for box in own)], np.float32)
            found.append(
                (
                    image.id,
                    Detections(
                        boxes=boxes + generator.normal(0, 9, boxes.shape).astype(np.float32),
                        scores=generator.uniform(0.1, 1, len(own)).astype(np.float32),
                        class_ids=[place[box.category_id] for box in own],  # type: ignore[arg-type]
                        classes=names,
                        size=(image.width, image.height),
                    ),
                )
            )
        metrics = measure(truth, found)
        assert [metrics.map, metrics.map50, metrics.map75] == pytest.approx(second_opinion(truth, found), abs=1e-9)
        assert len(metrics.per_class) == 19


class TestCategories:
    def test_by_name_whatever_the_case_and_order(self) -> None:
        truth = annotated(first_id=7)
        assert category_ids(("Star", " CIRCLE ", "moon", "square"), truth) == [9, 7, None, 8]

    def test_categories_without_objects_may_be_unknown(self) -> None:
        truth = annotated()
        more = msgspec.structs.replace(truth, categories=(*truth.categories, CocoCategory(50, "comet")))
        assert category_ids(NAMES, more) == [0, 1, 2]

    @pytest.mark.parametrize("first", [0, 1])
    def test_by_position_where_no_name_is_shared(self, first: int) -> None:
        assert category_ids(("0", "1", "2"), annotated(first_id=first)) == [first, first + 1, first + 2]

    @pytest.mark.parametrize(
        ("classes", "first"),
        [(("circle", "square", "moon"), 0), (("a", "b"), 0), (("a", "b", "c", "d"), 0), (("a", "b", "c"), 2)],
    )
    def test_sets_that_do_not_fit_are_both_named(self, classes: tuple[str, ...], first: int) -> None:
        with pytest.raises(InputError, match=r"does not know .*'star' of the annotations; it knows '(circle|a)'"):
            category_ids(classes, annotated(first_id=first))

    def test_long_lists_are_cut(self) -> None:
        with pytest.raises(InputError, match="'9' and 70 more"):
            category_ids(tuple(str(i) for i in range(80)), annotated())

    def test_classes_that_the_file_lacks_do_not_count(self) -> None:
        truth = annotated(2)
        classes = (*NAMES, "moon")

        def results(extra: int) -> list[tuple[int, Detections]]:
            found = []
            for image in truth.images:
                own = truth_of(truth, image.id)
                found.append(
                    (
                        image.id,
                        Detections(
                            boxes=np.concatenate([own.boxes, np.full((extra, 4), 30, np.float32)]),
                            scores=np.concatenate([own.scores, np.ones(extra, np.float32)]),
                            class_ids=np.concatenate([own.class_ids, np.full(extra, 3)]),
                            classes=classes,
                            size=SIZE,
                        ),
                    )
                )
            return found

        assert measure(truth, results(5)) == measure(truth, results(0))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Annotations and images on disk; each image's first pixel is its id."""
    truth = annotated(4)
    (tmp_path / "images").mkdir()
    for entry in truth.images:
        image = np.full((SIZE[1], SIZE[0], 3), entry.id, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / entry.file_name), image)
    (tmp_path / "annotations.json").write_bytes(msgspec.json.encode(truth))
    return tmp_path / "annotations.json"


def perfect(path: Path) -> Callable[[Image], Detections]:
    truth = read_annotations(path)
    return lambda image: truth_of(truth, int(image[0, 0, 0]))


class TestEvaluate:
    def test_runs_every_image_and_reports_progress(self, dataset: Path) -> None:
        seen: list[tuple[int, int]] = []
        metrics = evaluate(perfect(dataset), dataset, dataset.parent / "images", lambda *done: seen.append(done))
        assert metrics.map == pytest.approx(1.0)
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_finds_the_images_beside_the_file(self, dataset: Path) -> None:
        assert evaluate(perfect(dataset), str(dataset)).map == pytest.approx(1.0)
        for image in (dataset.parent / "images").iterdir():
            image.rename(dataset.parent / image.name)
        assert evaluate(perfect(dataset), dataset).map == pytest.approx(1.0)

    def test_annotations_that_were_read(self, dataset: Path) -> None:
        truth = read_annotations(dataset)
        assert evaluate(perfect(dataset), truth, dataset.parent / "images").map == pytest.approx(1.0)
        with pytest.raises(UsageError, match="images_dir is needed"):
            evaluate(perfect(dataset), truth)

    def test_a_missing_image_is_named_before_anything_runs(self, dataset: Path) -> None:
        (dataset.parent / "images" / "3.png").unlink()
        with pytest.raises(InputError, match=r"3\.png: no such image, 1 of 4 are missing"):
            evaluate(lambda _: pytest.fail("nothing shall run"), dataset, dataset.parent / "images")

    def test_an_image_of_another_size_is_refused(self, dataset: Path) -> None:
        cv2.imwrite(str(dataset.parent / "images" / "2.png"), np.full((SIZE[0], SIZE[1], 3), 2, np.uint8))
        with pytest.raises(InputError, match=r"2\.png is 150x200 pixels, the annotations say 200x150"):
            evaluate(perfect(dataset), dataset)

    def test_a_damaged_image_is_named(self, dataset: Path) -> None:
        (dataset.parent / "images" / "1.png").write_bytes(b"damaged")
        with pytest.raises(InputError, match=r"1\.png: damaged"):
            evaluate(perfect(dataset), dataset)

    def test_a_model_of_other_classes_is_refused(self, dataset: Path) -> None:
        with pytest.raises(InputError, match="the model does not know"):
            evaluate(lambda _: Detections.empty(("cat",), SIZE), dataset)

    def test_pycocotools_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
        with pytest.raises(UsageError, match=r"pip install edgekit\[convert\]"):
            measure(annotated(), [])


class TestFiles:
    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"images": []}', b'{"images": 5}'])
    def test_other_files_are_refused(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / "a.json").write_bytes(text)
        with pytest.raises(InputError, match=r"a\.json: not a COCO annotations file with images"):
            read_annotations(tmp_path / "a.json")

    def test_missing_files_and_folders(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a\.json: no such file; give a COCO annotations file"):
            read_annotations(tmp_path / "a.json")
        with pytest.raises(InputError, match="cannot be read"):
            read_annotations(tmp_path)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"annotations": []}, "no annotated object in this file"),
            (
                {"annotations": [{"image_id": 99, "category_id": 0, "bbox": [0, 0, 1, 1]}]},
                "annotation 0 is of image 99",
            ),
            (
                {"annotations": [{"image_id": 0, "category_id": 9, "bbox": [0, 0, 1, 1]}]},
                "is of category 9, which is not",
            ),
            ({"annotations": [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 1]}]}, r"\$\.annotations\[0\]\.bbox"),
            ({"annotations": [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 1, 1], "iscrowd": 1}]}, "no annotated"),
            ({"images": [{"id": 0, "file_name": "a"}, {"id": 0, "file_name": "b"}]}, "two images have the same id"),
            ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two categories have the same id"),
            ({"images": [{"id": 0}]}, r"missing required field `file_name`"),
        ],
    )
    def test_what_is_wrong_in_a_file_is_named(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        document = {**msgspec.to_builtins(annotated()), **change}
        (tmp_path / "a.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match=says):
            read_annotations(tmp_path / "a.json")

    def test_real_files(self, shared_data: Path) -> None:
        boxes = read_annotations(shared_data / "voc50" / "annotations.json")
        assert (len(boxes.images), len(boxes.scored_categories())) == (50, 19)
        people = read_annotations(shared_data / "pose" / "person_keypoints.json")
        assert [category.name for category in people.scored_categories()] == ["person"]
