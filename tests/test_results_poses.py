"""Poses: keypoints with a skeleton; and track ids, crops and COCO rows of all detections."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.errors import InputError, UsageError
from edgekit.runtimes import drawing
from edgekit.runtimes.bundle.manifest import Skeleton
from edgekit.runtimes.drawing import skeletons
from edgekit.runtimes.results import Detection, Detections, Poses

ARM = Skeleton(names=("left_shoulder", "left_elbow", "left_wrist"), edges=((0, 1), (1, 2)), sigmas=(0.1, 0.2, 0.3))
WHOLE = st.floats(-1e5, 1e5, width=32)


def make(**changes: Any) -> Poses:
    parts: dict[str, Any] = {
        "boxes": [[5, 5, 60, 50], [40, 10, 95, 55]],
        "scores": [0.9, 0.5],
        "class_ids": [0, 0],
        "classes": ("person",),
        "size": (100, 60),
        "keypoints": [[[10, 10, 0.9], [10, 40, 0.8], [50, 40, 0.1]], [[50, 20, 1], [60, 20, 1], [90, 20, 1]]],
        "skeleton": ARM,
    }
    return Poses(**{**parts, **changes})


class TestPoses:
    def test_keypoints_by_name(self) -> None:
        found = make()
        assert (found.keypoints.shape, found.keypoints.dtype) == ((2, 3, 3), np.float32)
        assert found.points("left_elbow").tolist() == [[10, 40, np.float32(0.8)], [60, 20, 1]]
        with pytest.raises(UsageError, match="keypoint 'nose' is not one of: left_shoulder, left_elbow, left_wrist"):
            found.points("nose")

    @pytest.mark.parametrize(
        ("keypoints", "says"),
        [
            (np.zeros((2, 4, 3)), "keypoints are 4 per detection, but the skeleton names 3"),
            (np.zeros((1, 3, 3)), r"keypoints must have the shape \(2, any, 3\), one entry per row, not \(1, 3, 3\)"),
            (np.zeros((2, 3, 2)), r"keypoints must have the shape \(2, any, 3\)"),
            (np.zeros((2, 9)), r"keypoints must have the shape \(2, any, 3\).* not \(2, 9\)"),
            (np.full((2, 3, 3), np.nan), "keypoints must be finite numbers, not nan"),
            ([[[1, 2, 3]], [[1, 2]]], "keypoints must be an array of float32, one entry per row: "),
        ],
    )
    def test_what_does_not_fit_is_named(self, keypoints: object, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            make(keypoints=keypoints)

    def test_without_rows(self) -> None:
        nothing = Poses.empty(("person",), (9, 9), skeleton=ARM)
        assert nothing.keypoints.shape == (0, 3, 3)
        assert make()[[]].keypoints.shape == (0, 3, 3)
        assert Poses.from_json(nothing.to_json()) == nothing
        assert nothing.angle(*ARM.names).shape == (0,)
        assert nothing.draw(np.zeros((9, 9, 3), np.uint8)).shape == (9, 9, 3)

    def test_selected_and_compared(self) -> None:
        assert make()[::-1].keypoints.tolist() == make().keypoints[::-1].tolist()
        assert make().filter(score=0.9).keypoints.shape == (1, 3, 3)
        assert make() != make(skeleton=Skeleton(names=("a", "b", "c")))
        assert make() != make(keypoints=make().keypoints + 1)

    @settings(deadline=None)
    @given(st.integers(0, 4), st.integers(1, 5), st.data())
    def test_json_round_trip_loses_nothing(self, count: int, points: int, data: st.DataObject) -> None:
        names = tuple(data.draw(st.lists(st.text(st.characters(codec="utf-8")), min_size=points, max_size=points)))
        positions = st.integers(0, points - 1)
        edges = data.draw(st.lists(st.tuples(positions, positions).filter(lambda pair: pair[0] != pair[1])))
        sigmas = data.draw(st.just(()) | st.tuples(*[st.floats(1e-9, 1e9)] * points))
        ids = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count)
        before = make(
            boxes=data.draw(arrays.arrays(np.float32, (count, 4), elements=WHOLE)),
            scores=data.draw(arrays.arrays(np.float32, count, elements=st.floats(0, 1, width=32))),
            class_ids=[0] * count,
            track_ids=np.array(data.draw(ids), np.int64) if count and data.draw(st.booleans()) else None,
            keypoints=data.draw(arrays.arrays(np.float32, (count, points, 3), elements=WHOLE)),
            skeleton=Skeleton(names=names, edges=tuple(edges), sigmas=tuple(sigmas)),
        )
        assert Poses.from_json(before.to_json()) == before
        assert Poses.from_dict(json.loads(json.dumps(before.to_dict()))) == before
        assert json.loads(json.dumps(before.to_dict())) == before.to_dict(), "plain Python values throughout"
        assert list(before.to_dict()) == ["image", "width", "height", "detections", "skeleton", "classes"]
        assert Poses.from_json(before.to_json(classes=False), ("person",)).skeleton == before.skeleton

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"skeleton": None}, r"Expected `object`, got `null` - at `\$.skeleton`"),
            ({"skeleton": {"names": []}}, "names must name at least one keypoint"),
            ({"skeleton": {"names": ["a"]}}, "keypoints are 3 per detection, but the skeleton names 1"),
            ({"detections": [{"box": [1, 2, 3, 4], "score": 1, "class_id": 0}]}, "a detection without 'keypoints'"),
        ],
    )
    def test_other_documents_are_refused(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Poses.from_dict({**make().to_dict(), **change})

    @pytest.mark.parametrize("points", [[[1, 2]], [1, 2, 3], [[1, 2, "x"]], None])
    def test_other_keypoints_are_refused(self, points: object) -> None:
        document = make().to_dict()
        document["detections"][0]["keypoints"] = points
        with pytest.raises(InputError, match="'keypoints' cannot be read"):
            Poses.from_dict(document)

    def test_a_document_without_a_skeleton(self) -> None:
        document = make().to_dict()
        del document["skeleton"]
        with pytest.raises(InputError, match="missing required field `skeleton`"):
            Poses.from_dict(document)


class TestAngles:
    def test_known_angles(self) -> None:
        assert make().angle(*ARM.names).tolist() == [90, 180]
        assert make().angle("left_elbow", "left_shoulder", "left_elbow").tolist() == [0, 0]

    @settings(deadline=None)
    @given(st.floats(0, 180), st.floats(0, 6.28), st.floats(1, 1e3), st.floats(1, 1e3))
    def test_any_angle_in_any_direction(self, degrees: float, turn: float, one: float, two: float) -> None:
        bend = math.radians(degrees)
        points = [
            [one * math.cos(turn), one * math.sin(turn), 1],
            [0, 0, 1],
            [two * math.cos(turn + bend), two * math.sin(turn + bend), 1],
        ]
        found = make(keypoints=[points, points[::-1]]).angle(*ARM.names)
        assert found == pytest.approx([degrees] * 2, abs=1e-3)

    def test_there_is_never_nan(self) -> None:
        point = [5, 5, 0.5]
        other = [9, 5, 0.2]
        found = make(keypoints=[[point, point, other], [point, other, other]])
        assert found.angle(*ARM.names).tolist() == [-1, -1], "two points in one place"
        assert make().angle(*ARM.names, threshold=0.1).tolist() == [90, 180], "the threshold itself counts"
        assert make().angle(*ARM.names, threshold=0.2).tolist() == [-1, 180]


class TestDrawing:
    def image(self) -> np.ndarray:
        return np.full((60, 100, 3), 200, np.uint8)

    def test_lines_and_points_over_the_threshold(self) -> None:
        drawn = make().draw(self.image(), boxes=False, thickness=3)
        line = drawing.color_of(0)
        assert tuple(drawn[25, 10]) == line, "shoulder to elbow"
        assert (drawn[40, 30] == 200).all(), "the wrist scores 0.1, under the threshold"
        assert tuple(drawn[20, 75]) == line
        assert tuple(drawn[9, 9]) == skeletons.LEFT
        assert tuple(make().draw(self.image(), boxes=False, thickness=3, threshold=0.1)[40, 30]) == line
        assert (make().draw(self.image(), boxes=False, threshold=2) == 200).all()

    def test_boxes_and_labels_too(self) -> None:
        found = make(track_ids=[31, 7])
        assert found._labels(scores=True) == ["person #31 90%", "person #7 50%"]
        drawn = found.draw(self.image(), thickness=1)
        assert tuple(drawn[49, 50]) == drawing.color_of(31), "one colour per track"
        assert tuple(found.draw(self.image(), thickness=1, color_by="class")[49, 50]) == drawing.color_of(0)
        with pytest.raises(UsageError, match="pixels of a 100x60 image, not 100x30"):
            found.draw(self.image()[:30])

    def test_sides_have_their_colours(self) -> None:
        names = ("nose", "left_eye", "right-eye", "Right ear", "leftover")
        skeleton = Skeleton(names=names)
        places = [[[10 + 18 * i, 30, 1] for i in range(5)]]
        drawn = drawing.draw_skeletons(self.image(), np.array(places, np.float32), skeleton, [0], thickness=2)
        colors = [tuple(drawn[30, 10 + 18 * i].tolist()) for i in range(5)]
        middle, left, right = skeletons.MIDDLE, skeletons.LEFT, skeletons.RIGHT
        assert colors == [middle, left, right, right, middle]

    @settings(deadline=None)
    @given(arrays.arrays(np.float32, (2, 3, 3), elements=st.floats(-(2.0**120), 2.0**120, width=32)))
    def test_any_place_can_be_drawn(self, keypoints: np.ndarray) -> None:
        assert make(keypoints=keypoints).draw(self.image()).shape == (60, 100, 3)

    def test_points_outside_leave_the_image_alone(self) -> None:
        found = make(keypoints=np.full((2, 3, 3), 1e30, np.float32))
        assert (found.draw(self.image(), boxes=False, threshold=0) == 200).all()

    def test_far_away_points_keep_their_direction(self) -> None:
        """Where they overflowed OpenCV's integers, the line would go to the left."""
        found = make(keypoints=[[[50, 30, 1], [3e38, 30, 1], [0, 0, 0]]] * 2)
        drawn = found.draw(self.image(), boxes=False, thickness=1)
        assert (drawn[28:32, 90:] != 200).any(axis=(0, 2)).all(), "up to the right edge"
        assert (drawn[:, :40] == 200).all()


