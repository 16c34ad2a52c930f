"""Filter, overlap and assignment of the trackers, against plain float64 loops, SciPy's matrices and brute force."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.runtimes.tasks.similarity import box_iou
from edgekit.runtimes.tracking import kalman
from edgekit.runtimes.tracking.assignment import (
    SOLVERS,
    _tie_breaks,
    assign,
    by_lap,
    by_scipy,
    compete,
    default_solver,
    shortest_augmenting_paths,
)
from edgekit.runtimes.tracking.state import Trajectories

centre = st.floats(-500, 2000)
extent = st.floats(2, 800)
measurement = st.tuples(centre, centre, extent, extent)
step = st.floats(0.001, 2.0)


# --- the filter -------------------------------------------------------------------------------------------------------


class PlainKalman:
    """One object, 8x8 matrices; the noise of a step by Van Loan's matrix exponential of the continuous model."""

    def __init__(self, measured: np.ndarray) -> None:
        size = np.maximum(measured[[2, 3, 2, 3]], 1)
        self.state = np.concatenate([measured, np.zeros(4)])
        self.spread = np.diag(np.concatenate([(2 / 20 * size) ** 2, (10 / 160 * 25 * size) ** 2]))
        self.size = size

    def predict(self, seconds: float) -> None:
        from scipy.linalg import expm

        drive = np.zeros((8, 8))
        drive[:4, 4:] = np.eye(4)
        noise = np.diag(np.concatenate([(self.size / 20) ** 2 * 25, (self.size / 160 * 25) ** 2 * 25]))
        block = expm(np.block([[-drive, noise], [np.zeros((8, 8)), drive.T]]) * seconds)
        transition = block[8:, 8:].T
        self.state = transition @ self.state
        self.spread = transition @ self.spread @ transition.T + transition @ block[:8, 8:]

    def correct(self, measured: np.ndarray) -> None:
        look = np.eye(4, 8)
        seen = look @ self.spread @ look.T + np.diag((self.size / 20) ** 2)
        gain = self.spread @ look.T @ np.linalg.inv(seen)
        self.state = self.state + gain @ (measured - look @ self.state)
        self.spread = (np.eye(8) - gain @ look) @ self.spread
        self.size = np.maximum(self.state[[2, 3, 2, 3]], 1)


@settings(deadline=None)
@given(st.lists(st.tuples(measurement, st.lists(st.tuples(step, measurement), max_size=4)), min_size=1, max_size=4))
def test_the_filter_over_all_tracks_is_the_textbook_one_over_each(tracks: list) -> None:
    pytest.importorskip("scipy", reason="SciPy's matrix exponential is the oracle")
    rounds = min(len(steps) for _, steps in tracks)
    state = kalman.begin(np.array([first for first, _ in tracks]).T)
    plain = [PlainKalman(np.array(first)) for first, _ in tracks]
    for k in range(rounds):
        seconds = np.array([steps[k][0] for _, steps in tracks])
        # Sizes that would leave STRETCH are clipped, which no linear filter does: such a step is not compared.
        bound = state[kalman.POSITION, 2:] + state[kalman.VELOCITY, 2:] * seconds
        size = np.sqrt(state[kalman.SQUARE, 2:])
        if ((bound < size / kalman.STRETCH) | (bound > size * kalman.STRETCH)).any():
            return
        measured = np.array([steps[k][1] for _, steps in tracks])
        state = kalman.correct(kalman.predict(state, seconds), measured.T)
        for row, one in enumerate(plain):
            one.predict(float(seconds[row]))
            one.correct(measured[row])
            scale = 1 + np.abs(one.state)
            got = np.concatenate([state[kalman.POSITION, :, row], state[kalman.VELOCITY, :, row]])
            assert (np.abs(got - one.state) < 1e-6 * scale).all()
            spread = [state[plane, :, row] for plane in (kalman.VARIANCE, kalman.COVARIANCE, kalman.SPREAD)]
            wanted = [np.diag(one.spread)[:4], np.diag(one.spread[:4, 4:]), np.diag(one.spread)[4:]]
            assert np.allclose(spread, wanted, rtol=1e-6)
            assert np.allclose(state[kalman.SQUARE, :, row], one.size**2)


@settings(deadline=None)
@given(measurement, st.lists(step, min_size=1, max_size=6))
def test_predicting_in_steps_or_at_once_is_the_same(measured: tuple[float, ...], steps: list[float]) -> None:
    first = np.array([measured]).T
    start = kalman.begin(first)
    start[kalman.VELOCITY, :2] = [[30], [-20]]
    start = kalman.correct(start, first + np.array([[5], [-5], [0], [0]]))
    start[kalman.VELOCITY, 2:] = 0
    slow = start
    for seconds in steps:
        slow = kalman.predict(slow, np.array([seconds]))
    assert np.allclose(slow, kalman.predict(start, np.array([sum(steps)])), rtol=1e-9)


