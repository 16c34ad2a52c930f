"""Trackers: ids hold through crossings, occlusion, misses and false positives, at any frame rate; refusals in words."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_boxes import DURATION, Street, follow

import edgekit.tracking
from edgekit.errors import UsageError
from edgekit.runtimes.tracking import State, Tracker, open_tracker, tracker_names
from edgekit.runtimes.tracking.bytetrack import ByteTrack
from edgekit.runtimes.tracking.ocsort import OCSort
from edgekit.runtimes.tracking.sort import Sort
from edgekit.shapes import moving_scene

EVERY = ("botsort", "bytetrack", "ocsort", "sort")
every_tracker = pytest.mark.parametrize("name", EVERY)


def box(x: float, y: float = 100.0, width: float = 60.0, height: float = 120.0) -> list[float]:
    return [x, y, x + width, y + height]


def one(tracker: Tracker, time: float, x: float | None, score: float = 0.9, class_id: int = 0) -> Any:
    """Update with one box, or with none."""
    if x is None:
        return tracker.update([], [], [], time=time)
    return tracker.update([box(x)], [score], [class_id], time=time)


# --- ids hold ---------------------------------------------------------------------------------------------------------


@every_tracker
@pytest.mark.parametrize("fps", [5, 10, 25, 60])
def test_every_object_keeps_one_id_at_any_frame_rate(name: str, fps: int) -> None:
    street = Street()
    found = follow(open_tracker(name), (street.at(k / fps) for k in range(int(DURATION * fps))))
    assert found.ids == {truth: found.ids[truth] for truth in range(street.count)}
    assert all(len(ids) == 1 for ids in found.ids.values())
    assert found.count == street.count
    lost = {int(i) for tracks in found.frames for i in tracks.track_ids[tracks.states == State.LOST]}
    assert lost, "the scene hides some of them, else this shows nothing"


@every_tracker
@pytest.mark.parametrize("seed", range(3))
def test_frame_rates_that_vary_and_frames_that_are_dropped_change_nothing(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.concatenate([[0.0], np.cumsum(rng.choice([1 / 60, 1 / 30, 1 / 10, 0.25], 400))])
    street = Street(seed=seed)
    found = follow(open_tracker(name), (street.at(time) for time in times[times < DURATION]))
    assert {truth: len(ids) for truth, ids in found.ids.items()} == dict.fromkeys(range(street.count), 1)
    assert found.count == street.count


def test_shapes_that_sway_and_hide_one_another_keep_their_ids() -> None:
    """Ten scenes of crossing shapes: an id each, a second one only after more than the second that tracks live unseen.

    In scene 4 eight shapes cross in one place and two of them change ids besides.
    """
    surplus = {}
    for seed in range(10):
        tracker, ids, frames = ByteTrack(), dict[int, set[int]](), dict[int, list[int]]()
        for found in moving_scene(seed, frames=60, fps=15.0):
            shown = [item for item in found.objects if item.visibility > 0.3]
            boxes = np.array([item.box for item in shown], np.float32).reshape(-1, 4)
            scores, kinds = np.full(len(shown), 0.9), np.array([item.class_id for item in shown], np.int64)
            seen = tracker.update(boxes, scores, kinds, time=found.frame / 15.0).visible
            for track_id, row in zip(seen.track_ids.tolist(), seen.detections.tolist(), strict=True):
                ids.setdefault(shown[row].track_id, set()).add(track_id)
                frames.setdefault(shown[row].track_id, []).append(found.frame)
        assert sum(map(len, ids.values())) == len(set.union(*ids.values())), "two shapes share an id"
        for shape, given_ids in ids.items():
            surplus[seed] = surplus.get(seed, 0) + len(given_ids) - 1 - int((np.diff(frames[shape]) >= 15).sum())
    assert surplus == {**dict.fromkeys(range(10), 0), 4: 2}


def test_streams_never_mix() -> None:
    first, second = Street(seed=1), Street(seed=2, pairs=2)
    times = [k / 25 for k in range(100)]
    alone = [follow(ByteTrack(), (street.at(time) for time in times)) for street in (first, second)]
    trackers = ByteTrack(), ByteTrack()
    for k, time in enumerate(times):
        for side, street in enumerate((first, second)):
            frame = street.at(time)
            tracks = trackers[side].update(frame.boxes, frame.scores, frame.class_ids, time=time)
            assert np.array_equal(tracks.track_ids, alone[side].frames[k].track_ids)
            assert np.array_equal(tracks.boxes, alone[side].frames[k].boxes)


@every_tracker
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), order=st.integers(0, 2**32 - 1))
def test_the_order_of_detections_does_not_matter(name: str, seed: int, order: int) -> None:
    street, rng = Street(seed=seed, pairs=3), np.random.default_rng(order)
    plain, mixed = open_tracker(name), open_tracker(name)
    for k in range(30):
        frame = street.at(2 + k / 10)
        scores = np.round(frame.scores, 1)  # with ties
        shuffle = rng.permutation(len(scores))
        expected = plain.update(frame.boxes, scores, frame.class_ids, time=frame.time)
        got = mixed.update(frame.boxes[shuffle], scores[shuffle], frame.class_ids[shuffle], time=frame.time)
        assert np.array_equal(got.track_ids, expected.track_ids)
        assert np.array_equal(got.boxes, expected.boxes)
        seen = got.detections >= 0
        assert np.array_equal(shuffle[got.detections[seen]], expected.detections[seen])


# --- what each tracker adds -------------------------------------------------------------------------------------------


def faint(tracker: Tracker) -> set[int]:
    """Ids of an object that is only weakly detected for 1.5 s, while it walks on and speeds up."""
    ids: set[int] = set()
    for k in range(75):
        x = 100 + 3 * k + 0.02 * k * k
        weak = 20 <= k < 58
        ids |= set(one(tracker, k / 25, x, 0.3 if weak else 0.9).visible.track_ids.tolist())
    return ids


def test_weak_detections_hold_a_track_in_sight() -> None:
    assert faint(ByteTrack()) == {1}
    # Negative control: without the second association the track is lost for longer than it may be.
    assert faint(ByteTrack(low_score=0.6)) == {1, 2}
    assert faint(Sort()) == {1, 2}


def test_a_weak_detection_begins_no_track_and_finds_a_lost_one_where_it_is_expected() -> None:
    tracker = ByteTrack()
    for k in range(10):
        assert len(one(tracker, k / 25, 100.0, 0.4)) == 0
    for k in range(10, 15):
        assert len(one(tracker, k / 25, 100.0, 0.65)) == 0  # high, but not enough for a new track
    one(tracker, 0.7, 100.0, 0.9)
    assert one(tracker, 0.8, 100.0, 0.65).visible.track_ids.tolist() == [1]
    assert one(tracker, 0.9, None).states.tolist() == [State.LOST]
    assert one(tracker, 1.0, 140.0, 0.4).states.tolist() == [State.LOST]  # an IoU of 0.2
    assert one(tracker, 1.1, 100.0, 0.4).refound.tolist() == [True]


def hidden_and_stopped(tracker: Tracker) -> set[int]:
    """Ids of an object that runs, is hidden for 0.8 s and has stopped meanwhile."""
    ids: set[int] = set()
    for k in range(60):
        x = 100.0 + 10 * min(k, 20)
        ids |= set(one(tracker, k / 25, None if 21 <= k < 41 else x).visible.track_ids.tolist())
    return ids


def test_oc_sort_finds_what_stayed_where_it_was_last_seen() -> None:
    assert hidden_and_stopped(OCSort()) == {1}
    assert hidden_and_stopped(Sort()) == {1, 2}  # negative control: its filter ran on


@pytest.mark.parametrize(("before", "after", "unseen"), [(5.0, -1.5, 8), (2.0, -1.0, 15), (3.0, -0.5, 12)])
def test_oc_sort_unlearns_what_it_made_up_while_blind(before: float, after: float, unseen: int) -> None:
    """An object that turned while hidden: once found, OC-SORT takes it to be where it is, SORT still half elsewhere."""
    errors = {}
    for kind in (OCSort, Sort):
        tracker, now = kind(min_iou=0.001), (20 + unseen) / 25
        for k in range(21):
            one(tracker, k / 25, 100 + before * k)
        for k in range(21, 20 + unseen):
            one(tracker, k / 25, None)
        x = 100 + 20 * before + after * unseen
        tracks = one(tracker, now, x)
        assert tracks.refound.tolist() == [True]
        assert tracks.gaps[0] == pytest.approx(unseen / 25)
        errors[kind] = abs(float(tracker.predict(now).boxes[0, 0]) - x)
    assert errors[OCSort] < 0.75 * errors[Sort]


def test_oc_sort_prefers_what_lies_ahead() -> None:
    """Two candidates at the same overlap: the one in the direction of the motion is taken."""
    results = {}
    for weight in (0.2, 0.0):
        tracker = OCSort(direction_weight=weight)
        for k in range(6):
            one(tracker, k / 25, 100.0 + 4 * k)
        expected = float(tracker.predict(6 / 25).boxes[0, 0])
        ahead, behind = box(expected + 16), box(expected - 15.8)  # behind overlaps a little more
        tracks = tracker.update([behind, ahead], [0.9, 0.9], [0, 0], time=6 / 25)
        results[weight] = int(tracks.detections[tracks.track_ids == 1][0])
    assert results == {0.2: 1, 0.0: 0}


# --- the life of a track ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fps", "frames"), [(5, 2), (30, 2), (60, 3), (240, 9)])
def test_a_track_is_believed_after_a_time_and_not_after_a_number_of_frames(fps: int, frames: int) -> None:
    tracker = ByteTrack()
    tracker.update([], [], [], time=0.0)  # tracks of a first update would be believed at once
    states = [int(one(tracker, k / fps, 100.0).states[0]) for k in range(1, 12)]
    assert states == [State.TENTATIVE] * (frames - 1) + [State.TRACKED] * (12 - frames)


def test_ids_are_given_to_believed_tracks_only_and_count_from_one() -> None:
    tracker = ByteTrack()
    assert one(tracker, 0.0, 100.0).track_ids.tolist() == [1]
    tracks = tracker.update([box(100), box(900)], [0.9, 0.95], [0, 3], time=0.04)
    assert tracks.track_ids.tolist() == [1, -1]
    assert tracks.states.tolist() == [State.TRACKED, State.TENTATIVE]
    assert len(one(tracker, 0.08, 100.0)) == 1  # one miss ends a tentative track
    tracker.update([box(100), box(500)], [0.9, 0.9], [0, 3], time=0.12)
    tracks = tracker.update([box(500), box(100)], [0.9, 0.9], [3, 0], time=0.16)
    assert tracks.track_ids.tolist() == [1, 2]
    assert tracks.detections.tolist() == [1, 0]
    assert tracks.class_ids.tolist() == [0, 3]
    assert ByteTrack(confirm_seconds=0).update([box(1)], [0.9], [0], time=0).track_ids.tolist() == [1]
    late = ByteTrack(confirm_seconds=0)
    late.update([], [], [], time=0.0)
    assert one(late, 1.0, 5.0).track_ids.tolist() == [1]


@pytest.mark.parametrize("fps", [5, 25, 60])
def test_a_lost_track_lives_for_seconds(fps: int) -> None:
    for unseen, expected in ((0.8, {1}), (1.4, {1, 2})):
        tracker, ids = ByteTrack(), set[int]()
        for k in range(4 * fps):
            time = k / fps
            hidden = 1.0 < time < 1.0 + unseen
            ids |= set(one(tracker, time, None if hidden else 100.0).visible.track_ids.tolist())
        assert ids == expected


@every_tracker
def test_boxes_are_the_detections_own_or_steadier_ones(name: str) -> None:
    """Of a detector that jitters the filter's boxes are nearer the truth; an option has the boxes as they are."""
    rng, errors = np.random.default_rng(0), dict[str, list[float]]()
    trackers = {kind: open_tracker(name, boxes=kind) for kind in ("filter", "detection")}
    for k in range(100):
        true = np.array(box(100 + 4.0 * k))
        seen = (true + rng.normal(0, 4, 4)).astype(np.float32)
        found = {kind: one.update([seen], [0.9], [0], time=k / 30).boxes[0] for kind, one in trackers.items()}
        assert found["detection"].tolist() == seen.tolist()
        for kind, at in found.items():
            errors.setdefault(kind, []).append(float(np.abs(at - true).mean()))
    assert np.mean(errors["filter"][20:]) < 0.85 * np.mean(errors["detection"][20:])
    expected = [one.predict(100 / 30).boxes.tolist() for one in trackers.values()]
    assert expected[0] == expected[1]


