"""Explicit INT8 in an ONNX graph: QuantizeLinear and DequantizeLinear before convolutions and products.

Activations have one scale (uint8 with a zero point, or symmetric int8), weights one per output channel, biases stay
float32. Only inputs of layers are rounded; what lies between them stays in float, where engines fuse it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.calibration.layers import Site, sites
from edgekit.calibration.plan import PlannedGraph, TensorRange
from edgekit.calibration.ranges import LEVELS, STEPS
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_KINDS = ("Conv", "Gemm", "MatMul")
"""Engines compute these in integers; a transposed convolution they compute in float all the same."""

_LEAST = 1e-30
"""Least width of a range: engines divide by its scale, which float32 has to hold."""


NO_INT8 = (
    "int8: all convolutions and products of this network stay in float: in a tiny network they are those that give the "
    "outputs, or too few to be worth a change of types; --no-float-fallback makes them INT8, or choose fp16"
)
"""What to say where a plan leaves nothing for INT8."""


def quantise(
    model: ModelProto,
    plan: PlannedGraph,
    *,
    symmetric: bool,
    layers: Collection[str] | None = None,
    float_weights: bool = False,
) -> ModelProto:
    """The model (a plan's graph) in QDQ form; the given one is changed.

    Args:
        model: float32, batch 1, of the plan's names.
        plan: ranges of the activations, and the layers that stay in float.
        symmetric: int8 activations with zero point 0, as TensorRT takes them; else uint8 with a zero point.
        layers: names of the layers that become INT8. [default: all that the plan does not leave in float]
        float_weights: weights stay float32, already rounded, before a Q/DQ pair of their own.

    Raises:
        ConversionError: no layer of the graph can become INT8.
    """
    chosen = {layer.name for layer in plan.layers if not layer.float_reason} if layers is None else set(layers)
    writer = _Writer(model, symmetric, float_weights)
    for site in list(sites(model)):
        if site.node.op_type in _KINDS and site.name in chosen and _width(plan.tensors[site.input]) > 0:
            writer.rewrite(site, plan.tensors[site.input])
    if not writer.rewritten:
        raise ConversionError(NO_INT8)
    return writer.finished()


def _width(ends: TensorRange) -> float:
    return ends.high - ends.low


class _Writer:
    """Puts Q/DQ pairs into a graph: one per activation, however many read it, and one before each weight."""

    def __init__(self, model: ModelProto, symmetric: bool, float_weights: bool) -> None:
        self._model = model
        self._symmetric = symmetric
        self._float_weights = float_weights
        self._before: dict[str, list[NodeProto]] = {}
        self._activations: dict[str, str] = {}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._taken = {*self._constants, *(name for node in model.graph.node for name in node.output)}
        self.rewritten = 0

    def rewrite(self, site: Site, ends: TensorRange) -> None:
        """Let a layer read its input on the grid of a range, and its weights in INT8."""
        node = site.node
        rows = site.weights.reshape(len(site.weights), -1)
        scales = (np.abs(rows).max(1) / LEVELS).astype(np.float32)
        scales[scales < np.finfo(np.float32).tiny] = 1  # nothing but zeros, or next to nothing
        integers = np.clip(np.rint(rows / scales[:, None]), -LEVELS, LEVELS).astype(np.int8)
        before = self._before.setdefault(site.name, [])
        node.input[0] = self._activation(site.input, ends, before)
        stored = (integers * scales[:, None] if self._float_weights else integers).reshape(site.weights.shape)
        weight = self._constant(f"{site.name}_weight", np.ascontiguousarray(stored if site.axis == 0 else stored.T))
        node.input[1] = self._pair(weight, scales, np.zeros(scales.shape, np.int8), site.axis, before)
        self.rewritten += 1

    def finished(self) -> ModelProto:
        """The model with everything in place and no constant that nothing reads."""
        graph = self._model.graph
        nodes = [part for node in graph.node for part in (*self._before.get(node.output[0], ()), node)]
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
        constants = [tensor for name, tensor in self._constants.items() if name in read]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        return self._model

    def _activation(self, tensor: str, ends: TensorRange, before: list[NodeProto]) -> str:
        if tensor not in self._activations:
            if self._symmetric:
                scale = np.array(max(ends.limit, _LEAST) / LEVELS, np.float32)
                zero = np.array(0, np.int8)
            else:
                scale = np.array(max(_width(ends), _LEAST) / STEPS, np.float32)
                zero = np.array(np.clip(np.rint(-ends.low / scale), 0, STEPS), np.uint8)
            self._activations[tensor] = self._pair(tensor, scale, zero, None, before)
        return self._activations[tensor]

    def _pair(self, tensor: str, scale: Any, zero: Any, axis: int | None, before: list[NodeProto]) -> str:
        """Q (left out for what is INT8 already) and DQ behind a tensor; returns the name of the result."""
        from onnx import TensorProto, helper

        given = [self._constant(f"{tensor}_scale", scale), self._constant(f"{tensor}_zero_point", zero)]
        options = {} if axis is None else {"axis": axis}
        result, source = self._free(f"{tensor}_dequantized"), tensor
        constant = self._constants.get(tensor)
        if constant is None or constant.data_type != TensorProto.INT8:
            source = self._free(f"{tensor}_quantized")
            before.append(helper.make_node("QuantizeLinear", [tensor, *given], [source], f"{tensor}_Q", **options))
        before.append(helper.make_node("DequantizeLinear", [source, *given], [result], f"{tensor}_DQ", **options))
        return result

    def _constant(self, wanted: str, values: Any) -> str:
        from onnx import numpy_helper

        name = self._free(wanted)
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def _free(self, name: str) -> str:
        """The name, or one like it where the network has one of its own."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
