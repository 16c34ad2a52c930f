"""One ``.tflite`` file for several batches and input sizes: a graph and a signature for each, and the weights once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.litert.shapes import Reshaped, Shape, reshape
from edgekit.errors import ConversionError
from edgekit.runtimes.engines.litert import signature_key

if TYPE_CHECKING:
    import flatbuffers


def with_signatures(content: bytes, shapes: Sequence[Shape]) -> bytes:
    """A file with a further signature for each input shape (NCHW).

    The first signature stays as it is. The others read the same weights; what each adds is the shapes of its tensors.

    Args:
        content: a whole ``.tflite`` file of one graph, in any precision.
        shapes: of the input, in order.

    Raises:
        ConversionError: an operator holds the batch or the size in a way that is not known here, or LiteRT comes to
            other shapes.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    for buffer in model.buffers:
        if buffer.offset > 1:  # the quantiser writes weights behind the tables
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(content[buffer.offset : end], np.uint8)
    found = [reshape(model, graph, shape) for shape in shapes]
    shared = _shared(model, graph)
    for shape, one in zip(shapes, found, strict=True):
        model.subgraphs.append(_reshaped(model, graph, shared, one))
        further = copy.copy(signature)
        further.signatureKey, further.subgraphIndex = signature_key(shape), len(model.subgraphs) - 1
        model.signatureDefs.append(further)
    builder = _builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    made = bytes(builder.Output())
    _check(made, found)
    return made


class _Once:
    """A table that is written once, however many others hold it."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._written: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the schema's name
        if self._written is None:
            self._written = int(self._table.Pack(builder))
        return self._written


class _Aligned:
    """A buffer of weights at a multiple of 16 bytes, where LiteRT can read it in place."""

    def __init__(self, buffer: Any) -> None:
        self.data = buffer.data

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the schema's name
        from ai_edge_litert import schema_py_generated as schema

        data = None
        if self.data is not None:
            content = bytes(self.data)
            builder.StartVector(1, len(content), 16)
            builder.head = builder.head - len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


def _builder() -> flatbuffers.Builder:
    """One that writes equal names once."""
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(1 << 16)
            self._names: dict[bytes, int] = {}

        def CreateString(self, s: str | bytes, *rest: str) -> int:  # noqa: N802 - flatbuffers' name
            name = s if isinstance(s, bytes) else s.encode()
            if name not in self._names:
                self._names[name] = super().CreateString(s, *rest)
            return self._names[name]

    return Builder()


def _shared(model: Any, graph: Any) -> list[_Once]:
    """Prepare what all graphs of a file have in common for being written once, and return the operators so."""
    model.buffers = [_Aligned(buffer) for buffer in model.buffers]
    for tensor in graph.tensors:
        if tensor.quantization is not None:
            tensor.quantization = _Once(tensor.quantization)
    return [_Once(op) for op in graph.operators]


def _reshaped(model: Any, graph: Any, shared: Sequence[_Once], at: Reshaped) -> Any:
    """A copy of a graph at another input, on the same weights; its new constants are added to the file."""
    made = copy.copy(graph)
    made.tensors = [copy.copy(tensor) for tensor in graph.tensors]
    for place, shape in at.shapes.items():
        made.tensors[place].shape = np.array(shape, np.int32)
    made.operators = list(shared)
    for number in {*at.constants, *at.options}:
        op = copy.copy(graph.operators[number])
        op.builtinOptions = at.options.get(number, op.builtinOptions)
        op.inputs = list(op.inputs)
        for place, values in at.constants.get(number, {}).items():
            op.inputs[place] = _constant(model, made, op.inputs[place], values)
        made.operators[number] = op
    return made


def _constant(model: Any, graph: Any, like: int, values: NDArray[np.int32]) -> int:
    """A new constant of a graph, of the type of another one: its number."""
    from ai_edge_litert import schema_py_generated as schema

    tensor, buffer = copy.copy(graph.tensors[like]), schema.BufferT()
    wide = tensor.type == schema.TensorType.INT64
    buffer.data = values.astype(np.int64 if wide else np.int32).view(np.uint8)
    tensor.buffer = len(model.buffers)
    model.buffers.append(_Aligned(buffer))
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _check(content: bytes, found: Sequence[Reshaped]) -> None:
    """Have LiteRT work out all shapes by itself.

    Raises:
        ConversionError: it cannot, or comes to others.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
        for number, one in enumerate(found, 1):
            interpreter._interpreter.AllocateTensors(number)  # the public way is to run it, which takes seconds
            for detail in interpreter.get_tensor_details(number):
                wanted = one.shapes.get(detail["index"])
                shape = tuple(int(length) for length in detail["shape"])
                if wanted is not None and shape != wanted:
                    raise ConversionError(
                        f"LiteRT makes {shape} of {detail['name']!r} where {wanted} was expected; give one --batch and "
                        "one --size, and a bundle for each"
                    )
    except (RuntimeError, ValueError) as error:
        raise ConversionError(
            f"LiteRT does not take this network in several batches or sizes ({str(error).strip()}); give one --batch "
            "and one --size, and a bundle for each"
        ) from error
