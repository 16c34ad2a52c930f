"""Engines that TensorRT built on this device, kept from load to load.

An engine fits one GPU, one TensorRT and one file, and TensorRT does not survive a wrong one: a damaged plan can crash
the process, a foreign one can run whatever its maker likes. So an entry is a line of JSON and the plan, the line says
what the plan was built from and its hash, and only an entry of this very key, whole, and owned by this user is used.
Everything else is built again. The folder is the user's own, not the bundle's: a bundle's files are guarded by hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.folder import locked
from edgekit.runtimes.bundle.manifest import Record
from edgekit.structures import from_json

FORMAT = 1
_WAIT = 0.2


class Key(Record, frozen=True, kw_only=True):
    """Everything that an engine depends on: ``gpu`` is the device's name, ``capability`` its generation (8.7)."""

    gpu: str
    capability: str
    tensorrt: str
    file: str
    settings: str
    device: str
    strict: bool
    format: int = FORMAT

    @property
    def name(self) -> str:
        """The file name of the entry."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:32]


class Header(Record, frozen=True, kw_only=True):
    """The first line of an entry."""

    key: Key
    sha256: str
    bytes: int
    operators: dict[str, int]


def folder() -> Path:
    """``$EDGEKIT_CACHE``, else edgekit's folder in the user's caches; nobody else may write to it.

    Raises:
        EngineError: it cannot be made.
    """
    given = os.environ.get("EDGEKIT_CACHE")
    base = Path(given).absolute() if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = (base if given else base / "edgekit") / "tensorrt"
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{found}: cannot be made ({error.strerror}); set EDGEKIT_CACHE to another folder") from error
    return found


@contextlib.contextmanager
def building(key: Key) -> Iterator[None]:
    """A lock, so that one process builds an engine while others wait for it; released when the process ends."""
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(folder() / f"{key.name}.lock"))
            except BlockingIOError:
                time.sleep(_WAIT)
                continue
            yield
            return


def read(key: Key) -> tuple[bytes, Header] | None:
    """The plan of a key, or None if there is none or its file cannot be trusted."""
    try:
        with (folder() / f"{key.name}.engine").open("rb") as stream:
            if not _own(os.fstat(stream.fileno())):
                return None
            line, plan = stream.readline(), stream.read()
    except OSError:
        return None
    try:
        header = from_json(line, Header)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if header.key != key or header.bytes != len(plan) or header.sha256 != hashlib.sha256(plan).hexdigest():
        return None
    return plan, header


def write(key: Key, plan: bytes, operators: dict[str, int]) -> Header:
    """Store a plan, atomically.

    Raises:
        EngineError: it cannot be written.
    """
    header = Header(key=key, sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan), operators=operators)
    _replace(folder() / f"{key.name}.engine", msgspec.json.encode(header) + b"\n" + plan)
    return header


def read_timing(key: Key) -> bytes:
    """TensorRT's timing cache for a device and version, which all engines built there share; empty when none.

    Reading a foreign one is harmless as far as is known, but it is checked like a plan: it may not be cut off.
    """
    try:
        data = _timing(key).read_bytes()
    except OSError:
        return b""
    digest, rest = data[:32], data[32:]
    return rest if hashlib.sha256(rest).digest() == digest else b""


def write_timing(key: Key, data: bytes) -> None:
    """Keep a timing cache.

    Raises:
        EngineError: it cannot be written.
    """
    _replace(_timing(key), hashlib.sha256(data).digest() + data)


def _timing(key: Key) -> Path:
    place = f"{key.gpu}|{key.capability}|{key.tensorrt}|{key.device}"
    return folder() / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.timing"


def _own(status: os.stat_result) -> bool:
    """Whether a file is this user's and nobody else may write to it."""
    if sys.platform == "win32":
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _replace(path: Path, data: bytes) -> None:
    """Write a file beside its place, readable by this user alone, and move it there."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EngineError(
            f"{path}: cannot be written ({error.strerror}); free space or set EDGEKIT_CACHE to another folder"
        ) from error
