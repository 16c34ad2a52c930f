"""Write Core ML packages: ML Programs whose weights go to the disk one at a time.

The format is Apple's: mlmodel/format/Model.proto and MIL.proto of coremltools, whose own writer stores the weights.
Nothing of coremltools is run but that; its definitions of the operators are what a test reads the programs back with.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.emulators.coreml.package import MANIFEST, quietly
from edgekit.errors import ConversionError
from edgekit.runtimes.engines.coreml.names import port_name

OPSET = "CoreML8"
"""The operators of iOS 18 and macOS 15: states, attention, weights in blocks."""

SPECIFICATION = 9
"""Version of the model file that goes with them."""

MAIN = "main"
"""The function of a package that has one."""

_DATA = "com.apple.CoreML"
_WEIGHTS = "weights/weight.bin"

Number = bool | int | float
Parameter = Number | str | NDArray[Any] | Sequence[Number]
"""A constant of an operation. Python's floats get the type of what the operation gives."""


@dataclass(frozen=True)
class _Stored:
    dtype: str
    shape: tuple[int, ...]
    offset: int


class MilPackage:
    """Writes a ``.mlpackage`` of one or more functions over one file of weights. Call `save` at the end.

    Args:
        path: of the folder, which is made anew.
    """

    def __init__(self, path: Path) -> None:
        with quietly():
            from coremltools.libmilstoragepython import _BlobStorageWriter

        self._path = path
        self._inner = path / "Data" / _DATA
        shutil.rmtree(path, ignore_errors=True)
        (self._inner / _WEIGHTS).parent.mkdir(parents=True)
        self._blobs: Any = _BlobStorageWriter(str(self._inner / _WEIGHTS))
        self._stored: dict[str, _Stored] = {}
        self._functions: dict[str, MilFunction] = {}

    def function(self, name: str, dtype: str) -> MilFunction:
        """A new function, which computes in ``fp16`` or ``fp32``."""
        self._functions[name] = MilFunction(self, dtype)
        return self._functions[name]

    def __contains__(self, name: str) -> bool:
        """Whether a function has stored this weight: it is the same in all of them."""
        return name in self._stored

    def store(self, name: str, array: NDArray[Any], dtype: str) -> None:
        """Write a weight as ``fp16``, ``fp32``, ``int8`` or ``int4`` (one to a byte here, two in the file).

        Raises:
            ConversionError: a name that is there already.
        """
        if name in self._stored:
            raise ConversionError(f"{self._path.name}: the weight {name!r} is written twice")
        flat = np.ascontiguousarray(array).reshape(-1)
        if dtype == "fp16":
            largest = np.finfo(np.float16).max
            offset = self._blobs.write_fp16_data(np.clip(flat, -largest, largest).astype(np.float16).view(np.uint16))
        elif dtype == "fp32":
            offset = self._blobs.write_float_data(flat.astype(np.float32, copy=False))
        else:
            write = self._blobs.write_int4_data if dtype == "int4" else self._blobs.write_int8_data
            offset = write(flat.astype(np.int8, copy=False))
        self._stored[name] = _Stored(dtype, array.shape, offset)

    def stored(self, name: str) -> Any:
        """A value that stands for a stored weight."""
        one = self._stored[name]
        value = _typed(one.dtype, one.shape)
        value.blobFileValue.fileName = f"@model_path/{_WEIGHTS}"
        value.blobFileValue.offset = one.offset
        return value

    def save(self) -> None:
        """Write the program and the package's manifest. Of several functions the first is the one that runs unasked."""
        with quietly():
            from coremltools.proto import Model_pb2

        del self._blobs  # closes the file
        model = Model_pb2.Model(specificationVersion=SPECIFICATION)
        model.mlProgram.version = 1
        several = len(self._functions) > 1
        for name, function in self._functions.items():
            model.mlProgram.functions[name if several else MAIN].CopyFrom(function.proto())
            function.describe(model.description.functions.add(name=name) if several else model.description)
        if several:
            model.description.defaultFunctionName = next(iter(self._functions))
        (self._inner / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
        (self._path / MANIFEST).write_text(json.dumps(_manifest(), indent=4) + "\n", encoding="utf-8")


def _manifest() -> dict[str, Any]:
    """The manifest of a package. Identifiers are made of the paths, so that equal packages are equal."""
    items = {"model.mlmodel": "CoreML Model Specification", "weights": "CoreML Model Weights"}
    names = {name: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_DATA}/{name}")) for name in items}
    entries = {
        names[name]: {"author": _DATA, "description": description, "name": name, "path": f"{_DATA}/{name}"}
        for name, description in items.items()
    }
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": names["model.mlmodel"],
    }


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]