def test_tracks_tell_state_age_absence_and_the_row_of_their_detection() -> None:
    tracker = Sort(confirm_seconds=0, boxes="detection")
    tracker.update([box(600), box(100)], [0.8, 0.9], [5, 2], time=10.0)
    tracks = tracker.update([box(102)], [0.7], [2], time=10.5)
    assert tracks.track_ids.tolist() == [1, 2]  # the better score first
    assert tracks.detections.tolist() == [0, -1]
    assert tracks.states.tolist() == [State.TRACKED, State.LOST]
    assert tracks.ages.tolist() == [0.5, 0.5]
    assert tracks.unseen.tolist() == [0.0, 0.5]
    assert tracks.class_ids.tolist() == [2, 5]
    assert tracks.scores == pytest.approx([0.7, 0.8])
    assert tracks.boxes[0].tolist() == box(102)  # the detection's own box
    assert not tracks.refound.any()
    assert tracks.visible.track_ids.tolist() == [1]
    assert len(tracks) == 2
    again = tracker.update([box(600), box(104)], [0.8, 0.9], [5, 2], time=10.9)
    assert again.refound.tolist() == [False, True]
    assert again.gaps == pytest.approx([0, 0.9])
    assert (again.track_ids.dtype, again.boxes.dtype, again.ages.dtype) == (np.int64, np.float32, np.float64)


