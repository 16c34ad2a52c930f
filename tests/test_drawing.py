"""Trails of tracks, and videos written frame by frame."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.errors import InputError, UsageError
from edgekit.runtimes import drawing
from edgekit.runtimes.drawing.video_writer import CODECS, VideoWriter
from edgekit.runtimes.inputs.media import frames


class TestTrails:
    def image(self) -> np.ndarray:
        return np.full((60, 100, 3), 128, np.uint8)

    def test_a_line_per_track_that_thins_towards_the_past(self) -> None:
        image = self.image()
        path = np.array([[5, 20], [30, 20], [60, 20], [95, 20]], np.float32)
        drawn = drawing.draw_trails(image, [path, path + np.float32([0, 30])], [7, 9], thickness=9)
        assert (image == 128).all()
        assert tuple(drawn[20, 50]) == drawing.color_of(7)
        assert tuple(drawn[50, 50]) == drawing.color_of(9)
        widths = (drawn[:36] != 128).any(axis=2).sum(axis=0)
        assert 3 <= widths[15] < widths[45] < widths[80] < 15

    def test_short_paths_draw_nothing(self) -> None:
        paths = [np.zeros((0, 2), np.float32), np.array([[50, 30]], np.float32)]
        assert (drawing.draw_trails(self.image(), paths, [1, 2]) == 128).all()
        assert (drawing.draw_trails(self.image(), [], []) == 128).all()

    @settings(deadline=None)
    @given(arrays.arrays(np.float32, (3, 2), elements=st.floats(-(2.0**120), 2.0**120, width=32)))
    def test_any_path_can_be_drawn(self, path: np.ndarray) -> None:
        assert drawing.draw_trails(self.image(), [path], [3]).shape == (60, 100, 3)

    def test_what_does_not_fit_is_named(self) -> None:
        path = np.zeros((2, 2), np.float32)
        with pytest.raises(UsageError, match="ids must be as many as paths, 2, not 1"):
            drawing.draw_trails(self.image(), [path, path], [1])
        with pytest.raises(UsageError, match=r"the path of track 5 must be finite numbers \(m, 2\), not \(2, 3\)"):
            drawing.draw_trails(self.image(), [np.zeros((2, 3), np.float32)], [5])
        with pytest.raises(UsageError, match="the path of track 5 must be finite"):
            drawing.draw_trails(self.image(), [path * np.nan], [5])


def levels(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Frames that get brighter."""
    return [np.full((height, width, 3), 20 + 200 * i // count, np.uint8) for i in range(count)]


class TestVideoWriter:
    @pytest.mark.parametrize("suffix", [*CODECS, ".MP4"])
    def test_every_frame_comes_back(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"größe{suffix}"
        with VideoWriter(path, (64, 48), 10) as video:
            for image in levels(12):
                video.write(image)
        assert video.frames == 12
        found = list(frames(path))
        assert [round(frame.image.mean()) for frame in found] == pytest.approx(
            [image.mean() for image in levels(12)], abs=6
        )
        assert found[0].image.shape == (48, 64, 3)
        assert [frame.time for frame in found] == pytest.approx([i / 10 for i in range(12)], abs=0.01)

    def test_views_and_a_broken_rate(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.avi", (48, 64), 29.97) as video:
            video.write(levels(1)[0].transpose(1, 0, 2)[:, ::-1])
        assert len(list(frames(tmp_path / "a.avi"))) == 1

    def test_an_error_inside_leaves_a_video_that_plays(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", (64, 48), 25) as video:  # noqa: PT012
            for image in levels(5):
                video.write(image)
            raise KeyboardInterrupt
        assert len(list(frames(tmp_path / "a.mp4"))) == 5

    @pytest.mark.parametrize(
        ("name", "size", "fps", "says"),
        [
            ("a.gif", (64, 48), 25, r"file name ending '.gif' is not one of: .avi, .m4v, .mkv, .mov, .mp4, .webm"),
            ("a", (64, 48), 25, "file name ending '' is not one of"),
            ("a.mp4", (0, 48), 25, r"size must be \(width, height\) in pixels, at least 1 x 1, not \(0, 48\)"),
            ("a.mp4", (64, 48), 0, "fps must be a positive number of frames per second, not 0"),
            ("a.mp4", (64, 48), float("nan"), r"fps must be a positive number .* not nan"),
        ],
    )
    def test_what_cannot_be_a_video(
        self, tmp_path: Path, name: str, size: tuple[int, int], fps: float, says: str
    ) -> None:
        with pytest.raises(UsageError, match=says):
            VideoWriter(tmp_path / name, size, fps)

    def test_what_cannot_be_opened(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(InputError, match=r"a.mp4: cannot be written, there is no folder .*/none; make it first"):
            VideoWriter(tmp_path / "none" / "a.mp4", (64, 48), 25)
        with pytest.raises(InputError, match=r"OpenCV cannot write this file as mp4v with 1x1 pixels at 25 frames/s"):
            VideoWriter(tmp_path / "a.mp4", (1, 1), 25)
        (tmp_path / "b.avi").mkdir()
        with pytest.raises(InputError, match=r"b.avi: OpenCV cannot write this file as MJPG"):
            VideoWriter(tmp_path / "b.avi", (64, 48), 25)
        assert "OpenCV" not in capfd.readouterr().err, "the error says it all"

    def test_frames_that_do_not_fit(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.avi", (64, 48), 25) as video:
            video.write(levels(1)[0])
            with pytest.raises(UsageError, match=r"a.avi: frame 1 has 48x64 pixels, the video 64x48; resize it"):
                video.write(np.zeros((64, 48, 3), np.uint8))
            with pytest.raises(InputError, match="must be uint8"):
                video.write(np.zeros((48, 64), np.uint8))
        with pytest.raises(UsageError, match=r"a.avi is closed after 1 frames; open another VideoWriter"):
            video.write(levels(1)[0])
        video.close()
        assert len(list(frames(tmp_path / "a.avi"))) == 1

    def test_a_file_that_vanished(self, tmp_path: Path) -> None:
        video = VideoWriter(tmp_path / "a.avi", (64, 48), 25)
        video.write(levels(1)[0])
        (tmp_path / "a.avi").unlink()
        with pytest.raises(InputError, match=r"a.avi: nothing was written; is the disk full"):
            video.close()

    @pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory in use from /proc")  # noqa: PTH110
    def test_memory_does_not_grow_with_the_video(self, tmp_path: Path) -> None:
        """500 frames of 230 kB between the two readings, in a process of its own."""
        code = """
import sys, numpy as np
from pathlib import Path
from edgekit.runtimes.drawing.video_writer import VideoWriter
def megabytes(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
with VideoWriter(sys.argv[1], (320, 240), 30) as video:
    for number in range(700):
        if number == 200: before = megabytes()
        video.write(np.roll(image, number, axis=1))
    print(megabytes() - before)
"""
        command = [sys.executable, "-c", code, str(tmp_path / "long.avi")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(done.stdout) < 30, "of the 115 MB that were written"
