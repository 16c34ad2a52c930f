"""A detector and a pose model as one, and poses without jitter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.people import source_of
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.arrays import Floats
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Skeleton
from edgekit.runtimes.engines import Placement
from edgekit.runtimes.inputs.media import read_image
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections, Poses
from edgekit.runtimes.smoothing import OneEuro
from edgekit.runtimes.tasks.similarity import keypoint_similarity
from edgekit.runtimes.tasks.skeletons import COCO
from edgekit.runtimes.top_down import TopDown

CORNERS = Skeleton(names=("left top", "right bottom"), sigmas=(0.05, 0.05))


class Corners:
    """A pose network that a test can see through: it finds the first and the last pixel that is bright red."""

    placement = Placement("cpu")

    def run(self, inputs: Any) -> list[Floats]:
        red = (inputs[0][0, 0] > 0.8) & (inputs[0][0, 1] < 0.2)
        y, x = np.nonzero(red)
        height, width = red.shape
        points = [[x.min() / width, y.min() / height, 0.9], [(x.max() + 1) / width, (y.max() + 1) / height, 0.9]]
        return [np.array([points], np.float32)]


class Boxes:
    """A detector that says what it was told."""

    placement = Placement("cpu")

    def __init__(self, rows: Any) -> None:
        self.rows = np.array([rows], np.float32).reshape(1, -1, 6)

    def run(self, inputs: Any) -> list[Floats]:
        return [self.rows]


def models(rows: Any, classes: tuple[str, ...] = ("person", "dog"), size: tuple[int, int] = (128, 96)) -> Any:
    output = (Output(name="predictions", role="predictions"),)
    boxes = Contract(
        image=ImageRule(size=(200, 300)),
        classes=classes,
        decoder=Decoder(name="decoded", options={"layout": "detections", "box_format": "xyxy"}),
        outputs=output,
    )
    pose = Contract(
        task="pose",
        image=ImageRule(size=size),
        classes=("person",),
        decoder=Decoder(name="keypoints"),
        outputs=output,
        skeleton=CORNERS,
    )
    return Model(boxes, Boxes(rows)), Model(pose, Corners())


def painted(*boxes: tuple[int, int, int, int]) -> Any:
    image = np.zeros((200, 300, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = (0, 0, 255)
    return image


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200), st.integers(0, 120), st.integers(20, 90), st.integers(20, 70))
def test_keypoints_come_back_to_where_they_are(left: int, top: int, width: int, height: int) -> None:
    """Whatever the box, also at the border: the part is grown to the network's shape, never stretched."""
    box = (left, top, min(left + width, 300), min(top + height, 200))
    found = TopDown(*models([[*box, 0.8, 0]]))(painted(box))
    assert isinstance(found, Poses)
    # A pixel of the network's input is up to 1.4 pixels of this image.
    np.testing.assert_allclose(found.keypoints[0, :, :2].ravel(), box, atol=1.6)
    np.testing.assert_allclose(found.boxes[0], box, atol=1e-3)
    assert found.scores[0] == pytest.approx(0.8 * 0.9)
    assert found.timings is not None


def test_only_people_are_looked_at_and_doubles_dropped() -> None:
    one, other = (20, 30, 60, 110), (150, 40, 200, 120)
    rows = [[*one, 0.9, 0], [*one, 0.8, 1], [22, 28, 61, 112, 0.6, 0], [*other, 0.7, 0]]
    detector, pose = models(rows)
    image = painted(one, other)
    found = TopDown(detector, pose)(image, iou=0.99)
    assert [round(float(box[0])) for box in found.boxes] == [20, 150]
    assert len(TopDown(detector, pose, double=1.0)(image, iou=0.99)) == 3
    assert len(TopDown(detector, pose, classes=["dog"])(image, iou=0.99)) == 1
    assert len(TopDown(detector, pose)(image, score=0.95)) == 0


def test_on_a_stack_and_with_track_ids() -> None:
    one = (20, 30, 60, 110)
    both = edgekit.pipeline(*models([[*one, 0.9, 0]]))
    image = painted(one)
    results = list(both.stream(np.stack([image, image])))
    assert [result.source for result in results] == ["array#0", "array#1"]
    found = Detections(
        boxes=[one], scores=[0.9], class_ids=[0], classes=("person",), size=(300, 200), track_ids=[7], time=1.5
    )
    poses = both.on_boxes(image, found)
    assert poses.track_ids is not None
    assert (poses.track_ids.tolist(), poses.time) == ([7], 1.5)


def people_in_boxes(shared_data: Path) -> TopDown:
    """MoveNet in PyTorch, behind a detector that finds nothing: for boxes that are given."""
    pytest.importorskip("torch", reason="the program runs in torch (extra 'convert')")
    return TopDown(models([])[0], source_of(shared_data / "models" / "movenet_lightning.pt2", "movenet"))


def person(box: Sequence[float], image: np.ndarray) -> Detections:
    """One person whose box x, y, width, height is annotated."""
    x, y, width, height = box
    return Detections(
        boxes=[[x, y, x + width, y + height]],
        scores=[1],
        class_ids=[0],
        classes=("person",),
        size=(image.shape[1], image.shape[0]),
    )


def annotated_people(shared_data: Path, both: TopDown) -> Iterator[float]:
    """OKS of every well annotated person of four COCO photographs, found in the annotated box."""
    truth = json.loads((shared_data / "pose" / "person_keypoints.json").read_text())
    for entry in truth["images"]:
        image = read_image(shared_data / "pose" / entry["file_name"])
        people = [one for one in truth["annotations"] if one["image_id"] == entry["id"] and one["num_keypoints"] > 8]
        for one in people:
            pose = both.on_boxes(image, person(one["bbox"], image))
            points = np.array(one["keypoints"], np.float32).reshape(1, 17, 3)
            seen = points[0, :, 2] > 0
            areas = np.array([one["area"]], np.float32)
            sigmas = np.array(COCO.sigmas)[seen].tolist()
            yield float(keypoint_similarity(points[:, seen], pose.keypoints[:, seen], areas, sigmas)[0, 0])


