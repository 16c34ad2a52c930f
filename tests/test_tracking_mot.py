"""MOT text, and the quality on a real sequence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from moving_boxes import Street

from edgekit.errors import InputError, UsageError
from edgekit.runtimes.tracking import mot
from edgekit.runtimes.tracking.bytetrack import ByteTrack


def test_tracks_are_written_and_read_back(tmp_path: Path) -> None:
    street, tracker = Street(), ByteTrack()
    frames = [street.at(k / 25) for k in range(50)]
    tracks = [tracker.update(f.boxes, f.scores, f.class_ids, time=f.time) for f in frames]
    count = mot.write(tmp_path / "out.txt", enumerate(tracks, 1))
    assert count == len((tmp_path / "out.txt").read_text().splitlines()) > 300
    back = mot.read(tmp_path / "out.txt")
    assert [frame.frame for frame in back] == list(range(1, 51))
    for frame, written in zip(back, tracks, strict=True):
        assert np.array_equal(frame.track_ids, written.visible.track_ids)
        assert np.allclose(frame.boxes, written.visible.boxes, atol=2e-3)
        assert np.allclose(frame.scores, written.visible.scores, rtol=1e-5)
    assert (back[0].track_ids.dtype, back[0].boxes.dtype) == (np.int64, np.float32)


def test_only_what_is_believed_and_in_sight_is_written() -> None:
    tracker = ByteTrack(boxes="detection")
    tracker.update([[10, 20, 30, 60]], [0.9], [0], time=0.0)
    tracks = tracker.update([[11, 20, 31, 60.5], [500, 500, 600, 600]], [0.8, 0.9], [0, 0], time=0.1)
    assert mot.lines(7, tracks) == ["7,1,11.000,20.000,20.000,40.500,0.8,-1,-1,-1"]
    assert mot.lines(8, tracker.update([], [], [], time=0.2)) == []
    with pytest.raises(UsageError, match="MOT frames are counted from 1, not 0"):
        mot.lines(0, tracks)


def test_frames_may_be_missing_unordered_and_without_confidence(tmp_path: Path) -> None:
    file = tmp_path / "gt.txt"
    file.write_text("3, 1, 10, 20, 5, 5\n\n1,2,0,0,4,4,0.5,-1,-1,-1\n3,-1,1,1,1,1,1,-1\n")
    frames = mot.read(file)
    assert [frame.track_ids.tolist() for frame in frames] == [[2], [], [1, -1]]
    assert frames[0].scores.tolist() == [0.5]
    assert frames[2].boxes.tolist() == [[10, 20, 15, 25], [1, 1, 2, 2]]
    assert frames[2].scores.tolist() == [1, 1]
    file.write_text("")
    assert mot.read(file) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3,4,5", r"line 2: 5 values; expected frame,id,left,top,width,height,confidence"),
        ("1,2,x,4,5,6,1", r"line 2: could not convert string to float: 'x'"),
        ("1,2,nan,4,5,6,1", r"line 2: '1,2,nan,4,5,6,1' has a value that is not finite"),
        ("0,2,3,4,5,6,1", r"line 2: frame 0, id 2; expected whole numbers from 1"),
        ("1.5,2,3,4,5,6,1", r"line 2: frame 1.5, id 2; expected whole numbers from 1"),
        ("99999999,2,3,4,5,6,1", r"line 2: frame 1e\+08, id 2; expected whole numbers from 1"),
        ("1,2.5,3,4,5,6,1", r"line 2: frame 1, id 2.5; expected"),
        ("1,2,3,4,-5,6,1", r"line 2: a box of -5 x 6 pixels"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "det.txt"
    file.write_text(f"1,-1,3,4,5,6,1\n{line}\n")
    with pytest.raises(InputError, match=rf"det\.txt, {message}"):
        mot.read(file)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.txt: No such file"):
        mot.read(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read .*binary\.txt: .*codec"):
        mot.read(tmp_path / "binary.txt")
    with pytest.raises(InputError, match=r"cannot write .*out\.txt: No such file"):
        mot.write(tmp_path / "none" / "out.txt", [])


# --- quality ----------------------------------------------------------------------------------------------------------

# HOTA, IDF1, MOTA of roboflow trackers 2.6.0 with its defaults on the same detections (benchmarks/tracking.py).
RIVALS = {
    "sort": (0.441, 0.553, 0.563),
    "bytetrack": (0.468, 0.603, 0.579),
    "ocsort": (0.488, 0.680, 0.571),
    "botsort": (0.534, 0.745, 0.632),
}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark itself, whose scoring is what is documented."""
    pytest.importorskip("trackeval", reason="HOTA needs trackeval")
    spec = importlib.util.spec_from_file_location("tracking_benchmark", ROOT / "benchmarks" / "tracking.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RIVALS)
def test_a_real_sequence_is_tracked_at_least_as_well_as_by_the_reference(
    benchmark: ModuleType, shared_data: Path, name: str
) -> None:
    folder = shared_data / "mot" / "TUD-Campus"
    truth = [(frame.track_ids, frame.boxes) for frame in mot.read(folder / "gt.txt")]
    update = benchmark.ours(name, 25.0)
    found = [update(k, (frame.boxes, frame.scores)) for k, frame in enumerate(mot.read(folder / "det.txt"))]
    scored = benchmark.score(truth, found)
    assert all(round(value, 3) >= rival for value, rival in zip(scored[:3], RIVALS[name], strict=True))


def hota(benchmark: ModuleType, frames: list[Any], side: Any) -> float:
    truth = [(frame.track_ids, frame.truth) for frame in frames]
    scored = benchmark.score(truth, [side(k, (frame.boxes, frame.scores)) for k, frame in enumerate(frames)])
    return float(scored[0])


def test_in_a_crowd_the_filters_boxes_are_nearer_the_truth_than_the_detections_own(benchmark: ModuleType) -> None:
    frames = benchmark.crowd(30, 60, 7)
    found = [hota(benchmark, frames, benchmark.ours("bytetrack", 30, boxes=kind)) for kind in ("filter", "detection")]
    assert found[0] > found[1] + 0.005


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["bytetrack", "botsort"])
def test_a_crowd_is_tracked_no_worse_than_by_others(benchmark: ModuleType, name: str, seed: int) -> None:
    """A hundred walkers. BoT-SORT of Ultralytics is ahead on one of the seeds, by .004."""
    pytest.importorskip("ultralytics", reason="compares with Ultralytics' trackers")
    frames = benchmark.crowd(100, 300, seed)
    ours, theirs = (hota(benchmark, frames, make(name, 30)) for make in (benchmark.ours, benchmark.ultralytics))
    assert ours > theirs - (0.01 if name == "botsort" else 0)


