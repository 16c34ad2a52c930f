"""Files read whole: regular ones only, so that a named pipe or a device cannot keep a caller waiting for ever."""

from __future__ import annotations

import os
import stat

from edgekit.errors import InputError

MOST_BYTES = 1 << 30
"""Size of the largest file of an image; only one of 16 bits a channel that is not compressed comes near."""

_KINDS = {
    stat.S_IFIFO: "a named pipe, which has no end to wait for; write what it gives to a file, or serve it as a stream",
    stat.S_IFCHR: "a device, which has no end to wait for; a camera is written as camera:0",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory, not an image",
}


def status(path: str | os.PathLike[str]) -> os.stat_result | None:
    """The file at a path, links followed; None if there is nothing.

    Raises:
        InputError: it cannot be looked at.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - str or PathLike alike
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)!r}: cannot be read ({error})") from error


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there that has an end; False where nothing is, or a folder.

    Raises:
        InputError: it is a named pipe, a device or a socket, or cannot be looked at.
    """
    found = status(path)
    if found is None or stat.S_ISDIR(found.st_mode):
        return False
    _check_kind(path, found)
    return True


def read_file(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most so many.

    Raises:
        InputError: it is missing, cannot be read, is larger, or is no regular file.
    """
    found = status(path)
    if found is None:
        raise InputError(f"{path}: no such file")
    _check_kind(path, found)
    try:
        # Not to wait where a pipe has come into the file's place meanwhile.
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(file, "rb") as stream:
            found = os.fstat(file)
            _check_kind(path, found)
            data = stream.read(most + 1) if found.st_size <= most else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if (size := max(found.st_size, len(data))) > most:
        raise InputError(f"{path}: has {size} bytes, and edgekit reads at most {most}")
    return data


def _check_kind(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is {_KINDS.get(stat.S_IFMT(found.st_mode), 'not a file')}")
