"""The parent's side of a child process: start it, follow its events, raise its error, end it on Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgekit import errors
from edgekit.conversion import jobs
from edgekit.progress import Report
from edgekit.worker import toolchains

Result = TypeVar("Result")


class Stop:
    """Ends every child of a conversion from outside, whichever thread waits for it, and lets no other begin."""

    def __init__(self) -> None:
        self.pulled = False
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def pull(self) -> None:
        """Kill the children that run."""
        with self._lock:
            self.pulled = True
            for process in self._running:
                _kill(process)

    @contextlib.contextmanager
    def child(self, toolchain: str, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """A child process in this environment or a toolchain's own, which does not outlive the block.

        Raises:
            ConversionError: the stop was pulled before.
        """
        with self._lock:
            if self.pulled:
                raise errors.ConversionError("interrupted")
            process = subprocess.Popen(
                _command(toolchain),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(toolchain),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children in order
            )
            self._running.add(process)
        try:
            yield process
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)


def run(
    job: jobs.Job,
    result: type[Result],
    report: Report,
    toolchain: str = "",
    stop: Stop | None = None,
) -> Result:
    """Do a job in a child process and return what it gave.

    Args:
        job: the work.
        result: type of what the work returns.
        report: told of progress.
        toolchain: the isolated environment to run in, empty for this one.
        stop: ends the child early.

    Raises:
        EdgekitError: the error that the child met, or a ConversionError when it crashed.
    """
    with tempfile.TemporaryFile() as log:
        with (stop or Stop()).child(toolchain, log) as process:
            last = _follow(process, job, report)
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
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):  # another thread saw its end in between
            os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover - no Windows in the tests
        process.kill()


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
        how = _killed(signal.Signals(-code).name) if code < 0 else f"ended with exit code {code}"
        tail = details.strip().splitlines()[-1:] or ["no output"]
        error = errors.ConversionError(f"{stage}: the child process {how}; its last words: {tail[0]}")
    error.__cause__ = ChildTraceback(details)
    result: errors.EdgekitError = error
    return result


def _killed(name: str) -> str:
    # A memory-mapped file that the disk has no room for ends in SIGBUS.
    likely = {"SIGBUS": " (is the disk full?)", "SIGKILL": " (is there too little memory?)"}
    return f"was killed by {name}{likely.get(name, '')}"


class ChildTraceback(Exception):  # noqa: N818 - it is the text of a traceback, shown as a cause under --debug
    """The traceback of an error in a child process, as text."""


def _command(toolchain: str) -> list[str]:
    if toolchain:
        return toolchains.command(toolchains.python(toolchain), _CHILD)
    return [sys.executable, "-m", _CHILD]


_CHILD = "edgekit.conversion.child"


def _environment(toolchain: str) -> dict[str, str]:
    """The child's environment: this edgekit importable, libraries quiet and off the network."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "KMP_BLOCKTIME": "0"}
    if toolchain:
        return {**toolchains.environment(), **quiet}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **quiet, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
