"""The comparison that evidence is made of: every number by hand, and every bound can fail."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgekit.evaluation.agreement import (
    COSINES,
    GATES,
    IOUS,
    SCORE_FLOOR,
    SLACK,
    DriftTally,
    Tally,
    judge,
    match,
)
from edgekit.evaluation.object_sizes import SIZES, SizeTally, without_sizes
from edgekit.runtimes.bundle.manifest import Agreement, Gate, OutputDrift, SizeAgreement
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.similarity import box_iou

quick = settings(deadline=None)


def found(*rows: tuple[float, int, list[float]]) -> Candidates:
    """Candidates of rows (score, class, box), in this order; the anchors count up."""
    return Candidates(
        np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        np.array([score for score, _, _ in rows], np.float32),
        np.array([class_id for _, class_id, _ in rows], np.int64),
        np.arange(len(rows)),
    )


def scene(seed: int, count: int = 20, classes: int = 3) -> Candidates:
    """Detections that do not overlap, best first, with scores above the floor."""
    random = np.random.default_rng(seed)
    low = np.stack([np.arange(count) % 5 * 100.0, np.arange(count) // 5 * 100.0], 1) + random.random((count, 2)) * 20
    boxes = np.concatenate([low, low + 20 + random.random((count, 2)) * 50], 1).astype(np.float32)
    scores = np.sort(random.uniform(0.4, 0.95, count))[::-1].astype(np.float32)
    return Candidates(boxes, scores, random.integers(0, classes, count), np.arange(count))


def changed(given: Candidates, **arrays: Any) -> Candidates:
    return Candidates(**{name: arrays.get(name, getattr(given, name)) for name in given.__dataclass_fields__})


def rows_of(given: Candidates, index: Any) -> Candidates:
    return Candidates(given.boxes[index], given.scores[index], given.class_ids[index], given.anchors[index])


def compared(source: Candidates, target: Candidates, iou: float = 0.5) -> Agreement:
    tally = Tally(gate_iou=iou)
    tally.add_detections(source, target)
    return tally.agreement()


# --- IoU ---


def test_iou_by_hand() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [3, 3, 3, 9], [9, 9, 0, 0]], np.float32
    )
    expected = [1, 50 / 150, 0, 4 / 100, 0, 0]
    np.testing.assert_allclose(box_iou(boxes[:1], boxes)[0], expected, atol=1e-6)
    assert box_iou(boxes[:0], boxes).shape == (0, 6)
    assert box_iou(boxes, boxes[:0]).shape == (6, 0)
    assert box_iou(boxes[4:], boxes[4:]).tolist() == [[0, 0], [0, 0]]


corners = st.tuples(*[st.integers(-200, 1000)] * 2, *[st.integers(1, 500)] * 2)


@quick
@given(first=corners, second=corners, scale=st.sampled_from([0.5, 2.0, 8.0]), shift=st.integers(-100, 100))
def test_iou_is_symmetric_and_knows_no_units(first: Any, second: Any, scale: float, shift: int) -> None:
    a, b = (np.array([[x, y, x + w, y + h]], np.float32) for x, y, w, h in (first, second))
    value = box_iou(a, b)[0, 0]
    assert value == box_iou(b, a)[0, 0]
    assert 0 <= value <= 1
    assert box_iou(a, a)[0, 0] == 1
    assert (value == 1) == bool((a == b).all())
    assert box_iou(a * np.float32(scale) + shift, b * np.float32(scale) + shift)[0, 0] == pytest.approx(value, abs=1e-6)
    small = [[int(v) // 50 for v in box[0]] for box in (a, b)]
    cells = [{(x, y) for x in range(q[0], q[2]) for y in range(q[1], q[3])} for q in small]
    if all(cells):  # an oracle that counts the cells of a coarse grid
        counted = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
        assert box_iou(*(np.array([q], np.float32) for q in small))[0, 0] == pytest.approx(counted, abs=1e-6)


# --- matching ---


def test_matching_by_hand() -> None:
    """The first row takes the best column, which the second wanted too."""
    partners, values = match(np.array([[0.6, 0.9, 0], [0.2, 0.8, 0], [0, 0.7, 0], [0, 0, 0]], np.float32))
    assert partners.tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(values, [0.9, 0.2, 0, 0])
    for shape in ((0, 3), (3, 0), (0, 0)):
        partners, values = match(np.zeros(shape, np.float32))
        assert partners.tolist() == [0] * shape[0]
        assert values.tolist() == [0.0] * shape[0]


@quick
@given(rows=st.integers(0, 8), columns=st.integers(0, 8), seed=st.integers(0, 10**6))
def test_matching_is_one_to_one(rows: int, columns: int, seed: int) -> None:
    overlaps = np.random.default_rng(seed).random((rows, columns)).astype(np.float32)
    partners, values = match(overlaps)
    taken = partners[values > 0].tolist()
    assert len(taken) == len(set(taken)) == min(rows, columns)
    for row in range(rows):
        if values[row] > 0:
            assert values[row] == overlaps[row, partners[row]]
            others = [column for column in range(columns) if column not in partners[:row][values[:row] > 0]]
            assert values[row] == overlaps[row, others].max()


# --- detections ---

A, B, C = [0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 10, 60]
A_9 = [0, 0, 10, 9]  # IoU 0.9 with A
B_HALF = [50, 0, 55, 10]  # IoU 0.5 with B


def test_every_number_by_hand() -> None:
    source = found((0.9, 0, A), (0.8, 1, B), (0.5, 2, C), (0.2, 0, [90, 90, 99, 99]))
    target = found(
        (0.7, 0, A_9), (0.75, 1, B_HALF), (0.6, 0, C), (0.4, 1, [200, 200, 210, 210]), (0.25, 2, [0, 0, 1, 1])
    )
    result = compared(source, target, iou=0.6)
    assert (result.score_floor, result.iou, result.detections) == (SCORE_FLOOR, 0.6, 3)
    assert result.matched == pytest.approx(1 / 3)
    expected = {"0.5": 2 / 3, "0.75": 1 / 3, "0.9": 1 / 3, "0.95": 0.0}
    assert result.matched_at == pytest.approx(expected)
    assert result.score_drift == pytest.approx(0.2, abs=1e-6)
    assert result.score_drift_max == pytest.approx(0.2, abs=1e-6)
    assert result.class_flips == 1
    assert result.extra == pytest.approx(2 / 4)  # the flipped class, and the box from nowhere; B_HALF is known at 0.5
    assert (result.top_score, result.top_score_source) == (np.float32(0.75), np.float32(0.9))


def test_several_images_are_one_tally() -> None:
    tally = Tally(gate_iou=0.5)
    tally.add_detections(found((0.9, 0, A), (0.8, 0, B)), found((0.8, 0, A)))
    tally.add_detections(found((0.6, 0, A)), found((0.57, 0, A), (0.5, 0, C)))
    result = tally.agreement()
    assert (result.detections, result.matched, result.extra) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert result.score_drift == pytest.approx((0.1 + 0.03) / 2, abs=1e-6)
    assert result.score_drift_max == pytest.approx(0.1, abs=1e-6)


def test_a_score_that_falls_below_the_floor_is_drift_and_no_loss() -> None:
    result = compared(found((0.31, 0, A)), found((0.29, 0, A)))
    assert (result.matched, result.extra) == (1.0, 0.0)
    assert result.score_drift == pytest.approx(0.02, abs=1e-6)
    result = compared(found((0.29, 0, A)), found((0.31, 0, A)))
    assert (result.detections, result.matched, result.extra) == (0, 1.0, 0.0)


def test_two_boxes_for_one_are_matched_once() -> None:
    result = compared(found((0.9, 0, A), (0.8, 0, A)), found((0.9, 0, A)))
    assert (result.matched, result.class_flips) == (0.5, 1)
    result = compared(found((0.9, 0, A)), found((0.9, 0, A), (0.8, 0, A_9)))
    assert (result.matched, result.extra) == (1.0, 0.5)


def test_nothing_found_anywhere() -> None:
    empty, one = found(), found((0.9, 0, A))
    assert compared(empty, empty) == Tally(gate_iou=0.5).agreement()
    result = compared(empty, empty)
    assert (result.detections, result.matched, result.extra, result.score_drift, result.top_score) == (0, 1, 0, 0, 0)
    result = compared(one, empty)
    assert (result.detections, result.matched, result.extra, result.class_flips) == (1, 0.0, 0.0, 0)
    result = compared(empty, one)
    assert (result.detections, result.matched, result.extra) == (0, 1.0, 1.0)


@quick
@given(seed=st.integers(0, 10**6), count=st.integers(0, 20))
def test_a_run_agrees_with_itself(seed: int, count: int) -> None:
    source = scene(seed, count)
    result = compared(source, source, iou=0.95)
    assert (result.matched, result.score_drift, result.extra, result.class_flips) == (1.0, 0.0, 0.0, 0)
    assert set(result.matched_at.values()) == {1.0}
    for precision, gate in GATES.items():
        assert judge(result, [], gate, COSINES[precision]) == ()


@quick
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 30), low=st.floats(0.05, 1), high=st.floats(0.05, 1))
def test_stricter_ious_never_match_more(seed: int, noise: float, low: float, high: float) -> None:
    source = scene(seed)
    jitter = np.random.default_rng(seed).normal(size=source.boxes.shape) * noise
    target = changed(source, boxes=(source.boxes + jitter).astype(np.float32))
    assume(low <= high)
    assert compared(source, target, low).matched >= compared(source, target, high).matched
    shares = [compared(source, target).matched_at[f"{iou:g}"] for iou in IOUS]
    assert shares == sorted(shares, reverse=True)


@quick
@given(seed=st.integers(0, 10**6), kept=st.integers(0, 20), scale=st.floats(0.5, 1))
def test_losses_and_drift_grow_with_what_is_lost(seed: int, kept: int, scale: float) -> None:
    source = scene(seed)
    assert compared(source, rows_of(source, slice(kept))).matched == pytest.approx(kept / 20)
    assert compared(rows_of(source, slice(kept)), source).extra == pytest.approx((20 - kept) / 20)
    scaled = compared(source, changed(source, scores=source.scores * np.float32(scale)))
    assert scaled.matched == 1.0
    assert scaled.score_drift == pytest.approx(float(source.scores.mean()) * (1 - scale), abs=1e-5)
    assert scaled.score_drift <= scaled.score_drift_max + 1e-7


# --- the gate: bad conversions fail ---


def bad(how: str, source: Candidates) -> Candidates:
    """The source's detections as a broken conversion gives them."""
    if how == "shifted boxes":
        return changed(source, boxes=source.boxes + np.float32(30))
    if how == "scaled scores":
        return changed(source, scores=source.scores * np.float32(0.8))
    if how == "dropped detections":
        return rows_of(source, slice(16))
    if how == "added detections":
        more = changed(source, boxes=source.boxes + np.float32(1000))
        return Candidates(
            *(
                np.concatenate([getattr(source, n), getattr(more, n)[:5]])
                for n in ("boxes", "scores", "class_ids", "anchors")
            )
        )
    if how == "swapped classes":
        return changed(source, class_ids=(source.class_ids + 1) % 3)
    return changed(source, scores=np.zeros_like(source.scores))


