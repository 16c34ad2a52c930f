"""Videos written frame by frame, through OpenCV."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgekit.arrays import Image
from edgekit.errors import InputError, UsageError, choices
from edgekit.runtimes.inputs import images
from edgekit.runtimes.inputs.video import quiet

if TYPE_CHECKING:
    import cv2

CODECS = {".avi": "MJPG", ".m4v": "mp4v", ".mkv": "mp4v", ".mov": "mp4v", ".mp4": "mp4v", ".webm": "VP80"}
"""Codec by file name ending: those that the OpenCV of PyPI can encode, which has no H.264 (it is patented)."""


class VideoWriter:
    """A video file that is written while it is open: ``with VideoWriter("out.mp4", (640, 480), 25) as video: ...``.

    One frame is in memory at a time, however long the video gets. Not thread-safe.

    Args:
        path: of the file, which is replaced; its ending chooses the codec (`CODECS`).
        size: (width, height) of every frame in pixels. Codecs other than that of .avi take even numbers: an odd one
            loses its last column or row.
        fps: frames per second.

    Raises:
        UsageError: an ending without a codec, a size or rate that no video has.
        InputError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], size: tuple[int, int], fps: float) -> None:
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        self.frames = 0
        self._writer: cv2.VideoWriter | None = None
        if self.path.suffix.lower() not in CODECS:
            raise UsageError(f"{self.path}: video file name ending {choices(self.path.suffix, CODECS)}")
        if min(self.size) < 1:
            raise UsageError(f"size must be (width, height) in pixels, at least 1 x 1, not {size}")
        if not (math.isfinite(fps) and fps > 0):
            raise UsageError(f"fps must be a positive number of frames per second, not {fps}")
        self._writer = self._opened(fps)

    def _opened(self, fps: float) -> cv2.VideoWriter:
        import cv2

        if not self.path.parent.is_dir():
            raise InputError(f"{self.path}: cannot be written, there is no folder {self.path.parent}; make it first")
        codec = CODECS[self.path.suffix.lower()]
        with quiet():
            writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*codec), fps, self.size)
        if not writer.isOpened():
            writer.release()
            raise InputError(
                f"{self.path}: OpenCV cannot write this file as {codec} with {self.size[0]}x{self.size[1]} pixels at "
                f"{fps} frames/s; is the folder writable? Else try another ending: {', '.join(CODECS)}"
            )
        return writer

    def write(self, image: Image) -> None:
        """Append one frame.

        Args:
            image: uint8 (height, width, 3) BGR of the video's size.

        Raises:
            InputError: not an image. UsageError: of another size, or the video is closed.
        """
        images.check(image)
        if self._writer is None:
            raise UsageError(f"{self.path} is closed after {self.frames} frames; open another VideoWriter")
        if (image.shape[1], image.shape[0]) != self.size:
            # OpenCV would leave the frame out and not say so.
            raise UsageError(
                f"{self.path}: frame {self.frames} has {image.shape[1]}x{image.shape[0]} pixels, the video "
                f"{self.size[0]}x{self.size[1]}; resize it, or write one video per size"
            )
        self._writer.write(image)
        self.frames += 1

    def close(self) -> None:
        """Finish the file; without this it cannot be played. A second time it does nothing.

        Raises:
            InputError: frames were written, but nothing is in the file.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if self.frames and not (self.path.is_file() and self.path.stat().st_size):
            raise InputError(f"{self.path}: nothing was written; is the disk full?")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