def test_real_people_on_photographs(shared_data: Path) -> None:
    """MoveNet on the annotated boxes of four COCO photographs, against the annotated keypoints."""
    values = list(annotated_people(shared_data, people_in_boxes(shared_data)))
    assert len(values) >= 5
    assert np.mean(values) > 0.6


def test_crops_are_what_the_pose_model_sees() -> None:
    one = (20, 30, 60, 110)
    both = edgekit.pipeline(*models([[*one, 0.9, 0]]))
    image = painted(one)
    (crop,) = both.crops(image, both.detector.predict(image))
    assert crop.shape == (*both.pose.contract.image.size, 3)
    assert crop.dtype == np.uint8
    # The box of 40 x 80 pixels, a quarter larger and then as wide as the input's shape: 75 x 100, shown as 96 x 128.
    rows, columns = np.nonzero(crop[..., 2] > 128)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (pytest.approx(40 * 1.28, abs=1), pytest.approx(80 * 1.28, abs=1))
    assert (columns.mean(), rows.mean()) == (pytest.approx(47.5, abs=1), pytest.approx(63.5, abs=1))
    assert both.crops(image, both.detector.predict(np.zeros_like(image), score=0.99)) == []


def test_models_that_do_not_go_together() -> None:
    detector, pose = models([])
    with pytest.raises(UsageError, match="the second model must be one of poses, not of the task 'detect'"):
        TopDown(detector, detector)
    with pytest.raises(UsageError, match="the first model must find boxes, not be one of the task 'pose'"):
        TopDown(pose, pose)
    with pytest.raises(UsageError, match="class 'cat' is not one of: person, dog"):
        TopDown(detector, pose, classes=["cat"])
    with pytest.raises(UsageError, match=r"margin must be at least 1, not 0\.5"):
        TopDown(detector, pose, margin=0.5)


# --- smoothing ---


def poses(points: Any, time: float | None, ids: Any = (1,)) -> Poses:
    array = np.concatenate([np.asarray(points, np.float32), np.ones((len(points), 2, 1), np.float32)], 2)
    return Poses(
        boxes=[[0, 0, 100, 100]] * len(array),
        scores=[1.0] * len(array),
        class_ids=[0] * len(array),
        classes=("person",),
        size=(300, 200),
        track_ids=None if ids is None else list(ids),
        time=time,
        keypoints=array,
        skeleton=CORNERS,
    )


def test_jitter_goes_and_movement_stays() -> None:
    random = np.random.default_rng(1)
    still, moving = OneEuro(), OneEuro()
    errors, raw, lag = [], [], []
    for frame in range(120):
        noise = random.normal(0, 2, (1, 2, 2))
        found = still(poses(np.full((1, 2, 2), 50.0) + noise, frame / 30))
        place = np.full((1, 2, 2), 50.0 + 8 * frame)  # 240 pixels/s, 2.4 sizes/s
        followed = moving(poses(place, frame / 30))
        if frame > 30:
            errors.append(np.abs(found.keypoints[..., :2] - 50).mean())
            raw.append(np.abs(noise).mean())
            lag.append(np.abs(followed.keypoints[..., :2] - place).max())
    assert np.mean(errors) < 0.5 * np.mean(raw)
    assert max(lag) < 10, "a box of 100 pixels is left behind by at most a tenth of its size"


def test_the_rate_of_frames_does_not_matter() -> None:
    ends = []
    for rate in (10, 30, 60):
        smooth = OneEuro(beta=0)
        for frame in range(2 * rate + 1):
            found = smooth(poses(np.full((1, 2, 2), 100.0 if frame else 0.0), frame / rate))
        ends.append(float(found.keypoints[0, 0, 0]))
    assert max(ends) - min(ends) < 0.2
    assert ends[0] > 99


def test_each_track_is_smoothed_by_itself_and_forgotten() -> None:
    smooth = OneEuro(forget_seconds=0.5)
    smooth(poses([[[0, 0], [0, 0]], [[100, 100], [100, 100]]], 0.0, (1, 2)))
    found = smooth(poses([[[100, 100], [100, 100]], [[0, 0], [0, 0]]], 0.1, (2, 1)))
    np.testing.assert_array_equal(found.keypoints[0, :, :2], 100)
    np.testing.assert_array_equal(found.keypoints[1, :, :2], 0)
    back = smooth(poses([[[50, 50], [50, 50]]], 0.7, (1,)))
    np.testing.assert_array_equal(back.keypoints[0, :, :2], 50)
    assert back.scores.tolist() == [1.0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cutoff": 0}, "cutoff must be positive, not 0"),
        ({"speed_cutoff": -1}, "speed_cutoff must be positive, not -1"),
        ({"forget_seconds": 0}, "forget_seconds must be positive, not 0"),
        ({"beta": -1}, "beta must be 0 or more, not -1"),
    ],
)
def test_wrong_options_of_smoothing(wrong: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OneEuro(**wrong)


def test_smoothing_needs_ids_and_times() -> None:
    for without in (poses(np.zeros((1, 2, 2)), None), poses(np.zeros((1, 2, 2)), 1.0, None)):
        with pytest.raises(UsageError, match="smoothing needs track ids and the time of the frame"):
            OneEuro()(without)
