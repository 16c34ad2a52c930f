"""Videos, cameras and network streams, frame by frame, through OpenCV."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.runtimes.inputs.files import is_regular
from edgekit.runtimes.inputs.headers import check_size

if TYPE_CHECKING:
    import cv2

# fmt: off
SUFFIXES = frozenset((
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
))
# fmt: on
"""File name endings that are taken for a video."""

CUT_SHORT = 0.9
"""A file that gives less than this share of the frames its header promises is damaged. Headers of sound files are
often a few frames off, so equality would refuse good ones."""

SILENCE = 10.0
"""Seconds without a frame after which a network stream counts as dead; OpenCV waits for 30. For cameras its own 10 s
hold (``OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT``)."""

Read = Iterator[tuple[str, float | None, Image | InputError]]
"""Name, seconds, and the image or why there is none."""


class StreamStoppedError(InputError):
    """A camera or stream that gave frames gives no more."""


@dataclass(frozen=True)
class Video:
    """A sequence of frames that only comes in order.

    ``address`` is a path, a URL or a camera number as OpenCV takes it; ``live`` ones have no end known in advance, and
    may be silent for ``silence`` seconds, when they are opened and between two frames.
    """

    address: str | int
    live: bool = False
    silence: float = SILENCE

    @property
    def name(self) -> str:
        """Its name; a URL without user name and password."""
        if isinstance(self.address, int):
            return f"camera:{self.address}"
        return re.sub(r"^(\w+://)[^/]*@", r"\1", self.address)

    @property
    def length(self) -> int | None:
        """Number of frames that the header states; None when it does not, or the video is live."""
        import cv2

        if self.live:
            return None
        capture = self.capture()
        try:
            stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        return stated if stated > 0 else None

    def reliable_length(self) -> int:
        """Number of frames that can be read. Where the header is wrong or silent, they are decoded once to count them.

        Raises:
            InputError: it is live, or has no frames.
        """
        import cv2

        if self.live:
            raise InputError(
                f"{self.name}: frames of a camera or stream cannot be chosen by number; record a video first"
            )
        capture = self.capture()
        try:
            stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.set(cv2.CAP_PROP_POS_FRAMES, stated - 1)
            if stated > 0 and capture.grab() and not capture.grab():
                return stated
        finally:
            capture.release()
        capture, count = self.capture(), 0
        try:
            while capture.grab():
                count += 1
        finally:
            capture.release()
        if count == 0:
            raise InputError(f"{self.name}: no frame of this video can be decoded")
        return count

    def capture(self) -> cv2.VideoCapture:
        """An open capture at the first frame; the caller releases it.

        Raises:
            InputError: OpenCV cannot open it.
        """
        import cv2

        if not self.live and not is_regular(str(self.address)):
            raise InputError(f"{self.name}: no such file")
        with quiet():
            capture = self._opened()
        if capture.isOpened():
            # FFmpeg has the same bound for the frames themselves, which may be larger than the file's header says.
            check_size(
                (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))), self.name
            )
            return capture
        capture.release()
        if isinstance(self.address, int):
            raise InputError(f"{self.name} cannot be opened; is it connected, and not in use by another program?")
        if self.live:
            raise InputError(f"{self.name} cannot be opened; is the address right and the server reachable?")
        raise InputError(f"{self.name}: not a video that OpenCV can decode; convert it to mp4 (H.264)")

    def _opened(self) -> cv2.VideoCapture:
        import cv2

        patient = {cv2.videoio_registry.getBackendName(one) for one in cv2.videoio_registry.getBackends()}
        if isinstance(self.address, int) or not self.live or not patient & {"FFMPEG", "GSTREAMER"}:
            return cv2.VideoCapture(self.address)
        limit = max(1, round(1000 * self.silence))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        return cv2.VideoCapture(self.address, cv2.CAP_ANY, limits)

    def read(self) -> Read:
        """All frames in order, as ``(name#number, seconds, image)``; the last may be an error. Releases the capture.

        A live source that does not say how many frames it has never ends by itself: its end is an error.
        """
        import cv2

        try:
            capture = self.capture()
        except InputError as error:
            yield self.name, None, error
            return
        try:
            stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            rate = capture.get(cv2.CAP_PROP_FPS)
            begin, number = time.monotonic(), 0
            while True:
                asked = time.monotonic()
                found, image = capture.read()
                if not found:
                    break
                seconds = time.monotonic() - begin if isinstance(self.address, int) else _seconds(capture, number, rate)
                yield f"{self.name}#{number}", seconds, image  # type: ignore[misc]
                number += 1
        finally:
            capture.release()
        if number == 0:
            yield self.name, None, InputError(f"{self.name}: no frame of this video can be decoded")
        elif self.live and stated <= 0:
            waited = time.monotonic() - asked
            why = f"no frame for {waited:.0f} s" if waited > self.silence / 2 else "the other end closed it"
            yield (
                self.name,
                None,
                StreamStoppedError(
                    f"{self.name}: the stream stopped after {number} frame{'s' * (number != 1)} ({why})"
                ),
            )
        elif number < stated * CUT_SHORT:
            message = f"{self.name}: ends after {number} of {stated} frames; the file is damaged or cut short"
            yield f"{self.name}#{number}", None, InputError(message)


class FrameReader:
    """Frames of one video by number. Asked for in ascending order, the video is decoded once.

    Frames that are passed over are not converted to pixels. Seeking is avoided: with most codecs it is not exact.
    Not thread-safe.
    """

    def __init__(self, video: Video) -> None:
        self._video = video
        self._capture: cv2.VideoCapture | None = None
        self._next = 0

    def __call__(self, number: int) -> Image:
        """The frame uint8 (height, width, 3) BGR.

        Raises:
            InputError: the video ends or breaks off before.
        """
        if self._capture is None or number < self._next:
            self.close()
            self._capture = self._video.capture()
        while self._next < number and self._capture.grab():
            self._next += 1
        found, image = self._capture.read() if self._next == number else (False, None)
        if not found or image is None:
            self.close()
            raise InputError(f"{self._video.name}: frame {number} cannot be decoded; the file is damaged or cut short")
        self._next = number + 1
        return image  # type: ignore[return-value]

    def close(self) -> None:
        """Release the capture; the next call starts from the first frame again."""
        if self._capture is not None:
            self._capture.release()
        self._capture, self._next = None, 0


def _seconds(capture: cv2.VideoCapture, number: int, rate: float) -> float | None:
    """Presentation time of the frame just read; frame number over frame rate where the file has no time stamps."""
    import cv2

    stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if stamp > 0 or number == 0:
        return max(stamp, 0.0)
    return number / rate if rate > 0 else None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress OpenCV's own message on stderr, because an InputError has it too."""
    import cv2

    # OpenCV 5 has them in cv2.utils.logging, OpenCV 4 in cv2 itself.
    logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # silent
    try:
        yield
    finally:
        logging.setLogLevel(level)
