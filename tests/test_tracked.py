"""Tracking on a model: the demo detector on moving shapes, against their true ids."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.arrays import Floats
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import Contract, ImageRule
from edgekit.runtimes.inputs.media import SourceFrame
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections, Poses
from edgekit.runtimes.tasks.similarity import box_iou
from edgekit.runtimes.track import discarded, follow, tracker_of
from edgekit.runtimes.tracking import open_tracker, trackers
from edgekit.runtimes.tracking.fitting import fitted
from edgekit.shapes.motion import moving_scene

torch = pytest.importorskip("torch", reason="the demo detector runs in torch (extra 'convert')")
SEED, FRAMES, FPS = 10, 45, 15.0


@pytest.fixture(scope="module")
def model() -> Model:
    from edgekit.shapes.trained import detector
    from edgekit.sources.session import TorchSession

    torch.set_num_threads(2)
    network: Any = detector()
    return Model(network.contract, TorchSession(network))


@pytest.fixture(scope="module")
def scenes() -> list[Any]:
    return list(moving_scene(SEED, FRAMES, FPS))


def frames(scenes: list[Any], fps: float | None = FPS) -> list[SourceFrame]:
    return [
        SourceFrame(scene.image, f"film#{number}", number, None if fps is None else number / fps)
        for number, scene in enumerate(scenes)
    ]


def ids_of_truth(scenes: list[Any], results: list[Detections]) -> dict[int, list[int]]:
    """Per true object that can be seen well, the ids it was given, frame by frame."""
    given: dict[int, list[int]] = defaultdict(list)
    for scene, result in zip(scenes, results, strict=True):
        clear = [one for one in scene.objects if one.visibility > 0.8 and (one.box[2:] - one.box[:2]).min() > 16]
        if not clear or not len(result):
            continue
        assert result.track_ids is not None
        overlap = box_iou(np.stack([one.box for one in clear]), result.boxes)
        for row, one in enumerate(clear):
            best = int(overlap[row].argmax())
            if overlap[row, best] > 0.5:
                given[one.track_id].append(int(result.track_ids[best]))
    return given


@pytest.mark.parametrize("name", ["botsort", "bytetrack", "ocsort"])
def test_shapes_keep_their_ids(name: str, model: Model, scenes: list[Any]) -> None:
    results = [result for _, result in follow(model, frames(scenes), open_tracker(name))]
    assert len(results) == FRAMES
    given = ids_of_truth(scenes, results)
    long = {track: ids for track, ids in given.items() if len(ids) >= 10}
    assert len(long) == 5
    assert {track: sorted(set(ids)) for track, ids in long.items() if len(set(ids)) > 1} == {}
    assert len({ids[0] for ids in long.values()}) == len(long), "no two objects share one"
    assert results[10].source == "film#10"
    assert results[10].time == pytest.approx(10 / FPS)


def test_frames_between_are_predicted(model: Model, scenes: list[Any]) -> None:
    calls: list[Floats] = []
    run = model.session.run
    counted: Any = lambda inputs: (calls.append(inputs[0]), run(inputs))[1]  # noqa: E731
    model.session.run = counted  # type: ignore[method-assign]
    try:
        results = [result for _, result in follow(model, frames(scenes), open_tracker("bytetrack"), every=3)]
    finally:
        model.session.run = run  # type: ignore[method-assign]
    assert len(calls) == FRAMES // 3
    assert len(results) == FRAMES
    between = [results[number] for number in range(20, 40) if number % 3]
    assert all(len(result) for result in between)
    given = ids_of_truth(scenes, results)
    assert sum(len(set(ids)) == 1 for ids in given.values() if len(ids) >= 10) >= 3


def test_frames_without_a_time_are_counted(model: Model, scenes: list[Any]) -> None:
    known = [result for _, result in follow(model, frames(scenes), open_tracker("bytetrack"))]
    counted = [result for _, result in follow(model, frames(scenes, None), open_tracker("bytetrack"), fps=FPS)]
    assert [one.to_dict()["detections"] for one in known] == [one.to_dict()["detections"] for one in counted]


def test_model_track_opens_what_media_opens(model: Model, scenes: list[Any]) -> None:
    stack = np.stack([scene.image for scene in scenes])
    results = list(model.track(stack, "ocsort", fps=FPS, min_score=0.5))
    assert len(results) == FRAMES
    assert all(result.track_ids is not None for result in results)
    assert results[20].to_dict()["detections"][0]["track_id"] >= 1
    again = list(model.track(stack, open_tracker("ocsort", min_score=0.5), fps=FPS))
    assert [one.to_dict()["detections"] for one in again] == [one.to_dict()["detections"] for one in results]


def test_weak_detections_keep_known_tracks(model: Model, scenes: list[Any]) -> None:
    """ByteTrack asks for weaker detections than a detector usually gives; its results do not show them as new ones."""
    tracker = open_tracker("bytetrack")
    assert tracker.least_score < model.contract.postprocess.score
    for _, result in follow(model, frames(scenes)[:5], tracker):
        assert len(set(result.track_ids.tolist())) == len(result)  # type: ignore[union-attr]


def test_wrong_wishes(model: Model) -> None:
    empty = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(UsageError, match="tracker 'byte' is not one of: botsort, bytetrack, ocsort, sort"):
        model.track_with_images(empty, "byte")
    with pytest.raises(UsageError, match="option 'speed' is not one of: "):
        model.track_with_images(empty, "sort", speed=3)
    with pytest.raises(UsageError, match="lost_seconds: options go with the name of a tracker"):
        tracker_of(open_tracker("sort"), {"lost_seconds": 1}, Contract(image=ImageRule(size=(8, 8))))
    with pytest.raises(UsageError, match="every must be at least 1, not 0"):
        list(model.track(empty, every=0))
    with pytest.raises(UsageError, match="fps must be positive, not -5"):
        list(model.track(empty, fps=-5))


class TestScoresOfTheModel:
    """Thresholds that fit a detector with other scores than the papers'."""

    def test_three_of_four_may_begin_a_track(self) -> None:
        scores = np.linspace(0.4, 0.7, 200, dtype=np.float32)
        options = fitted(scores, 0.3)
        assert options == {"new_score": 0.47, "high_score": 0.37, "min_score": 0.47}
        assert (scores >= options["new_score"]).mean() == pytest.approx(0.75, abs=0.03)
        for name in ("bytetrack", "botsort", "sort", "ocsort"):
            known = {key: value for key, value in options.items() if key in trackers()[name].Options.__struct_fields__}
            assert open_tracker(name, **known).least_score <= 0.47
        assert fitted(np.linspace(0.1, 0.3, 50, dtype=np.float32), 0.1)["low_score"] < 0.1

    def test_the_papers_stay_where_they_fit_or_nothing_is_known(self) -> None:
        assert fitted(np.full(200, 0.9, np.float32), 0.3) == {}
        assert fitted(np.full(5, 0.4, np.float32), 0.3) == {}
        assert fitted(np.full(200, 0.2, np.float32), 0.3) == {}, "they do not count as detections"

    def test_a_contracts_options_are_taken_unless_others_are_given(self) -> None:
        contract = Contract(image=ImageRule(size=(8, 8)), tracker_options={"high_score": 0.3, "new_score": 0.4})
        assert tracker_of("bytetrack", {}, contract).options.new_score == 0.4  # type: ignore[attr-defined]
        assert tracker_of("bytetrack", {"new_score": 0.9}, contract).options.new_score == 0.9  # type: ignore[attr-defined]
        assert tracker_of("sort", {}, contract).options.min_score == 0.5  # type: ignore[attr-defined]

    def test_most_detections_discarded_is_said_with_what_helps(self) -> None:
        weak = stream(0.4, 0.6)
        text, options = discarded(weak, "bytetrack", 0.25)
        assert text == (
            "15.0 found per frame, 0.0 tracked: 150 of 150 detections scored under bytetrack's new_score, 0.7"
        )
        assert options == {"new_score": 0.43, "high_score": 0.33}
        assert discarded(stream(0.4, 0.6, **options), "bytetrack", 0.25) == ("", {})
        assert discarded(stream(0.8, 0.95), "bytetrack", 0.25) == ("", {})


