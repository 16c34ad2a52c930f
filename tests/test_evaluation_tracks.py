"""HOTA, IDF1 and MOTA: answers that follow from the definitions, trackeval run on files, and wrong input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError
from edgekit.evaluation.tracks import evaluate_tracks, measure_tracks
from edgekit.runtimes.results import Classification, Detections, Result
from edgekit.runtimes.tracking import open_tracker
from edgekit.runtimes.tracking.mot import MotFrame, read

BOX = (10.0, 20.0, 50.0, 100.0)


@pytest.fixture
def trackeval() -> Any:
    return pytest.importorskip("trackeval", reason="needs trackeval (pip install trackeval)")


def track(frames: int, ids: Any, box: tuple[float, ...] = BOX, start: int = 1) -> list[MotFrame]:
    """One object that stands still; ``ids``: its id in each frame, None where it is missing."""
    rows = []
    for number, track_id in enumerate(ids, start):
        count = 0 if track_id is None else 1
        boxes = np.array([box] * count, np.float32).reshape(-1, 4)
        rows.append(MotFrame(number, np.full(count, track_id or 0, np.int64), boxes, np.ones(count, np.float32)))
    assert len(rows) == frames
    return rows


@pytest.mark.usefixtures("trackeval")
class TestKnownAnswers:
    def test_the_truth_itself(self, shared_data: Path) -> None:
        path = shared_data / "mot" / "TUD-Campus" / "gt.txt"
        metrics = measure_tracks(path, str(path))
        assert [metrics.hota, metrics.idf1, metrics.mota] == pytest.approx([1, 1, 1])
        assert (metrics.frames, metrics.objects, metrics.found, metrics.switches) == (71, 359, 359, 0)
        assert metrics.main == metrics.hota
        assert list(metrics.figures) == ["HOTA", "IDF1", "MOTA"]

    def test_an_id_that_changes_half_way(self) -> None:
        """Detection is perfect; each half of the track shares 5 of 10 frames: AssA = 0.5, HOTA its root."""
        metrics = measure_tracks(track(10, [1] * 10), track(10, [7] * 5 + [8] * 5))
        assert (metrics.det_a, metrics.ass_a) == pytest.approx((1.0, 0.5))
        assert metrics.hota == pytest.approx(0.5**0.5)
        assert metrics.idf1 == pytest.approx(0.5)
        assert (metrics.mota, metrics.switches) == (pytest.approx(0.9), 1)

    def test_boxes_that_are_half_beside(self) -> None:
        """IoU 0.6: counts at the 12 thresholds 0.05..0.6 of 19, and at the 0.5 of the others."""
        moved = (20.0, 20.0, 60.0, 100.0)
        metrics = measure_tracks(track(4, [1] * 4), track(4, [1] * 4, moved))
        assert metrics.hota == pytest.approx(12 / 19)
        assert (metrics.idf1, metrics.mota) == (1.0, 1.0)

    def test_missing_frames_and_false_ones(self) -> None:
        metrics = measure_tracks(track(8, [1] * 8), track(8, [1] * 6 + [None] * 2) + track(4, [1] * 4, start=9))
        assert metrics.mota == pytest.approx((6 - 4) / 8)
        assert metrics.idf1 == pytest.approx(2 * 6 / (8 + 10))
        assert metrics.frames == 12

    def test_nothing_found(self) -> None:
        metrics = measure_tracks(track(3, [1] * 3), track(3, [None] * 3))
        assert (metrics.hota, metrics.idf1, metrics.mota, metrics.found) == (0, 0, 0, 0)

    def test_what_the_truth_marks_as_not_counted(self) -> None:
        true = track(2, [1, 1])
        marked = [MotFrame(f.frame, np.array([1, 2]), np.repeat(f.boxes, 2, 0), np.array([1, 0])) for f in true]
        assert measure_tracks(marked, true) == measure_tracks(true, true)

    def test_silent(self, capfd: pytest.CaptureFixture[str]) -> None:
        measure_tracks(track(2, [1, 1]), track(2, [1, 1]))
        assert capfd.readouterr() == ("", "")

    def test_the_same_numbers_as_trackeval_reads_from_files(
        self, shared_data: Path, tmp_path: Path, trackeval: Any
    ) -> None:
        """Its own reader and its own matching of boxes, on tracks that are wrong in many ways."""
        generator = np.random.default_rng(0)
        truth = shared_data / "mot" / "TUD-Campus" / "gt.txt"
        lines = []
        for line in truth.read_text().split():
            frame, track_id, *rest = (float(value) for value in line.split(","))
            box = np.array(rest[:4]) + generator.normal(0, 6, 4)
            if generator.random() < 0.85:
                number = int(track_id) + (10 if frame > 35 and track_id < 4 else 0)
                lines.append(f"{int(frame)},{number},{','.join(f'{value:.2f}' for value in box)},1,-1,-1,-1")
        home = tmp_path / "gt" / "MOT15-train" / "TUD-Campus" / "gt"
        home.mkdir(parents=True)
        (home / "gt.txt").write_text(truth.read_text())
        (home.parent / "seqinfo.ini").write_text("[Sequence]\nname=TUD-Campus\nseqLength=71\n")
        data = tmp_path / "trackers" / "MOT15-train" / "ours" / "data"
        data.mkdir(parents=True)
        (data / "TUD-Campus.txt").write_text("\n".join(lines))
        dataset = trackeval.datasets.MotChallenge2DBox(
            {
                "GT_FOLDER": str(tmp_path / "gt"),
                "TRACKERS_FOLDER": str(tmp_path / "trackers"),
                "BENCHMARK": "MOT15",
                "SEQ_INFO": {"TUD-Campus": 71},
                "PRINT_CONFIG": False,
            }
        )
        raw = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", "TUD-Campus"), "pedestrian")
        expected = {
            "hota": np.mean(trackeval.metrics.HOTA().eval_sequence(raw)["HOTA"]),
            "idf1": trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(raw)["IDF1"],
            "mota": trackeval.metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(raw)["MOTA"],
        }
        metrics = measure_tracks(truth, data / "TUD-Campus.txt")
        assert 0.3 < metrics.hota < 0.8, "a case between the trivial ones"
        assert {name: getattr(metrics, name) for name in expected} == pytest.approx(expected, abs=1e-5)


class Red:
    """Finds the red square of each frame."""

    def __call__(self, image: Image) -> Result:
        rows, columns = np.nonzero(image[..., 2] > 128)
        boxes = np.zeros((0, 4), np.float32)
        if len(rows):
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes = np.array([box, [0, 0, 9, 9]], np.float32)
        return Detections(
            boxes=boxes,
            scores=np.full(len(boxes), 0.9, np.float32),
            class_ids=np.arange(len(boxes)),
            classes=("square", "corner"),
            size=(image.shape[1], image.shape[0]),
        )


@pytest.fixture
def video(tmp_path: Path) -> tuple[Path, list[MotFrame]]:
    """Twenty frames of a red square that moves, and the truth of it."""
    truth = []
    for frame in range(20):
        image = np.zeros((80, 160, 3), np.uint8)
        x = 10 + 4 * frame
        image[30:60, x : x + 30, 2] = 255
        cv2.imwrite(str(tmp_path / f"{frame:03}.png"), image)
        box = np.array([[x, 30, x + 30, 60]], np.float32)
        truth.append(MotFrame(frame + 1, np.array([3]), box, np.ones(1, np.float32)))
    return tmp_path, truth


class TestVideo:
    @pytest.mark.usefixtures("trackeval")
    def test_a_model_and_a_tracker(self, video: tuple[Path, list[MotFrame]]) -> None:
        folder, truth = video
        seen: list[tuple[int, int]] = []
        metrics = evaluate_tracks(
            Red(), open_tracker("sort"), truth, folder, classes=("square",), progress=lambda *done: seen.append(done)
        )
        assert seen[-1] == (20, 20)
        assert (metrics.objects, metrics.switches) == (20, 0)
        assert metrics.hota > 0.85
        assert metrics.mota >= 0.85
        every = evaluate_tracks(Red(), open_tracker("sort"), truth, folder)
        assert every.mota < 0.3, "the corners are counted where no class is named"

    def test_a_video_shorter_than_the_truth(self, video: tuple[Path, list[MotFrame]]) -> None:
        folder, truth = video
        (folder / "019.png").unlink()
        with pytest.raises(InputError, match="the video has 19 frames, the ground truth goes on to frame 20"):
            evaluate_tracks(Red(), open_tracker("sort"), truth, folder)

    def test_wrong_use(self, video: tuple[Path, list[MotFrame]]) -> None:
        folder, truth = video
        with pytest.raises(UsageError, match="fps must be above 0, not 0"):
            evaluate_tracks(Red(), open_tracker("sort"), truth, folder, fps=0)
        with pytest.raises(UsageError, match="'cat' is not one of: square, corner"):
            evaluate_tracks(Red(), open_tracker("sort"), truth, folder, classes=("cat",))
        whole = Classification(scores=np.ones(1, np.float32), classes=("a",), size=(4, 4))
        with pytest.raises(InputError, match="a classification has no boxes to track"):
            evaluate_tracks(lambda _: whole, open_tracker("sort"), truth, folder)


class TestWrongInput:
    def test_what_is_wrong_is_named(self, shared_data: Path) -> None:
        good = track(2, [1, 1])
        detections = shared_data / "mot" / "TUD-Campus" / "det.txt"
        with pytest.raises(InputError, match=r"the tracks: there is a box without an id \(-1\) in frame 1"):
            measure_tracks(good, detections)
        twice = [MotFrame(1, np.array([5, 5]), np.zeros((2, 4), np.float32), np.ones(2, np.float32))]
        with pytest.raises(InputError, match="the ground truth: there is the id 5 twice in frame 1"):
            measure_tracks(twice, good)
        with pytest.raises(InputError, match="the tracks: there is a frame number twice"):
            measure_tracks(good, good + good)
        with pytest.raises(InputError, match="no object, so there is nothing to measure against"):
            measure_tracks(track(2, [None, None]), good)
        with pytest.raises(InputError, match="cannot read"):
            measure_tracks("no/such/file.txt", good)

    def test_trackeval_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
        with pytest.raises(UsageError, match=r"HOTA needs the package trackeval .*pip install trackeval"):
            measure_tracks(track(2, [1, 1]), track(2, [1, 1]))

    def test_the_readers_frames_are_taken_too(self, shared_data: Path) -> None:
        pytest.importorskip("trackeval", reason="needs trackeval (pip install trackeval)")
        path = shared_data / "mot" / "TUD-Campus" / "gt.txt"
        assert measure_tracks(read(path), read(path)) == measure_tracks(path, path)
