"""kill -9 at random moments: a command is begun, and its process, one of its children, or all of them are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from attacking import HERE, below

GONE_SECONDS = 30.0
"""After so many, nothing that a killed command has started may live."""

END_SECONDS = 180.0
"""After so many a command has to have ended by itself."""

MARK = "EDGEKIT_TEST_MARK"


@dataclass(frozen=True)
class Command:
    """Something that is killed.

    Attributes:
        name: for messages.
        program: Python code, with its arguments.
        whole: raises AssertionError where what it leaves is half, or what was there before is lost.
        done: the same after a run that nothing disturbed; nothing may be left over either.
        environment: variables of its own.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    whole: Callable[[], None]
    done: Callable[[], None]
    environment: dict[str, str]

    def begin(self, mark: str) -> subprocess.Popen[bytes]:
        """Start it; all that it starts can be told by the mark in its environment."""
        path = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        given = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", MARK: mark}
        return subprocess.Popen(
            [sys.executable, "-c", self.program, *self.arguments],
            env={**os.environ, **given, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self) -> float:
        """Run it to its end, undisturbed; the seconds that it took."""
        begun = time.monotonic()
        process = self.begin(mark := f"whole-{os.getpid()}-{time.monotonic_ns()}")
        said, _ = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 0, f"{self.name}: {said.decode(errors='replace')[-3000:]}"
        _wait_for_none(mark, self.name)
        self.done()
        return time.monotonic() - begun


def kill(command: Command, random: Random, seconds: float) -> str:
    """Begin a command, kill some of it within so many seconds, and see what is left.

    Returns:
        What was killed, and when.

    Raises:
        AssertionError: a process lives on, or something is half or lost.
    """
    whom, after = random.choice(("parent", "parent", "child", "child", "all")), random.uniform(0.05, seconds)
    process = command.begin(mark := f"kill-{os.getpid()}-{time.monotonic_ns()}")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    children = below(process.pid)
    victims = {
        "parent": [process.pid],
        "child": [random.choice(children)] if children else [process.pid],
        "all": [*children, process.pid],
    }[whom]
    what = f"{command.name}: {whom} ({len(victims)} of {1 + len(children)}) after {after:.2f} s"
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        said, _ = process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{what}: it did not end by itself") from None
    assert b"Traceback" not in said, f"{what}: {said.decode(errors='replace')[-3000:]}"
    _wait_for_none(mark, what)
    command.whole()
    return f"{what}, exit code {process.returncode}"


def marked(mark: str) -> list[int]:
    """Processes that were started with this mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _wait_for_none(mark: str, what: str) -> None:
    until = time.monotonic() + GONE_SECONDS
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"{what}: processes live on: {left}"
