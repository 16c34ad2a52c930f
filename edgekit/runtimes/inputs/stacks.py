"""Stacks of images in numpy files: read one by one, never unpickled, never loaded whole."""

from __future__ import annotations

import weakref
import zipfile
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

SUFFIXES = frozenset((".npy", ".npz"))


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
    if dtype != np.uint8 or len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
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
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
        if not members:
            raise InputError(f"{path}: no array in this file")
        return [_streamed(path, member) for member in members]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a numpy file with images, or damaged ({error})") from error


def _mapped(path: Path) -> Stack:
    with path.open("rb") as file:
        shape, _, dtype = _header(file)
    _checked(shape, dtype, str(path))  # before the mapping, whose message would speak of pickles
    images = as_images(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
    return Stack(str(path), len(images), lambda index: np.array(images[index]))


def _streamed(path: Path, member: str) -> Stack:
    """A member of a ``.npz``, read forwards as it is unpacked; going back unpacks it from its start again."""
    name = f"{path}/{member.removesuffix('.npy')}"
    with ExitStack() as opening:
        file = opening.enter_context(opening.enter_context(zipfile.ZipFile(path)).open(member))
        shape, fortran, dtype = _header(file)
        count, height, width, channels = _checked(shape, dtype, name)
        if fortran:
            raise InputError(f"{name}: the array is in Fortran order; save numpy.ascontiguousarray of it")
        opened = opening.pop_all()
    begin, size = file.tell(), prod((height, width, channels))

    def read(index: int) -> Image:
        try:
            file.seek(begin + index * size)
            data = file.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
            raise InputError(f"{name}#{index}: cannot be unpacked, the file is damaged ({error})") from error
        if len(data) != size:
            raise InputError(f"{name}#{index}: the file is damaged or cut short")
        return np.frombuffer(bytearray(data), np.uint8).reshape(height, width, channels)

    weakref.finalize(read, opened.close)  # with the last image that somebody may still ask for
    return Stack(name, count, read)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype, leaving the file at its first byte of data (NEP 1)."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the numpy format, which arrays of numbers do not need")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return reader(file)