@every_tracker
def test_between_detections_tracks_are_foretold(name: str) -> None:
    """Every third frame detected: the frames between lie within 2 px of the truth, and nothing counts as missed."""
    tracker, worst = open_tracker(name), 0.0
    for k in range(60):
        x = 100.0 + 4 * k
        if k % 3 == 0:
            assert one(tracker, k / 25, x).visible.track_ids.tolist() == [1] * (k == 0 or k >= 3)
            continue
        tracks = tracker.predict(k / 25)
        assert tracks.detections.tolist() == [-1]
        assert tracks.states.tolist() == [State.TRACKED]
        assert np.array_equal(tracks.boxes, tracker.predict(k / 25).boxes)  # asking changes nothing
        worst = max(worst, abs(float(tracks.boxes[0, 0]) - x) if k > 15 else 0.0)
    assert worst < 2
    assert len(tracker.predict(59 / 25 + 5)) == 0


def test_trajectories_tell_where_a_track_was_seen_and_stay_bounded() -> None:
    tracker = ByteTrack(trajectory_points=10)
    tracker.update([], [], [], time=0.0)
    for k in range(1, 30):
        one(tracker, k / 25, None if k == 25 else float(k))
        if k == 5:
            times, boxes = tracker.trajectory(1)
            assert times == pytest.approx(np.arange(1, 6) / 25)  # from before it was believed
    times, boxes = tracker.trajectory(1)
    assert times == pytest.approx([k / 25 for k in (19, 20, 21, 22, 23, 24, 26, 27, 28, 29)])
    assert boxes[:, 0].tolist() == [19, 20, 21, 22, 23, 24, 26, 27, 28, 29]
    assert boxes.dtype == np.float32
    for k in range(200):  # 200 tracks, one after the other
        one(tracker, 2 + 3.0 * k, 100.0)
        one(tracker, 2.1 + 3.0 * k, 100.0)
    assert tracker._trajectories._times.shape == (16, 10)
    with pytest.raises(UsageError, match=r"track 1 is not one of: 201; tracks are forgotten when they end"):
        tracker.trajectory(1)
    with pytest.raises(UsageError, match=r"track -1 is not one of: 201"):
        tracker.trajectory(-1)


