"""Masks and keypoints against annotations: known answers, the libraries called directly, and what files can lack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation.annotations import Annotations, read_annotations
from edgekit.evaluation.coco import evaluate, evaluate_kinds, measure, measure_kinds
from edgekit.evaluation.metrics import Metrics
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.results import Classification, Detections, Instances, Masks, Poses, Result
from edgekit.runtimes.tasks.skeletons import COCO as PERSON
from edgekit.shapes import CLASSES, write_coco
from edgekit.shapes.outlines import KEYPOINTS

pytest.importorskip("pycocotools", reason="needs pycocotools (pip install edgekit[convert])")

SHAPES = Skeleton(names=KEYPOINTS, sigmas=(0.05, 0.04, 0.06, 0.05, 0.03))
Found = list[tuple[int, Any]]


@dataclass(frozen=True)
class Truth:
    """A dataset of shapes: its file, as read by edgekit, and as plain JSON."""

    path: Path
    read: Annotations
    plain: dict[str, Any]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Twelve scenes with boxes, masks and keypoints."""
    path = write_coco(tmp_path_factory.mktemp("shapes"), range(700, 712), (160, 200))
    return Truth(path, read_annotations(path), json.loads(path.read_text()))


def rows_of(truth: Truth, image: int) -> list[dict[str, Any]]:
    return [row for row in truth.plain["annotations"] if row["image_id"] == image and not row["iscrowd"]]


def common(truth: Truth, image: int, shift: float, scores: Any = None) -> dict[str, Any]:
    rows = rows_of(truth, image)
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, ::2] += shift
    entry = next(one for one in truth.plain["images"] if one["id"] == image)
    return {
        "boxes": boxes,
        "scores": np.full(len(rows), 0.9, np.float32) if scores is None else scores,
        "class_ids": np.array([row["category_id"] for row in rows], np.int64),
        "classes": CLASSES,
        "size": (entry["width"], entry["height"]),
    }


def instances(truth: Truth, image: int, shift: int = 0, scores: Any = None) -> Instances:
    """The true objects, moved to the right."""
    given = common(truth, image, shift, scores)
    bitmaps = np.zeros((len(given["boxes"]), given["size"][1], given["size"][0]), np.bool_)
    for bitmap, row in zip(bitmaps, rows_of(truth, image), strict=True):
        counts = row["segmentation"]["counts"]
        whole = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(given["size"]).T
        bitmap[:, shift:] = whole[:, : whole.shape[1] - shift] if shift else whole
    return Instances(**given, masks=Masks.from_bitmaps(bitmaps))


def poses(truth: Truth, image: int, shift: float = 0.0, scores: Any = None, noise: Any = None) -> Poses:
    given = common(truth, image, shift, scores)
    points = np.array([row["keypoints"] for row in rows_of(truth, image)], np.float32).reshape(
        len(rows_of(truth, image)), len(KEYPOINTS), 3
    )
    points[..., 0] += shift
    points[..., :2] += 0 if noise is None else noise.normal(0, 1, points[..., :2].shape)
    points[..., 2] = 1.0
    return Poses(**given, keypoints=points, skeleton=SHAPES)


def every(truth: Truth, make: Any, **given: Any) -> Found:
    return [(image.id, make(truth, image.id, **given)) for image in truth.read.images]


def fair(truth: Truth, make: Any, seed: int) -> Found:
    """What a fair model finds: everything a little beside its place, some missed, with scores in no good order."""
    generator = np.random.default_rng(seed)
    found = []
    for image in truth.read.images:
        count = len(rows_of(truth, image.id))
        scores = generator.uniform(0.05, 1, count).astype(np.float32)
        more = {"noise": generator} if make is poses else {}
        one = make(truth, image.id, shift=int(generator.integers(0, 3)), scores=scores, **more)
        found.append((image.id, one[generator.random(count) < 0.85]))
    return found