FAILURES = {
    "shifted boxes": "matched 0.000 of 20 at IoU",
    "scaled scores": "mean score drift 0.1",
    "dropped detections": "matched 0.800 of 20 at IoU",
    "added detections": "extra detections 0.200, at most",
    "swapped classes": "matched 0.000 of 20 at IoU",
    "all scores zero": "scores collapsed: the largest is 0.000, the source's 0.857",
}


@pytest.mark.parametrize("precision", GATES)
@pytest.mark.parametrize("how", FAILURES)
def test_broken_conversions_fall_outside_every_gate(how: str, precision: str) -> None:
    source = scene(1)
    gate = GATES[precision]
    result = compared(source, bad(how, source), gate.iou)
    failures = judge(result, [], gate)
    assert any(failure.startswith(FAILURES[how]) for failure in failures), failures
    assert judge(compared(source, source, gate.iou), [], gate) == ()
    if how == "swapped classes":
        assert result.class_flips == 20


def test_detections_that_all_vanish_are_a_collapse() -> None:
    """What INT8 does to boxes and scores on one scale: after the threshold there is nothing left to compare."""
    failures = judge(compared(scene(1), found()), [], GATES["int8"])
    assert "matched 0.000 of 20 at IoU 0.5, at least 0.9" in failures
    assert any("scores collapsed" in failure for failure in failures)