def test_a_generated_crowd_is_the_same_with_each_seed_and_half_hidden_walkers_are_found_less(
    benchmark: ModuleType,
) -> None:
    first, again, other = (benchmark.crowd(40, 20, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one.boxes, two.boxes) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0].truth, other[0].truth)
    visible = sys.modules["crowds"].visibility(np.array([[0, 0, 10, 20], [5, 0, 15, 30], [100, 0, 110, 20]], float))
    assert visible.tolist() == [0.5, 1, 1]
    assert 20 < np.mean([len(frame.boxes) for frame in first]) < 40


def test_the_score_itself_is_right_about_perfect_and_about_swapped_tracks(benchmark: ModuleType) -> None:
    box = np.array([[0, 0, 10, 20], [100, 0, 110, 20]], np.float32)
    truth = [(np.array([1, 2]), box)] * 10
    assert benchmark.score(truth, [(np.array([7, 5]), box)] * 10) == pytest.approx((1, 1, 1, 0))
    swapped = [(np.array([7, 5] if k < 5 else [5, 7]), box) for k in range(10)]
    hota, identity, accuracy, switches = benchmark.score(truth, swapped)
    assert (identity, accuracy, switches) == pytest.approx((0.5, 0.9, 2))
    assert hota == pytest.approx(np.sqrt(1 / 3), abs=1e-3)  # 5 of 10 + 5 other frames agree