def test_a_constant_speed_is_learnt_at_any_frame_rate() -> None:
    learnt = []
    for fps in (5, 10, 60):
        state = kalman.begin(np.array([[0.0, 0, 50, 100]]).T)
        for k in range(1, 3 * fps):
            measured = np.array([[40 * k / fps, -10 * k / fps, 50, 100]]).T
            state = kalman.correct(kalman.predict(state, np.array([1 / fps])), measured)
        learnt.append(state[kalman.VELOCITY, :2, 0])
    assert np.allclose(learnt, [(40, -10)] * 3, rtol=0.02)


@given(measurement, st.floats(0.1, 30))
def test_sizes_stay_within_bounds_however_long_an_object_is_unseen(measured: tuple, seconds: float) -> None:
    state = kalman.begin(np.array([measured]).T)
    state[kalman.VELOCITY, 2:] = [[-500], [500]]
    boxes = kalman.corners(kalman.predict(state, np.array([seconds])))
    width, height = boxes[0, 2] - boxes[0, 0], boxes[0, 3] - boxes[0, 1]
    assert width >= measured[2] / 4 * 0.99 - 1e-2
    assert height <= measured[3] * 4 * 1.01 + 1e-2


def test_an_empty_box_is_no_perfect_measurement() -> None:
    state = kalman.correct(kalman.begin(np.array([[3.0, 6, 0, 0]]).T), np.array([[3.0, 6, 0, 0]]).T)
    assert state[kalman.SQUARE].tolist() == [[1]] * 4
    assert (state[kalman.VARIANCE] > 0).all()


def test_boxes_become_centres_and_back() -> None:
    boxes = np.array([[1, 2, 5, 10], [0, 0, 0, 0]], np.float32)
    assert kalman.centred(boxes).T.tolist() == [[3, 6, 4, 8], [0, 0, 0, 0]]
    assert np.allclose(kalman.corners(kalman.begin(kalman.centred(boxes))), boxes)


@pytest.mark.parametrize("degrees", [0, 2])
def test_a_camera_motion_moves_states_as_it_moves_points(degrees: float) -> None:
    state = kalman.begin(np.array([[100.0, 50, 20, 40]]).T)
    state[kalman.VELOCITY, :, 0] = (10, -5, 1, 2)
    angle, scale = np.radians(degrees), 1.1
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = kalman.moved(state, np.column_stack([turn, (7, -3)]))
    assert np.allclose(moved[kalman.POSITION, :2, 0], turn @ (100, 50) + (7, -3))
    assert np.allclose(moved[kalman.VELOCITY, :2, 0], turn @ (10, -5))
    assert np.allclose(moved[kalman.POSITION, 2:, 0], (22, 44))
    whole = turn @ np.diag(state[kalman.VARIANCE, :2, 0]) @ turn.T
    assert np.allclose(moved[kalman.VARIANCE, :2, 0], np.diag(whole))
    assert np.allclose(moved[kalman.VARIANCE, 2:, 0], scale**2 * state[kalman.VARIANCE, 2:, 0])
    later = kalman.predict(moved, np.array([0.5]))[kalman.POSITION, :2, 0]
    assert np.allclose(later, turn @ kalman.predict(state, np.array([0.5]))[kalman.POSITION, :2, 0] + (7, -3))


# --- overlap ----------------------------------------------------------------------------------------------------------

corner = st.integers(0, 12)
small_box = st.tuples(corner, corner, corner, corner).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@given(st.lists(small_box, min_size=1, max_size=5), st.lists(small_box, min_size=1, max_size=5))
def test_overlap_is_that_of_counted_cells(first: list, second: list) -> None:
    got = box_iou(np.array(first, np.float32), np.array(second, np.float32))
    for (i, one), (j, two) in itertools.product(enumerate(first), enumerate(second)):
        cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (one, two)]
        union = len(cells[0] | cells[1])
        assert got[i, j] == pytest.approx(len(cells[0] & cells[1]) / union if union else 0, abs=1e-6)
    assert got.dtype == np.float32


# --- assignment -------------------------------------------------------------------------------------------------------

shape = st.tuples(st.integers(1, 12), st.integers(1, 12))
gain = st.one_of(st.just(0.0), st.floats(0.01, 1))
tied = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
matrix = shape.flatmap(lambda s: st.one_of(arrays(np.float64, s, elements=gain), arrays(np.float64, s, elements=tied)))
WIDE = {"scipy": by_scipy, "numpy": shortest_augmenting_paths}
if importlib.util.find_spec("lap"):
    WIDE["lap"] = by_lap


@settings(deadline=None)
@given(matrix)
def test_every_solver_gives_the_same_pairs(gains: np.ndarray) -> None:
    """Also where many choices are equally good. lap takes part where it is installed (see the test below)."""
    pytest.importorskip("scipy", reason="SciPy's solver is one of those compared")
    found = {name: assign(gains, solver) for name, solver in WIDE.items()}
    rows, columns = found["numpy"]
    assert all(np.array_equal(rows, r) and np.array_equal(columns, c) for r, c in found.values())
    assert len(set(columns.tolist())) == len(columns)
    assert (gains[rows, columns] > 0).all()
    chosen = by_scipy(gains if gains.shape[0] <= gains.shape[1] else gains.T)  # all of it, without the shortcut
    wide = gains if gains.shape[0] <= gains.shape[1] else gains.T
    assert gains[rows, columns].sum() == pytest.approx(wide[np.arange(len(chosen)), chosen].sum(), abs=1e-6)