class TestTrackIds:
    def tracked(self) -> Detections:
        return Detections(
            boxes=[[0, 0, 9, 9], [1, 1, 5, 5]],
            scores=[0.9, 0.8],
            class_ids=[0, 1],
            track_ids=[7, 2**53 + 1],
            classes=("a", "b"),
            size=(20, 10),
        )

    def test_rows_selection_and_json(self) -> None:
        found = self.tracked()
        assert list(found)[1] == Detection((1, 1, 5, 5), pytest.approx(0.8), 1, "b", 2**53 + 1)
        assert next(iter(make())).track_id is None
        assert found[1].track_ids.tolist() == [2**53 + 1]  # type: ignore[union-attr]
        assert found.to_dict()["detections"][0]["track_id"] == 7
        assert Detections.from_json(found.to_json()) == found
        assert Detections.empty(("a",), (1, 1)).track_ids is None

    @pytest.mark.parametrize("track_ids", [[1], [[1, 2]], [None, 1], ["a", "b"], [2**64, 1], 5])
    def test_other_ids_are_refused(self, track_ids: object) -> None:
        with pytest.raises(UsageError, match="track_ids must"):
            make(track_ids=track_ids)

    @pytest.mark.parametrize("track_id", [1.5, "7", None, True, 2**64])
    def test_other_ids_in_documents_are_refused(self, track_id: object) -> None:
        document = self.tracked().to_dict()
        for row in document["detections"]:
            row["track_id"] = track_id
        with pytest.raises(InputError, match="'track_id' cannot be read"):
            Detections.from_dict(document)

    def test_ids_of_some_rows_only(self) -> None:
        document = self.tracked().to_dict()
        del document["detections"][1]["track_id"]
        with pytest.raises(InputError, match="a detection without 'track_id'"):
            Detections.from_dict(document)

    def test_colours(self) -> None:
        image = np.zeros((10, 20, 3), np.uint8)
        found = self.tracked()[0]
        assert tuple(found.draw(image, labels=False, thickness=1)[8, 0]) == drawing.color_of(7)
        assert tuple(found.draw(image, labels=False, thickness=1, color_by="class")[8, 0]) == drawing.color_of(0)
        with pytest.raises(UsageError, match="color_by='track' needs track ids; these detections have none"):
            make().draw(np.zeros((60, 100, 3), np.uint8), color_by="track")
        with pytest.raises(UsageError, match="color_by 'hue' is not one of: class, track"):
            found.draw(image, color_by="hue")  # type: ignore[arg-type]

    def test_supervision(self) -> None:
        pytest.importorskip("supervision", reason="needs the optional package supervision")
        assert self.tracked().to_supervision().tracker_id.tolist() == [7, 2**53 + 1]
        other = make().to_supervision()
        assert other.tracker_id is None
        assert other[1:].data["keypoints"].tolist() == make().keypoints[1:, :, :2].tolist()
        assert other.data["keypoint_scores"].tolist() == make().keypoints[..., 2].tolist()


