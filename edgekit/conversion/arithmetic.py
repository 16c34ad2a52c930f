"""Multiply-accumulates and memory traffic of one inference, counted on the exchange file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_FLOAT_BYTES = 4
_VIEWS = frozenset({"Constant", "Shape", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators that compute nothing from the numbers and move none."""

_ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
        *("HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Round"),
        *("Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Swish", "Tanh"),
    }
)
"""Operators that engines compute on the way, as the operator before them writes its output."""

Shapes = dict[str, tuple[int, ...]]


def arithmetic(path: Path) -> dict[str, int]:
    """The counts, as entries of the graph's report.

    ``operations`` are 2 x multiply-accumulates of convolutions and matrix products, which is nearly all of a network's
    arithmetic; biases and elementwise operators are left out. ``weight_bytes`` are its constants and
    ``activation_bytes`` its inputs, outputs and the tensors between operators, each once, as float32; a tensor that
    only elementwise operators read is not stored by an engine that fuses them, and is left out.

    Args:
        path: an ONNX file.

    Returns:
        The three figures; nothing where the graph has shapes that are not known before it runs.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    shapes = {**_shapes([*graph.input, *graph.output, *graph.value_info]), **constants}
    try:
        stored = _stored(graph, constants)
        return {
            "operations": sum(2 * _products(node, shapes) for node in graph.node),
            "weight_bytes": _FLOAT_BYTES * sum(math.prod(shapes[name]) for name in weights),
            "activation_bytes": _FLOAT_BYTES * sum(math.prod(shapes[name]) for name in stored),
        }
    except KeyError:
        return {}


def _shapes(values: Iterable[Any]) -> Shapes:
    """Shapes of the tensors whose every dimension is known."""
    found: Shapes = {}
    for value in values:
        sides = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(side.HasField("dim_value") for side in sides):
            found[value.name] = tuple(side.dim_value for side in sides)
    return found


def _products(node: Any, shapes: Shapes) -> int:
    """Multiply-accumulates of one operator, 0 of one that has none.

    Raises:
        KeyError: a shape is not known.
    """
    if node.op_type == "Conv":  # each output value is a product with one kernel: (channels / groups, kernel)
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":  # each input value goes to one kernel: (outputs / groups, kernel)
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(one.name == "transA" and one.i for one in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0


def _stored(graph: Any, constants: Shapes) -> set[str]:
    """Names of the activations that have to be stored because a later operator reads them."""
    constant = set(constants) | {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    readers: dict[str, set[str]] = {}
    made: set[str] = {value.name for value in graph.input} - constant
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
        if all(name in constant for name in node.input if name):
            constant.update(node.output)  # known before the network runs, as a shape is
        elif node.op_type not in _VIEWS:
            made.update(name for name in node.output if name)
    results = {value.name for value in graph.output}
    inputs = {value.name for value in graph.input}
    return {name for name in made if name in results | inputs or not readers.get(name, set()) <= _ELEMENTWISE}
