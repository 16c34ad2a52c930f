"""Arithmetic of oriented boxes against OpenCV's polygons, plain loops, and ultralytics' own ProbIoU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.arrays import Floats
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.results.oriented import corners_of
from edgekit.runtimes.tasks.rotated import (
    angle_between,
    canonical,
    enclosing,
    probabilistic_iou,
    rotated_agreement,
    rotated_iou,
    rotated_suppression,
    to_original,
)

quick = settings(max_examples=30, deadline=None)


def boxes(count: int, seed: int = 0, side: float = 60) -> Floats:
    random = np.random.default_rng(seed)
    places, sizes = random.uniform(0, side, (count, 2)), random.uniform(2, side, (count, 2))
    return np.column_stack([places, sizes, random.uniform(-4, 4, count)]).astype(np.float32)


def by_opencv(one: Floats, other: Floats) -> float:
    """IoU of two boxes: OpenCV's corners of its own rotated rectangles, and its intersection of polygons."""
    outlines = [
        cv2.boxPoints(((float(b[0]), float(b[1])), (float(b[2]), float(b[3])), float(np.degrees(b[4]))))
        for b in (one, other)
    ]
    shared, _ = cv2.intersectConvexConvex(*outlines)
    return shared / (float(one[2] * one[3] + other[2] * other[3]) - shared)


def test_iou_is_that_of_opencv() -> None:
    first, second = boxes(40), boxes(50, 1)
    expected = [[by_opencv(one, other) for other in second] for one in first]
    np.testing.assert_allclose(rotated_iou(first, second), expected, atol=1e-5)


@quick
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e-7, -1e-7, 1e-5]), st.integers(0, 3))
def test_the_same_box_overlaps_itself_whole(seed: int, turn: float, quarters: int) -> None:
    """However it is written: sides that fall together are where intersections go wrong."""
    first = boxes(4, seed)
    second = first.astype(np.float64)
    second[:, 4] += turn + quarters * np.pi / 2
    if quarters % 2:
        second[:, 2:4] = second[:, 3:1:-1].copy()
    np.testing.assert_allclose(np.diag(rotated_iou(first, second)), 1, atol=2e-4)
    np.testing.assert_allclose(angle_between(first, second.astype(np.float32)), 0, atol=0.01)


def test_iou_of_known_boxes() -> None:
    square = np.array([[10, 10, 10, 10, 0]], np.float32)
    diamond = np.array([[10, 10, 10, 10, np.pi / 4]], np.float32)
    far = np.array([[100, 10, 10, 10, 0]], np.float32)
    eight = 8 * (np.sqrt(2) - 1) * 25  # the area of the octagon that a square and its diamond share
    assert rotated_iou(square, diamond)[0, 0] == pytest.approx(eight / (200 - eight), abs=1e-6)
    assert rotated_iou(square, far)[0, 0] == 0
    assert rotated_iou(square[:0], far).shape == (0, 1)
    inside = np.array([[10, 10, 4, 5, 1.0]], np.float32)
    assert rotated_iou(square, inside)[0, 0] == pytest.approx(0.2, abs=1e-6)