PERFECT = Agreement(
    score_floor=SCORE_FLOOR,
    iou=0.5,
    detections=100,
    matched=1.0,
    matched_at={},
    score_drift=0.0,
    score_drift_max=0.0,
    class_flips=0,
    extra=0.0,
    top_score=0.9,
    top_score_source=0.9,
)
GATE = Gate(iou=0.5, matched=0.9, score_drift=0.06, extra=0.12)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"matched": 0.9}, None),
        ({"matched": 0.899}, "matched 0.899 of 100 at IoU 0.5, at least 0.9"),
        ({"score_drift": 0.06}, None),
        ({"score_drift": 0.0601}, "mean score drift 0.0601, at most 0.06"),
        ({"extra": 0.12}, None),
        ({"extra": 0.121}, "extra detections 0.121, at most 0.12"),
        ({"top_score": 0.31}, None),
        ({"top_score": 0.29}, "scores collapsed: the largest is 0.290, the source's 0.900"),
        ({"top_score": 0.1, "top_score_source": 0.3}, None),
    ],
)
def test_every_bound(changes: dict[str, float], failure: str | None) -> None:
    result = judge(msgspec.structs.replace(PERFECT, **changes), [], GATE)
    assert result == ((failure,) if failure else ())


def test_all_failures_are_named_at_once() -> None:
    worst = msgspec.structs.replace(PERFECT, matched=0.0, score_drift=1.0, extra=1.0, top_score=0.0)
    drift = OutputDrift(name="boxes", cosine=0.5, max_error=1.0, mean_error=1.0)
    assert len(judge(worst, [drift], GATE, 0.9)) == 5