def plain_results(truth: Truth, found: Found, kind: str) -> list[dict[str, Any]]:
    """A COCO results file made here, row by row, without edgekit's own export."""
    from pycocotools import mask

    ids = {category["name"]: category["id"] for category in truth.plain["categories"]}
    rows = []
    for image, result in found:
        for place, name in enumerate(result.names):
            row: dict[str, Any] = {"image_id": image, "category_id": ids[name]}
            row["score"] = float(result.scores[place])
            if kind == "bbox":
                x1, y1, x2, y2 = result.boxes[place].tolist()
                row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            elif kind == "segm":
                coded = mask.encode(np.asfortranarray(result.masks.bitmap(place).astype(np.uint8)))
                row["segmentation"] = {"size": coded["size"], "counts": coded["counts"].decode()}
            else:
                row["keypoints"] = result.keypoints[place].ravel().tolist()
            rows.append(row)
    return rows


def directly(truth: Truth, found: Found, kind: str, sigmas: Any = None) -> list[float]:
    """AP, AP50, AP75 as pycocotools gives them for the files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO(str(truth.path))
    evaluation = COCOeval(coco, coco.loadRes(plain_results(truth, found, kind)), kind)
    return summary(evaluation, sigmas)


def second_opinion(truth: Truth, found: Found, kind: str, sigmas: Any = None) -> list[float]:
    faster = pytest.importorskip("faster_coco_eval", reason="needs the second library, faster-coco-eval")
    coco = faster.COCO(str(truth.path))
    evaluation = faster.COCOeval_faster(coco, coco.loadRes(plain_results(truth, found, kind)), kind)
    return summary(evaluation, sigmas)


def summary(evaluation: Any, sigmas: Any) -> list[float]:
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(number) for number in evaluation.stats[:3]]


def figures(metrics: Metrics) -> list[float]:
    return [metrics.map, metrics.map50, metrics.map75]


class TestShapes:
    @pytest.mark.parametrize(("make", "kind"), [(instances, "masks"), (poses, "keypoints")])
    def test_the_truth_itself_scores_one(self, shapes: Truth, make: Any, kind: str) -> None:
        main, boxes = measure_kinds(shapes.read, every(shapes, make))
        assert (main.kind, boxes.kind) == (kind, "boxes")
        assert figures(main) == pytest.approx([1, 1, 1])
        assert main.main == main.map
        assert boxes.map == pytest.approx(1.0, abs=1e-6)
        assert list(main.per_class.values()) == pytest.approx([1.0] * len(main.per_class))
        assert main.detections == len([row for row in shapes.plain["annotations"] if not row["iscrowd"]])

    @pytest.mark.parametrize("seed", [1, 2])
    @pytest.mark.parametrize(
        ("make", "kind", "sigmas"), [(instances, "segm", None), (poses, "keypoints", SHAPES.sigmas)]
    )
    def test_the_same_numbers_as_two_libraries(
        self, shapes: Truth, make: Any, kind: str, sigmas: Any, seed: int
    ) -> None:
        found = fair(shapes, make, seed)
        main, boxes = measure_kinds(shapes.read, found)
        assert 0.05 < main.map < 0.95, "a case between the trivial ones"
        assert figures(main) == pytest.approx(directly(shapes, found, kind, sigmas), abs=1e-9)
        assert figures(main) == pytest.approx(second_opinion(shapes, found, kind, sigmas), abs=1e-9)
        assert figures(boxes) == pytest.approx(directly(shapes, found, "bbox"), abs=1e-6)
        assert np.mean(list(main.per_class.values())) == pytest.approx(main.map, abs=1e-9)
        assert measure(shapes.read, found) == main

    @pytest.mark.parametrize("make", [instances, poses])
    def test_the_further_away_the_less(self, shapes: Truth, make: Any) -> None:
        scores = [measure(shapes.read, every(shapes, make, shift=shift)).map for shift in (0, 1, 3, 8)]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 4

    def test_masks_are_not_boxes(self, shapes: Truth) -> None:
        """A negative control: right boxes with masks that fill them are good boxes and bad masks."""
        found = []
        for image, result in every(shapes, instances):
            windows = [np.ones((y2 - y1, x2 - x1), np.bool_) for x1, y1, x2, y2 in result.masks.windows.tolist()]
            filled = Masks(windows, result.masks.corners, result.size)
            found.append((image, _with(result, filled)))
        main, boxes = measure_kinds(shapes.read, found)
        assert boxes.map == pytest.approx(1.0, abs=1e-6)
        assert main.map < 0.7

    def test_keypoints_of_other_names_count_for_nothing(self, shapes: Truth) -> None:
        """A negative control: left and right changed over."""
        found = []
        for image, result in every(shapes, poses):
            found.append((image, _points(result, result.keypoints[:, [0, 1, 4, 3, 2]])))
        assert measure(shapes.read, found).map < 0.3

    def test_the_order_of_the_keypoints_does_not_matter(self, shapes: Truth) -> None:
        order = [3, 1, 4, 0, 2]
        names, sigmas = ([one[i] for i in order] for one in (KEYPOINTS, SHAPES.sigmas))
        skeleton = Skeleton(names=tuple(name.upper() for name in names), sigmas=tuple(sigmas))
        found = fair(shapes, poses, 3)
        turned = [(image, _points(result, result.keypoints[:, order], skeleton)) for image, result in found]
        assert measure(shapes.read, turned).map == pytest.approx(measure(shapes.read, found).map, abs=1e-12)

    def test_smaller_sigmas_are_stricter(self, shapes: Truth) -> None:
        found = fair(shapes, poses, 4)
        strict = Skeleton(names=KEYPOINTS, sigmas=(0.01,) * 5)
        unknown = Skeleton(names=KEYPOINTS)  # 0.05 each
        scores = [
            measure(shapes.read, [(image, _points(one, one.keypoints, skeleton)) for image, one in found]).map
            for skeleton in (strict, unknown)
        ]
        assert scores[0] < scores[1]
        assert scores[1] == pytest.approx(directly(shapes, found, "keypoints", (0.05,) * 5)[0], abs=1e-9)

    def test_models_are_run_on_the_images(self, shapes: Truth) -> None:
        entries = iter(shapes.read.images)

        def model(image: Image) -> Result:
            assert image.shape == (160, 200, 3)
            return instances(shapes, next(entries).id)

        main, boxes = evaluate_kinds(model, shapes.path)
        assert (main.kind, main.map, boxes.kind) == ("masks", pytest.approx(1.0), "boxes")
        entries = iter(shapes.read.images)
        assert evaluate(model, shapes.path) == main


def _with(result: Instances, masks: Masks) -> Instances:
    given = {name: getattr(result, name) for name in ("boxes", "scores", "class_ids", "classes", "size")}
    return Instances(**given, masks=masks)


def _points(result: Poses, points: Any, skeleton: Skeleton = SHAPES) -> Poses:
    given = {name: getattr(result, name) for name in ("boxes", "scores", "class_ids", "classes", "size")}
    return Poses(**given, keypoints=points, skeleton=skeleton)


class TestPolygons:
    """One 40x40 square in a 100x80 image, in every way that COCO has to say it."""

    WAYS: tuple[Any, ...] = (
        [[10, 20, 50, 20, 50, 60, 10, 60]],
        [[10, 20, 50, 20, 50, 40, 10, 40], [10, 40, 50, 40, 50, 60, 10, 60]],
        {"size": [80, 100], "counts": [10 * 80 + 20, *[40, 40] * 39, 40, 50 * 80 + 20]},
    )

    @staticmethod
    def truth(segmentation: Any, width: int = 100, **more: Any) -> Annotations:
        document = {
            "images": [{"id": 1, "file_name": "a.png", "width": width, "height": 80 if width else 0}],
            "categories": [{"id": 1, "name": "square"}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "bbox": [10, 20, 40, 40], "segmentation": segmentation, **more}
            ],
        }
        return msgspec.convert(document, Annotations)

    @staticmethod
    def found(width: int, size: tuple[int, int] = (100, 80)) -> Instances:
        """The square's left part, so wide."""
        bitmap = np.zeros((1, size[1], size[0]), np.bool_)
        bitmap[0, 20:60, 10 : 10 + width] = True
        box = np.array([[10, 20, 10 + width, 60]], np.float32)
        return Instances(
            boxes=box, scores=[0.5], class_ids=[0], classes=("square",), size=size, masks=Masks.from_bitmaps(bitmap)
        )  # type: ignore[arg-type]

    @pytest.mark.parametrize("way", range(3))
    @pytest.mark.parametrize(("width", "expected"), [(40, 1.0), (30, 0.6), (25, 0.3), (19, 0.0)])
    def test_known_in_closed_form(self, way: int, width: int, expected: float) -> None:
        """IoU = width / 40: 0.75 counts at six of the ten thresholds, 0.625 at three."""
        truth = self.truth(self.WAYS[way])
        assert measure(truth, [(1, self.found(width))]).map == pytest.approx(expected)

    def test_compressed_run_lengths(self) -> None:
        coded = self.found(40).masks.to_rle()[0]
        assert measure(self.truth(coded), [(1, self.found(40))]).map == pytest.approx(1.0)

    def test_the_size_is_the_images_where_the_file_does_not_say_it(self) -> None:
        truth = self.truth(self.WAYS[0], width=0)
        assert measure(truth, [(1, self.found(40))]).map == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("segmentation", "says"),
        [
            (None, r"annotation 0 \(image 1\) has no segmentation, so masks cannot be measured"),
            ([], "has no segmentation"),
            ([[1, 2, 3, 4]], r"at least three pairs of numbers x, y, not \[1, 2, 3, 4\]"),
            ([[1, 2, 3, 4, 5, 6, 7]], "at least three pairs"),
            ([["a"] * 6], "at least three pairs"),
            ([5], "at least three pairs"),
            ([[0, 0, 1e9, 0, 0, 1e9]], "reaches 1e\\+09, far outside its 100x80 image"),
            ({"size": [80, 100], "counts": [5]}, "annotation 0 .* cover 5 pixels, where the image has 100x80"),
            ({"size": [100, 80], "counts": [8000]}, "it is of a 80x100 image, not 100x80"),
            ({"counts": "x"}, "annotation 0"),
            ({"size": [80, 100], "counts": "~~~"}, "annotation 0"),
        ],
    )
    def test_segmentations_that_cannot_be_used_are_named(self, segmentation: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            measure(self.truth(segmentation), [(1, self.found(40))])

    def test_boxes_do_not_look_at_them(self) -> None:
        found = self.found(40)
        boxes = Detections(
            boxes=found.boxes, scores=found.scores, class_ids=found.class_ids, classes=found.classes, size=found.size
        )
        assert measure(self.truth([["a"] * 6]), [(1, boxes)]).map == pytest.approx(1.0)

    def test_masks_of_another_size_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"masks of image 1 are of \(200, 80\) pixels"):
            measure(self.truth(self.WAYS[0]), [(1, self.found(40, (200, 80)))])


