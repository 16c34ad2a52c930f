"""Write a LiteRT file: operators in memory, weights on disk as soon as they are known."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters._foreign import tool_error
from edgekit.runtimes.bundle.manifest import Graph, Tensor

ALIGNMENT = 16

INLINE = 1024
"""Largest constant, in bytes, in the tables themselves: LiteRT needs shapes and axes to find sizes."""

_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8"}


class LiteRTWriter:
    """Writes ``NAME.tflite`` into a folder. Used as a context; `save` ends it.

    Weights lie behind the tables of operators, so that they can be written first. Tensors are handed around by name.
    Sizes that are not known are 1 in the file; LiteRT finds those of all tensors anew when it is given inputs.
    """

    def __init__(self, folder: Path, name: str) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.name = name
        self._schema = schema
        self._path, self._data_path = folder / f"{name}.tflite", folder / f"{name}.weights"
        self._data = self._data_path.open("wb")
        self._buffers: list[Any] = [schema.BufferT()]
        self._tensors: dict[str, int] = {}
        self._made: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[int, int] = {}
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._values: list[str] = []
        self._known: dict[tuple[str, bytes], str] = {}

    def __enter__(self) -> LiteRTWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._data_path.unlink(missing_ok=True)

    def input(self, name: str, shape: Sequence[int], dtype: str) -> str:
        """Declare an input; -1 is any size."""
        self._inputs.append(Tensor(name=name, shape=tuple(shape), dtype=dtype))
        made = self._tensor(name, [max(size, 1) for size in shape], _TYPES[dtype])
        made.shapeSignature = list(shape)
        return name

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        self._outputs.append(Tensor(name=name, shape=tuple(shape)))
        self._values.append(value)

    def operator(
        self, kind: str, inputs: Sequence[str], options: Mapping[str, Any] | None = None, *, table: str = "",
        dtype: str = "float32", outputs: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Add an operator and return the name of its first output, which is made up where none is given.

        Args:
            kind: name of the schema's ``BuiltinOperator``.
            inputs: names of tensors.
            options: fields of its options.
            table: the options' type, without "Options"; empty for none.
            dtype: of the outputs.
            outputs: their names.
        """
        schema = self._schema
        names = list(outputs) or [f"{kind}_{len(self._operators)}"]
        for name in names:
            self._tensor(name, [], _TYPES[dtype])
        made = schema.OperatorT()
        made.opcodeIndex = self._code(getattr(schema.BuiltinOperator, kind))
        made.inputs, made.outputs = [self._tensors[name] for name in inputs], [self._tensors[name] for name in names]
        if table:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{table}Options")
            made.builtinOptions = getattr(schema, f"{table}OptionsT")()
            for field, value in (options or {}).items():
                setattr(made.builtinOptions, field, value)
        self._operators.append(made)
        return names[0]

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant; the same one is written once."""
        array = np.ascontiguousarray(values, dtype)
        if not np.ndim(values):
            array = array.reshape(())
        key = (f"{array.dtype}{array.shape}", array.tobytes()) if array.nbytes < 1024 else None
        if key is not None and key in self._known:
            return self._known[key]
        name = f"constant_{len(self._made)}"
        self._tensor(name, array.shape, _TYPES[str(array.dtype)], array)
        if key is not None:
            self._known[key] = name
        return name

    def channels(self, integers: NDArray[np.int8], scales: NDArray[np.float32]) -> str:
        """A weight (outputs, inputs) of 8 bits with a scale for each output."""
        name = f"weight_{len(self._made)}"
        made = self._tensor(name, integers.shape, "INT8", integers)
        made.quantization = self._schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
        return name

    def blocks(self, packed: NDArray[np.uint8], shape: Sequence[int], scales: NDArray[np.float16], size: int) -> str:
        """A weight of 4 bits, two of them in a byte, with a scale for every ``size`` inputs of an output."""
        scaled = self.constant(scales, np.float16)
        name = f"weight_{len(self._made)}"
        made = self._tensor(name, shape, "INT4", packed)
        made.quantization = self._schema.QuantizationParametersT()
        made.quantization.detailsType = self._schema.QuantizationDetails.BlockwiseQuantization
        made.quantization.details = self._schema.BlockwiseQuantizationT()
        made.quantization.details.scales = self._tensors[scaled]
        made.quantization.details.zeroPoints = -1
        made.quantization.details.blockSize = size
        return name

    def _tensor(self, name: str, shape: Sequence[int], kind: str, data: NDArray[Any] | None = None) -> Any:
        made = self._schema.TensorT()
        made.name, made.shape, made.hasRank = name.encode(), list(shape), True
        made.type = getattr(self._schema.TensorType, kind)
        if data is not None:
            made.buffer = len(self._buffers)
            self._buffers.append(self._stored(np.ascontiguousarray(data)))
        self._tensors[name] = len(self._made)
        self._made.append(made)
        return made

    def _stored(self, data: NDArray[Any]) -> Any:
        """A buffer: in the tables where it is small, else behind them."""
        buffer = self._schema.BufferT()
        if data.nbytes <= INLINE:
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            return buffer
        self._data.write(bytes(-self._data.tell() % ALIGNMENT))
        buffer.offset, buffer.size = self._data.tell(), data.nbytes
        self._data.write(data.data)
        return buffer

    def _code(self, operator: int) -> int:
        return self._codes.setdefault(operator, len(self._codes))

    def save(self) -> Graph:
        """Write the file and return its entry of the manifest.

        XNNPACK takes its operators by the sizes that the file says. LiteRT itself finds them, in a file with its tables
        and nothing behind them.
        """
        size = self._data.tell()
        self._data.close()
        model = self._model()
        begin = self._write_tables(model, size)
        found = _shapes(self._path)
        for place, made in enumerate(self._made):
            made.shape = found.get(place, made.shape)
        self._move(-begin)
        begin = self._write_tables(model, 0)
        with self._path.open("ab") as file, self._data_path.open("rb") as data:
            shutil.copyfileobj(data, file, 1 << 24)
        inputs, outputs = tuple(self._inputs), tuple(self._outputs)
        return Graph(name=self.name, files=(self._path.name,), inputs=inputs, outputs=outputs)

    def _write_tables(self, model: Any, size: int) -> int:
        """Write the file up to its weights, with as much room behind; returns where they begin."""
        self._move(ALIGNMENT)  # the tables are as long with one offset as with another, but for none
        length = len(_packed(model))
        begin = length + -length % ALIGNMENT
        self._move(begin - ALIGNMENT)
        with self._path.open("wb") as file:
            file.write(_packed(model).ljust(begin, b"\0"))
            file.truncate(begin + size)
        return begin

    def _move(self, by: int) -> None:
        for buffer in self._buffers[1:]:
            if buffer.data is None:
                buffer.offset += by

    def _model(self) -> Any:
        schema = self._schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = self.name.encode(), self._made, self._operators
        graph.inputs = [self._tensors[tensor.name] for tensor in self._inputs]
        graph.outputs = [self._tensors[value] for value in self._values]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        signature.inputs = [
            self._port(tensor.name, place) for tensor, place in zip(self._inputs, graph.inputs, strict=True)
        ]
        signature.outputs = [
            self._port(tensor.name, place) for tensor, place in zip(self._outputs, graph.outputs, strict=True)
        ]
        model = schema.ModelT()
        model.version, model.description = 3, b"edgekit"
        model.buffers, model.subgraphs, model.signatureDefs = self._buffers, [graph], [signature]
        model.operatorCodes = [self._operator_code(operator) for operator in self._codes]
        return model

    def _port(self, name: str, tensor: int) -> Any:
        made = self._schema.TensorMapT()
        made.name, made.tensorIndex = name.encode(), tensor
        return made

    def _operator_code(self, operator: int) -> Any:
        made = self._schema.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode = operator, min(operator, 127)
        return made


def _shapes(path: Path) -> dict[int, tuple[int, ...]]:
    """Sizes of all tensors by their number, as LiteRT finds them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=plain)
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise tool_error(f"LiteRT cannot open {path.name}", error) from error
    return {int(one["index"]): tuple(map(int, one["shape"])) for one in interpreter.get_tensor_details()}


def _packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