def test_cosines_are_asked_for_only_without_detections() -> None:
    drifts = [
        OutputDrift(name=name, cosine=value, max_error=0, mean_error=0) for name, value in (("a", 0.95), ("b", 1.0))
    ]
    assert judge(PERFECT, drifts, GATE) == ()
    assert judge(PERFECT, drifts, GATE, 0.95) == ()
    assert judge(PERFECT, drifts, GATE, 0.97) == ("output a: cosine 0.95000, at least 0.97",)
    nan = OutputDrift(name="a", cosine=float("nan"), max_error=0, mean_error=0)
    assert judge(PERFECT, [nan], GATE, 0.97) == ("output a: cosine nan, at least 0.97",)


def test_gates_are_those_that_were_asked_for() -> None:
    bare = {precision: without_sizes(gate) for precision, gate in GATES.items()}
    assert bare["fp32"] == Gate(iou=0.95, matched=0.99, score_drift=0.005, extra=0.02)
    assert bare["fp16"] == Gate(iou=0.9, matched=0.98, score_drift=0.02, extra=0.05)
    assert bare["int8"] == bare["w8a8"] == Gate(iou=0.5, matched=0.90, score_drift=0.06, extra=0.12)
    for gate in GATES.values():  # what all of a size may lose is never less than what the total may
        assert set(gate.by_size) == set(SIZES)
        assert all(bound <= gate.matched for bound in gate.by_size.values())
    assert (SCORE_FLOOR, SLACK) == (0.3, 0.5)
    assert set(GATES) == set(COSINES)


# --- by the size of objects ---


