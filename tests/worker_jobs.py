"""What `test_worker` has done in other processes."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.errors import GateError

Report = Callable[[str, float], None]


class Job(msgspec.Struct, frozen=True):
    """A word for whatever is done."""

    text: str = ""


class Seen(msgspec.Struct, frozen=True):
    """What a process sees of itself."""

    folder: str
    variable: str
    in_c: str
    preloaded: bool
    path: list[str]
    group: int
    pid: int
    parent: int
    threads: int
    open_files: int


def look(job: Job, report: Report) -> Seen:
    """``text`` names a variable."""
    report("looking", 0.5)
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return Seen(
        folder=str(Path.cwd()),
        variable=os.environ.get(job.text, ""),
        in_c=(getenv(job.text.encode()) or b"").decode(),
        preloaded="colorsys" in sys.modules,
        path=sys.path,
        group=os.getpgrp(),
        pid=os.getpid(),
        parent=os.getppid(),
        threads=len(list(Path("/proc/self/task").iterdir())),
        open_files=len(list(Path("/proc/self/fd").iterdir())),
    )


def refuse(job: Job, report: Report) -> Job:
    """An error of edgekit's own."""
    raise GateError(f"refused {job.text}")


def stumble(job: Job, report: Report) -> Job:
    """A bug."""
    raise ZeroDivisionError(job.text)


def crash(job: Job, report: Report) -> Job:
    """End by a signal, by an exit code, or by using too much memory; say something before."""
    os.write(2, b"first\nlast words\n")
    if job.text == "memory":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return Job(str(len(bytearray(4 << 30))))
    if job.text.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, job.text))
        time.sleep(60)
    os._exit(int(job.text))


def chatter(job: Job, report: Report) -> Job:
    """Print, from Python and from C, where the events would be."""
    print("nonsense", flush=True)
    os.write(1, b"more nonsense\n")
    return job


def spin(job: Job, report: Report) -> Job:
    """Never end, nor let another Python thread of this process run; leave the process's number in a file first."""
    Path(job.text).with_suffix(".new").write_text(str(os.getpid()))
    Path(job.text).with_suffix(".new").rename(job.text)
    re.match(r"(a+)+$", "a" * 60 + "b")
    return job


def use(job: Job, report: Report) -> Job:
    """Import the module ``text`` and return what it calls itself."""
    import importlib

    return Job(str(importlib.import_module(job.text).__file__))
