"""DEVICE: the session's side of a measured process: start it, wait, raise its error, and never leave it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgekit.errors import EngineError
from edgekit.profiling.jobs import Job
from edgekit.profiling.protocol import Failed

Answer = TypeVar("Answer")


def ask(job: Job, answer: type[Answer], seconds: float) -> Answer:
    """Have a job done in a fresh process.

    Args:
        job: the work.
        answer: type of what it gives.
        seconds: after which it is killed.

    Raises:
        EdgekitError: what the process met; EngineError when it crashed or took too long.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.profiling.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(),
        )
        try:
            said = _conversation(process, msgspec.json.encode(job) + b"\n", seconds)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        return _answer(said, process.returncode, log, answer, seconds)


def environment() -> dict[str, str]:
    """This process's, with this edgekit importable."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


def _conversation(process: subprocess.Popen[bytes], line: bytes, seconds: float) -> bytes | None:
    """What the process answers to a line while its stdin stays open; None when it takes too long."""
    if process.stdin is None or process.stdout is None:
        raise EngineError("the measured process has no pipes")
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        said = process.stdout.readline()  # one line, not the end: what an engine left behind may hold the pipe
        process.wait()  # its exit code tells more than our kill
    except BrokenPipeError:
        said = b""
    finally:
        timer.cancel()
    return None if late.is_set() else said


def _answer(said: bytes | None, code: int, log: IO[bytes], answer: type[Answer], seconds: float) -> Answer:
    if said is None:
        raise EngineError(f"the measured process gave no answer within {seconds:.0f} s and was ended")
    if said.startswith(b'{"type":"failed"'):
        raise msgspec.json.decode(said, type=Failed).error()
    if said.endswith(b"\n"):
        return msgspec.json.decode(said, type=answer)
    log.seek(0)
    last = (log.read()[-4000:].decode("utf-8", "replace").strip().splitlines() or ["no output"])[-1]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise EngineError(f"the measured process {how}; its last words: {last}")
