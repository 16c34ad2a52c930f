"""Masks inside boxes against a plain full-size computation, and the scores of classes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.arrays import Floats
from edgekit.errors import ContractError, EngineError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.results import Classification, Instances
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.decoders import Candidates

quick = settings(max_examples=25, deadline=None)
SIZE, CELLS, KINDS = (64, 96), 4, 3
"""Input (height, width), pixels to a prototype cell, and prototypes."""
EDGE = 0.03
"""Logits that 1/32 of a cell may make of 0; half a cell makes several times as much of it."""


def segmentation(boxes: Any, weights: Any, **post: Any) -> tuple[Any, list[Floats]]:
    """A task whose graph says these boxes (n, 4) xyxy with these coefficients (n, KINDS); smooth prototypes."""
    boxes, weights = np.asarray(boxes, np.float32), np.asarray(weights, np.float32)
    rows = np.concatenate([boxes, np.linspace(0.9, 0.5, len(boxes))[:, None], np.zeros((len(boxes), 1))], 1)
    contract = Contract(
        task="segment",
        image=ImageRule(size=SIZE),
        classes=("thing",),
        decoder=Decoder(name="decoded", options={"layout": "detections", "box_format": "xyxy", "attached": KINDS}),
        outputs=(Output(name="predictions", role="predictions"), Output(name="prototypes", role="prototypes")),
    )
    table = np.concatenate([rows, weights], 1)[None].astype(np.float32)
    y, x = np.mgrid[0 : SIZE[0] // CELLS, 0 : SIZE[1] // CELLS].astype(np.float32)
    prototypes = np.stack([np.sin(x / 3) + np.cos(y / 4), x / 12 - 1, np.sin(y / 2 + x / 5)])[None]
    return open_task(contract), [table, prototypes.astype(np.float32)]


def plainly(prototypes: Floats, weights: Floats, box: Floats, mapping: Any) -> Any:
    """The logits (h, w), every pixel by itself: interpolate the four cells round it; minus infinity outside the box."""
    planes = np.einsum("m,mhw->hw", weights, prototypes[0]).astype(np.float64)
    rows, columns = planes.shape
    found = np.full((mapping.height, mapping.width), -np.inf)
    for y in range(mapping.height):
        for x in range(mapping.width):
            cell_x = ((x + 0.5) * mapping.scale_x + mapping.offset_x) / CELLS - 0.5
            cell_y = ((y + 0.5) * mapping.scale_y + mapping.offset_y) / CELLS - 0.5
            left, top = int(np.floor(cell_x)), int(np.floor(cell_y))
            total = 0.0
            for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                share = (1 - abs(cell_x - column)) * (1 - abs(cell_y - row))
                total += share * planes[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
            inside = box[0] < x + 1 and x < box[2] and box[1] < y + 1 and y < box[3]
            found[y, x] = total if inside else -np.inf
    return found


@quick
@given(
    st.integers(0, 10_000),
    st.sampled_from([(96, 64), (60, 64), (120, 50), (33, 47)]),
    st.sampled_from(["center", "corner"]),
)
def test_masks_are_those_of_a_plain_computation(seed: int, size: tuple[int, int], align: str) -> None:
    random = np.random.default_rng(seed)
    low = random.uniform(0, (60, 40), (3, 2))
    boxes = np.concatenate([low, low + random.uniform(4, 30, (3, 2))], 1)
    task, outputs = segmentation(boxes, random.normal(0, 1, (3, KINDS)))
    mapping = transform(msgspec.structs.replace(task.contract.image, align=align), *size)
    result = task.result(outputs, mapping, iou=1.0)
    assert isinstance(result, Instances)
    kept = task.kept(outputs, None, 1.0)
    for index in range(len(result)):
        wanted = plainly(outputs[1], kept.attached[index], result.boxes[index], mapping)
        # warpAffine places its samples on a grid of 1/32 of a cell: pixels at the very edge may fall either way.
        wrong = result.masks.bitmap(index) != (wanted > 0)
        assert np.abs(wanted[wrong]).max(initial=0) < EDGE


def test_a_box_outside_the_image_has_an_empty_mask() -> None:
    task, outputs = segmentation([[0, 0, 10, 10], [90, 60, 96, 64]], [[1, 0, 0], [1, 0, 0]])
    mapping = transform(task.contract.image, 40, 64)  # letterboxed: the left edge of the input is not of the image
    result = task.result(outputs, mapping)
    assert result.masks.areas.tolist() == [0, 0]
    empty = task.result(outputs, mapping, score=0.99)
    assert len(empty) == len(empty.masks) == 0


def test_compared_masks_are_cut_to_their_boxes() -> None:
    task, outputs = segmentation([[0, 0, 48, 32], [40, 20, 96, 64]], [[0, 0, 0], [0, 0, 0]])
    outputs[1][:] = 1.0
    outputs[0][0, :, 6] = 1.0
    found = task.comparable(outputs, task.candidates(outputs, 0.1))
    assert found.attached.shape == (2, 16, 24)
    assert found.attached[0].sum() == 12 * 8
    assert found.attached[0, :8, :12].all()
    alike = task.similarity(found, found)
    assert np.diag(alike).tolist() == [1, 1]
    assert 0 < alike[0, 1] < 0.1
    with pytest.raises(TypeError, match="use comparable"):
        task.similarity(Candidates(found.boxes, found.scores, found.class_ids, found.anchors), found)


def test_a_mask_that_moves_is_seen_by_the_comparison() -> None:
    """Negative control: boxes alone would not tell."""
    task, outputs = segmentation([[0, 0, 96, 64]], [[0, 1, 0]])
    other = [outputs[0].copy(), -outputs[1]]
    one, two = (task.comparable(raw, task.candidates(raw, 0.1)) for raw in (outputs, other))
    np.testing.assert_array_equal(one.boxes, two.boxes)
    assert task.similarity(one, two)[0, 0] < 0.05


def test_masks_without_a_cell_are_compared_by_their_boxes() -> None:
    """An untrained network may have none at all, in the source and in the bundle alike."""
    task, outputs = segmentation([[0, 0, 48, 32], [40, 20, 96, 64]], [[0, 0, 0], [0, 0, 0]])
    outputs[1][:] = -1.0
    outputs[0][0, :, 6] = 1.0
    empty = task.comparable(outputs, task.candidates(outputs, 0.1))
    assert not empty.attached.any()
    assert np.diag(task.similarity(empty, empty)).tolist() == [1, 1]
    full = task.comparable([outputs[0], -outputs[1]], task.candidates(outputs, 0.1))
    assert task.similarity(empty, full).max() == 0, "something and nothing are not alike, whatever their boxes"


def test_prototypes_that_do_not_fit() -> None:
    task, outputs = segmentation([[0, 0, 48, 32]], [[1, 0, 0]])
    with pytest.raises(ContractError, match=r"prototypes \(1, 2, 16, 24\): \(1, 3, rows, columns\) is needed"):
        task.result([outputs[0], outputs[1][:, :2]], transform(task.contract.image, 96, 64))
    with pytest.raises(EngineError, match="NaN or infinite"):
        task.result([outputs[0], outputs[1] * np.nan], transform(task.contract.image, 96, 64))
    without = msgspec.structs.replace(task.contract, outputs=task.contract.outputs[:1])
    with pytest.raises(ContractError, match="has an output of the role 'prototypes', not only predictions"):
        open_task(without)


# --- classification ---


def classification(**options: Any) -> Any:
    return open_task(
        Contract(
            task="classify",
            image=ImageRule(size=(8, 8), resize="crop"),
            classes=("cat", "dog", "owl"),
            decoder=Decoder(name="classes", options=options),
            outputs=(Output(name="logits", role="logits"),),
        )
    )


def test_one_class_of_all() -> None:
    task = classification()
    logits = [np.array([[1.0, 3.0, 2.0]], np.float32)]
    result = task.result(logits, transform(task.contract.image, 20, 10))
    assert isinstance(result, Classification)
    wanted = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
    np.testing.assert_allclose(result.scores, wanted, rtol=1e-6)
    assert (result.best[0], result.multi_label, result.size) == ("dog", False, (20, 10))
    found = task.candidates(logits, 0.3)
    assert (found.class_ids.tolist(), found.anchors.tolist()) == ([1], [0])
    assert len(task.candidates(logits, 0.9)) == 0
    assert task.suppressed(found) is found


def test_any_number_of_classes() -> None:
    task = classification(activation="sigmoid")
    logits = [np.array([[2.0, -3.0, 1.0]], np.float32).reshape(1, 3, 1, 1)]
    result = task.result(logits, transform(task.contract.image, 20, 10), score=0.7)
    assert result.multi_label
    assert result.labels() == ["cat", "owl"]
    np.testing.assert_allclose(result.scores, 1 / (1 + np.exp([-2, 3, -1])), rtol=1e-5)
    found = task.candidates(logits, 0.3)
    assert found.class_ids.tolist() == [0, 2]
    assert found.anchors.tolist() == [0, 2]


def test_scores_that_the_graph_made() -> None:
    given = np.array([[0.2, 0.7, 0.1]], np.float32)
    task = classification(activated=True)
    np.testing.assert_array_equal(task.result([given], transform(task.contract.image, 9, 9)).scores, given[0])


def test_other_outputs_and_decoders_are_refused() -> None:
    task = classification()
    for raw in ([np.zeros((1, 4), np.float32)], [np.zeros((1, 2), np.float32)]):
        with pytest.raises(ContractError, match="values where 3 are needed, one for each class"):
            task.result(raw, transform(task.contract.image, 9, 9))
        with pytest.raises(ContractError, match="values where 3 are needed, one for each class"):
            task.candidates(raw, 0.5)
    with pytest.raises(EngineError, match="NaN or infinite"):
        task.result([np.full((1, 3), np.nan, np.float32)], transform(task.contract.image, 9, 9))
