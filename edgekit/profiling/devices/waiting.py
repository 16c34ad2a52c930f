"""HOST: limits on what a device says and on how long it is waited for.

A device may stand still, as may the network or the ssh between: whoever waits for one does so with a `Watch`, and reads
its lines as `Lines`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from edgekit.errors import DeviceError

SILENCE = 30.0
"""Seconds without a sign of life after which a device counts as lost. It gives one every 2 to 5 s."""

MOST_LINE = 16 << 20
"""Bytes of the longest line that a device may say."""

MOST_BYTES = 256 << 20
"""Bytes that it may say in all, over one connection."""


class Watch:
    """Ends what is waited for when it gives no sign of life, or takes too long in all.

    Args:
        end: ends it, so that whoever reads from it or writes to it goes on.

    Attributes:
        late: why it was ended; empty where it was not.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self.late = ""
        self._end = end
        self._closed = False
        self._changed = threading.Condition()
        self._heard, self._silence, self._until = 0.0, math.inf, math.inf
        threading.Thread(target=self._run, name="edgekit-watch", daemon=True).start()

    def expect(self, within: float = math.inf) -> None:
        """From now on there has to be a sign of life every `SILENCE` seconds, for so many seconds at most."""
        with self._changed:
            self._heard = time.monotonic()
            self._silence, self._until = SILENCE, self._heard + within
            self._changed.notify()

    def heard(self) -> None:
        """There was a sign of life."""
        self._heard = time.monotonic()

    def rest(self) -> None:
        """Nothing is waited for."""
        self._silence = self._until = math.inf

    def close(self) -> None:
        """Watch no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed and not self.late:
                now = time.monotonic()
                if now >= self._until:
                    self.late = "took too long to answer"
                elif now >= self._heard + self._silence:
                    self.late = f"gave no sign of life for {self._silence:g} s"
                else:
                    left = min(self._heard + self._silence, self._until) - now
                    self._changed.wait(left if left < math.inf else None)
        if self.late:
            self._end()


class Lines:
    """The lines that a device says, each of at most `MOST_LINE` bytes; the last may be cut short.

    Args:
        name: of the device, for messages.
        stream: what it writes.
        watch: hears of every line.
    """

    def __init__(self, name: str, stream: IO[bytes], watch: Watch) -> None:
        self._name, self._stream, self._watch = name, stream, watch
        self._bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        """Line by line, to the end.

        Raises:
            DeviceError: one that is too long, or too many.
        """
        while line := self._stream.readline(MOST_LINE):
            self._watch.heard()
            self._bytes += len(line)
            if len(line) == MOST_LINE and not line.endswith(b"\n"):
                raise DeviceError(f"{self._name}: the device sent a line of {MOST_LINE >> 20} MB: {_DISTRUST}")
            if self._bytes > MOST_BYTES:
                raise DeviceError(f"{self._name}: the device sent more than {MOST_BYTES >> 20} MB: {_DISTRUST}")
            yield line


_DISTRUST = "that is not edgekit's agent, or it is broken; see what is on that device"
