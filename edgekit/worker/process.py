"""A child process: pipes to and from it, what it wrote to stderr, why it ended, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from edgekit.errors import ConversionError, EdgekitError
from edgekit.worker import forks, interpreters, toolchains
from edgekit.worker.messages import RemoteTraceback

MODULE = "edgekit.worker"


class Running(Protocol):
    """The common interface of a plain and a forked child."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """The pipe that the child reads."""
        ...

    @property
    def stdout(self) -> IO[bytes] | None:
        """The pipe that the child writes."""
        ...

    def wait(self) -> int:
        """Its exit code when it has ended, the negative number of a signal that ended it."""
        ...

    def kill(self) -> None:
        """End it, from any thread."""
        ...


Begin = Callable[[IO[bytes]], Running]
"""Starts a child whose stderr goes to the given file."""


class Process:
    """A running child that messages call ``name``; what is wrong with it alone is raised as ``error``.

    Use it as a context manager, or close it: the child is then gone with everything that it started.
    """

    who = "the child process"

    def __init__(self, begin: Begin, name: str, error: type[EdgekitError]) -> None:
        self.name, self.error = name, error
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._running = begin(self._log)
        if self._running.stdin is None or self._running.stdout is None:
            raise error(f"{name}: {self.who} has no pipes")
        self.stdin, self.stdout = self._running.stdin, self._running.stdout

    def kill(self) -> None:
        """End it, from any thread."""
        self._running.kill()

    def wait(self) -> int:
        """Its exit code when it has ended, the negative number of a signal that ended it."""
        return self._running.wait()

    def ended(self) -> EdgekitError:
        """Why it is gone, with its last words."""
        code = self.wait()
        self._log.seek(0)
        words = self._log.read()[-4000:].decode("utf-8", "replace")
        how = _killed(signal.Signals(-code).name) if code < 0 else f"ended with exit code {code}"
        last = (words.strip().splitlines() or ["no output"])[-1]
        error = self.error(f"{self.name}: {self.who} {how}; its last words: {last}")
        error.__cause__ = RemoteTraceback(words)
        return error

    def close(self) -> None:
        """Kill it where it still runs, and wait for its end."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _killed(name: str) -> str:
    # A memory-mapped file that the disk has no room for ends in SIGBUS.
    likely = {"SIGBUS": " (is the disk full?)", "SIGKILL": " (is there too little memory?)"}
    return f"was killed by {name}{likely.get(name, '')}"


class _Plain(subprocess.Popen[bytes]):
    """A child that was started as a program. ``group``: with a session of its own, which ends with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes], group: bool) -> None:
        self._group = group and hasattr(os, "killpg")
        pipe = subprocess.PIPE
        super().__init__(command, stdin=pipe, stdout=pipe, stderr=log, env=environment, start_new_session=group)

    def kill(self) -> None:
        if not self._group:
            super().kill()
        elif self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # another thread saw its end in between
                os.killpg(self.pid, signal.SIGKILL)


def program(command: Sequence[str], environment: Mapping[str, str], *, group: bool = False) -> Begin:
    """A child that is started as a program; ``group`` gives it a process group of its own, which Ctrl-C does not reach:
    the caller gets it, and ends its children in order."""
    return lambda log: _Plain(command, environment, log, group)


def python(
    module: str = MODULE,
    *,
    toolchain: str = "",
    preload: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
    group: bool = True,
) -> Begin:
    """A child that runs this edgekit's `edgekit.worker`, or another module of it.

    Args:
        module: what it runs; ``preload`` goes with `edgekit.worker` alone.
        toolchain: the isolated environment whose interpreter it is, empty for this one.
        preload: packages that take long to import; where forking is safe, the child has them from its beginning.
        variables: added to its environment.
        group: as in `program`.

    Raises:
        ConversionError: the toolchain is not there.
    """
    if toolchain:
        if not toolchains.installed(toolchain):
            raise ConversionError(f"toolchain missing: edgekit toolchain install {toolchain}")
        command = interpreters.foreign_command(toolchains.python(toolchain), module)
        return program(command, {**toolchains.environment(), **(variables or {})}, group=group)
    environment = {**_environment(), **(variables or {})}
    if preload and group and forks.SAFE:
        return lambda log: forks.child(preload, environment, log)
    return program(interpreters.command(module), environment, group=group)


def _environment() -> dict[str, str]:
    """This process's, with this edgekit importable. Neither the child nor a Python that it starts searches the current
    folder, which an empty entry of PYTHONPATH would stand for too."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    safe = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return {**os.environ, **safe, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}


class Stop:
    """Ends children from outside, whichever thread waits for them, and lets no other begin."""

    def __init__(self) -> None:
        self.pulled = False
        self._lock = threading.Lock()
        self._running: set[Process] = set()

    def pull(self) -> None:
        """Kill the children that run."""
        with self._lock:
            self.pulled = True
            for process in self._running:
                process.kill()

    @contextlib.contextmanager
    def child(self, begin: Begin, name: str, error: type[EdgekitError]) -> Iterator[Process]:
        """A child that does not outlive the block.

        Raises:
            EdgekitError: the stop was pulled before.
        """
        with self._lock:
            if self.pulled:
                raise error("interrupted")
            process = Process(begin, name, error)
            self._running.add(process)
        try:
            yield process
        finally:
            process.close()
            with self._lock:
                self._running.discard(process)
