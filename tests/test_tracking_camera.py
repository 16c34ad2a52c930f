"""BoT-SORT: the motion of the camera found in pictures, and appearance."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.runtimes.tracking import State
from edgekit.runtimes.tracking.botsort import BoTSort
from edgekit.runtimes.tracking.bytetrack import ByteTrack
from edgekit.runtimes.tracking.camera_motion import CameraMotion

NOTHING = np.zeros((0, 4), np.float32)
METHODS = pytest.mark.parametrize("method", ["sparse_flow", "orb"])


def world(seed: int = 0, size: tuple[int, int] = (700, 1400)) -> np.ndarray:
    """A large textured picture to look at through a moving window."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 255, (size[0] // 20, size[1] // 20, 3), np.uint8), size[::-1])
    fine = cv2.resize(rng.integers(0, 255, (size[0] // 5, size[1] // 5, 3), np.uint8), size[::-1])
    return cv2.addWeighted(coarse, 0.6, fine, 0.4, 0)


def warped(picture: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What is seen after a motion: pixel p of the picture goes to affine(p)."""
    return cv2.warpAffine(picture, affine, (640, 480))


@METHODS
@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (12, -7)), (1.5, 1.02, (5, 3)), (-1, 0.98, (-9, 4))])
def test_a_known_motion_is_found_within_half_a_pixel(
    method: str, downscale: int, degrees: float, scale: float, shift: tuple[float, float]
) -> None:
    picture = world()
    start = np.array([[1.0, 0, -300], [0, 1, -100]])
    motion = cv2.getRotationMatrix2D((320, 240), degrees, scale)
    motion[:, 2] += shift
    camera = CameraMotion(method, downscale)
    assert camera.since_last(warped(picture, start), NOTHING) is None
    later = (np.vstack([motion, (0, 0, 1)]) @ np.vstack([start, (0, 0, 1)]))[:2]
    found = camera.since_last(warped(picture, later), NOTHING)
    assert found is not None
    points = np.array([[50, 50, 1], [600, 60, 1], [40, 430, 1], [590, 440, 1], [320, 240, 1]], np.float64)
    assert np.abs(points @ found.T - points @ motion.T).max() < 0.5 * downscale


@METHODS
def test_what_moves_on_its_own_is_left_out(method: str) -> None:
    """Half of the picture is an object that moves the other way; told its box, the camera is found all the same."""
    picture, thing = world(), world(1)[:400, :330]
    frames = []
    for k in range(2):
        frame = picture[100:580, 300 - 8 * k : 940 - 8 * k].copy()
        frame[40:440, 20 + 15 * k : 350 + 15 * k] = thing
        frames.append(frame)
    camera, box = CameraMotion(method, 1), np.array([[15, 35, 370, 445]], np.float32)
    camera.since_last(frames[0], box)
    found = camera.since_last(frames[1], box)
    assert found is not None
    assert found[:, 2] == pytest.approx([8, 0], abs=0.7)


@METHODS
def test_a_cut_or_a_blank_picture_is_no_motion(method: str) -> None:
    camera = CameraMotion(method, 2)
    first, other = world(0)[:480, :640], world(7)[:480, :640]
    camera.since_last(first, NOTHING)
    assert camera.since_last(other, NOTHING) is None
    assert camera.since_last(np.full((480, 640, 3), 90, np.uint8), NOTHING) is None
    assert camera.since_last(first, NOTHING) is None
    assert camera.since_last(world(0)[:400, :600], NOTHING) is None or method == "orb"  # another size begins anew


def panning(tracker: ByteTrack, seen: bool) -> set[int]:
    """Ids of a standing object while the camera jerks by 50 px now and then."""
    picture, ids = world(), set[int]()
    for k in range(30):
        offset = 300 + 50 * ((k // 3) % 2)
        x = 600.0 - offset
        tracks = tracker.update(
            [[x, 200, x + 40, 280]], [0.9], [0], time=k / 25,
            image=picture[100:580, offset : offset + 640] if seen else None,
        )  # fmt: skip
        ids |= set(tracks.visible.track_ids.tolist())
    return ids


@pytest.mark.parametrize("method", ["sparse_flow", "orb"])
def test_an_object_keeps_its_id_under_a_camera_that_jerks(method: str) -> None:
    assert panning(BoTSort(camera_motion=method), seen=True) == {1}
    # Negative controls: without pictures, with them ignored, and with a tracker that does not look at them.
    assert len(panning(BoTSort(camera_motion=method), seen=False)) > 1
    assert len(panning(BoTSort(camera_motion="off"), seen=True)) > 1
    assert len(panning(ByteTrack(), seen=True)) > 1


def test_the_camera_is_followed_through_frames_without_detections() -> None:
    picture, tracker = world(), BoTSort()
    for k in range(12):
        offset = 300 + 9 * k
        image = picture[100:580, offset : offset + 640]
        x = 700.0 - offset
        if k % 4 == 0:
            tracks = tracker.update([[x, 200, x + 40, 280]], [0.9], [0], time=k / 25, image=image)
        else:
            tracks = tracker.predict(k / 25, image=image)
        if k:
            assert tracks.boxes[0, 0] == pytest.approx(x, abs=2.5)
            assert tracks.states.tolist() == [State.TRACKED]


def test_the_same_pictures_give_the_same_tracks() -> None:
    runs = []
    for _ in range(2):
        tracker, boxes = BoTSort(), []
        for k in range(6):
            image = world()[100:580, 300 + 7 * k : 940 + 7 * k]
            boxes.append(tracker.update([[90, 90, 150, 190]], [0.9], [0], time=k / 25, image=image).boxes)
            boxes.append(tracker.predict(k / 25).boxes)
        runs.append(np.concatenate(boxes))
    assert np.array_equal(*runs)


def test_what_is_no_picture_is_refused_and_changes_nothing() -> None:
    tracker = BoTSort()
    with pytest.raises(InputError, match=r"an image must be uint8 of shape \(height, width, 3\), BGR"):
        tracker.update([], [], [], time=1.0, image=np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="an image must be a numpy array, not str"):
        tracker.predict(1.0, image="frame.png")  # type: ignore[arg-type]
    assert len(tracker.update([], [], [], time=1.0)) == 0


# --- appearance -------------------------------------------------------------------------------------------------------

RED, BLUE = np.array([1.0, 0.1, 0, 0]), np.array([0, 0.1, 1.0, 0])


def swapped(tracker: BoTSort, looks: bool) -> list[int]:
    """Two who stand side by side and change places within a frame; returns the row that track 1 gets then."""
    left, right = [100, 100, 160, 220], [118, 100, 178, 220]
    for k in range(10):
        tracker.update([left, right], [0.9, 0.8], [0, 0], time=k / 25, embeddings=[RED, BLUE] if looks else None)
    tracks = tracker.update([left, right], [0.9, 0.8], [0, 0], time=0.4, embeddings=[BLUE, RED] if looks else None)
    return tracks.detections[np.argsort(tracks.track_ids)].tolist()


def test_appearance_decides_between_two_that_are_near() -> None:
    assert swapped(BoTSort(), looks=True) == [1, 0]
    assert swapped(BoTSort(), looks=False) == [0, 1]  # negative control: by place alone they are taken for one another
    assert swapped(BoTSort(min_proximity=1.0), looks=True) == [0, 1]


def test_appearance_does_not_reach_across_the_picture() -> None:
    tracker = BoTSort()
    for k in range(5):
        tracker.update([[100, 100, 160, 220]], [0.9], [0], time=k / 25, embeddings=[RED])
    tracks = tracker.update([[500, 100, 560, 220]], [0.9], [0], time=0.2, embeddings=[RED])
    assert tracks.track_ids.tolist() == [1, -1]


def test_weak_detections_teach_no_appearance_and_frames_without_embeddings_are_fine() -> None:
    tracker = BoTSort()
    box = [[100, 100, 160, 220]]
    tracker.update(box, [0.9], [0], time=0.0)
    for k in range(1, 5):
        tracker.update(box, [0.9], [0], time=k / 25, embeddings=[3 * RED])
    learnt = tracker._table.embeddings.copy()
    assert learnt[0] == pytest.approx(RED / np.linalg.norm(RED), abs=1e-6)
    tracker.update(box, [0.3], [0], time=0.2, embeddings=[BLUE])
    tracker.update(box, [0.9], [0], time=0.24)
    assert np.array_equal(tracker._table.embeddings, learnt)
    tracker.update(box, [0.9], [0], time=0.28, embeddings=[BLUE])
    mixed = 0.9 * learnt[0] + 0.1 * BLUE / np.linalg.norm(BLUE)
    assert tracker._table.embeddings[0] == pytest.approx(mixed / np.linalg.norm(mixed), abs=1e-6)
    zero = tracker.update(box, [0.9], [0], time=0.32, embeddings=[np.zeros(4)])
    assert zero.visible.track_ids.tolist() == [1]


def test_embeddings_that_do_not_fit_are_refused_and_change_nothing() -> None:
    tracker = BoTSort()
    box = [[100, 100, 160, 220]]
    tracker.update(box, [0.9], [0], time=0.0, embeddings=[RED])
    with pytest.raises(UsageError, match=r"embeddings must keep their dimension: 4 so far, now 2; reset\(\)"):
        tracker.update(box, [0.9], [0], time=0.1, embeddings=[[1.0, 0.0]])
    with pytest.raises(UsageError, match="embeddings must have one row for each of the 1 boxes, not 2"):
        tracker.update(box, [0.9], [0], time=0.1, embeddings=[RED, RED])
    with pytest.raises(UsageError, match=r"embeddings must have the shape \(n, d\), not \(4,\)"):
        tracker.update(box, [0.9], [0], time=0.1, embeddings=RED)
    with pytest.raises(UsageError, match="embeddings must be finite; row 0 is"):
        tracker.update(box, [0.9], [0], time=0.1, embeddings=[RED * np.nan])
    assert tracker.update(box, [0.9], [0], time=0.1, embeddings=[RED]).track_ids.tolist() == [1]
    assert ByteTrack().update(box, [0.9], [0], time=0.1, embeddings="ignored").track_ids.tolist() == [1]