SKELETON = edgekit.Skeleton(names=("head", "tail"), edges=((0, 1),), sigmas=(0.1, 0.2))


class Found:
    """A model that finds a person at a place that jitters, with or without keypoints."""

    def __init__(self, kind: type[Detections]) -> None:
        self.contract = Contract(image=ImageRule(size=(8, 8)))
        self.kind, self.boxes, self.rng = kind, list[Floats](), np.random.default_rng(0)

    def predict(self, image: Any, **_: Any) -> Detections:
        box = np.float32([[100, 50, 180, 230]]) + self.rng.normal(0, 4, (1, 4)).astype(np.float32)
        self.boxes.append(box)
        given: dict[str, Any] = (
            {} if self.kind is Detections else {"keypoints": np.zeros((1, 2, 3), np.float32), "skeleton": SKELETON}
        )
        return self.kind(
            boxes=box, scores=np.float32([0.9]), class_ids=np.zeros(1, np.int64), track_ids=None, classes=("person",),
            size=(320, 240), **given,
        )  # fmt: skip


@pytest.mark.parametrize("kind", [Detections, Poses])
def test_plain_boxes_are_the_trackers_and_those_of_keypoints_are_as_found(kind: type[Detections]) -> None:
    model, picture = Found(kind), np.zeros((240, 320, 3), np.uint8)
    film = [SourceFrame(picture, f"film#{number}", number, number / 25) for number in range(30)]
    shown = np.concatenate([result.boxes for _, result in follow(model, film, open_tracker("bytetrack"))])
    found = np.concatenate(model.boxes)
    assert np.array_equal(shown, found) == (kind is Poses)
    if kind is Detections:
        assert shown[10:].std(0).mean() < 0.85 * found[10:].std(0).mean()
    model = Found(kind)
    own = [result.boxes for _, result in follow(model, film, open_tracker("bytetrack", boxes="detection"))]
    assert np.array_equal(np.concatenate(own), np.concatenate(model.boxes))


def stream(low: float, high: float, **options: float) -> Any:
    """A tracker after ten frames of fifteen boxes that stand still, their scores from low to high."""
    tracker = open_tracker("bytetrack", **options)
    corner = np.arange(15) * 30
    boxes = np.stack([corner, corner, corner + 20, corner + 20], 1)
    for number in range(10):
        scores = np.linspace(low, high, 15)
        tracker.update(boxes, scores, np.zeros(15, int), time=number / 10)
    return tracker
