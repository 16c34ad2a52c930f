"""The seeded world of shapes: the same bytes for a seed, and truth that agrees with the pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, UsageError
from edgekit.shapes import BACKGROUNDS, CLASSES, COLOURS, KEYPOINTS, SceneObject, SceneOptions, scene
from edgekit.shapes.outlines import exact_box, place, unit_keypoints, unit_outline
from edgekit.shapes.truth import objects
from edgekit.shapes.types import ShapePlacement, Style

PLAIN = Style((40.0, 35.0, 215.0), 0.0, 0.0, "none", 0.0, 0.0)
SEEDS = range(40)


def placement(
    class_id: int, centre: tuple[float, float], radius: float, rotation: float, track: int = 1
) -> ShapePlacement:
    return ShapePlacement(class_id, "red", centre, radius, rotation, PLAIN, track)


def mask_box(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def winding_mask(outline: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Pixels whose centre is inside a polygon, by crossing numbers: an oracle that shares nothing with cv2."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.zeros((height, width), dtype=bool)
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)
        if y1 != y2:
            inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def distance_to_edge(outline: npt.NDArray[np.float64], point: npt.NDArray[np.float64]) -> float:
    starts, ends = outline, np.roll(outline, -1, axis=0)
    along = np.clip(((point - starts) * (ends - starts)).sum(1) / ((ends - starts) ** 2).sum(1), 0, 1)
    return float(np.linalg.norm(starts + along[:, None] * (ends - starts) - point, axis=1).min())


def same(first: SceneObject, second: SceneObject) -> bool:
    return (
        first.class_id == second.class_id
        and first.colour == second.colour
        and np.array_equal(first.box, second.box)
        and np.array_equal(first.mask, second.mask)
        and np.array_equal(first.keypoints, second.keypoints)
    )


def test_a_seed_gives_the_same_bytes_again() -> None:
    for seed in (0, 7, 123_456):
        first, second = scene(seed), scene(seed)
        assert first.image.tobytes() == second.image.tobytes()
        assert len(first.objects) == len(second.objects)
        assert all(same(a, b) for a, b in zip(first.objects, second.objects, strict=True))
    assert scene(1).image.tobytes() != scene(2).image.tobytes()


def test_another_process_draws_the_same_bytes() -> None:
    code = "import hashlib; from edgekit.shapes import scene; print(hashlib.sha256(scene(11).image).hexdigest())"
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
        for _ in range(2)
    ]
    import hashlib

    assert runs == [hashlib.sha256(scene(11).image.tobytes()).hexdigest() + "\n"] * 2


@pytest.mark.parametrize("size", [(256, 256), (120, 333), (480, 640), (48, 48), (600, 700)])
def test_size_is_height_and_width(size: tuple[int, int]) -> None:
    drawn = scene(5, size)
    assert drawn.image.shape == (*size, 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.image.flags.c_contiguous
    assert all(item.mask.shape == size for item in drawn.objects)


def test_boxes_are_tight_around_masks_and_inside_the_image() -> None:
    for seed in SEEDS:
        for item in scene(seed).objects:
            assert item.box.dtype == np.float32
            assert 0 <= item.box[0] < item.box[2] <= 256
            assert 0 <= item.box[1] < item.box[3] <= 256
            # A mask holds pixels covered by half or more: a sharp tip ends up to two pixels before its box does.
            assert np.abs(mask_box(item.mask) - item.box).max() <= 2.0, (seed, item.name)


def test_masks_do_not_overlap_and_visibility_is_their_share() -> None:
    for seed in SEEDS:
        drawn = scene(seed)
        assert not drawn.objects or np.sum([item.mask for item in drawn.objects], axis=0).max() == 1
        for item in drawn.objects:
            assert 0.55 <= item.visibility <= 1.0
            assert item.mask.sum() <= np.prod(item.full_box[2:] - item.full_box[:2])


@given(
    class_id=st.integers(0, len(CLASSES) - 1),
    x=st.floats(60, 140),
    y=st.floats(60, 140),
    radius=st.floats(12, 55),
    rotation=st.floats(0, 360),
)
@settings(deadline=None)
def test_a_free_shape_has_its_analytic_box_mask_and_keypoints(
    class_id: int, x: float, y: float, radius: float, rotation: float
) -> None:
    (item,) = objects([placement(class_id, (x, y), radius, rotation)], 200, 200)
    assert np.array_equal(item.box, item.full_box)
    assert item.visibility > 0.97
    outline = place(unit_outline(class_id), (x, y), radius, rotation)
    assert np.abs(item.full_box[:2] - outline.min(0)).max() < 0.05 * radius
    oracle = winding_mask(outline, 200, 200)
    # Coverage of half and centre inside differ only where the edge passes close to the centre.
    rows, columns = np.nonzero(oracle != item.mask)
    wrong = np.stack([columns + 0.5, rows + 0.5], axis=1)
    assert all(distance_to_edge(outline, point) <= 0.5 for point in wrong)
    assert (item.keypoints[:, 2] == 2).all()
    assert np.allclose(item.keypoints[0, :2], (x, y), atol=1e-4)
    expected = place(unit_keypoints(class_id), (x, y), radius, rotation)
    assert np.allclose(item.keypoints[:, :2], expected, atol=1e-3)


@pytest.mark.parametrize("class_id", range(len(CLASSES)))
def test_keypoints_lie_on_the_outline_on_their_own_side(class_id: int) -> None:
    centre, top, right, bottom, left = unit_keypoints(class_id)
    assert KEYPOINTS == ("centre", "top", "right", "bottom", "left")
    assert (centre == 0).all()
    assert top[1] < 0 < bottom[1]
    assert left[0] < 0 < right[0]
    outline = unit_outline(class_id)
    assert all(distance_to_edge(outline, point) < 1e-9 for point in (top, right, bottom, left))


def test_rotation_is_clockwise_on_screen() -> None:
    turned = place(unit_keypoints(0), (0.0, 0.0), 1.0, 90.0)
    assert np.allclose(turned[1] / np.linalg.norm(turned[1]), (1.0, 0.0))  # the top points to the right


@given(radius=st.floats(10, 50), rotation=st.floats(0, 360), x=st.floats(-20, 20))
@settings(deadline=None)
def test_the_box_of_a_circle_is_its_formula(radius: float, rotation: float, x: float) -> None:
    box = exact_box(0, (x, 5.0), radius, rotation)
    assert np.allclose(box, [x - 0.85 * radius, 5 - 0.85 * radius, x + 0.85 * radius, 5 + 0.85 * radius], atol=1e-4)


def test_an_occluder_takes_area_box_and_keypoints() -> None:
    square = CLASSES.index("square")
    behind, before = placement(square, (100, 100), 40, 0), placement(square, (140, 100), 40, 0, 2)
    first, second = objects([behind, before], 200, 200)
    assert second.visibility == pytest.approx(1.0, abs=0.02)
    assert np.array_equal(second.box, second.full_box)
    # Both sides are 57.6 px; the near one starts at 111.2 and covers 17.6 px of the far one, which began at 71.2.
    assert first.visibility == pytest.approx(40 / 57.6, abs=0.02)
    assert first.box[2] == pytest.approx(111.2, abs=0.3)
    assert first.full_box[2] == pytest.approx(128.8, abs=1e-3)
    assert first.keypoints[:, 2].tolist() == [2, 2, 1, 2, 2]


def test_what_is_outside_is_clipped_and_unlabelled() -> None:
    (item,) = objects([placement(CLASSES.index("square"), (10, 100), 40, 0)], 200, 200)
    assert item.box[0] == 0
    assert item.full_box[0] == pytest.approx(10 - 28.8, abs=1e-3)
    assert item.keypoints[4].tolist() == [0, 0, 0]
    assert (item.keypoints[:4, 2] == 2).all()
    assert objects([placement(0, (-100, 100), 40, 0)], 200, 200) == ()
    hidden = [placement(0, (100, 100), 10, 0), placement(0, (100, 100), 40, 0, 2)]
    assert [item.track_id for item in objects(hidden, 200, 200)] == [2]


def test_the_paint_is_where_the_mask_is() -> None:
    options = SceneOptions(backgrounds=("plain",), distractors=0, sensor=False, min_objects=2)
    for seed in range(12):
        drawn = scene(seed, options=options)
        for item in drawn.objects:
            mean = drawn.image[item.mask].mean(0)
            assert np.linalg.norm(mean - np.array(COLOURS[item.colour])) < 75, (seed, item.name, item.colour)


def test_the_world_has_variety() -> None:
    drawn = [scene(seed) for seed in range(120)]
    found = [item for one in drawn for item in one.objects]
    assert {item.name for item in found} == set(CLASSES)
    assert {item.colour for item in found} == set(COLOURS)
    assert {one.background for one in drawn} == set(BACKGROUNDS)
    sides = np.array([np.max(item.full_box[2:] - item.full_box[:2]) for item in found])
    assert sides.min() < 35
    assert sides.max() > 85
    assert any(item.visibility < 0.8 for item in found)
    assert any(item.visibility > 0.99 for item in found)
    assert all(len(one.objects) >= 1 for one in drawn)


def test_photographs_become_backgrounds(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((300, 400, 3), (10, 200, 30), dtype=np.uint8))
    options = SceneOptions(backgrounds=(), photographs=tmp_path, distractors=0, sensor=False, max_objects=1)
    drawn = scene(3, options=options)
    assert drawn.background == "photograph"
    assert (drawn.image.reshape(-1, 3) == (10, 200, 30)).all(1).mean() > 0.4


def test_wrong_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(20, 256\) is too small.*48 or more"):
        scene(0, (20, 256))
    with pytest.raises(UsageError, match=r"'lava' is not one of: plain, gradient"):
        scene(0, options=SceneOptions(backgrounds=("lava",)))
    with pytest.raises(UsageError, match="backgrounds is empty"):
        scene(0, options=SceneOptions(backgrounds=()))
    with pytest.raises(InputError, match="no photographs in"):
        scene(0, options=SceneOptions(backgrounds=(), photographs=tmp_path))
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"broken\.jpg cannot be read as an image"):
        scene(1, options=SceneOptions(backgrounds=(), photographs=tmp_path / "."))


def test_shapes_import_neither_torch_nor_cv2() -> None:
    code = "import sys, edgekit.shapes; print([name for name in ('torch', 'cv2') if name in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("seed", range(5))
def test_options_for_easier_scenes(seed: int) -> None:
    options = SceneOptions(
        classes=("circle", "star"), most_rotation=10, plain=True, grid=3, max_size=0.2, min_objects=3
    )
    found = scene(seed, (96, 96), options)
    cells = set()
    for item in found.objects:
        assert item.name in ("circle", "star")
        assert min(item.rotation, 360 - item.rotation) <= 10
        x, y = (item.full_box[:2] + item.full_box[2:]) / 2 / 32
        assert abs(x % 1 - 0.5) < 0.15
        assert abs(y % 1 - 0.5) < 0.15
        cells.add((int(x), int(y)))
    assert len(cells) == len(found.objects)
    assert not np.array_equal(found.image, scene(seed, (96, 96)).image)