class MilFunction:
    """One function of a package. Tensors are handed around by name; all sizes are numbers.

    Inputs and outputs are float32 or int32, whatever the function computes in. `shape` and every operation take
    their names as they were declared, with any characters; in the file they are `port_name`.

    Attributes:
        dtype: ``fp16`` or ``fp32``, what it computes in.
    """

    def __init__(self, package: MilPackage, dtype: str) -> None:
        with quietly():
            from coremltools.proto import MIL_pb2

        self._package, self.dtype = package, dtype
        self._operations: list[Any] = []
        self._tensors: dict[str, _Tensor] = {}
        self._inputs: dict[str, _Tensor] = {}
        self._states: dict[str, _Tensor] = {}
        self._outputs: list[str] = []
        self._aliases: dict[str, str] = {}
        self._operation = MIL_pb2.Operation

    def input(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        """Declare an input, ``fp32`` or ``int32``."""
        port = port_name(name)
        self._inputs[port] = self._tensors[port] = _Tensor(dtype, shape)
        self._aliases[name] = self._cast(port, self.dtype) if dtype == "fp32" else port
        return name

    def state(self, name: str, shape: tuple[int, ...]) -> str:
        """Declare a state: a tensor that stays from run to run. Core ML has them in float16 alone."""
        port = port_name(name)
        self._states[port] = self._tensors[port] = _Tensor("fp16", shape)
        return port

    def output(self, name: str, value: str) -> tuple[int, ...]:
        """Declare an output, which takes this value as float32; returns its shape."""
        port, shape = port_name(name), self.shape(value)
        self._add("cast", {"x": value}, {"dtype": "fp32"}, "fp32", shape, port)
        self._outputs.append(port)
        return shape

    def named(self, name: str, value: str) -> str:
        """Give a tensor another name."""
        self._aliases[name] = self._own(value)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return self._tensors[self._own(name)].shape

    def node(
        self,
        kind: str,
        tensors: Mapping[str, str | Sequence[str]],
        shape: Sequence[int],
        parameters: Mapping[str, Parameter] | None = None,
        dtype: str = "",
    ) -> str:
        """Add an operation and return the name of its result, of this shape, and of ``dtype`` where it is another."""
        return self._add(kind, tensors, parameters or {}, dtype or self.dtype, tuple(shape), self._fresh(kind))

    def split(self, x: str, axis: int, count: int) -> list[str]:
        """Equal parts along an axis."""
        shape = list(self.shape(x))
        shape[axis] //= count
        first = self._fresh("split")
        names = [f"{first}_{number}" for number in range(count)]
        made = self._bare("split", {"x": x}, {"axis": axis, "num_splits": count}, names[0])
        for name in names:
            self._give(made, name, self.dtype, tuple(shape))
        return names

    def write(self, state: str, value: str) -> None:
        """Put a value into a state. The order of operations is the order of what they do."""
        self._bare("write_state", {"input": state, "data": value}, {}, self._fresh(f"write_{state}"))

    def constant(self, name: str, dtype: str = "") -> str:
        """A stored weight as a tensor."""
        return self._constant("const", name, {}, {"val": name}, dtype or self.dtype)

    def widened(self, name: str) -> str:
        """A weight that is stored in float16, as float32."""
        return self._constant("constexpr_cast", name, {"source_val": name}, {}, "fp32")

    def scaled(self, name: str, scales: str) -> str:
        """Integers times the scales of their blocks."""
        stored = {"data": name, "scale": scales}
        return self._constant("constexpr_blockwise_shift_scale", name, stored, {}, self.dtype)

    def _constant(
        self, kind: str, name: str, inputs: Mapping[str, str], attributes: Mapping[str, str], dtype: str
    ) -> str:
        """An operation that Core ML computes when it opens the file."""
        own = port_name(name)
        if own in self._tensors:
            return own
        made = self._bare(kind, {}, {"output_dtype": "fp32"} if kind == "constexpr_cast" else {}, own)
        for key, weight in inputs.items():
            made.inputs[key].arguments.add().value.CopyFrom(self._package.stored(weight))
        for key, weight in attributes.items():
            made.attributes[key].CopyFrom(self._package.stored(weight))
        shape = tuple(int(one.constant.size) for one in self._package.stored(name).type.tensorType.dimensions)
        return self._give(made, own, dtype, shape)

    def _cast(self, name: str, dtype: str) -> str:
        have = self._tensors[name]
        if have.dtype == dtype:
            return name
        return self.node("cast", {"x": name}, have.shape, {"dtype": dtype}, dtype)

    def _add(
        self,
        kind: str,
        tensors: Mapping[str, str | Sequence[str]],
        parameters: Mapping[str, Parameter],
        dtype: str,
        shape: tuple[int, ...],
        name: str,
    ) -> str:
        return self._give(self._bare(kind, tensors, parameters, name), name, dtype, shape)

    def _bare(
        self, kind: str, tensors: Mapping[str, str | Sequence[str]], parameters: Mapping[str, Parameter], name: str
    ) -> Any:
        """An operation that gives nothing yet."""
        made = self._operation(type=kind)
        made.attributes["name"].CopyFrom(immediate(name, self.dtype))
        for key, given in tensors.items():
            for one in [given] if isinstance(given, str) else given:
                made.inputs[key].arguments.add().name = self._own(one)
        for key, value in parameters.items():
            made.inputs[key].arguments.add().value.CopyFrom(immediate(value, self.dtype))
        self._operations.append(made)
        return made

    def _give(self, made: Any, name: str, dtype: str, shape: tuple[int, ...]) -> str:
        if name in self._tensors:
            raise ConversionError(f"two tensors are called {name!r}")
        made.outputs.add(name=name, type=_typed(dtype, shape).type)
        self._tensors[name] = _Tensor(dtype, shape)
        return name

    def _own(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _fresh(self, kind: str) -> str:
        return f"{kind}_{len(self._operations)}_{len(self._tensors)}"

    @property
    def kinds(self) -> Counter[str]:
        """How many operations of each kind it has, constants left out."""
        return Counter(one.type for one in self._operations if not one.type.startswith("const"))

    def proto(self) -> Any:
        """As the file has it."""
        from coremltools.proto import MIL_pb2

        made = MIL_pb2.Function(opset=OPSET)
        for name, one in self._inputs.items():
            made.inputs.add(name=name, type=_typed(one.dtype, one.shape).type)
        for name, one in self._states.items():
            added = made.inputs.add(name=name)
            added.type.stateType.wrappedType.CopyFrom(_typed(one.dtype, one.shape).type)
        block = made.block_specializations[OPSET]
        block.operations.extend(self._operations)
        block.outputs.extend(self._outputs)
        return made

    def describe(self, description: Any) -> None:
        """Say what goes in and what comes out, as an app sees it."""
        for name, one in self._inputs.items():
            _array(description.input.add(name=name).type.multiArrayType, one)
        for name in self._outputs:
            _array(description.output.add(name=name).type.multiArrayType, self._tensors[name])
        for name, one in self._states.items():
            _array(description.state.add(name=name).type.stateType.arrayType, one)


def _array(kind: Any, tensor: _Tensor) -> None:
    from coremltools.proto import FeatureTypes_pb2

    types = FeatureTypes_pb2.ArrayFeatureType
    kind.shape.extend(tensor.shape)
    kind.dataType = {"fp16": types.FLOAT16, "fp32": types.FLOAT32, "int32": types.INT32}[tensor.dtype]


def _typed(dtype: str, shape: Sequence[int]) -> Any:
    """A value of a type, still without its number."""
    from coremltools.proto import MIL_pb2

    names = {"fp16": "FLOAT16", "fp32": "FLOAT32"}
    value = MIL_pb2.Value()
    kind = value.type.tensorType
    kind.dataType = MIL_pb2.DataType.Value(names.get(dtype, dtype.upper()))
    kind.rank = len(shape)
    for size in shape:
        kind.dimensions.add().constant.size = size
    return value


def immediate(given: Parameter, dtype: str) -> Any:
    """A constant that stands in the program; ``dtype`` is that of floats."""
    if isinstance(given, str):
        value = _typed("string", ())
        value.immediateValue.tensor.strings.values.append(given)
        return value
    array = np.asarray(given)
    kind = {"b": "bool", "i": "int32", "f": dtype}[array.dtype.kind]
    value = _typed(kind, array.shape)
    tensor = value.immediateValue.tensor
    if kind == "fp16":  # it has no field of its own
        tensor.bytes.values = array.astype(np.float16).tobytes()
    elif kind == "fp32":
        tensor.floats.values.extend(float(one) for one in array.reshape(-1))
    elif kind == "bool":
        tensor.bools.values.extend(bool(one) for one in array.reshape(-1))
    else:
        tensor.ints.values.extend(int(one) for one in array.reshape(-1))
    return value