def test_boxes_without_an_area_agree_with_themselves() -> None:
    line = np.array([[10, 10, 20, 0, 0.3], [10, 10, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(np.diag(rotated_agreement(line, line)), 1, atol=1e-5)


def test_upright_boxes_enclose_and_corners_are_on_them() -> None:
    found = boxes(30)
    upright, corners = enclosing(found), corners_of(found)
    np.testing.assert_allclose(upright[:, :2], corners.min(1), atol=1e-4)
    np.testing.assert_allclose(upright[:, 2:], corners.max(1), atol=1e-4)


def test_one_way_to_write_a_box() -> None:
    found = boxes(200)
    written = canonical(found)
    assert (written[:, 2] >= written[:, 3]).all()
    assert (written[:, 4] >= np.float32(-np.pi / 2)).all()
    assert (written[:, 4] < np.float32(np.pi / 2)).all()
    np.testing.assert_allclose(np.diag(rotated_iou(found, written)), 1, atol=1e-4)
    np.testing.assert_array_equal(found, boxes(200)), "the argument is left alone"


def test_angles_are_as_far_apart_as_can_be_seen() -> None:
    def box(width: float, height: float, degrees: float) -> Floats:
        return np.array([[0, 0, width, height, np.radians(degrees)]], np.float32)

    def away(one: Floats, other: Floats) -> float:
        return float(angle_between(one, other)[0])

    assert away(box(30, 10, 89), box(30, 10, -89)) == pytest.approx(2, abs=1e-3)
    assert away(box(30, 10, 5), box(10, 30, 5)) == pytest.approx(90, abs=1e-3)
    assert away(box(30, 10, 0), box(30, 10, 180)) == pytest.approx(0, abs=1e-3)
    assert away(box(20, 20, 0), box(20, 20, 90)) == pytest.approx(0, abs=1e-3)
    assert away(box(20, 20, 0), box(21, 20, 45)) == pytest.approx(45, abs=1e-3)


# --- the way back ---


@quick
@given(st.integers(0, 10_000), st.integers(50, 800), st.integers(50, 800))
def test_a_letterbox_is_undone(seed: int, width: int, height: int) -> None:
    mapping = transform(ImageRule(size=(256, 320)), width, height)
    found = boxes(5, seed, 200)
    original = to_original(found, mapping)
    there = original[:, :2] * (mapping.scale_x, mapping.scale_y) + (mapping.offset_x, mapping.offset_y)
    scale = np.sqrt(mapping.scale_x * mapping.scale_y)
    back = np.column_stack([there, original[:, 2:4] * scale, original[:, 4]])
    # The two scales differ by the rounding of the resized size to whole pixels.
    skew = abs(mapping.scale_x / mapping.scale_y - 1)
    assert np.diag(rotated_iou(found, back)).min() > 0.999 - 20 * skew
    np.testing.assert_allclose(angle_between(found, original), 0, atol=0.01 + 90 * skew)


def test_a_stretch_keeps_the_direction_of_long_things() -> None:
    """A line of 45 degrees in an image that was stretched to half its width was one of 26.6 degrees."""
    mapping = transform(ImageRule(size=(100, 100), resize="stretch"), 200, 100)
    line = np.array([[50, 50, 60, 0.5, np.pi / 4]], np.float32)
    ((x, y, width, _, angle),) = to_original(line, mapping)
    assert (x, y) == (100, 50)
    assert np.degrees(angle) == pytest.approx(np.degrees(np.arctan(0.5)), abs=0.1)
    assert width == pytest.approx(60 * np.hypot(2, 1) / np.hypot(1, 1), rel=1e-3)


def test_a_stretched_box_stays_close_to_its_outline() -> None:
    """No rectangle is the parallelogram that a stretched box is; the result shares most of it, in the mean more than
    the smallest rectangle around it does."""
    mapping = transform(ImageRule(size=(100, 100), resize="stretch"), 150, 100)
    found = boxes(60, 3)
    original = to_original(found, mapping)
    ours, around = [], []
    for box, rectangle in zip(found, original, strict=True):
        outline = (corners_of(box[None])[0] / (mapping.scale_x, mapping.scale_y)).astype(np.float32)
        for shares, other in (
            (ours, corners_of(rectangle[None])[0]),
            (around, cv2.boxPoints(cv2.minAreaRect(outline))),
        ):
            shared, _ = cv2.intersectConvexConvex(outline, other.astype(np.float32))
            union = cv2.contourArea(outline) + cv2.contourArea(other.astype(np.float32)) - shared
            shares.append(shared / union)
    assert min(ours) > 0.6
    assert np.mean(ours) > np.mean(around)


def test_upright_boxes_stay_upright_when_stretched() -> None:
    mapping = transform(ImageRule(size=(100, 100), resize="stretch"), 300, 100)
    upright = np.array([[50, 50, 20, 20, 0], [20, 30, 10, 40, np.pi / 2]], np.float32)
    expected = [[150, 50, 60, 20, 0], [60, 30, 10, 120, np.pi / 2]]
    np.testing.assert_allclose(
        canonical(to_original(upright, mapping)), canonical(np.array(expected, np.float32)), atol=1e-3
    )


# --- suppression ---


def test_suppression_is_the_plain_loop() -> None:
    random = np.random.default_rng(2)
    found, scores, kinds = boxes(150, 5, 120), random.random(150).astype(np.float32), random.integers(0, 3, 150)
    alike = probabilistic_iou(found, found)
    for agnostic in (False, True):
        kept: list[int] = []
        for place in np.argsort(-scores, kind="stable").tolist():
            if all(alike[place, one] <= 0.3 or (kinds[place] != kinds[one] and not agnostic) for one in kept):
                kept.append(place)
        ours = rotated_suppression(found, scores, kinds, 0.3, class_agnostic=agnostic)
        assert ours.tolist() == kept
        assert 0 < len(kept) < 150
    assert len(rotated_suppression(found[:0], scores[:0], kinds[:0], 0.3)) == 0


def test_crossing_boxes_both_stay_where_upright_ones_would_not() -> None:
    cross = np.array([[50, 50, 80, 10, np.pi / 4], [50, 50, 80, 10, -np.pi / 4]], np.float32)
    assert rotated_suppression(cross, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), 0.5).tolist() == [0, 1]
    np.testing.assert_allclose(enclosing(cross)[0], enclosing(cross)[1], atol=1e-4)


@pytest.mark.ultralytics
def test_probabilistic_iou_is_that_of_ultralytics() -> None:
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    first, second = boxes(40), boxes(50, 1)
    theirs = metrics.batch_probiou(first, second).numpy()
    np.testing.assert_allclose(probabilistic_iou(first, second), theirs, atol=1e-3)
