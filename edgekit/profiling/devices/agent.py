"""DEVICE: keeps edgekit's folder on a device; needs Python's standard library only.

The host sends this file with every connection and nothing of it stays there, so that both ends always fit. It reads
requests (one JSON object a line, an archive right behind) from stdin and answers on stdout, also in lines: any number
of ``{"line": ...}``, then ``{"answer": ...}`` or ``{"refused": kind, "message": ...}``; between any two there may be an
``{"alive": true}``.

In the folder: ``bundles``, ``code``, ``data`` and ``wheels`` with one folder for each archive, named by the digest of
what is in it and whole or not there; ``venv``, the environment that ``edgekit device setup`` made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MARKER = ".edgekit-device"
"""Says that a folder is edgekit's: nothing is written into, or removed from, any other."""

PLACES = ("bundles", "code", "data", "wheels")
OWN = (*PLACES, "venv", "blobs", "partial")
"""All that may be in the folder; the last two are from edgekit 0.1's first devices."""

ALIVE_SECONDS = 5.0
"""Between two signs of life to the host."""

_CHUNK = 1 << 20
_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RefusedError(Exception):
    """A request that cannot be done; ``kind`` is a word that the host knows."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Folder:
    """edgekit's folder on this device, made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self) -> None:
        """Make the folder, or check that it is edgekit's."""
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / MARKER).is_file():
            raise RefusedError("foreign", f"{self.path} is there already and is not edgekit's")
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / MARKER).touch()

    def tree(self, place: str, digest: str) -> Path:
        """Where an archive is unpacked to."""
        if place not in PLACES or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise RefusedError("request", f"no such place: {place}/{digest}")
        return self.path / place / digest

    def lock(self) -> int:
        """The right to write or to measure there, until the file that is returned is closed."""
        lock = os.open(self.path / MARKER, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise RefusedError("busy", "something is being measured or sent there already") from error
        return lock


def facts(folder: Folder) -> dict[str, Any]:
    """A description of this device, and of the folder's contents."""
    near = folder.path
    while not near.exists():
        near = near.parent
    model = Path("/proc/device-tree/model")
    disk = os.statvfs(near)
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "system": platform.system(),
        "model": model.read_text(errors="replace").strip("\0 \n") if model.is_file() else "",
        "folder": str(folder.path),
        "free": disk.f_bavail * disk.f_frsize,
        # pip3 comes last: without it, the making of the environment was interrupted
        "environment": all((folder.path / "venv" / "bin" / name).exists() for name in ("python", "pip3")),
    }


def missing(folder: Folder, trees: list[list[str]]) -> list[bool]:
    """For each (place, digest): whether it is not here. What is here is read, and missing where it is damaged."""
    folder.claim()
    return [_digest(folder.tree(place, digest)) != digest for place, digest in trees]


