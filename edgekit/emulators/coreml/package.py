"""A saved Core ML package (``.mlpackage``) as plain data: its ML Program's operations and its weights as stored.

The format is Apple's: a protobuf ``Model`` (mlmodel/format/Model.proto and MIL.proto of coremltools) beside a
``weight.bin``, which is read with the reader that comes with coremltools. Nothing is computed here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError

Value = Any
"""A constant: an array (a scalar has no dimensions), a string, or a list of strings."""

MANIFEST = "Manifest.json"

MODEL_FOLDER = "@model_path/"
"""The prefix of the file names of weights: the folder of the ``.mlmodel`` file."""

NUMPY = {
    "fp16": np.float16, "fp32": np.float32, "fp64": np.float64, "bool": np.bool_,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
}  # fmt: skip

BITS = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}
"""Types of less than a byte; they are held in one byte each here."""

_PROTO_NAMES = {"FLOAT16": "fp16", "FLOAT32": "fp32", "FLOAT64": "fp64"}


@dataclass(frozen=True)
class Port:
    """A tensor that an operation gives: name, MIL type, and shape with None where it is not known beforehand."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class ValueReference:
    """An argument that another operation or an input gives."""

    name: str


Argument = Value | ValueReference | tuple[Value | ValueReference, ...]


