"""The outputs of ``edgekit run``: drawn images, a drawn video, a file of tracks."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgekit.errors import InputError
from edgekit.runtimes.track import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from edgekit.arrays import Image
    from edgekit.runtimes.drawing.video_writer import VideoWriter
    from edgekit.runtimes.results import Result


class Drawn:
    """Files that grow with each result, whole when they are closed; each may be left out.

    Args:
        folder: for drawn images.
        video: file of the drawn images as a video, of the first image's size.
        mot: file of tracks, in MOT format.
    """

    def __init__(self, folder: Path | None, video: Path | None, mot: Path | None) -> None:
        self._folder, self._video, self._mot = folder, video, mot
        self._writer: VideoWriter | None = None
        self._first: tuple[Image, float | None] | None = None
        self._lines: list[str] = []
        self._frames = 0

    def __enter__(self) -> Drawn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._first is not None and self._video is not None:
            self._write(*self._first, FRAMES_PER_SECOND)
        if self._writer is not None:
            self._writer.close()
        if self._mot is not None:
            try:
                self._mot.write_text("".join(line + "\n" for line in self._lines), encoding="ascii")
            except OSError as failure:
                raise InputError(f"--mot {self._mot}: cannot be written: {failure.strerror}") from failure

    def add(self, image: Image, result: Result) -> None:
        """Take in one result with the image it is of.

        Raises:
            InputError: a file cannot be written.
        """
        self._frames += 1
        if self._mot is not None:
            self._lines += mot_lines(self._frames, result)
        if self._folder is None and self._video is None:
            return
        drawn = result.draw(image)
        if self._folder is not None:
            _save(drawn, result, self._folder)
        if self._video is not None:
            self._film(drawn, result.time)

    def _film(self, drawn: Image, time: float | None) -> None:
        """The rate of a video is known from its second frame on; the first one waits for it."""
        if self._writer is None and self._first is None:
            self._first = (drawn, time)
            return
        if self._first is not None:
            first, begun = self._first
            passed = time - begun if time is not None and begun is not None else 0.0
            self._first = None
            self._write(first, begun, 1 / passed if passed > 0 else FRAMES_PER_SECOND)
        self._write(drawn, time, FRAMES_PER_SECOND)

    def _write(self, drawn: Image, time: float | None, fps: float) -> None:
        from edgekit.runtimes.drawing.video_writer import VideoWriter

        if self._writer is None and self._video is not None:
            self._writer = VideoWriter(self._video, (drawn.shape[1], drawn.shape[0]), fps)
        if self._writer is not None:
            self._writer.write(drawn)


def mot_lines(frame: int, result: Result) -> list[str]:
    """A result's tracks as lines of MOT text; frames count from 1."""
    from edgekit.runtimes.results import Detections
    from edgekit.runtimes.tracking import mot

    if not isinstance(result, Detections) or result.track_ids is None:
        return []
    return mot.rows(frame, result.track_ids, result.boxes, result.scores)


def _save(drawn: Image, result: Result, folder: Path) -> None:
    """Write one drawn image; frames of a video (``street.mp4#12``) get their number in the name."""
    import cv2

    name = Path(result.source.replace("#", "-")).name or "image"
    path = folder / (name if Path(name).suffix in {".jpg", ".jpeg", ".png"} else f"{name}.jpg")
    if path.exists() and Path(result.source).exists() and path.samefile(result.source):
        raise InputError(f"--save {folder}: would overwrite the image {result.source}; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, drawn)[1].tobytes())
    except OSError as error:
        raise InputError(f"--save {path}: cannot be written: {error.strerror}") from error
