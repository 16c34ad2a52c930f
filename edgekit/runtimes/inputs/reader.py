"""Decode frames ahead in a thread, so that the next ones are ready while the model runs."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any, Literal

from edgekit.errors import EdgekitError, InputError, UsageError, choices
from edgekit.runtimes.inputs import media
from edgekit.runtimes.inputs.media import SourceFrame
from edgekit.runtimes.inputs.video import SILENCE

Keep = Literal["every", "newest"]

WAKE = 0.2
"""Seconds after which a waiting thread looks around: on Windows a plain wait cannot be interrupted by Ctrl-C."""


class Reader:
    """A source, decoded ahead into a queue that holds a few frames: iterate over it, inside ``with``.

    Args:
        source: what `edgekit.runtimes.inputs.media.frames` opens.
        keep: ``every`` frame, so that the thread waits while the queue is full; or the ``newest``, so that a frame that
            nobody took in time is dropped. By default every frame of files, and the newest of cameras and streams.
        size: frames that the queue holds.
        reconnect: seconds that a camera or stream may be away before that is an error; it is opened again and again
            meanwhile. 0: at once.
        silence: seconds without a frame after which a network stream counts as away; `video.SILENCE` when left out.

    Attributes:
        dropped: frames that were decoded and not taken in time.
        reconnects: how often a camera or stream was opened again.

    Raises:
        InputError: no such source (at once), or (while iterating) a damaged frame, or a stream that stopped.
        UsageError: a wrong ``keep``, ``size``, ``reconnect`` or ``silence``, or the latter two for files.
    """

    def __init__(
        self,
        source: media.Source,
        *,
        keep: Keep | None = None,
        size: int = 4,
        reconnect: float = 0.0,
        silence: float | None = None,
    ) -> None:
        if keep not in (None, "every", "newest"):
            raise UsageError(f"keep {choices(str(keep), ('every', 'newest'))}")
        if size < 1:
            raise UsageError(f"size must be at least 1, not {size}")
        if not reconnect >= 0:
            raise UsageError(f"reconnect must be 0 or more seconds, not {reconnect:g}")
        self.live = media.is_live(source)
        if not self.live and (reconnect or silence is not None):
            given = source if isinstance(source, str | os.PathLike) else type(source).__name__
            raise UsageError(f"reconnect and silence are for cameras and streams, and {given} is none")
        self.keep: Keep = keep or ("newest" if self.live else "every")
        self.dropped = 0
        self.reconnects = 0
        self._open = partial(media.frames, source, silence=SILENCE if silence is None else silence)
        self._size, self._reconnect = size, reconnect
        self._frames: Iterator[SourceFrame] = self._open()
        self._queue: deque[SourceFrame] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="edgekit-reader", daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[SourceFrame]:
        while (frame := self._take()) is not None:
            yield frame

    def close(self) -> None:
        """Stop decoding and release the source. A read that hangs in a dead stream is left to end by itself."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _take(self) -> SourceFrame | None:
        """The next frame; None at the end."""
        with self._changed:
            while not (self._queue or self._ended or self._closing):
                self._changed.wait(WAKE)
            if self._queue:
                frame = self._queue.popleft()
                self._changed.notify_all()
                return frame
            if self._error is not None and not self._closing:
                raise self._error
            return None

    def _put(self, frame: SourceFrame) -> bool:
        """Queue a frame; False if the reader is closed."""
        with self._changed:
            while self.keep == "every" and len(self._queue) >= self._size and not self._closing:
                self._changed.wait(WAKE)
            if len(self._queue) >= self._size and not self._closing:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(frame)
            self._changed.notify_all()
            return not self._closing

    def _run(self) -> None:
        try:
            self._decode()
        except Exception as error:  # noqa: BLE001 - raised again where the frames are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _decode(self) -> None:
        begun = time.monotonic()
        index = 0
        frames: Iterator[SourceFrame] | None = self._frames
        away_since = begun
        while not self._closing:
            try:
                for frame in frames if frames is not None else self._open():
                    away_since = time.monotonic()
                    # One clock over all connections: a stream that is opened again counts from 0 again.
                    seconds = away_since - begun if self.live else frame.time
                    if not self._put(
                        SourceFrame(frame.image, frame.name, index if self.live else frame.index, seconds)
                    ):
                        return
                    index += 1
                return
            except InputError as error:
                if not self.live:
                    raise
                if time.monotonic() - away_since >= self._reconnect:
                    raise self._lost(error, index) from error
            frames = None
            self.reconnects += 1
            self._pause()

    def _lost(self, error: InputError, frames: int) -> InputError:
        """Why no more frames come, and what to do."""
        if self._reconnect:
            return InputError(f"{error}; it did not come back within {self._reconnect:g} s")
        # One that was never there is no matter of patience.
        return InputError(f"{error}; reconnect=SECONDS (--reconnect) waits for it to come back") if frames else error

    def _pause(self) -> None:
        """Wait before the next attempt, unless it is closed meanwhile."""
        with self._changed:
            if not self._closing:
                self._changed.wait(min(1.0, max(WAKE, self._reconnect / 10)))


def overlapped(reader: Reader, first: Any, second: Any) -> Iterator[Any]:
    """``second(first(frame))`` of every frame, in order, with ``second`` of one frame beside ``first`` of the next.

    Args:
        reader: of the frames.
        first: runs in this thread.
        second: runs in another one; what ``first`` returned must not be changed by its next call.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(1, "edgekit-post") as pool:
        pending: Future[Any] | None = None
        failure: EdgekitError | None = None
        try:
            for frame in reader:
                following = pool.submit(second, first(frame))
                if pending is not None:
                    yield pending.result()
                pending = following
        except EdgekitError as error:  # what came before it is given first
            failure = error
        if pending is not None:
            yield pending.result()
        if failure is not None:
            raise failure