class TestCrops:
    def image(self) -> np.ndarray:
        return np.arange(60 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 100, 3)

    def test_every_pixel_the_box_touches(self) -> None:
        image = self.image()
        first, second = make(boxes=[[5, 5, 60, 50], [40.2, 9.9, 200, 10.1]]).crop(image)
        assert np.array_equal(first, image[5:50, 5:60])
        assert np.array_equal(second, image[9:11, 40:100])
        first[:] = 0
        assert np.array_equal(image, self.image()), "the crops are copies"

    def test_margin(self) -> None:
        image = self.image()
        first, second = make(boxes=[[20, 20, 40, 30], [0, 0, 10, 10]]).crop(image, margin=0.5)
        assert np.array_equal(first, image[15:35, 10:50])
        assert np.array_equal(second, image[:15, :15])

    def test_boxes_without_pixels(self) -> None:
        crops = make(boxes=[[200, 5, 210, 10], [30, 30, 20, 40]]).crop(self.image())
        assert [crop.size for crop in crops] == [0, 0]

    def test_refused(self) -> None:
        with pytest.raises(UsageError, match=r"margin must be at least 0, .* not -0.1"):
            make().crop(self.image(), margin=-0.1)
        with pytest.raises(UsageError, match="pixels of a 100x60 image, not 50x60"):
            make().crop(self.image()[:, :50])
        with pytest.raises(InputError, match="must be uint8"):
            make().crop(np.zeros((60, 100), np.uint8))