def test_classes_are_kept_apart_where_asked() -> None:
    for aware, expected in ((False, {1}), (True, {1, 2})):
        tracker, ids = ByteTrack(class_aware=aware), set[int]()
        for k in range(20):
            ids |= set(one(tracker, k / 25, 100.0, class_id=int(k >= 10)).visible.track_ids.tolist())
        assert ids == expected
    tracker = OCSort(class_aware=True)  # its second look keeps them apart too
    for k in range(10):
        one(tracker, k / 25, 100.0)
    assert one(tracker, 0.5, 100.0, class_id=1).detections.tolist() == [-1, 0]


def test_a_reset_tracker_is_as_new() -> None:
    for name in EVERY:
        tracker = open_tracker(name)
        first = [one(tracker, k / 25, 5.0 * k).track_ids.tolist() for k in range(9)]
        tracker.reset()
        assert [one(tracker, k / 25, 5.0 * k).track_ids.tolist() for k in range(9)] == first


@every_tracker
def test_empty_frames_and_empty_boxes_are_fine(name: str) -> None:
    tracker = open_tracker(name)
    assert len(tracker.predict(0.0)) == 0
    assert len(tracker.update([], [], [], time=0.0)) == 0
    assert len(tracker.update(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), time=0.1)) == 0
    for k in range(2, 9):
        point = tracker.update([[5, 5, 5, 5], box(50)], [0.9, 0.8], [0, 0], time=k / 10)
        assert np.isfinite(point.boxes).all()
    assert 1 in point.visible.track_ids


