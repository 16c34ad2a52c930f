"""Forked processes that each use edgekit's structures for the first time in four threads at once, for tests.

``python first_uses.py BUNDLE PROCESSES [bare]`` prints how many processes a signal ended. ``bare`` takes the lock of
`edgekit.structures` away, as a negative control.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

from edgekit import structures
from edgekit.results import Match
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.language.options import GenerationOptions
from edgekit.runtimes.tasks import open_task, task_names
from edgekit.runtimes.tasks.decoders import every_decoder, find
from edgekit.runtimes.tracking import open_tracker, tracker_names
from edgekit.worker.messages import Event

THREADS = 4


class Forgetful(dict[object, object]):
    """A dictionary that keeps nothing."""

    def __setitem__(self, key: object, value: object) -> None:
        pass


def opened(bundle: str) -> None:
    """All that opening a model decodes, but for its engine."""
    contract = open_bundle(bundle).manifest.contract
    open_task(contract)
    open_tracker("bytetrack", lost_seconds=1.0)
    GenerationOptions(beams=2)
    find(Decoder(name="anchor_free")).read({"strides": [8]})
    Match.from_json('{"probability": 0.5, "similarity": 0.5, "text": "a", "source": ""}')
    structures.from_json(b'{"type": "progress", "text": "a", "share": 0.5}', Event)


def at_once(work: Callable[[], None]) -> int:
    """Threads that got through ``work``, all of which begin it together."""
    barrier, done = threading.Barrier(THREADS), list[int]()

    def run() -> None:
        barrier.wait()
        work()
        done.append(1)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done)


def main(bundle: str, processes: int, *bare: str) -> None:
    """Print the number of processes that a signal ended, and of those in which a thread failed."""
    if bare:
        structures._LOCK = contextlib.nullcontext()  # type: ignore[assignment]
        structures._DECODERS = Forgetful()  # type: ignore[assignment]
    every_decoder(), task_names(), tracker_names()  # imported once, and nothing decoded yet
    sys.setswitchinterval(1e-5)
    killed = failed = 0
    for _ in range(processes):
        child = os.fork()
        if not child:
            signal.alarm(20)  # a lock that is never let go of
            os._exit(at_once(lambda: opened(bundle)) != THREADS)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        killed, failed = killed + (code < 0), failed + (code > 0)
    print(killed, failed)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
