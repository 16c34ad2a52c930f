"""Messages between caller and child: a line of JSON, followed by the bytes of the arrays that it announces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.bundle.manifest import Graph, Language, ProofWord, Record
from edgekit.structures import from_json
from edgekit.worker.messages import Failed

Arrays = Mapping[str, NDArray[Any]]

LINE, ARRAYS = 1 << 24, 1 << 34
"""The most bytes of a line, and of the arrays behind it: what the child says is not believed."""


class Announced(Record, frozen=True):
    """An array that follows."""

    name: str
    dtype: Literal["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"]
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        size = np.dtype(self.dtype).itemsize
        for one in self.shape:
            size *= one
        return size


class Opening(Record, frozen=True, kw_only=True):
    """The files to open, and how. ``graphs`` has one graph, or those of a language model by name."""

    kind: Literal["session", "network", "language", "tokenizer"]
    engine: str = ""
    folder: str
    graphs: dict[str, Graph] = msgspec.field(default_factory=dict)
    language: Language | None = None
    threads: int = 0
    device: str = ""
    strict: bool = False


class Asked(Record, frozen=True, kw_only=True):
    """A call: open something, or call a method of what was opened as number ``of``."""

    method: str
    of: int = -1
    opening: Opening | None = None
    text: str = ""
    ids: tuple[int, ...] = ()
    special: bool = True
    arrays: tuple[Announced, ...] = ()


class Where(Record, frozen=True, kw_only=True):
    """The placement of an opened session or network."""

    device: str
    operators: dict[str, int]
    arithmetic: str
    word: ProofWord


class Answered(Record, frozen=True, kw_only=True):
    """The result of a call, or the error."""

    failed: Failed | None = None
    number: int = 0
    text: str | None = None
    ids: tuple[int, ...] = ()
    where: Where | None = None
    arrays: tuple[Announced, ...] = ()


def announced(arrays: Arrays) -> tuple[Announced, ...]:
    """The arrays as the line says them."""
    return tuple(Announced(name, array.dtype.name, array.shape) for name, array in arrays.items())  # type: ignore[arg-type]


def send(stream: IO[bytes], message: Record, arrays: Iterable[NDArray[Any]]) -> None:
    """Write a message and its arrays."""
    stream.write(msgspec.json.encode(message) + b"\n")
    for array in arrays:
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: IO[bytes], kind: type[Any]) -> tuple[Any, dict[str, NDArray[Any]]] | None:
    """The next message of a kind and its arrays; None where the stream ended in the middle or before.

    Raises:
        ValueError: not such a message, or more bytes than any model has.
    """
    line = stream.readline(LINE)
    if not line.endswith(b"\n"):
        if len(line) == LINE:
            raise ValueError(f"a line of more than {LINE} bytes")
        return None
    message = from_json(line, kind)
    if sum(one.bytes for one in message.arrays) > ARRAYS:
        raise ValueError(f"arrays of more than {ARRAYS} bytes")
    arrays = dict(_read(stream, message.arrays))
    return (message, arrays) if len(arrays) == len(message.arrays) else None


def _read(stream: IO[bytes], arrays: tuple[Announced, ...]) -> Iterator[tuple[str, NDArray[Any]]]:
    for one in arrays:
        data = stream.read(one.bytes)
        if len(data) != one.bytes:
            return
        yield one.name, np.frombuffer(data, one.dtype).reshape(one.shape)