def test_five_hundred_updates_later_nothing_is_left_of_tracks_that_ended() -> None:
    tracker, rng = OCSort(), np.random.default_rng(0)
    for k in range(500):
        x = rng.uniform(0, 5000, 8)
        tracker.update(np.stack([x, x, x + 40, x + 80], 1), np.full(8, 0.9), np.zeros(8, int), time=k / 25)
    assert len(tracker._table) < 40
    assert len(tracker._trajectories._counts) < 200
    assert len(tracker._updates) < 60


# --- names, options, refusals -----------------------------------------------------------------------------------------


def test_trackers_are_registered_by_being_there() -> None:
    assert tracker_names() == EVERY
    assert [type(open_tracker(name)).__name__ for name in EVERY] == ["BoTSort", "ByteTrack", "OCSort", "Sort"]
    assert {"BoTSort", "ByteTrack", "OCSort", "Sort"} <= set(dir(edgekit.tracking))
    with pytest.raises(AttributeError, match="has no attribute 'DeepSort'"):
        edgekit.tracking.DeepSort  # noqa: B018
    with pytest.raises(UsageError, match="tracker 'deepsort' is not one of: botsort, bytetrack, ocsort, sort"):
        open_tracker("deepsort")
    with pytest.raises(UsageError, match="tracker 'mot' is not one of"):
        open_tracker("mot")


