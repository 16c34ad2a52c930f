"""INT8 throughout an ONNX graph: a Q/DQ pair behind every tensor that an integer operator writes or reads.

ONNX Runtime computes a convolution in integers only where its output is quantised again (`QLinearConv`). With pairs in
front of layers alone (`edgekit.calibration.explicit`) it dequantises and computes in float. Here sigmoids, products,
sums, concatenations and pooling between the layers are integer operators too, and biases are int32.

Weights are limited further: x86 without VNNI adds two neighbouring products of uint8 and int8 in 16 bits with
saturation (VPMADDUBSW), so no two neighbouring weights may add up to more than 128 steps. Neighbours are those of the
image-to-column matrix in NHWC: rows, columns, channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Doubles, Floats
from edgekit.calibration.layers import Site, sites
from edgekit.calibration.plan import PlannedGraph
from edgekit.calibration.qdq import QdqGraph, affine
from edgekit.calibration.ranges import LEVELS
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LAYERS = ("Conv", "Gemm", "MatMul")

_MOVES = (
    *("MaxPool", "Resize", "Gather", "Slice", "Split", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
)
"""Operators that only move values: their result has the grid of the input."""

_COMBINING = ("Add", "Mul", "Concat")

_OPERATORS = (*_COMBINING, "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Relu", "Clip", *_MOVES)
"""Operators that are computed in integers if all their inputs are."""

_RECTIFIERS = ("Relu", "Clip")

NEIGHBOURS = 127.5
"""Two neighbouring weights add up to at most so many steps: 255 * 128 is below 2**15, whatever the activations are."""

LARGEST_BIAS = 2**30
"""In steps of the int32 bias."""


def quantise_everywhere(
    model: ModelProto,
    plan: PlannedGraph,
    *,
    originals: Collection[str],
    means: Mapping[str, Doubles],
    layers: Collection[str],
    limit_neighbours: bool = True,
) -> ModelProto:
    """The model (a plan's graph) with all that lies between its INT8 layers in integers; the given one is changed.

    Args:
        model: float32, batch 1, of the plan's names, with the weights from before rounding in ``originals``' layers.
        plan: ranges of all tensors.
        originals: the layers whose weights the model has as they were before rounding: their biases are corrected.
        means: mean of each input channel, by tensor.
        layers: names of the layers that become INT8.
        limit_neighbours: keep 16-bit sums of x86 without VNNI from saturating.

    Raises:
        ConversionError: no layer of the graph can be INT8.
    """
    chosen = {site.name: site for site in sites(model) if site.node.op_type in _LAYERS and site.name in layers}
    chosen = {name: site for name, site in chosen.items() if _has_range(plan, site)}
    if not chosen:
        raise ConversionError("int8: no convolution of this network can be INT8; choose fp16")
    return _Writer(model, plan, chosen, originals, means, limit_neighbours).written()


def _has_range(plan: PlannedGraph, site: Site) -> bool:
    return all(plan.tensors[name].high > plan.tensors[name].low for name in (site.input, site.name))


def weight_scales(weights: Floats, *, limit_neighbours: bool, depthwise: bool) -> Floats:
    """The step of each output channel, (outputs,) float32; 1 for a channel of zeros.

    Args:
        weights: (outputs, inputs per group, ...).
        limit_neighbours: see `NEIGHBOURS`; a depthwise convolution is computed without such sums.
        depthwise: whether it is one.
    """
    rows = np.abs(weights.reshape(len(weights), -1))
    steps = rows.max(1) / LEVELS
    if limit_neighbours and not depthwise:
        columns = np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
        columns = np.pad(columns, ((0, 0), (0, columns.shape[1] % 2)))
        for signed in (columns, -columns):
            positive = np.maximum(signed, 0)
            steps = np.maximum(steps, (positive[:, ::2] + positive[:, 1::2]).max(1) / NEIGHBOURS)
    scales: Floats = steps.astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1
    return scales


@dataclass(frozen=True)
class _Grid:
    """Scale and zero point of a tensor, as scalars; two tensors with one grid share the object."""

    scale: Any
    zero: Any


class _Writer:
    """Writes the nodes again, in order, with pairs behind them."""

    def __init__(
        self,
        model: ModelProto,
        plan: PlannedGraph,
        layers: Mapping[str, Site],
        originals: Collection[str],
        means: Mapping[str, Doubles],
        limit_neighbours: bool,
    ) -> None:
        self._model, self._plan, self._layers = model, plan, layers
        self._originals, self._means, self._limit_neighbours = originals, means, limit_neighbours
        self._qdq = QdqGraph(model)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._outputs = {output.name for output in model.graph.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._integer = self._integers()
        self._fused = {name for name in self._makers if self._is_fused(name)}
        self._grids: dict[str, _Grid] = {}
        self._pairs: dict[str, str] = {}
        self._nodes: list[NodeProto] = []
        # What nodes read before pairs came between.
        self._first = {name: node.input[0] for node in model.graph.node if node.input for name in node.output}

    def written(self) -> ModelProto:
        """The model in its new form."""
        for node in list(self._model.graph.node):
            self._write(node)
        return self._qdq.finished(self._nodes)

    # --- what becomes an integer operator --------------------------------------------------------------------------

    def _integers(self) -> set[str]:
        """Names of what integer operators write."""
        found: set[str] = set()
        for node in self._model.graph.node:
            given = [name for name in node.input if name and not self._qdq.is_constant(name)]
            if node.op_type in _OPERATORS:
                integer = all(name in found for name in given) and _is_integer_form(node, len(given))
            else:
                integer = node.output[0] in self._layers
            if integer and all(name in self._plan.tensors for name in (*given, *node.output) if name):
                found.update(node.output)
        return found

    def _is_fused(self, name: str) -> bool:
        """Whether a rectifier alone reads a tensor: engines compute it as the end of the quantised range."""
        readers, maker = self._readers[name], self._makers[name]
        return (
            maker.op_type in ("Conv", "Gemm", "Add")
            and name not in self._outputs
            and len(readers) == 1
            and readers[0].op_type in _RECTIFIERS
            and {name, readers[0].output[0]} <= self._integer
        )

    # --- grids -------------------------------------------------------------------------------------------------------

    def _grid(self, tensor: str) -> _Grid:
        if tensor not in self._grids:
            maker = self._makers.get(tensor)
            if maker is not None and maker.op_type in _MOVES and tensor in self._integer:
                self._grids[tensor] = self._grid(self._first[tensor])
            else:
                ends = self._plan.tensors[tensor]
                low, high = (0.0, 1.0) if maker is not None and maker.op_type == "Sigmoid" else (ends.low, ends.high)
                self._grids[tensor] = _Grid(*affine(low, high))
        return self._grids[tensor]

    def _dequantised(self, tensor: str) -> str:
        """The name of a tensor's dequantised form, made on first use."""
        if tensor not in self._pairs:
            grid = self._grid(tensor)
            self._pairs[tensor] = self._qdq.pair(tensor, grid.scale, grid.zero, None, self._nodes)
        return self._pairs[tensor]

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _write(self, node: NodeProto) -> None:
        """A node with its inputs from pairs where they are, and with pairs behind what it writes in integers."""
        result = node.output[0]
        here = result in self._integer
        for position, name in enumerate(node.input):
            if not name or self._qdq.is_constant(name) or (name in self._fused and here):
                continue
            if here or name in self._integer:
                node.input[position] = self._dequantised(name)
        if result in self._layers and here:
            self._weights(node, self._layers[result])
        self._nodes.append(node)
        for position, name in enumerate(node.output if here else ()):
            if name in self._outputs:  # the graph's output keeps its name, behind the pair
                node.output[position] = self._qdq.free(f"{name}_raw")
                grid = self._grid(name)
                self._qdq.pair(node.output[position], grid.scale, grid.zero, None, self._nodes, name)
                self._pairs[name] = name
            elif name not in self._fused:
                self._dequantised(name)

    def _weights(self, node: NodeProto, site: Site) -> None:
        """Weights in INT8 and the bias in int32, on the grids of what the layer reads."""
        given, weights = self._first[site.name], site.weights
        bias = self._bias(node, len(weights))
        steps = weight_scales(weights, limit_neighbours=self._limit_neighbours, depthwise=site.depthwise)
        scale = float(self._grid(given).scale)
        steps = np.maximum(steps, (np.abs(bias) / (scale * LARGEST_BIAS)).astype(np.float32))
        columns = steps.reshape((-1,) + (1,) * (weights.ndim - 1))
        integers = np.clip(np.rint(weights / columns), -LEVELS, LEVELS)
        if site.name in self._originals and given in self._means:
            bias = bias - _shift(integers * columns - weights, self._means[given], site)
        stored = integers.astype(np.int8)
        weight = self._qdq.constant(f"{site.name}_weight", np.ascontiguousarray(stored if site.axis == 0 else stored.T))
        node.input[1] = self._qdq.pair(weight, steps, np.zeros(steps.shape, np.int8), site.axis, self._nodes)
        if node.op_type == "MatMul":  # it has no place for a bias
            return
        bias_steps = (steps.astype(np.float64) * scale).astype(np.float32)
        name = self._qdq.constant(f"{site.name}_bias", np.rint(bias / bias_steps).astype(np.int32))
        del node.input[2:]
        node.input.append(self._qdq.pair(name, bias_steps, np.zeros(steps.shape, np.int32), 0, self._nodes))

    def _bias(self, node: NodeProto, channels: int) -> Doubles:
        if len(node.input) < 3:
            return np.zeros(channels)
        return np.broadcast_to(self._qdq.values(node.input[2]).astype(np.float64), (channels,))


def _shift(change: Floats, means: Doubles, site: Site) -> Doubles:
    """The change of each output channel's mean by a change of the weights, except at the borders."""
    per_input = change.reshape(*change.shape[:2], -1).sum(2, dtype=np.float64)
    grouped = means.reshape(site.groups, -1)
    outputs = len(change) // site.groups
    shift: Doubles = np.einsum("goi,gi->go", per_input.reshape(site.groups, outputs, -1), grouped).reshape(-1)
    return shift


def _is_integer_form(node: NodeProto, variables: int) -> bool:
    """Whether an operator with so many inputs that are no constants has an integer form.

    A Resize has, if it takes the nearest value (its default), and what combines tensors, without a constant among them.
    """
    if node.op_type == "Resize":
        return all(one.s in (b"nearest", b"") for one in node.attribute if one.name == "mode")
    return node.op_type not in _COMBINING or variables == len(node.input)