def _digest(tree: Path) -> str:
    """The digest of the files in a folder, as the host computes it; what Python compiled does not count."""
    paths = [path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return _listed({path.relative_to(tree).as_posix(): _sha256(path) for path in paths})


def _listed(files: dict[str, str]) -> str:
    listing = "".join(f"{name}\0{sha256}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def unpack(folder: Folder, place: str, digest: str, compiled: bool = False) -> None:
    """Unpack the archive that follows beside its place, and rename: it is whole there or not there at all."""
    folder.claim()
    target = folder.tree(place, digest)
    partial = target.with_suffix(".partial")
    with _locked(folder):
        for left in target.parent.glob("*.partial"):  # of connections that were killed
            shutil.rmtree(left)
        try:
            _extract(partial)
            if _digest(partial) != digest:
                raise RefusedError("request", f"{place}/{digest} arrived with other content than it had")
            if compiled:  # else the first of the measured processes would do so, and its import be slower
                import compileall

                compileall.compile_dir(str(partial), quiet=2, stripdir=str(partial), prependdir=str(target))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _extract(partial: Path) -> None:
    partial.mkdir(parents=True)
    frames = _Frames()
    with tarfile.open(fileobj=frames, mode="r|", bufsize=_CHUNK) as archive:  # type: ignore[call-overload]
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or member.name.startswith("/") or ".." in member.name.split("/"):
                raise RefusedError("request", f"{member.name!r} leaves its folder")
            path = partial / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                shutil.copyfileobj(content, stream, _CHUNK)
    while frames.read(_CHUNK):  # what follows the archive's end
        pass


class _Frames:
    """An archive on stdin: pieces, each after its length in 4 bytes; one of length 0 is the end."""

    def __init__(self) -> None:
        self._left = -1

    def read(self, size: int) -> bytes:
        """As many bytes as there are in the piece, at most ``size``."""
        if self._left == -1:
            self._left = int.from_bytes(self._exactly(4), "big")
        if not self._left:
            return b""
        piece = self._exactly(min(size, self._left))
        self._left = self._left - len(piece) or -1
        return piece

    def _exactly(self, size: int) -> bytes:
        piece = sys.stdin.buffer.read(size)
        if len(piece) < size:
            raise SystemExit(1)  # the host has gone
        return piece


@contextlib.contextmanager
def _locked(folder: Folder) -> Iterator[None]:
    lock = folder.lock()
    try:
        yield
    finally:
        os.close(lock)


def run(folder: Folder, arguments: list[str], environment: dict[str, str]) -> int:
    """Run a program and say its output line by line; its exit code is the answer. It ends when the host goes."""
    folder.claim()
    process = subprocess.Popen(
        arguments,
        cwd=folder.path,
        env=_environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        if process.stdout is not None:
            _relay(process.stdout)
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _relay(output: IO[bytes]) -> None:
    """Say what a process prints, until it closes its output."""
    stdin: Any = sys.stdin.buffer
    rest = b""
    with selectors.DefaultSelector() as ready:
        ready.register(output, selectors.EVENT_READ)
        ready.register(stdin, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd == stdin.fileno():
                    if not stdin.peek(1):
                        raise SystemExit(1)  # the host has gone
                    ready.unregister(stdin)
                    continue
                piece = os.read(key.fd, _CHUNK)
                *lines, rest = (rest + piece).split(b"\n")
                for line in [*lines, *([rest] if rest and not piece else [])]:
                    say({"line": line.decode(errors="replace").rstrip("\r")})
                if not piece:
                    return


def become(folder: Folder, arguments: list[str], environment: dict[str, str]) -> None:
    """Answer, then go on as another program, which talks to the host in its own words."""
    if not Path(arguments[0]).exists():
        raise RefusedError("request", f"{arguments[0]} is not there")
    folder.claim()
    # Held by this process as whatever it goes on as, until it ends: two measurements at once would both be wrong.
    os.set_inheritable(folder.lock(), True)
    os.chdir(folder.path)
    say({"answer": None})
    _SAYING.acquire()  # for good: the other program talks in its own words
    os.execve(arguments[0], arguments, _environment(environment))  # noqa: S606


def purge(folder: Folder, places: list[str]) -> int:
    """Remove everything that edgekit put here, or some of it; the answer is how many bytes that was."""
    if not (folder.path / MARKER).is_file():
        if folder.path.is_dir() and any(folder.path.iterdir()):
            raise RefusedError("foreign", f"{folder.path} is not edgekit's")
        return 0
    chosen = [folder.path / place for place in OWN if place in (places or OWN)]
    sizes = {}
    for place in chosen:
        for parent, _, names in os.walk(place):
            for name in names:
                stat = (Path(parent) / name).lstat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    for place in filter(Path.exists, chosen):
        shutil.rmtree(place)
    if not places:
        (folder.path / MARKER).unlink()
        with contextlib.suppress(OSError):  # something of the user's is in it
            folder.path.rmdir()
    return sum(sizes.values())


def _environment(added: dict[str, str]) -> dict[str, str]:
    """Variables for a program: nothing of the user's that would let other packages in."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "PIP_TARGET"))
    }
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1", **added}


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            total.update(piece)
    return total.hexdigest()


_SAYING = threading.Lock()


def say(message: dict[str, Any]) -> None:
    """Write one line to the host."""
    with _SAYING:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def live() -> None:
    """Give the host signs of life, whatever is done here meanwhile."""
    while True:
        time.sleep(ALIVE_SECONDS)
        try:
            say({"alive": True})
        except (OSError, ValueError):  # the host has gone
            return


REQUESTS = {"facts": facts, "missing": missing, "unpack": unpack, "run": run, "become": become, "purge": purge}


def serve(folder: Folder) -> None:
    """Answer requests until stdin ends. After a refusal nothing more is read: an archive may still be on its way."""
    threading.Thread(target=live, daemon=True).start()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        do: Any = REQUESTS[request.pop("do")]
        try:
            say({"answer": do(folder, **request)})
        except RefusedError as error:
            say({"refused": error.kind, "message": str(error)})
            return
        except OSError as error:
            kind = "space" if error.errno in _SPACE else "denied" if error.errno in _DENIED else "system"
            say({"refused": kind, "message": str(error)})
            return


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        serve(Folder(Path(os.path.expanduser(sys.argv[2])).absolute()))  # noqa: PTH111
