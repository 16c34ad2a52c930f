"""DEVICE: keeps edgekit's folder on a device; needs Python's standard library only.

The host sends this file with every connection and nothing of it stays there, so that both ends always fit. It reads
requests (one JSON object a line, file contents right behind) from stdin and answers on stdout, also in lines: any
number of ``{"line": ...}``, then ``{"answer": ...}`` or ``{"refused": kind, "message": ...}``.

In the folder: ``blobs/<sha256>``, each content once; ``bundles``, ``code``, ``data`` and ``wheels`` with folders of
links to blobs, whole or not there; ``venv``, the environment that ``edgekit device setup`` made; ``partial``, what is
being written.
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
import uuid
from pathlib import Path
from typing import IO, Any

MARKER = ".edgekit-device"
"""Says that a folder is edgekit's: nothing is written into, or removed from, any other."""

PLACES = ("blobs", "bundles", "code", "data", "wheels", "venv", "partial")
_CHUNK = 1 << 20
_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RefusedError(Exception):
    """What was asked cannot be done; ``kind`` is a word that the host knows."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Folder:
    """edgekit's folder on this device, made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self) -> None:
        """Make the folder, or check that it is edgekit's, and remove what killed connections left behind."""
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / MARKER).is_file():
            raise RefusedError("foreign", f"{self.path} is there already and is not edgekit's")
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / MARKER).touch()
        for place in PLACES[:-2]:
            (self.path / place).mkdir(exist_ok=True)
        (self.path / "partial").mkdir(exist_ok=True)
        for left in (self.path / "partial").iterdir():
            if not _running(left.name.partition(".")[0]):
                _remove(left)

    def partial(self) -> Path:
        """A new name for something being written, which tells whose it is."""
        return self.path / "partial" / f"{os.getpid()}.{uuid.uuid4().hex}"

    def blob(self, sha256: str) -> Path:
        """Where a content lies."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise RefusedError("request", f"{sha256!r} is not a SHA-256")
        return self.path / "blobs" / sha256

    def tree(self, place: str, name: str) -> Path:
        """Where a folder made of blobs lies."""
        if place not in ("bundles", "code", "data", "wheels") or not re.fullmatch(r"[0-9a-zA-Z]+", name):
            raise RefusedError("request", f"no such place: {place}/{name}")
        return self.path / place / name


def facts(folder: Folder) -> dict[str, Any]:
    """What this device is, and what is in the folder."""
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


def missing(folder: Folder, hashes: list[str]) -> list[str]:
    """Those contents that are not here. What is here is read and checked; a damaged one is removed, and is missing."""
    folder.claim()
    absent = []
    for sha256 in hashes:
        path = folder.blob(sha256)
        if not path.is_file() or _sha256(path) != sha256:
            path.unlink(missing_ok=True)
            absent.append(sha256)
    return absent


def receive(folder: Folder, files: list[list[Any]]) -> list[str]:
    """Take (SHA-256, bytes) contents from stdin, one behind the other; the answer is those that arrived damaged."""
    folder.claim()
    return [sha256 for sha256, size in files if not _receive(folder, sha256, size)]


def _receive(folder: Folder, sha256: str, size: int) -> bool:
    target, partial, total = folder.blob(sha256), folder.partial(), hashlib.sha256()
    try:
        with partial.open("wb") as stream:
            while size:
                piece = sys.stdin.buffer.read(min(size, _CHUNK))
                if not piece:
                    raise SystemExit(1)  # the host has gone
                size -= len(piece)
                total.update(piece)
                stream.write(piece)
        if total.hexdigest() != sha256:
            return False
        partial.replace(target)
        return True
    finally:
        partial.unlink(missing_ok=True)


def assemble(folder: Folder, place: str, name: str, files: dict[str, str], compiled: bool = False) -> str:
    """Make a folder of blobs: paths in it to SHA-256. Whole or not there; a damaged one is made anew."""
    folder.claim()
    target, partial = folder.tree(place, name), folder.partial()
    if target.is_dir() and all(_is_whole(target / path, folder.blob(files[path])) for path in files):
        return str(target)
    try:
        for path, sha256 in files.items():
            if path.startswith("/") or ".." in path.split("/"):
                raise RefusedError("request", f"{path!r} leaves its folder")
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            _link(folder.blob(sha256), partial / path)
        if compiled:  # else the first of the measured processes would do so, and its import be slower
            import compileall

            compileall.compile_dir(str(partial), quiet=2, stripdir=str(partial), prependdir=str(target))
        if target.exists():
            target.replace(folder.partial())
        partial.replace(target)
    finally:
        _remove(partial)
    return str(target)


def _link(blob: Path, path: Path) -> None:
    try:
        path.hardlink_to(blob)
    except FileNotFoundError as error:
        raise RefusedError("request", f"{blob.name} was not sent") from error
    except OSError:  # a file system without hard links (FAT on a card)
        shutil.copyfile(blob, path)


def _is_whole(path: Path, blob: Path) -> bool:
    """Whether a file of a folder is the blob that it should be. Blobs themselves were checked by `missing`."""
    if not path.is_file():
        return False
    return (blob.is_file() and path.samefile(blob)) or _sha256(path) == blob.name


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
    lock = os.open(folder.path / MARKER, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RefusedError("busy", "something is being measured there already") from error
    os.set_inheritable(lock, True)
    os.chdir(folder.path)
    say({"answer": None})
    os.execve(arguments[0], arguments, _environment(environment))  # noqa: S606


def purge(folder: Folder, places: list[str]) -> int:
    """Remove everything that edgekit put here, or some of it; the answer is how many bytes that was."""
    if not (folder.path / MARKER).is_file():
        if folder.path.is_dir() and any(folder.path.iterdir()):
            raise RefusedError("foreign", f"{folder.path} is not edgekit's")
        return 0
    chosen = [folder.path / place for place in PLACES if place in (places or PLACES)]
    sizes = {}
    for place in chosen:
        for parent, _, names in os.walk(place):
            for name in names:
                stat = (Path(parent) / name).lstat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    for place in chosen:
        _remove(place)
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


def _running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def say(message: dict[str, Any]) -> None:
    """Write one line to the host."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


REQUESTS = {
    "facts": facts,
    "missing": missing,
    "receive": receive,
    "assemble": assemble,
    "run": run,
    "become": become,
    "purge": purge,
}


def serve(folder: Folder) -> None:
    """Answer requests until stdin ends. After a refusal nothing more is read: contents may still be on their way."""
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