def sized(side: float, count: int) -> list[tuple[float, int, list[float]]]:
    """Rows of squares that do not overlap, below those of other sides."""
    top = 2000 * side
    return [(0.8, 0, [200.0 * i, top, 200.0 * i + side, top + side]) for i in range(count)]


def by_size(source: Candidates, target: Candidates, iou: float = 0.5) -> Agreement:
    tally = Tally(gate_iou=iou, sizes=SizeTally())
    tally.add_detections(source, target)
    return tally.agreement()


def test_recall_by_size_by_hand() -> None:
    """Areas below 32 x 32 pixels are small, from 96 x 96 on large."""
    source = found(*sized(31.9, 3), *sized(32, 4), *sized(95.9, 2), *sized(96, 5), (0.2, 0, [0, 0, 5, 5]))
    target = found(*sized(31.9, 1), *sized(32, 4), *sized(95.9, 1), *sized(96, 3))
    result = by_size(source, target)
    assert {name: (one.found, one.detections) for name, one in (result.by_size or {}).items()} == {
        "small": (1, 3),
        "medium": (5, 6),
        "large": (3, 5),
    }
    assert result.matched == pytest.approx(9 / 14)
    assert by_size(found(*sized(50, 2)), found()).by_size == {"medium": SizeAgreement(detections=2, matched=0.0)}
    assert compared(source, target).by_size is msgspec.UNSET


@pytest.mark.parametrize(("size", "side"), [("small", 20), ("medium", 60), ("large", 120)])
def test_a_copy_that_loses_objects_of_one_size_fails_by_size_alone(size: str, side: float) -> None:
    others = [row for other in (20, 60, 120) if other != side for row in sized(other, 100)]
    source = found(*sized(side, 20), *others)
    failures = judge(by_size(source, found(*sized(side, 2), *others)), [], GATES["int8"])
    bound = GATES["int8"].by_size[size]
    least = bound - 2 * (bound * (1 - bound) / 20) ** 0.5
    assert failures == (
        f"matched 0.100 of the {size} ones (2 of 20) at IoU 0.5, at least {least:.3f} "
        f"({size} {bound:g} less 2 standard errors)",
    )
    assert judge(by_size(source, source), [], GATES["int8"]) == ()
    assert judge(by_size(source, found(*others)), [], without_sizes(GATES["int8"])) == ()  # what the total hid


@pytest.mark.parametrize(
    ("of", "kept", "fails"),
    [(9, 0, False), (10, 6, False), (10, 5, True), (100, 73, False), (100, 71, True), (10000, 7930, False)],
)
def test_few_detections_of_a_size_decide_nothing(of: int, kept: int, fails: bool) -> None:
    share = SizeAgreement(detections=of, matched=kept / of)
    result = judge(msgspec.structs.replace(PERFECT, by_size={"small": share}), [], GATES["int8"])
    assert bool(result) == fails


# --- candidates, anchor by anchor ---


def test_candidates_are_compared_by_their_anchor() -> None:
    """The same box at another anchor is another prediction."""
    source = Candidates(
        np.array([A, B, C], np.float32), np.array([0.1, 0.3, 0.2], np.float32), np.array([0, 1, 2]), np.array([7, 3, 5])
    )
    target = Candidates(
        np.array([C, A_9, B], np.float32),
        np.array([0.25, 0.1, 0.2], np.float32),
        np.array([2, 1, 1]),
        np.array([5, 7, 3]),
    )
    tally = Tally(gate_iou=0.95)
    tally.add_candidates(source, target)
    result = tally.agreement()
    assert (result.detections, result.matched, result.class_flips) == (3, pytest.approx(2 / 3), 1)
    assert result.score_drift == pytest.approx((0 + 0.1 + 0.05) / 3, abs=1e-6)
    assert result.score_drift_max == pytest.approx(0.1, abs=1e-6)
    assert (result.extra, result.top_score, result.top_score_source) == (0.0, np.float32(0.25), np.float32(0.3))
    moved = changed(target, anchors=np.array([7, 5, 3]))
    tally = Tally(gate_iou=0.5)
    tally.add_candidates(source, moved)
    assert tally.agreement().matched == pytest.approx(1 / 3)