def test_lap_gives_the_same_pairs_on_crowds() -> None:
    pytest.importorskip("lap", reason="lap is not installed")
    rng = np.random.default_rng(0)
    for _ in range(30):
        gains = rng.random((rng.integers(1, 60), rng.integers(1, 60)))
        gains[rng.random(gains.shape) < 0.5] = 0
        found = [assign(gains, solver) for solver in (by_lap, by_scipy, shortest_augmenting_paths)]
        for rows, columns in found[1:]:
            assert np.array_equal(rows, found[0][0])
            assert np.array_equal(columns, found[0][1])


@settings(deadline=None)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(lambda s: arrays(np.float64, s, elements=gain)))
def test_no_choice_of_pairs_is_worth_more(gains: np.ndarray) -> None:
    rows, columns = assign(gains, shortest_augmenting_paths)
    wide = gains if gains.shape[0] <= gains.shape[1] else gains.T
    best = max(
        sum(wide[i, j] for i, j in enumerate(order))
        for order in itertools.permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert gains[rows, columns].sum() == pytest.approx(best, abs=1e-6)


def test_certain_pairs_need_no_solver_and_others_do() -> None:
    def refuse(_: np.ndarray) -> np.ndarray:
        raise AssertionError("asked")

    rows, columns = assign(np.array([[0.9, 0.2, 0], [0.1, 0.8, 0], [0, 0, 0]]), refuse)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])
    with pytest.raises(AssertionError, match="asked"):
        assign(np.array([[0.9, 0.8], [0.8, 0.2]]), refuse)
    rows, columns = assign(np.array([[0.9, 0.8], [0.8, 0.2]]), shortest_augmenting_paths)
    assert columns.tolist() == [1, 0]  # the greatest single gain is not part of the best choice
    for empty in ((0, 3), (3, 0), (0, 0)):
        assert [len(side) for side in assign(np.zeros(empty), refuse)] == [0, 0]
    assert len(assign(np.zeros((3, 4)), refuse)[0]) == 0


def test_equal_choices_are_decided_in_the_same_way_everywhere() -> None:
    """Ports have to break ties as this does: by these numbers, of 32-bit integer arithmetic."""
    assert assign(np.full((3, 4), 0.5))[1].tolist() == [1, 2, 3]
    one, two = 1, 2
    mixed = (one * 0x9E3779B1 ^ two * 0x85EBCA77) % 2**32
    mixed ^= mixed >> 16
    mixed = mixed * 0xC2B2AE3D % 2**32
    mixed ^= mixed >> 15
    assert _tie_breaks(3, 4)[one, two] == mixed / 2**32
    assert len(np.unique(_tie_breaks(500, 500))) > 0.999 * 500**2


def test_pairs_compete_for_a_row_or_a_column() -> None:
    assert not compete(np.array([0, 1, 2]), np.array([2, 0, 1]))
    assert compete(np.array([0, 0]), np.array([0, 1]))
    assert compete(np.array([0, 1]), np.array([1, 1]))
    assert not compete(np.zeros(0, np.int64), np.zeros(0, np.int64))


def test_the_solver_is_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [name for name in SOLVERS if importlib.util.find_spec(name.partition(".")[0])]
    default_solver.cache_clear()
    assert default_solver() is (SOLVERS[installed[0]] if installed else shortest_augmenting_paths)
    monkeypatch.setattr("edgekit.runtimes.tracking.assignment.SOLVERS", {"no_such_package": by_lap})
    default_solver.cache_clear()
    assert default_solver() is shortest_augmenting_paths
    default_solver.cache_clear()


# --- trajectories -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(2, 8), st.integers(-1, 60))
def test_rings_remember_the_newest_and_find_by_time(waits: list[int], length: int, asked: int) -> None:
    rings, times = Trajectories(length), np.cumsum(waits)
    slots = rings.take(1)
    for time in times:
        rings.append(slots, float(time), np.full((1, 4), time, np.float32))
    kept, boxes = rings.read(int(slots[0]))
    assert kept.tolist() == times[-length:].tolist()
    assert boxes[:, 0].tolist() == times[-length:].tolist()
    before = [time for time in times[-length:] if time <= asked]
    found, several = rings.at_or_before(slots, np.array([float(asked)]))
    assert found[0, 0] == (before[-1] if before else times[-length:][0])
    assert several.tolist() == [len(times) > 1]


def test_slots_are_used_again_and_begin_empty() -> None:
    rings = Trajectories(4)
    first = rings.take(3)
    rings.append(first, 1.0, np.ones((3, 4), np.float32))
    rings.give_back(first[:2])
    more = rings.take(16)
    assert len(set(more.tolist()) | {int(first[2])}) == 17
    assert all(len(rings.read(int(slot))[0]) == 0 for slot in more)
    assert rings.read(int(first[2]))[0].tolist() == [1.0]
