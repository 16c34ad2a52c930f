"""The child process: one JSON job on stdin, JSON events on stdout, then it ends.

Run as ``python -m edgekit.conversion.child``. Whatever libraries print goes to stderr, so nothing can spoil the
events. When the parent disappears, its end of stdin closes, and the child ends at once: no orphan goes on converting.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import IO

import msgspec

from edgekit import errors
from edgekit.conversion import jobs


def main() -> None:
    """Read the job, do it, report."""
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # prints of converters, C++ ones too, end up on stderr
    stdin = sys.stdin.buffer
    job = jobs.decode_job(stdin.readline())
    threading.Thread(target=_end_with_parent, args=(stdin,), daemon=True).start()
    # A user's own modules are found where the user stands, but never before an installed package of the same name.
    here = str(Path.cwd())
    sys.path[:] = [path for path in sys.path if path not in ("", here)] + [here]
    code = _work(job, events)
    events.flush()
    sys.stderr.flush()
    os._exit(code)  # some toolchains crash while Python tears them down, after the work is done


_STAGES: dict[type[jobs.Job], str] = {
    jobs.PrepareJob: "prepare",
    jobs.CalibrateJob: "calibrate",
    jobs.BuildJob: "build",
    jobs.ValidateJob: "validate",
    jobs.MeasureJob: "measure",
}
"""The module whose ``work`` does a job: the toolchains of the others are not imported."""


def _work(job: jobs.Job, events: IO[bytes]) -> int:
    def report(text: str, share: float) -> None:
        events.write(jobs.encode(jobs.Progress(text=text, share=share)))

    try:
        for name in getattr(job, "imports", ()):
            importlib.import_module(name)
        result = importlib.import_module(f"edgekit.conversion.{_STAGES[type(job)]}").work(job, report)
    except BaseException as error:
        # The one place that catches everything: this is the process's edge, and the parent raises it again.
        events.write(jobs.encode(_failed(error)))
        if not isinstance(error, Exception):
            raise
        return 1
    events.write(jobs.encode(jobs.Done(result=msgspec.to_builtins(result))))
    return 0


def _failed(error: BaseException) -> jobs.Failed:
    if isinstance(error, errors.EdgekitError):
        return jobs.Failed(kind=type(error).__name__, message=str(error), traceback=traceback.format_exc())
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.errno in _FULL:
        message += "; free space or choose another -o"
    return jobs.Failed(kind="", message=message, traceback=traceback.format_exc())


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _end_with_parent(stdin: IO[bytes]) -> None:
    stdin.read()
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # the tools that a converter started go too
    os._exit(3)


if __name__ == "__main__":
    main()
