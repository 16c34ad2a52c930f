"""JSON and plain values to validated structures, safe from any thread.

msgspec collects a structure's type information when it is first needed, and shows it to other threads before it is
complete: two threads that decode a type for the first time crash the process. All of edgekit decodes by these two
functions, which let one thread at a time prepare a type. ``tests/test_structures.py`` finds code that does not.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

_LOCK = threading.Lock()
_DECODERS: dict[object, msgspec.json.Decoder[Any]] = {}


@overload
def from_json(data: bytes | str, kind: type[T]) -> T: ...
@overload
def from_json(data: bytes | str, kind: Any) -> Any: ...


def from_json(data: bytes | str, kind: Any) -> Any:
    """JSON as ``kind``: a structure, or any other type that msgspec decodes.

    Raises:
        msgspec.DecodeError: not JSON, or (`msgspec.ValidationError`) not of that type.
        UnicodeDecodeError: a text in it is not UTF-8.
        RecursionError: brackets nested too deep.
    """
    return _prepared(kind).decode(data)


@overload
def from_builtins(value: object, kind: type[T], *, strict: bool = True) -> T: ...
@overload
def from_builtins(value: object, kind: Any, *, strict: bool = True) -> Any: ...


def from_builtins(value: object, kind: Any, *, strict: bool = True) -> Any:
    """Dictionaries, lists, texts and numbers as ``kind``; without ``strict`` texts may stand for numbers.

    Raises:
        msgspec.ValidationError: not of that type, or a text has a lone surrogate (half of a pair of UTF-16).
    """
    _prepared(kind)
    try:
        return msgspec.convert(value, kind, strict=strict)
    except UnicodeEncodeError as error:
        raise msgspec.ValidationError(f"{error.object!r} has a lone surrogate") from error


def _prepared(kind: object) -> msgspec.json.Decoder[Any]:
    """The decoder of a type; once it is there, so is the type information of everything in it."""
    known = _DECODERS.get(kind)
    if known is None:
        with _LOCK:  # one for all types, because they have parts in common
            known = _DECODERS.get(kind) or msgspec.json.Decoder(kind)
            _DECODERS[kind] = known
    return known