class TestCoco:
    def test_rows(self) -> None:
        (first, second) = make().to_coco(42)
        assert first == {
            "image_id": 42,
            "category_id": 0,
            "bbox": [5.0, 5.0, 55.0, 45.0],
            "score": pytest.approx(0.9),
            "keypoints": pytest.approx([10, 10, 0.9, 10, 40, 0.8, 50, 40, 0.1]),
        }
        assert second["bbox"] == [40.0, 10.0, 55.0, 45.0]
        assert json.loads(json.dumps(first)) == first

    def test_categories(self) -> None:
        assert [row["category_id"] for row in make().to_coco(1, category_ids=[17])] == [17, 17]
        assert make().to_coco(1, category_ids=[None]) == [], "a class the file does not have is left out"
        with pytest.raises(UsageError, match="category_ids must have one for each of the 1 classes, not 2"):
            make().to_coco(1, category_ids=[1, 2])

    def test_real_annotations_score_one(self, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The truth itself as a result: boxes and keypoints reach an average precision of 1."""
        coco = pytest.importorskip("pycocotools.coco", reason="the oracle is pycocotools")
        from pycocotools.cocoeval import COCOeval

        file = shared_data / "pose" / "person_keypoints.json"
        truth = coco.COCO(str(file))
        for kind in ("bbox", "keypoints"):
            evaluation = COCOeval(truth, truth.loadRes(self.true_rows(truth, kind)), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1.0), capsys.readouterr().out

    def true_rows(self, truth: Any, kind: str) -> list[dict[str, Any]]:
        """The people of an annotations file (those with keypoints, where these are scored) as rows of results."""
        from edgekit.runtimes.tasks.skeletons import COCO

        rows = []
        for image in truth.loadImgs(truth.getImgIds()):
            people = truth.loadAnns(truth.getAnnIds(image["id"], iscrowd=False))
            people = [person for person in people if person["num_keypoints"] or kind == "bbox"]
            corners = np.array([person["bbox"] for person in people], np.float32).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            found = Poses(
                boxes=corners,
                scores=np.ones(len(people)),
                class_ids=[0] * len(people),
                classes=("person",),
                size=(image["width"], image["height"]),
                keypoints=np.array([person["keypoints"] for person in people]).reshape(-1, 17, 3),
                skeleton=COCO,
            )
            rows += found.to_coco(image["id"], category_ids=[1])
        return rows

    def test_the_skeleton_on_a_photograph(self, shared_data: Path) -> None:
        image = cv2.imread(str(next((shared_data / "pose").glob("*.jpg"))))
        height, width = image.shape[:2]
        found = make(size=(width, height), keypoints=make().keypoints * (3, 3, 1))
        assert (found.draw(image) != image).any()


def test_no_poses_export_as_none() -> None:
    from edgekit.runtimes.tasks.skeletons import COCO

    assert Poses.empty(("person",), (10, 10), skeleton=COCO).to_coco(1) == []