class TestPeople:
    """Real annotations of COCO, with crowds and unlabelled keypoints."""

    @pytest.fixture
    def people(self, shared_data: Path) -> Truth:
        path = shared_data / "pose" / "person_keypoints.json"
        return Truth(path, read_annotations(path), json.loads(path.read_text()))

    def found(self, people: Truth, spread: float, seed: int = 0) -> Found:
        generator = np.random.default_rng(seed)
        found: Found = []
        for image in people.read.images:
            rows = rows_of(people, image.id)
            boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            points = np.array([row["keypoints"] for row in rows], np.float32).reshape(-1, 17, 3)
            away = generator.normal(0, 1, (len(rows), 17, 2)) * spread * np.sqrt(boxes[:, 2:] - boxes[:, :2]).max()
            points[..., :2] += away
            # Persons whose keypoints nobody labelled are neither right nor wrong, as long as they are in their places.
            blank = np.array([row["num_keypoints"] == 0 for row in rows])
            points[blank, :, :2] = ((boxes[:, None, :2] + boxes[:, None, 2:]) / 2)[blank]
            scores = generator.uniform(0.1, 1, len(rows)).astype(np.float32)
            one = Poses(
                boxes=boxes,
                scores=scores,
                class_ids=np.zeros(len(rows), np.int64),
                classes=("person",),
                size=(image.width, image.height),
                keypoints=points,
                skeleton=PERSON,
            )
            found.append((image.id, one))
        return found

    def test_the_truth_itself_scores_one(self, people: Truth) -> None:
        main, boxes = measure_kinds(people.read, self.found(people, 0))
        assert (main.kind, main.map) == ("keypoints", pytest.approx(1.0))
        labelled = [row for row in people.plain["annotations"] if row["num_keypoints"] and not row["iscrowd"]]
        assert main.objects == len(labelled) <= boxes.objects
        assert main.per_class == {"person": pytest.approx(1.0)}

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_same_numbers_as_two_libraries(self, people: Truth, seed: int) -> None:
        found = self.found(people, 0.3, seed)
        metrics = measure(people.read, found)
        assert 0.05 < metrics.map < 0.95
        assert figures(metrics) == pytest.approx(directly(people, found, "keypoints"), abs=1e-9)
        assert figures(metrics) == pytest.approx(second_opinion(people, found, "keypoints"), abs=1e-9)

    def test_a_file_without_keypoints_is_refused(self, people: Truth, shared_data: Path) -> None:
        bare = [msgspec.structs.replace(box, keypoints=None) for box in people.read.annotations]
        truth = msgspec.structs.replace(people.read, annotations=tuple(bare))
        with pytest.raises(InputError, match="no annotation has labelled keypoints, so keypoints cannot be measured"):
            measure(truth, self.found(people, 0))

    def test_other_keypoints_are_refused(self, people: Truth) -> None:
        found = [(image, _points(one, one.keypoints[:, :5], SHAPES)) for image, one in self.found(people, 0)]
        with pytest.raises(
            InputError, match=r"keypoints of 'person' in the annotations are 'nose', .*; the model's are"
        ):
            measure(people.read, found)

    def test_without_names_their_number_has_to_fit(self, people: Truth) -> None:
        (person,) = people.read.categories
        nameless = msgspec.structs.replace(people.read, categories=(msgspec.structs.replace(person, keypoints=()),))
        assert measure(nameless, self.found(people, 0)).map == pytest.approx(1.0)
        found = [(image, _points(one, one.keypoints[:, :5], SHAPES)) for image, one in self.found(people, 0)]
        with pytest.raises(InputError, match="has 51 numbers of keypoints; the model's 5 keypoints are 15"):
            measure(nameless, found)

    def test_by_position_where_no_name_is_shared(self, people: Truth) -> None:
        other = Skeleton(names=tuple(f"point {i}" for i in range(17)), sigmas=PERSON.sigmas)
        found = [(image, _points(one, one.keypoints, other)) for image, one in self.found(people, 0)]
        assert measure(people.read, found).map == pytest.approx(1.0)


