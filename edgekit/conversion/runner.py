"""The parent's side of a child process: start it, follow its events, raise its error, end it on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgekit import errors
from edgekit.conversion import jobs

Result = TypeVar("Result")
Report = Callable[[str, float], None]


def run(job: jobs.Job, result: type[Result], report: Report, python: str = sys.executable) -> Result:
    """Do a job in a child process and return what it gave.

    Args:
        job: the work.
        result: type of what the work returns.
        report: told of progress.
        python: the interpreter, of another environment where the toolchain needs one.

    Raises:
        EdgekitError: the error that the child met, or a ConversionError when it crashed.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [python, "-m", "edgekit.conversion.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children in order
        )
        try:
            last = _follow(process, job, report)
        finally:
            _end(process)
        if isinstance(last, jobs.Done):
            return msgspec.convert(last.result, result)
        raise _error(job, last, process.returncode, log)


def _follow(process: subprocess.Popen[bytes], job: jobs.Job, report: Report) -> jobs.Event | None:
    """Send the job and read events to the end; the last one that is not progress."""
    if process.stdin is None or process.stdout is None:
        raise errors.ConversionError("the child process has no pipes")
    last: jobs.Event | None = None
    try:
        process.stdin.write(jobs.encode(job))
        process.stdin.flush()  # and stays open: its end tells the child that the parent is gone
    except BrokenPipeError:
        return None
    for line in process.stdout:
        event = jobs.decode_event(line)
        if isinstance(event, jobs.Progress):
            report(event.text, event.share)
        else:
            last = event
    process.wait()
    return last


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs, with everything it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # pragma: no cover - no Windows in the tests
            process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _error(job: jobs.Job, last: jobs.Event | None, code: int, log: IO[bytes]) -> errors.EdgekitError:
    """The child's error as one of ours, with its traceback or its last words as the cause."""
    stage = type(job).__name__.removesuffix("Job").lower()
    if isinstance(last, jobs.Failed):
        kind = getattr(errors, last.kind, None) if last.kind else None
        error = kind(last.message) if kind else errors.ConversionError(f"{stage}: {last.message}")
        details = last.traceback
    else:
        log.seek(0)
        details = log.read()[-4000:].decode("utf-8", "replace")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = details.strip().splitlines()[-1:] or ["no output"]
        error = errors.ConversionError(f"{stage}: the child process {how}; its last words: {tail[0]}")
    error.__cause__ = ChildTraceback(details)
    result: errors.EdgekitError = error
    return result


class ChildTraceback(Exception):  # noqa: N818 - it is the text of a traceback, shown as a cause under --debug
    """The traceback of an error in a child process, as text."""


def _environment() -> dict[str, str]:
    """The child's environment: this edgekit importable, libraries quiet and off the network."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "KMP_BLOCKTIME": "0"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
