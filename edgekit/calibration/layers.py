"""The layers of an exchange ONNX graph, the activation behind each tensor, and which layers fall back to float.

A layer is a convolution or product with constant weights and is named by the tensor that it writes; exporting names
tensors after the nodes of the program, so the names hold in both forms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Doubles, Floats

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


Response = Callable[[Doubles], Doubles]
"""An activation function, elementwise."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_PASSING = ("Add", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that only reshape values, or add a constant to them."""

STEM = 3
"""First layers that stay in float where the target can: the whole image passes through them."""


@dataclass(frozen=True)
class Site:
    """A layer. ``weights`` are (outputs, inputs per group, ...) whatever the layout in the file, whose ``axis`` is the
    outputs'."""

    node: NodeProto
    weights: Floats
    axis: int
    groups: int

    @property
    def name(self) -> str:
        """The name of the layer: of what it writes."""
        return str(self.node.output[0])

    @property
    def input(self) -> str:
        """The tensor that it reads."""
        return str(self.node.input[0])

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return int(self.weights.shape[1] * self.groups)

    @property
    def depthwise(self) -> bool:
        """Whether each output channel reads one input channel."""
        return self.groups > 1 and self.weights.shape[1] == 1

    def rows(self, values: Floats) -> Floats:
        """A tensor that it reads or writes, (N, C, H, W) or (..., C), as (C, positions)."""
        if self.node.op_type in ("Conv", "ConvTranspose"):
            return values.swapaxes(0, 1).reshape(values.shape[1], -1)
        return values.reshape(-1, values.shape[-1]).T


def sites(model: ModelProto) -> Iterator[Site]:
    """The layers of a model, in order; transposed convolutions with groups are none.

    Exporters write no transposed input (transA) of a Gemm.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or node.input[1] not in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        options = _attributes(node)
        if node.op_type == "Conv":
            yield Site(node, weights, 0, options.get("group", 1))
        elif node.op_type == "ConvTranspose" and options.get("group", 1) == 1:
            yield Site(node, weights.swapaxes(0, 1), 1, 1)
        elif weights.ndim == 2 and all(options.get(name, 1) == 1 for name in ("alpha", "beta")):
            rows = options.get("transB", 0) == 1
            yield Site(node, weights if rows else weights.T, 0 if rows else 1, 1)


SAME = 0.999
"""Cosine of the weights of two layers, averaged over output channels, from which on they are one layer."""


def names_in(source: ModelProto, model: ModelProto) -> dict[str, str]:
    """The names of a model's layers in the ONNX file that it was rebuilt from, by their own names.

    Layers are known again by their weights, which only a factor for each output channel may tell apart (BatchNorm that
    was folded); those that were made anew have no name there.
    """
    given: dict[tuple[str, tuple[int, ...]], list[tuple[str, Floats]]] = {}
    for site in sites(source):
        given.setdefault((site.node.op_type, site.weights.shape), []).append((site.name, _directions(site.weights)))
    found = {}
    for site in sites(model):
        ours = _directions(site.weights)
        for place, (name, theirs) in enumerate(given.get((site.node.op_type, site.weights.shape), ())):
            if float(np.abs((ours * theirs).sum(1)).mean()) > SAME:
                found[site.name] = name
                del given[site.node.op_type, site.weights.shape][place]  # of equal layers each is taken once, in order
                break
    return found


def _directions(weights: Floats) -> Floats:
    """The weights of each output channel at unit length, (outputs, n)."""
    rows = weights.reshape(len(weights), -1).astype(np.float32)
    directions: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return directions


def float_fallback_layers(model: ModelProto) -> list[str]:
    """Names of the layers that stay in float (mixed precision): the first three, and those that give the outputs.

    They are a few per cent of the arithmetic. Measured with NNCF on the ONNX file of FastestDet (634 detections on 50
    photographs, 14 others to calibrate), matched at IoU 0.5 / 0.75: all in INT8 .883 / .763, heads and the first
    convolution in float .943 / .853, heads and the first three .948 / .888.
    """
    weighted = [node.output[0] for node in model.graph.node if node.op_type in WEIGHTED]
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {output.name for output in model.graph.output}
    for node in reversed(model.graph.node):  # a product with a bias is exported as Gemm and Reshape, or MatMul and Add
        given = [name for name in node.input if name not in constants]
        if node.op_type in _PASSING and len(given) == 1 and outputs.intersection(node.output):
            outputs.update(given)
    return list(dict.fromkeys([*weighted[:STEM], *(name for name in weighted if name in outputs)]))


def feeding_layers(model: ModelProto, layers: Collection[str]) -> list[str]:
    """Names of the layers that feed these ones directly, through no other layer."""
    makers = {name: node for node in model.graph.node for name in node.output}
    left = [makers[name].input[0] for name in layers if name in makers and makers[name].op_type in WEIGHTED]
    seen: set[str] = set()
    found: list[str] = []
    while left:
        name = left.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        if makers[name].op_type in WEIGHTED:
            found.append(name)
        else:
            left += makers[name].input
    return found


def node_names(model: ModelProto, tensors: Iterable[str]) -> list[str]:
    """Names of the nodes that write the given tensors, in the order of the graph."""
    wanted = set(tensors)
    return [node.name for node in model.graph.node if wanted.intersection(node.output)]


def activations(model: ModelProto) -> list[str]:
    """Float tensors that nodes write, in order."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return [name for node in model.graph.node for name in node.output if name in floats]


def responses(model: ModelProto) -> dict[str, Response]:
    """The activation function behind each tensor that only it reads; tensors that are read as they are have none."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    found: dict[str, Response] = {}
    for output in model.graph.output:
        readers.pop(output.name, None)
    for name, nodes in readers.items():
        product, *rest = sorted(nodes, key=lambda node: str(node.op_type))
        kinds = [node.op_type for node in (product, *rest)]
        if kinds == ["Mul", "Sigmoid"]:
            if sorted(product.input) == sorted((name, rest[0].output[0])):
                found[name] = _silu
        elif len(kinds) == 1 and kinds[0] in _FUNCTIONS:
            found[name] = _FUNCTIONS[kinds[0]](_attributes(nodes[0]))
    return found


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _sigmoid(x: Doubles) -> Doubles:
    result: Doubles = 1 / (1 + np.exp(-np.clip(x, -60, 60)))
    return result


def _silu(x: Doubles) -> Doubles:
    return x * _sigmoid(x)


def _hard_sigmoid(alpha: float = 1 / 6, beta: float = 0.5) -> Response:
    return lambda x: np.clip(alpha * x + beta, 0, 1)


def _leaky(slope: float) -> Response:
    return lambda x: np.where(x > 0, x, slope * x)


_FUNCTIONS: dict[str, Callable[[dict[str, Any]], Response]] = {
    "Relu": lambda options: _leaky(0.0),
    "LeakyRelu": lambda options: _leaky(options.get("alpha", 0.01)),
    "Sigmoid": lambda options: _sigmoid,
    "HardSigmoid": lambda options: _hard_sigmoid(options.get("alpha", 0.2), options.get("beta", 0.5)),
    "HardSwish": lambda options: lambda x: x * _hard_sigmoid()(x),
    "Tanh": lambda options: np.tanh,
}
