"""Weights of 4 bits in the form that ncnn runs fast: widened to a byte each while the file is read.

ncnn multiplies blocks of 8 bits by kernels of the processor, and blocks of 4 or 6 bits by a plain loop over single
weights, which one thread runs for a token: ten times slower and more. The integers and their scales stay what the file
says; what changes is that ncnn brings the input of such a product into blocks of 8 bits, too, and that the weights take
twice the memory.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.engines.ncnn.files import TAG_FLOAT16

_NARROW, _WIDE = 4, 8
"""Bits of a weight in the file, and in memory."""

_TAGGED = {0: 4, TAG_FLOAT16: 2, 0x000D4B38: 1}
"""Bytes of a number by the tag in front of the numbers."""

_FORM = 18
"""Parameter of a Gemm: 100 times the bits of a weight in blocks, and which size those have."""

_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
"""The address of the memory that ncnn wants filled, which its Python module passes as a capsule."""

_CHUNK = 1 << 22
"""Bytes that are widened together."""

_NAMES = """
    BinaryOp Clip Concat Crop ExpandDims GELU Input Noop Padding Permute ReLU Reduction Reshape SDPA Sigmoid Slice Split
    Swish UnaryOp
"""
_WEIGHTLESS = frozenset(_NAMES.split())
"""Layers without weights, of those that edgekit writes into parts of a vision-language model."""


@dataclass(frozen=True)
class _Piece:
    """Bytes of a file that belong together: integers of 4 bits, or others."""

    start: int
    size: int
    narrow: bool = False


class _Layout:
    """Walks through a ``.bin``, whose layout follows from the layers."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.offset = file, 0
        self.pieces: list[_Piece] = []

    def raw(self, size: int, narrow: bool = False) -> None:
        """So many bytes, padded to a multiple of four."""
        padded = size + -size % 4
        self.pieces.append(_Piece(self.offset, padded, narrow))
        self.offset += padded

    def tagged(self, count: int) -> None:
        """Numbers after the tag that says how they are stored."""
        self._file.seek(self.offset)
        word = int.from_bytes(self._file.read(4), "little")
        if word not in _TAGGED:
            raise _UnknownLayoutError
        self.raw(4)
        self.raw(count * _TAGGED[word])


class _UnknownLayoutError(Exception):
    """A file that is not laid out as edgekit writes it."""


