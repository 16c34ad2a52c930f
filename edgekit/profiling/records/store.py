"""HOST: where records are kept: a file of JSON lines that is only ever added to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.errors import InputError, UsageError
from edgekit.profiling.record import SCHEMA, Profile, encode
from edgekit.runtimes.bundle.folder import locked
from edgekit.structures import from_json

WAIT = 30.0
"""Seconds to wait for another process that adds to the same store."""


def default_store() -> Path:
    """``EDGEKIT_PROFILES``, or ``edgekit/profiles.jsonl`` in the user's data folder (``XDG_DATA_HOME``)."""
    if given := os.environ.get("EDGEKIT_PROFILES"):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "edgekit" / "profiles.jsonl"


class Store:
    """Records in the order that they were added.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, profiles: Sequence[Profile]) -> None:
        """Add whole records, all or none, whoever else adds at the same time.

        Raises:
            UsageError: the file cannot be written, or stays locked.
        """
        if not profiles:
            return
        lines = b"".join(encode(profile) for profile in profiles)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _patiently_locked(self.path.with_name(self.path.name + ".lock")), self.path.open("ab+") as file:
                file.seek(0, os.SEEK_END)
                if file.tell() and _last_byte(file.fileno(), file.tell()) != b"\n":
                    lines = b"\n" + lines  # what a killed writer left stays a line of its own
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}; name another store with --store") from error

    def read(self) -> list[Profile]:
        """All records. What a killed writer left behind is passed over.

        Raises:
            InputError: a record of a newer edgekit, or the file cannot be read.
        """
        return list(self._each())

    def _each(self) -> Iterator[Profile]:
        if not self.path.exists():
            return
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}; name another store with --store") from error
        for number, line in enumerate(lines, 1):
            if (found := _record(line, f"{self.path}, line {number}")) is not None:
                yield found


def read_records(path: Path) -> list[Profile]:
    """Records of a file: JSON lines, or the JSON that ``edgekit profile --json`` prints.

    Raises:
        InputError: the file cannot be read or holds no record.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    try:
        found = from_json(data, _Printed).profiles
    except msgspec.DecodeError:  # not one document: a record a line
        found = Store(path).read()
    if not found:
        raise InputError(f"{path}: holds no profile; give a file of edgekit profile --json, or a store")
    return found


class _Printed(msgspec.Struct):
    """The output of the command."""

    profiles: list[Profile]


class _Heading(msgspec.Struct):
    """Enough of a record to know whether this edgekit can read it."""

    schema: int
    edgekit: str = ""


def _record(line: bytes, where: str) -> Profile | None:
    try:
        heading = from_json(line, _Heading)
    except msgspec.DecodeError:
        return None
    if heading.schema > SCHEMA:
        raise InputError(
            f"{where}: written by edgekit {heading.edgekit} (schema {heading.schema}), this one reads up to {SCHEMA}; "
            "pip install -U edgekit"
        )
    try:
        return from_json(line, Profile)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: not a profile: {error}; take the line out of the file") from error


def _last_byte(file: int, size: int) -> bytes:
    return os.pread(file, 1, size - 1) if hasattr(os, "pread") else b"\n"


@contextlib.contextmanager
def _patiently_locked(path: Path) -> Iterator[None]:
    """`locked`, waited for."""
    with contextlib.ExitStack() as stack:
        end = time.monotonic() + WAIT
        while True:
            try:
                stack.enter_context(locked(path))
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise UsageError(f"{path}: another process has held it for {WAIT:.0f} s; try again") from error
                time.sleep(0.05)
        yield
