"""The command line as a child process, and one conversion that several test modules look at."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
from filelock import FileLock
from tiny_models import picture

HERE = Path(__file__).parent
SOURCE = "tiny_models:detector"
PHOTOS, TWICE = 50, 6
TARGETS, PRECISIONS = ("onnx", "openvino"), ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Converted:
    """What `convert_all` gave: the photographs, the bundles, and what the command printed."""

    photos: Path
    out: Path
    document: dict[str, Any]
    stderr: str
    offline: bool
    packages_before: list[str]
    packages_after: list[str]

    def path(self, target: str, precision: str) -> Path:
        """One bundle."""
        return self.out / f"detector-{target}-{precision}"


def environment(**more: str) -> dict[str, str]:
    """The environment of a child that finds ``tiny_models`` and does not take both cores for itself."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def edgekit(
    *arguments: object, program: str = "", before: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end: in this process, where children of conversions are forked from a server that is
    there already, or as a process of its own with another ``program``, with ``before`` in front of the interpreter, or
    with variables of its own."""
    words = [str(argument) for argument in arguments]
    if not (program or before or env):
        return _in_process(words)
    command = [*before, sys.executable, "-c", program or "from edgekit.cli import main; main()", *words]
    return subprocess.run(
        command, env=environment(**env), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )


def _in_process(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    from edgekit.cli import main

    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, environment()), redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def start(*arguments: object, **env: str) -> subprocess.Popen[str]:
    """Begin a command; its SIGINT is Python's own, whatever the caller of the tests does with that."""
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from edgekit.cli import main"
    return subprocess.Popen(
        [sys.executable, "-c", f"{program}; main()", *map(str, arguments)],
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    """Pictures with cells to find, as lossless files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        cv2.imwrite(str(folder / f"{seed:03}.png"), picture(seed))
    return folder


@functools.cache
def without_network() -> tuple[str, ...]:
    """What to put before a command so that it has no network, or nothing where that is not allowed."""
    for command in (("unshare", "-n"), ("unshare", "-rn")):
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return ()


def packages() -> list[str]:
    """Everything that is installed, with versions."""
    return sorted(f"{found.name} {found.version}" for found in metadata.distributions())


def convert_all(folder: Path) -> Converted:
    """Convert the tiny detector; some photographs are there twice under different names."""
    photos = write_pictures(folder / "photos", PHOTOS)
    for seed in range(TWICE):
        shutil.copyfile(photos / f"{seed:03}.png", photos / f"again-{seed:03}.png")
    before = packages()
    chosen = ("--target", ",".join(TARGETS), "--precision", ",".join(PRECISIONS), "--data", photos, "-j", 2)
    done = edgekit("convert", SOURCE, *chosen, "-o", folder / "out", "--json", before=without_network())
    if done.returncode:
        raise RuntimeError(f"the conversion that other tests look at failed:\n{done.stdout}\n{done.stderr}")
    document = json.loads(done.stdout)
    return Converted(photos, folder / "out", document, done.stderr, bool(without_network()), before, packages())


def convert_all_once(shared: Path) -> Converted:
    """`convert_all` into a folder that all workers of a test run share, unless another worker has."""
    record = shared / "tiny.pickle"
    with FileLock(shared / "tiny.lock"):
        if not record.exists():
            record.write_bytes(pickle.dumps(convert_all(shared / "tiny")))
    found: Converted = pickle.loads(record.read_bytes())
    return found