@dataclass(frozen=True)
class Operation:
    """One MIL operation. An argument that takes several values is a tuple."""

    kind: str
    name: str
    arguments: Mapping[str, Argument]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Program:
    """A function of a package: named inputs, operations in order, the names of its outputs.

    ``states`` are tensors that stay from run to run.
    """

    inputs: tuple[Port, ...]
    states: tuple[Port, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    opset: str


def read_program(package: Path, function: str = "") -> Program:
    """Read a ``.mlpackage`` folder.

    Args:
        package: the folder.
        function: which one; empty for the one that runs unasked.

    Raises:
        EngineError: it is not an ML Program, is damaged, or has parts that are not read here.
    """
    with quietly():
        from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = _model_path(package)
    model = Model_pb2.Model()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise EngineError(f"{path}: not a readable Core ML model ({error}); convert the model again") from error
    if model.WhichOneof("Type") != "mlProgram":
        raise EngineError(f"{path}: holds a {model.WhichOneof('Type')}, only an ML Program can be interpreted")
    name = function or model.description.defaultFunctionName or "main"
    if name not in model.mlProgram.functions:
        raise EngineError(f"{path}: has no function {name!r}; convert the model again")
    chosen = model.mlProgram.functions[name]
    reader = _Reader(path)
    block = chosen.block_specializations[chosen.opset]
    states = [one for one in chosen.inputs if one.type.WhichOneof("type") == "stateType"]
    return Program(
        inputs=tuple(_port(one.name, one.type, str(path)) for one in chosen.inputs if one not in states),
        states=tuple(_port(one.name, one.type.stateType.wrappedType, str(path)) for one in states),
        outputs=tuple(block.outputs),
        operations=tuple(reader.operations(block)),
        opset=chosen.opset,
    )


def _model_path(package: Path) -> Path:
    """The ``.mlmodel`` file that the package's manifest names."""
    manifest = package / MANIFEST
    try:
        content = json.loads(manifest.read_bytes())
        entry = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        path = package / "Data" / str(entry)
        inside = path.resolve().is_relative_to(package.resolve())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{manifest}: not the manifest of a Core ML package ({error!r})") from error
    if not inside:
        raise EngineError(f"{manifest}: names {entry!r}, which is outside the package; do not use it")
    return path


class _Reader:
    """Operations and constants of one model file."""

    def __init__(self, path: Path) -> None:
        from coremltools.proto import MIL_pb2

        self._path = path
        self._types = {number: _PROTO_NAMES.get(name, name.lower()) for name, number in MIL_pb2.DataType.items()}
        self._stores: dict[str, Any] = {}

    def operations(self, block: Any) -> Iterator[Operation]:
        """The operations of a block; constants keep their kind ``const`` and hold their value as ``val``."""
        for operation in block.operations:
            ports = tuple(_port(one.name, one.type, str(self._path)) for one in operation.outputs)
            where = ports[0].name if ports else operation.type
            if operation.blocks:
                raise EngineError(f"{self._path}: operation {where!r} ({operation.type}) has blocks of its own, "
                                  "which are not interpreted")  # fmt: skip
            arguments: dict[str, Argument] = {
                key: self.value(value, f"{where}.{key}") for key, value in operation.attributes.items() if key != "name"
            }
            for key, argument in operation.inputs.items():
                bound = tuple(self._bound(one, f"{where}.{key}") for one in argument.arguments)
                arguments[key] = bound[0] if len(bound) == 1 else bound
            yield Operation(operation.type, where, arguments, ports)

    def _bound(self, binding: Any, where: str) -> Value | ValueReference:
        if binding.WhichOneof("binding") == "name":
            return ValueReference(binding.name)
        return self.value(binding.value, where)

    def value(self, value: Any, where: str) -> Value:
        """A constant, from the model file or from its weights."""
        if value.type.WhichOneof("type") == "listType":
            return [self.value(one, where) for one in value.immediateValue.list.values]
        if value.type.WhichOneof("type") != "tensorType":
            raise EngineError(f"{self._path}: constant {where!r} is a {value.type.WhichOneof('type')}, not a tensor")
        dtype, shape = self._type(value.type.tensorType, where)
        if value.WhichOneof("value") == "blobFileValue":
            flat = self._blob(value.blobFileValue, dtype, where)
        elif dtype == "string" and not shape:
            return str("".join(value.immediateValue.tensor.strings.values))
        else:
            flat = self._immediate(value.immediateValue.tensor, dtype, shape, where)
        if flat.size != math.prod(shape):
            raise EngineError(f"{self._path}: constant {where!r} has {flat.size} values for the shape {shape}")
        return flat.reshape(shape)

    def _type(self, tensor: Any, where: str) -> tuple[str, tuple[int, ...]]:
        dtype = self._types[tensor.dataType]
        if dtype not in NUMPY and dtype not in BITS and dtype != "string":
            raise EngineError(f"{self._path}: constant {where!r} has the type {dtype}, which is not interpreted")
        return dtype, tuple(int(dimension.constant.size) for dimension in tensor.dimensions)

    def _immediate(self, tensor: Any, dtype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
        kind = tensor.WhichOneof("value")
        if kind == "strings":
            return np.array(list(tensor.strings.values), dtype=object)
        if kind == "bytes" and dtype in BITS:
            signed = not dtype.startswith("u")
            return unpack(np.frombuffer(tensor.bytes.values, np.uint8), BITS[dtype], math.prod(shape), signed)
        try:
            if kind == "bytes":
                return np.frombuffer(tensor.bytes.values, NUMPY[dtype])
            return np.array(list(getattr(tensor, kind).values) if kind else [], dtype=NUMPY[dtype])
        except (ValueError, OverflowError, KeyError) as error:
            raise EngineError(f"{self._path}: constant {where!r} is damaged ({error})") from error

    def _blob(self, blob: Any, dtype: str, where: str) -> NDArray[Any]:
        """Read from ``weight.bin``; types of less than a byte come one to a byte."""
        from coremltools.libmilstoragepython import _BlobStorageReader

        path = self._path.parent / str(blob.fileName).removeprefix(MODEL_FOLDER)
        known = blob.fileName.startswith(MODEL_FOLDER) and path.resolve().is_relative_to(self._path.parent.resolve())
        if not known:
            raise EngineError(f"{self._path}: constant {where!r} is in {blob.fileName!r}, outside the package")
        method = {"fp32": "float"}.get(dtype, dtype)
        try:
            if blob.fileName not in self._stores:
                self._stores[blob.fileName] = _BlobStorageReader(str(path))
            data = np.asarray(getattr(self._stores[blob.fileName], f"read_{method}_data")(blob.offset))
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise EngineError(f"{path}: constant {where!r} cannot be read ({error}); convert it again") from error
        if dtype == "fp16":
            return data.view(np.float16)
        return data.astype(NUMPY.get(dtype, np.int8 if dtype == "int4" else np.uint8), copy=False)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress coremltools' messages about parts that exist on a Mac only."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def _port(name: str, kind: Any, path: str) -> Port:
    from coremltools.proto import MIL_pb2

    if kind.WhichOneof("type") != "tensorType":
        raise EngineError(f"{path}: {name!r} is a {kind.WhichOneof('type')}, only tensors are interpreted")
    tensor = kind.tensorType
    dtype = MIL_pb2.DataType.Name(tensor.dataType)
    shape = tuple(
        int(one.constant.size) if one.WhichOneof("dimension") == "constant" else None for one in tensor.dimensions
    )
    return Port(name, _PROTO_NAMES.get(dtype, dtype.lower()), shape)


def unpack(packed: NDArray[np.uint8], bits: int, count: int, signed: bool = False) -> NDArray[Any]:
    """Integers of 1 to 8 bits from bytes, lowest bits first, as one uint8 (or int8, when ``signed``) each.

    Raises:
        EngineError: there are fewer than ``count``.
    """
    if packed.size * 8 < count * bits:
        raise EngineError(f"{packed.size} bytes do not hold {count} integers of {bits} bits")
    single = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    values: NDArray[Any] = (single << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
    if signed:
        return np.where(values >= 1 << (bits - 1), values.astype(np.int16) - (1 << bits), values).astype(np.int8)
    return values
