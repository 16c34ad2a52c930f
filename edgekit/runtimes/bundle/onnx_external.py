"""Files that an engine reads beside an ONNX file: weights as external data, and compiled contexts.

The file is walked as protobuf (https://protobuf.dev/programming-guides/encoding/), without the package onnx and without
reading its weights; the numbers of fields are those of onnx.proto (https://github.com/onnx/onnx). Most files name no
other, which one search for a word tells.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_LOCATION, _CONTEXT = b"location", b"ep_cache_context"
"""Words without which no file names another: the key of external data, and an attribute of ``EPContext``."""

# What leads to tensors: fields of each kind of message, with the kind that they hold.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST = 100
"""Messages inside one another, as protobuf's own readers bound them."""


def named_files(path: Path) -> set[str]:
    """The places that the tensors and contexts of an ONNX file name, as they are written there.

    Raises:
        ValueError: not whole as protobuf.
    """
    with path.open("rb") as stream:
        if not stream.seek(0, 2):
            return set()
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(_LOCATION) < 0 and data.find(_CONTEXT) < 0:
                return set()
            return set(_named(data, 0, len(data), "model", 0))


def _named(data: mmap.mmap, at: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} messages inside one another")
    if kind == "tensor":
        yield from _locations(data, at, end)
        return
    if kind == "node":
        yield from _context(data, at, end)
    inside = _INSIDE[kind]
    for field, start, stop in _fields(data, at, end):
        if field in inside:
            yield from _named(data, start, stop, inside[field], depth + 1)


def _locations(data: mmap.mmap, at: int, end: int) -> Iterator[str]:
    """The locations in a tensor's entries of external data, which are keys (field 1) and values (2)."""
    for field, start, stop in _fields(data, at, end):
        if field == 13:
            parts = dict(_texts(data, start, stop))
            if parts.get(1) == _LOCATION:
                yield parts.get(2, b"").decode()


def _context(data: mmap.mmap, at: int, end: int) -> Iterator[str]:
    """The file of an ``EPContext`` whose context is not embedded; ``embed_mode`` is 1 where it is, and by default."""
    fields = list(_fields(data, at, end))
    if not any(field == 4 and data[start:stop] == b"EPContext" for field, start, stop in fields):
        return
    contexts, modes = list[bytes](), list[int]()
    for field, start, stop in fields:
        if field == 5:
            texts = dict(_texts(data, start, stop))
            if texts.get(1) == _CONTEXT:
                contexts.append(texts.get(4, b""))
            elif texts.get(1) == b"embed_mode":
                modes.append(dict(_numbers(data, start, stop)).get(3, 0))
    if any(mode != 1 for mode in modes):
        yield from (context.decode() for context in contexts if context)


def _texts(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    for field, start, stop in _fields(data, at, end):
        yield field, data[start:stop]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and place of every field with a length: messages, texts, bytes."""
    for field, wire, start, stop in _every(data, at, end):
        if wire == 2:
            yield field, start, stop


def _numbers(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Number and value of every integer field."""
    for field, wire, start, stop in _every(data, at, end):
        if wire == 0:
            yield field, _varint(data, start, stop)[0]


def _every(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type and place of every field."""
    while at < end:
        tag, at = _varint(data, at, end)
        wire = tag & 7
        if wire == 2:
            length, at = _varint(data, at, end)
        elif wire == 0:
            length = _varint(data, at, end)[1] - at
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if at + length > end:
            raise ValueError("a field that ends behind its message")
        yield tag >> 3, wire, at, at + length
        at += length


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """An integer of at most 10 bytes, and where it ends."""
    value = 0
    for number in range(10):
        if at >= end:
            raise ValueError("an integer that ends behind its message")
        byte = data[at]
        at += 1
        value |= (byte & 127) << (7 * number)
        if byte < 128:
            return value, at
    raise ValueError("an integer of more than 10 bytes")
