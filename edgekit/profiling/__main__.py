"""DEVICE: a session for a host elsewhere: a `SessionJob` on stdin, then `Alive` lines; events on stdout.

When stdin ends, or stays silent for longer than the job's patience, whoever asked is gone: this process ends and takes
everything that it started with it, so that nothing runs on for nobody.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from typing import IO

import msgspec

from edgekit.profiling.protocol import Event, SessionJob, failed
from edgekit.profiling.session import run_session


def main() -> None:
    """Read the job, run the session, report."""
    if hasattr(os, "setpgrp") and os.getpgrp() != os.getpid():  # a session's leader must not, and is one already
        os.setpgrp()  # so that the end below reaches every child, and nothing else
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what engines print must not spoil the events
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=SessionJob)
    threading.Thread(target=_end_with_host, args=(sys.stdin.buffer, job.patience), daemon=True).start()

    def report(event: Event) -> None:
        try:
            events.write(msgspec.json.encode(event) + b"\n")
        except BrokenPipeError:
            _end()

    try:
        run_session(job, report)
    except BaseException as error:  # this is the process's edge, and the host raises it again
        report(failed(error))
        if not isinstance(error, Exception):
            raise
    os._exit(0)


def _end_with_host(stdin: IO[bytes], patience: float) -> None:
    """Read on; the end of the stream, or too long a silence, is the end of everything here."""
    file = stdin.fileno()
    while True:
        if patience and not select.select([file], [], [], patience)[0]:
            break
        if not os.read(file, 1 << 12):
            break
    _end()


def _end() -> None:
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(3)


if __name__ == "__main__":
    main()
