"""Read the operators of a ``.mnn`` file, with numpy alone.

The file is a FlatBuffer (https://flatbuffers.dev/internals); the numbers of tables' fields are those of MNN's published
schema (schema/default of the MNN project: Net, Op, Convolution2D, IDSTQuan), to which fields have only been appended.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

INPUT, CONST, CONVERT = 34, 11, 129
CONVOLUTIONS = (12, 13)
"""Operator kinds by number: Convolution and ConvolutionDepthwise."""

_INT8, _FLOAT16 = 1, 3

Data = bytes | bytearray


@dataclass(frozen=True)
class MnnOperator:
    """One operator: its kind, its name, and the names of the tensors that it reads and makes.

    ``stored`` is how a convolution's weights are stored: ``float32``, ``float16``, ``int8`` (with quantised
    activations), ``int8 weights`` (which become floats when the file is opened) or ``other``; empty for any other kind.
    """

    kind: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stored: str = ""


def read_operators(path: Path) -> list[MnnOperator]:
    """The operators of a ``.mnn`` file in the order in which they run.

    Raises:
        ValueError: not a whole file of this format.
    """
    data = path.read_bytes()
    try:
        net = FlatbufferTable.root(data)
        names = net.texts(7)
        return [_operator(FlatbufferTable(data, at), names) for at in net.offsets(3)]
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a whole MNN model ({error})") from error


def identifier(data: Data) -> tuple[int, int]:
    """Where in a file's bytes MNN's converter has put the model's random identifier: offset and length, or zeros."""
    found = FlatbufferTable.root(data).target(11)
    return (found + 4, _number(data, found, "I")) if found else (0, 0)


def _operator(op: FlatbufferTable, names: list[str]) -> MnnOperator:
    kind = op.number(5, "i")
    return MnnOperator(
        kind=kind,
        name=op.text(3),
        inputs=tuple(names[index] for index in op.numbers(0)),
        outputs=tuple(names[index] for index in op.numbers(4)),
        stored=_stored(op) if kind in CONVOLUTIONS else "",
    )


def _stored(op: FlatbufferTable) -> str:
    convolution = FlatbufferTable(op.data, op.target(2))
    packed = convolution.target(3)
    if not packed:
        return "float32"
    kind = FlatbufferTable(op.data, packed).number(2, "i")
    if kind == _FLOAT16:
        return "float16"
    if kind == _INT8:
        return "int8" if convolution.target(4) else "int8 weights"
    return "other"


class FlatbufferTable:
    """A FlatBuffers table: fields by number, absent ones as 0 or nothing."""

    def __init__(self, data: Data, at: int) -> None:
        self.data, self._at = data, at
        self._fields = at - _number(data, at, "i")

    @classmethod
    def root(cls, data: Data) -> FlatbufferTable:
        """The root table of a file."""
        return cls(data, _number(data, 0, "I"))

    def number(self, field: int, kind: str) -> int:
        at = self.place(field)
        return _number(self.data, at, kind) if at else 0

    def target(self, field: int) -> int:
        """Where the table, text or vector of a field is, 0 when there is none."""
        at = self.place(field)
        return at + _number(self.data, at, "I") if at else 0

    def numbers(self, field: int) -> tuple[int, ...]:
        at = self.target(field)
        return struct.unpack_from(f"<{_number(self.data, at, 'I')}i", self.data, at + 4) if at else ()

    def offsets(self, field: int) -> list[int]:
        """Where the tables or texts of a vector are."""
        at = self.target(field)
        places = range(at + 4, at + 4 + 4 * _number(self.data, at, "I"), 4) if at else ()
        return [place + _number(self.data, place, "I") for place in places]

    def text(self, field: int) -> str:
        """A text, empty where the field is absent."""
        found = self.target(field)
        return _text(self.data, found) if found else ""

    def texts(self, field: int) -> list[str]:
        return [_text(self.data, at) for at in self.offsets(field)]

    def place(self, field: int) -> int:
        """Where a field is in the file, 0 when it is absent."""
        entry = 4 + 2 * field
        if entry >= _number(self.data, self._fields, "H"):
            return 0
        offset = _number(self.data, self._fields + entry, "H")
        return self._at + offset if offset else 0


def _number(data: Data, at: int, kind: str) -> int:
    if at < 0:
        raise IndexError(f"offset {at}")
    value: int = struct.unpack_from("<" + kind, data, at)[0]
    return value


def _text(data: Data, at: int) -> str:
    return data[at + 4 : at + 4 + _number(data, at, "I")].decode()
