"""A model serves one thread at a time: a second one is refused."""

from __future__ import annotations

import threading

from edgekit.errors import UsageError


class Exclusive:
    """A block for one thread at a time. A second one gets an error and does not wait: engines and preprocessing reuse
    their memory, so that its results would be silently wrong. The thread inside may enter again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.closed = False

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise UsageError(
                "this model is running in another thread, and serves one at a time: open one model per thread, or a "
                "pool that any thread may call with edgekit.load(path, workers=N)"
            )
        if self.closed:
            self._lock.release()
            raise UsageError("this model is closed: open it again with edgekit.load(path)")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