def _gemm(params: Mapping[int, int], layout: _Layout) -> None:
    outputs, inputs, form = params.get(8, 0), params.get(9, 0), params.get(_FORM, 0)
    bits, size = form // 100, 32 << form % 10
    if params.get(4, 0) or (form and (form % 100 > 2 or bits not in (_NARROW, _WIDE))):
        raise _UnknownLayoutError
    if bits == _NARROW and (inputs % 2 or outputs * inputs % 8):  # a part of a byte, or of a word, would be left over
        raise _UnknownLayoutError
    if params.get(5, 0):
        if bits:
            layout.raw(outputs * (inputs * bits // 8), narrow=bits == _NARROW)
        else:
            layout.tagged(outputs * inputs)
    if params.get(6, 0) and (kind := params.get(10, 0)) != -1:
        if kind != 4:
            raise _UnknownLayoutError
        layout.tagged(outputs)
    if bits:
        layout.raw(4 * outputs * -(-inputs // size))


def _convolution(params: Mapping[int, int], layout: _Layout) -> None:
    if params.get(8, 0) or params.get(19, 0):
        raise _UnknownLayoutError
    layout.tagged(params.get(6, 0))
    layout.raw(4 * params.get(0, 0) if params.get(5, 0) else 0)


def _memory(params: Mapping[int, int], layout: _Layout) -> None:
    count = prod(max(params.get(key, 0), 1) for key in (0, 1, 11, 2))
    if params.get(21, 1):
        layout.raw(4 * count)
    else:
        layout.tagged(count)


def _embedded(params: Mapping[int, int], layout: _Layout) -> None:
    layout.tagged(params.get(3, 0))
    layout.raw(4 * params.get(0, 0) if params.get(2, 0) else 0)


def _affine(runs: int) -> Callable[[Mapping[int, int], _Layout], None]:
    return lambda params, layout: layout.raw(4 * runs * params.get(0, 0) if params.get(2, 1) else 0)


_READERS: dict[str, Callable[[Mapping[int, int], _Layout], None]] = {
    "Gemm": _gemm,
    "Convolution": _convolution,
    "MemoryData": _memory,
    "Embed": _embedded,
    "LayerNorm": _affine(2),
    "RMSNorm": _affine(1),
}


def widened(param: Path, weights: Path) -> Widened | None:
    """The files with their weights of 4 bits widened; None where there are none, or they are laid out otherwise."""
    text = param.read_text(encoding="utf-8")
    pieces = _pieces(text, weights)
    return Widened(_wide_param(text), weights, pieces) if pieces else None


class Widened:
    """A ``.bin`` as if its weights of 4 bits had 8, to be opened once.

    Attributes:
        param: text of the ``.param`` that fits it.
    """

    def __init__(self, param: str, weights: Path, pieces: Sequence[_Piece]) -> None:
        self.param = param
        self._weights, self._pieces = weights, pieces

    def reader(self) -> Any:
        """The data reader that ncnn loads the weights from."""
        reader = _reader()()
        reader.stream = _Stream(self._weights, self._pieces)
        return reader


@functools.cache
def _reader() -> Any:
    """A subclass of ncnn's reader, made once: a class is a reference cycle and would keep each file's data alive."""
    import ncnn

    class Reader(ncnn.DataReader):  # type: ignore[misc]  # ncnn has no types
        stream: _Stream

        def read(self, buffer: Any, size: int) -> int:
            memory = (ctypes.c_uint8 * size).from_address(_address(buffer, None))
            return self.stream.read_into(np.ctypeslib.as_array(memory))

    return Reader


class _Stream:
    """Bytes of a file one after the other, integers of 4 bits as bytes."""

    def __init__(self, weights: Path, pieces: Sequence[_Piece]) -> None:
        self._chunks = _chunks(weights, pieces)
        self._left: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def read_into(self, buffer: NDArray[np.uint8]) -> int:
        """Fill the buffer; the number of bytes, fewer at the end of the file."""
        done = 0
        while done < len(buffer):
            if not len(self._left):
                self._left = next(self._chunks, self._left)
            some = self._left[: len(buffer) - done]
            if not len(some):
                break
            buffer[done : done + len(some)] = some
            self._left, done = self._left[len(some) :], done + len(some)
        return done


def _chunks(weights: Path, pieces: Sequence[_Piece]) -> Iterator[NDArray[np.uint8]]:
    """The file, some of it at a time."""
    with weights.open("rb") as file:
        for piece in pieces:
            for start in range(0, piece.size, _CHUNK):
                chunk = np.fromfile(file, np.uint8, min(_CHUNK, piece.size - start))
                yield _unpacked(chunk) if piece.narrow else chunk


def _unpacked(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two integers of each byte, the low half first, with their signs."""
    found = np.empty((len(packed), 2), np.uint8)
    found[:, 0], found[:, 1] = packed & 15, packed >> 4
    found ^= 8
    found -= 8
    return found.reshape(-1)


def _wide_param(text: str) -> str:
    """The graph with every Gemm of 4 bits as one of 8."""
    lines = text.splitlines()
    narrow, wide = f" {_FORM}={_NARROW}0", f" {_FORM}={_WIDE}0"
    return "\n".join(line.replace(narrow, wide) if line.startswith("Gemm ") else line for line in lines) + "\n"


def _pieces(text: str, weights: Path) -> list[_Piece]:
    """The pieces of the file; empty where nothing is to be widened, or a layer is unknown."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        layout = _Layout(file)
        try:
            for line in text.splitlines()[2:]:
                if words := line.split():
                    _layer(words, layout)
        except _UnknownLayoutError:
            return []
    return layout.pieces if layout.offset == size and any(piece.narrow for piece in layout.pieces) else []


def _layer(words: list[str], layout: _Layout) -> None:
    if words[0] in _WEIGHTLESS:
        return
    if words[0] not in _READERS:
        raise _UnknownLayoutError
    try:
        given = dict(word.split("=", 1) for word in words[4 + int(words[2]) + int(words[3]) :])
        params = {int(key): int(value) for key, value in given.items() if value.lstrip("-").isdecimal()}
    except ValueError:
        raise _UnknownLayoutError from None
    _READERS[words[0]](params, layout)
