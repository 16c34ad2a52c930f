"""Explicit INT8 in an ONNX graph: QuantizeLinear and DequantizeLinear before convolutions and products.

Activations have one scale (uint8 with a zero point, or symmetric int8), weights one per output channel, biases stay
float32. Only inputs of layers are rounded; what lies between them stays in float, where engines fuse it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from edgekit.calibration.layers import Site, sites
from edgekit.calibration.plan import PlannedGraph, TensorRange
from edgekit.calibration.qdq import LEAST, QdqGraph, affine
from edgekit.calibration.ranges import LEVELS
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_KINDS = ("Conv", "Gemm", "MatMul")
"""Engines compute these in integers; a transposed convolution they compute in float all the same."""


NO_INT8 = (
    "int8: all convolutions and products of this network stay in float: in a tiny network they are those that give the "
    "outputs, or too few to be worth a change of types; --no-float-fallback makes them INT8, or choose fp16"
)
"""The error if a plan leaves nothing for INT8."""


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
        self._qdq = QdqGraph(model)
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
        stored = np.ascontiguousarray(stored if site.axis == 0 else stored.T)
        weight = self._qdq.constant(f"{site.name}_weight", stored)
        node.input[1] = self._qdq.pair(weight, scales, np.zeros(scales.shape, np.int8), site.axis, before)
        self.rewritten += 1

    def finished(self) -> ModelProto:
        """The model with everything in place."""
        nodes = [part for node in self._model.graph.node for part in (*self._before.get(node.output[0], ()), node)]
        return self._qdq.finished(nodes)

    def _activation(self, tensor: str, ends: TensorRange, before: list[NodeProto]) -> str:
        if tensor not in self._activations:
            if self._symmetric:
                scale, zero = np.array(max(ends.limit, LEAST) / LEVELS, np.float32), np.array(0, np.int8)
            else:
                scale, zero = affine(ends.low, ends.high)
            self._activations[tensor] = self._qdq.pair(tensor, scale, zero, None, before)
        return self._activations[tensor]
