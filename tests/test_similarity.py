"""OKS, mask IoU and OKS-NMS against pycocotools and against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtimes.tasks.similarity import (
    box_agreement,
    box_areas,
    box_iou,
    keypoint_similarity,
    keypoint_suppression,
    mask_iou,
)
from edgekit.runtimes.tasks.skeletons import COCO

pytest.importorskip("pycocotools", reason="the oracle is pycocotools (extra 'convert')")
quick = settings(deadline=None)


def poses(seed: int, count: int) -> Any:
    random = np.random.default_rng(seed)
    centre = random.uniform(50, 200, (count, 1, 2))
    points = centre + random.normal(0, 20, (count, 17, 2))
    return np.concatenate([points, random.uniform(0.1, 1, (count, 17, 1))], 2).astype(np.float32)


def coco_oks(found: Any, truth: Any, areas: Any) -> Any:
    """What COCOeval computes for one image, (found, truth)."""
    from pycocotools import coco
    from pycocotools.cocoeval import COCOeval

    def dataset(keypoints: Any, scored: bool) -> Any:
        rows = []
        for number, points in enumerate(keypoints):
            flat = np.concatenate([points[:, :2], np.full((17, 1), 2)], 1).ravel().tolist()
            row = {"id": number + 1, "image_id": 1, "category_id": 1, "keypoints": flat, "num_keypoints": 17}
            row |= {"area": float(areas[number % len(areas)]), "iscrowd": 0, "bbox": [0, 0, 9, 9]}
            rows.append(row | ({"score": 1 - number / 100} if scored else {}))
        built = coco.COCO()
        built.dataset = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "person"}], "annotations": rows}
        built.createIndex()
        return built

    evaluation = COCOeval(dataset(truth, False), dataset(found, True), "keypoints")
    evaluation._prepare()
    return np.asarray(evaluation.computeOks(1, 1))


@quick
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_keypoint_similarity_is_that_of_coco(seed: int, one: int, other: int) -> None:
    truth, found = poses(seed, one), poses(seed, other) + np.float32(3)
    areas = np.random.default_rng(seed).uniform(500, 5000, one).astype(np.float32)
    ours = keypoint_similarity(truth, found, areas, COCO.sigmas)
    np.testing.assert_allclose(ours.T, coco_oks(found, truth, areas), atol=1e-5)


def test_keypoint_similarity_of_the_same_and_of_others() -> None:
    one = poses(1, 1)
    areas = np.array([1000.0], np.float32)
    assert keypoint_similarity(one, one, areas, COCO.sigmas)[0, 0] == 1
    assert keypoint_similarity(one, one + 500, areas, COCO.sigmas)[0, 0] == pytest.approx(0, abs=1e-6)
    near, far = (keypoint_similarity(one, one + shift, areas, COCO.sigmas)[0, 0] for shift in (2, 8))
    assert 1 > near > far > 0


@quick
@given(st.integers(0, 10_000), st.integers(0, 4), st.integers(0, 4))
def test_mask_iou_is_that_of_coco(seed: int, one: int, other: int) -> None:
    from pycocotools import mask

    random = np.random.default_rng(seed)
    sets = [random.random((count, 12, 17)) > random.random((count, 1, 1)) for count in (one, other)]
    ours = mask_iou(*sets)
    assert ours.shape == (one, other)
    if one and other:
        encoded = [mask.encode(np.asfortranarray(bits.transpose(1, 2, 0).astype(np.uint8))) for bits in sets]
        theirs = mask.iou(encoded[0], encoded[1], [0] * other)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@quick
@given(st.integers(0, 10_000), st.integers(0, 12), st.floats(0.05, 0.95))
def test_suppression_is_the_greedy_loop(seed: int, count: int, limit: float) -> None:
    random = np.random.default_rng(seed)
    base = poses(seed, max(1, count // 3))
    keypoints = base[random.integers(0, len(base), count)] + random.normal(0, 3, (count, 1, 1)).astype(np.float32)
    scores, areas = random.random(count).astype(np.float32), random.uniform(500, 5000, count).astype(np.float32)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        before = [
            keypoint_similarity(keypoints[[better]], keypoints[[index]], areas[[better]], COCO.sigmas)[0, 0]
            for better in kept
        ]
        if not any(value > limit for value in before):
            kept.append(index)
    assert keypoint_suppression(keypoints, scores, areas, COCO.sigmas, limit).tolist() == kept


def test_areas_of_boxes_that_have_none() -> None:
    boxes = np.array([[0, 0, 2, 3], [5, 5, 5, 9], [4, 4, 1, 1]], np.float32)
    assert box_areas(boxes).tolist() == [6, 0, 0]


def test_equal_boxes_without_area_agree() -> None:
    """As those of an untrained network: right before left, or as thin as a line at the border."""
    boxes = np.array([[10, 10, 4, 4], [5, 0, 5, 8], [0, 0, 6, 6]], np.float32)
    assert box_iou(boxes, boxes).diagonal().tolist() == [0, 0, 1]
    assert box_agreement(boxes, boxes).diagonal().tolist() == [1, 1, 1]
    away = boxes + np.float32(3)
    assert box_agreement(boxes, away).diagonal().max() < 0.5, "others do not"
    assert box_agreement(boxes[2:], away[2:]) == box_iou(boxes[2:], away[2:]), "boxes with an area are as they were"
    assert box_agreement(boxes[:1], boxes[2:])[0, 0] == 0
    assert 0.95 < box_agreement(boxes[:1], boxes[:1] + np.float32(0.05))[0, 0] < 1, "arithmetic may differ a little"