def test_only_the_best_anchors_count() -> None:
    source = scene(3)
    target = changed(source, boxes=np.where(np.arange(20)[:, None] < 4, source.boxes, source.boxes + np.float32(500)))
    for most, share in ((4, 1.0), (8, 0.5), (100, 0.2)):
        tally = Tally(gate_iou=0.9)
        tally.add_candidates(source, target, most)
        result = tally.agreement()
        assert (result.detections, result.matched) == (min(most, 20), share)


@quick
@given(seed=st.integers(0, 10**6))
def test_the_order_of_anchors_does_not_matter(seed: int) -> None:
    source, random = scene(seed), np.random.default_rng(seed)
    target = changed(source, boxes=(source.boxes + random.normal(size=(20, 4)) * 5).astype(np.float32))
    results = []
    for one, other in ((np.arange(20), np.arange(20)), (random.permutation(20), random.permutation(20))):
        tally = Tally(gate_iou=0.7)
        tally.add_candidates(rows_of(source, one), rows_of(target, other))
        results.append(tally.agreement())
    assert results[0].matched == results[1].matched
    assert results[0].score_drift == pytest.approx(results[1].score_drift)


def test_anchors_that_the_target_lacks_are_unmatched() -> None:
    source = scene(3)
    for lost in (1, 19, 20):
        tally = Tally(gate_iou=0.9)
        tally.add_candidates(source, rows_of(source, slice(lost, None)))
        assert tally.agreement().matched == pytest.approx(1 - lost / 20)
    tally = Tally(gate_iou=0.9)
    tally.add_candidates(found(), found())
    tally.add_candidates(found(), source)
    assert (tally.agreement().detections, tally.agreement().matched) == (0, 1.0)


# --- raw outputs ---


def test_drift_by_hand() -> None:
    tally = DriftTally("boxes")
    tally.add(np.array([[3.0, 0.0]], np.float32), np.array([[3.0, 4.0]], np.float32))
    tally.add(np.array([[0.0, 4.0]], np.float32), np.array([[0.0, 3.0]], np.float32))
    result = tally.drift()
    assert (result.name, result.max_error, result.mean_error) == ("boxes", 4.0, 5 / 4)
    assert result.cosine == pytest.approx((9 + 12) / (5 * np.sqrt(25 + 9)))


def test_an_output_that_collapsed_to_zero_has_no_cosine_of_one() -> None:
    """Where too few detections exist, the cosine is what has to notice it."""
    tally = DriftTally("classes")
    tally.add(np.ones((1, 8), np.float32), np.zeros((1, 8), np.float32))
    assert tally.drift().cosine == 0.0
    assert judge(PERFECT, [tally.drift()], GATE, COSINES["int8"]) == ("output classes: cosine 0.00000, at least 0.97",)
    both = DriftTally("classes")
    both.add(np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32))
    assert both.drift().cosine == 1.0
    assert DriftTally("nothing").drift() == OutputDrift(name="nothing", cosine=1.0, max_error=0.0, mean_error=0.0)


@quick
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 3), parts=st.integers(1, 5))
def test_drift_over_parts_is_drift_over_all(seed: int, noise: float, parts: int) -> None:
    random = np.random.default_rng(seed)
    source = random.normal(size=60).astype(np.float32)
    target = (source + random.normal(size=60) * noise).astype(np.float32)
    whole, split = DriftTally("x"), DriftTally("x")
    whole.add(source, target)
    for a, b in zip(np.array_split(source, parts), np.array_split(target, parts), strict=True):
        split.add(a, b)
    for name in ("cosine", "max_error", "mean_error"):
        assert getattr(split.drift(), name) == pytest.approx(getattr(whole.drift(), name))
    oracle = np.dot(source, target) / np.linalg.norm(source) / np.linalg.norm(target)
    assert whole.drift().cosine == pytest.approx(float(oracle), abs=1e-5)
    assert whole.drift().mean_error <= whole.drift().max_error