def test_tracking_needs_numpy_alone() -> None:
    code = (
        "import sys\n"
        "for name in ('scipy', 'lap', 'cv2'): sys.modules[name] = None\n"
        "from edgekit.tracking import open_tracker, tracker_names\n"
        "import numpy as np\n"
        "for name in tracker_names():\n"
        "    tracker = open_tracker(name)\n"
        "    for k in range(5):\n"
        "        close = np.array([[0, 0, 90, 90], [20, 20, 110, 110], [40, 40, 130, 130]]) + k\n"
        "        found = tracker.update(close, [.9, .8, .85], [0, 0, 0], time=k / 9)\n"
        "    print(found.track_ids.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[1, 2, 3]"] * 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bytetrack", {"hihg_score": 0.5}, r"option 'hihg_score' is not one of: lost_seconds, .*high_score, low_score"),
        ("sort", {"high_score": 0.5}, r"option 'high_score' is not one of: .*min_score, min_iou"),
        ("bytetrack", {"high_score": 1.7}, r"option high_score=1.7: expected float <= 1.0"),
        ("bytetrack", {"high_score": "much"}, r"option high_score='much': expected float, got str"),
        ("sort", {"lost_seconds": -1}, r"option lost_seconds=-1: expected float >= 0.0"),
        ("sort", {"lost_seconds": float("inf")}, r"option lost_seconds=inf: expected a finite number"),
        ("sort", {"class_aware": 1}, r"option class_aware=1: expected bool, got int"),
        ("sort", {"trajectory_points": 1}, r"option trajectory_points=1: expected int >= 2"),
        ("botsort", {"camera_motion": "ecc"}, r"option camera_motion='ecc': invalid enum value 'ecc'"),
        ("bytetrack", {"new_score": 0.5}, r"low_score <= high_score <= new_score must hold, not 0.1, 0.6, 0.5"),
    ],
)
def test_options_are_refused_in_words(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_tracker(name, **options)


def test_options_can_be_read_and_not_changed() -> None:
    tracker = open_tracker("bytetrack", high_score=0.5, lost_seconds=2)
    assert (tracker.options.high_score, tracker.options.lost_seconds, tracker.options.new_score) == (0.5, 2, 0.7)
    with pytest.raises(AttributeError):
        tracker.options.high_score = 0.4


GOOD: dict[str, Any] = {"boxes": [box(1), box(2)], "scores": [0.9, 0.8], "class_ids": [0, 1], "time": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[1, 2, 3]] * 2}, r"boxes must have the shape \(n, 4\), not \(2, 3\)"),
        ({"boxes": [1, 2, 3, 4]}, r"boxes must have the shape \(n, 4\), not \(4,\)"),
        ({"boxes": [["a"] * 4] * 2}, r"boxes must be an array of numbers"),
        ({"boxes": [box(1), [1, float("nan"), 3, 4]]}, r"boxes must be finite; row 1 is \[1.0, nan, 3.0, 4.0\]"),
        ({"boxes": [box(1), [5, 5, 4, 9]]}, r"x1 <= x2 and y1 <= y2, not \[5.0, 5.0, 4.0, 9.0\]"),
        ({"scores": [0.5]}, r"scores must have one entry for each of the 2 boxes, not 1"),
        ({"scores": [[0.5], [0.5]]}, r"scores must have the shape \(n,\), not \(2, 1\)"),
        ({"scores": [0.5, 1.5]}, r"scores must be in 0..1, not 0.5..1.5; apply the sigmoid first"),
        ({"class_ids": [0]}, r"class_ids must have one entry for each of the 2 boxes, not 1"),
        ({"class_ids": [0.5, 1]}, r"class_ids must be integers of the shape \(n,\), not float64 \(2,\)"),
        ({"time": float("nan")}, r"time must be a finite number of seconds, not nan"),
        ({"time": "now"}, r"time must be a finite number of seconds, not 'now'"),
        ({"time": 0.4}, r"time must be later than that of the last update, 0.5 s, but is 0.4 s; reset\(\)"),
        ({"time": 0.5}, r"time must be later than that of the last update, 0.5 s, but is 0.5 s"),
    ],
)
def test_input_is_refused_in_words_and_changes_nothing(change: dict[str, Any], message: str) -> None:
    tracker = ByteTrack()
    tracker.update([box(1), box(200)], [0.9, 0.8], [0, 1], time=0.5)
    with pytest.raises(UsageError, match=message):
        tracker.update(**{**GOOD, **change})
    assert tracker.update(**GOOD).detections.tolist() == [0, -1, 1]


def test_a_frame_before_the_last_update_cannot_be_foretold() -> None:
    tracker = ByteTrack()
    one(tracker, 1.0, 5.0)
    assert len(tracker.predict(1.0)) == 1
    with pytest.raises(UsageError, match=r"time must not be before that of the last update, 1 s, but is 0.5 s"):
        tracker.predict(0.5)
    with pytest.raises(UsageError, match=r"time must be a finite number of seconds, not inf"):
        tracker.predict(float("inf"))
