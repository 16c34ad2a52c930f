"""Stacks of images in numpy files: read one by one, never unpickled, never loaded whole."""

from __future__ import annotations

import io
import os
import weakref
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.runtimes.inputs.headers import check_size

SUFFIXES = frozenset((".npy", ".npz"))

MOST_HEADER = 1 << 14
"""Bytes before the data; numpy itself reads no header of more than 10,000."""

MOST_ARRAYS = 10_000
"""Arrays that a ``.npz`` may have."""


@dataclass(frozen=True)
class Stack:
    """Images in a file: how many, and how to read one as uint8 (height, width, 3) BGR."""

    name: str
    length: int
    read: Callable[[int], Image]


def as_images(array: NDArray[Any], name: str) -> Image:
    """A view (n, height, width, 3) of an array of one or many images.

    Raises:
        InputError: not uint8, not of that shape, or without a pixel.
    """
    return cast("Image", array.reshape(_checked(array.shape, array.dtype, name)))


def _checked(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> tuple[int, int, int, int]:
    if dtype != np.uint8 or len(shape) not in (3, 4) or shape[-1] != 3 or min(shape) < 1:
        raise InputError(
            f"{name}: must be images, uint8 of shape (height, width, 3) or (n, height, width, 3), BGR, "
            f"not {dtype} {tuple(shape)}"
        )
    count, height, width, _ = (1, *shape) if len(shape) == 3 else shape
    return count, height, width, 3


def open_stacks(path: Path) -> list[Stack]:
    """The stack of a ``.npy`` file, or every stack of a ``.npz`` file in order.

    Raises:
        InputError: not such a file, damaged, or something else than images in it (objects are never unpickled).
    """
    try:
        if path.suffix.lower() == ".npy":
            return [_mapped(path)]
        archive = zipfile.ZipFile(path)  # closed with the last member that is open
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        if not members:
            raise InputError(f"{path}: no array in this file")
        if len(members) > MOST_ARRAYS:
            most = f"{MOST_ARRAYS} are the most; stack the images in one"
            raise InputError(f"{path}: has {len(members)} arrays, and {most}")
        return [_streamed(path, archive, member) for member in members]
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a numpy file with images, or damaged ({error})") from error


def _mapped(path: Path) -> Stack:
    with path.open("rb") as file:
        shape, _, dtype, begin = _header(file)
        count, height, width, channels = _checked(shape, dtype, str(path))
        check_size((width, height), str(path))
        _check_room(str(path), count * height * width * channels, os.fstat(file.fileno()).st_size - begin)
    images = as_images(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
    return Stack(str(path), len(images), lambda index: np.array(images[index]))


def _check_room(name: str, claimed: int, there: int) -> None:
    if claimed > there:
        raise InputError(f"{name}: its header claims {claimed} bytes of images, and {there} follow it: it is damaged")


def _streamed(path: Path, archive: zipfile.ZipFile, member: str) -> Stack:
    """A member of a ``.npz``, read forwards as it is unpacked; going back unpacks it from its start again."""
    name = f"{path}/{member.removesuffix('.npy')}"
    with ExitStack() as opening:
        info = archive.getinfo(member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{name}: is compressed by method {info.compress_type}, which numpy does not write")
        file = opening.enter_context(archive.open(info))
        shape, fortran, dtype, begin = _header(file)
        count, height, width, channels = _checked(shape, dtype, name)
        if fortran:
            raise InputError(f"{name}: the array is in Fortran order; save numpy.ascontiguousarray of it")
        size = prod((height, width, channels))
        check_size((width, height), name)
        _check_room(name, count * size, info.file_size - begin)
        opened = opening.pop_all()

    def read(index: int) -> Image:
        try:
            file.seek(begin + index * size)
            data = file.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
            raise InputError(f"{name}#{index}: cannot be unpacked, the file is damaged ({error})") from error
        if len(data) != size:
            raise InputError(f"{name}#{index}: the file is damaged or cut short")
        return np.frombuffer(bytearray(data), np.uint8).reshape(height, width, channels)

    weakref.finalize(read, opened.close)  # with the last image that somebody may still ask for
    return Stack(name, count, read)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype, and the place of the first byte of data (NEP 1)."""
    head = io.BytesIO(file.read(MOST_HEADER))  # one of version 2 may claim 4 GB
    version = npy.read_magic(head)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the numpy format, which arrays of numbers do not need")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        return (*reader(head), head.tell())
    except Exception as error:  # numpy reads a header as Python, and a damaged one makes it raise anything
        raise ValueError(f"its header cannot be read: {error}") from error