class TestMixtures:
    def test_results_of_several_types_are_refused(self, shapes: Truth) -> None:
        first, second = shapes.read.images[:2]
        found: Found = [(first.id, instances(shapes, first.id)), (second.id, poses(shapes, second.id))]
        with pytest.raises(UsageError, match="results of one type are measured, not Instances and Poses"):
            measure(shapes.read, found)

    def test_several_skeletons_are_refused(self, shapes: Truth) -> None:
        first, second = shapes.read.images[:2]
        other = poses(shapes, second.id)
        found = [
            (first.id, poses(shapes, first.id)),
            (second.id, _points(other, other.keypoints, Skeleton(names=KEYPOINTS))),
        ]
        with pytest.raises(UsageError, match="poses of one skeleton"):
            measure(shapes.read, found)

    def test_a_classification_has_no_boxes(self, shapes: Truth) -> None:
        found = Classification(scores=np.ones(7, np.float32) / 7, classes=CLASSES, size=(200, 160))
        with pytest.raises(InputError, match=r"a classification has no boxes .* give a folder with one sub-folder"):
            measure(shapes.read, [(1, found)])

    def test_each_kind_keeps_its_name_in_json(self) -> None:
        document = json.loads(msgspec.json.encode(Metrics(0.5, 0.7, 0.6, {}, 1, 2, 3, "masks")))
        assert (document["kind"], document["mAP"]) == ("masks", 0.5)
        assert Metrics(0.5, 0.7, 0.6, {}, 1, 2, 3, "keypoints").figures == {
            "OKS mAP": 0.5, "OKS mAP50": 0.7, "OKS mAP75": 0.6
        }  # fmt: skip
