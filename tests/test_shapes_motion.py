"""Moving scenes: smooth, repeatable, with ids that stay with their shapes."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.shapes import MovingScene, SceneOptions, moving_scene


@pytest.fixture(scope="module")
def moving() -> MovingScene:
    return moving_scene(3, frames=45, fps=15.0)


def test_frames_are_the_same_in_any_order_and_any_run(moving: MovingScene) -> None:
    again = moving_scene(3, frames=45, fps=15.0)
    late, early = again[30], again[2]
    for other, index in ((early, 2), (late, 30)):
        assert moving[index].image.tobytes() == other.image.tobytes()
        assert [item.track_id for item in moving[index].objects] == [item.track_id for item in other.objects]
    assert moving[-1].frame == 44
    assert len(moving) == len(list(moving)) == 45
    with pytest.raises(IndexError, match="frame 45 of a scene of 45 frames"):
        moving[45]


def test_a_track_keeps_its_shape_and_moves_smoothly(moving: MovingScene) -> None:
    identity: dict[int, tuple[str, str]] = {}
    centres: dict[int, dict[int, np.ndarray]] = {}
    for found in moving:
        ids = [item.track_id for item in found.objects]
        assert len(set(ids)) == len(ids)
        for item in found.objects:
            assert identity.setdefault(item.track_id, (item.name, item.colour)) == (item.name, item.colour)
            middle = (item.full_box[:2] + item.full_box[2:]) / 2
            centres.setdefault(item.track_id, {})[found.frame] = middle
    steps = [
        np.linalg.norm(path[frame + 1] - path[frame])
        for path in centres.values()
        for frame in path
        if frame + 1 in path
    ]
    assert len(steps) > 100
    assert float(np.median(steps)) > 0.2
    assert max(steps) < 16


def test_shapes_enter_leave_cross_and_hide_one_another() -> None:
    entered = left = hidden = 0
    for seed in range(4):
        frames = list(moving_scene(seed, frames=60, fps=15.0))
        seen = [{item.track_id for item in found.objects} for found in frames]
        entered += len(set.union(*seen) - seen[0])
        left += len(set.union(*seen) - seen[-1])
        hidden += sum(
            item.visibility < 0.7 and item.full_box[:2].min() > 0 and item.full_box[2:].max() < 256
            for found in frames
            for item in found.objects
        )
    assert entered >= 4
    assert left >= 4
    assert hidden >= 10


def test_masks_stay_disjoint_and_boxes_inside(moving: MovingScene) -> None:
    for found in moving:
        assert np.sum([item.mask for item in found.objects], axis=0).max() <= 1
        for item in found.objects:
            assert (item.box >= 0).all()
            assert (item.box <= 256).all()
            assert item.mask.any()
            assert 0 < item.visibility <= 1


def test_the_camera_moves_ground_and_shapes_alike() -> None:
    options = SceneOptions(backgrounds=("noise",), distractors=0, sensor=False, min_objects=1, max_objects=1)
    still = moving_scene(5, frames=30, fps=15.0, options=options)
    wandering = moving_scene(5, frames=30, fps=15.0, options=options, camera=16.0)
    assert np.abs(wandering.camera).max() > 2
    assert (still.camera == 0).all()
    offset = wandering.camera[20] - wandering.camera[0]
    path = wandering.paths[0]
    centre = np.array(path.at(20 / 15.0).centre) - wandering.camera[20]
    keypoint = wandering[20].objects[0].keypoints[0]
    assert np.allclose(keypoint[:2], centre, atol=1e-3) or keypoint[2] == 0
    # The ground seen at frame 20 is the one of frame 0, moved by the offset (to the nearest pixel).
    dx, dy = (int(value) for value in np.round(offset))
    before, after = wandering[0].image.astype(float), wandering[20].image.astype(float)
    moved = np.roll(before, (-dy, -dx), axis=(0, 1))
    inner = (slice(32, -32), slice(32, -32))
    assert np.median(np.abs(moved[inner] - after[inner])) < np.median(np.abs(before[inner] - after[inner]))


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="frames=0"):
        moving_scene(0, frames=0)
    with pytest.raises(UsageError, match="fps=0"):
        moving_scene(0, fps=0)
    with pytest.raises(UsageError, match="too small for a scene"):
        moving_scene(0, size=(10, 10))
