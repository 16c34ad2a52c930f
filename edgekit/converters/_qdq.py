"""Explicit symmetric INT8 in an ONNX graph: QuantizeLinear and DequantizeLinear before convolutions and products.

Activations have one scale with zero point 0, weights one per output channel, biases stay float32: what TensorRT takes.
Only inputs of convolutions and products are rounded; what lies between them stays in float, where engines fuse it.
Ranges are those of least squared error over the calibration images, and a convolution whose output would drown in the
rounding of its input stays in float (edgekit.calibration.islands names the others that do).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.calibration.islands import float_islands
from edgekit.calibration.ranges import BINS, LEVELS, Histogram, Observation
from edgekit.calibration.samples import Samples
from edgekit.converters import Report
from edgekit.errors import ConversionError
from edgekit.images import Floats
from edgekit.sources.exchange import INPUT

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Doubles = NDArray[np.float64]

NOISE = 0.1
"""Mean share of an output channel's variance that the rounding of the input may be; above it the node stays float."""

SQUARED = 2.0
"""Exponent of `Histogram.threshold`: on detectors, the range of least squared error keeps the rare large values that
confident detections are made of."""


@dataclass
class Site:
    """A convolution or product that could compute in INT8, and what went through it.

    ``weights`` are (outputs, inputs per group, ...) whatever the layout in the file, whose ``axis`` is the outputs'.
    """

    node: NodeProto
    weights: Floats
    axis: int
    groups: int
    sums: Doubles = field(default_factory=lambda: np.zeros(0))
    squares: Doubles = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add_output(self, values: Floats) -> None:
        """Take in the output of one image, (channels, positions)."""
        if not self.count:
            self.sums, self.squares = np.zeros(len(values)), np.zeros(len(values))
        self.sums += values.sum(1, dtype=np.float64)
        self.squares += np.square(values, dtype=np.float64).sum(1)
        self.count += values.shape[1]

    def noise(self, error: float) -> float:
        """Share of the output channels' variance, on average, that a mean squared ``error`` of the input makes."""
        variance = self.squares / self.count - (self.sums / self.count) ** 2
        caused = error * np.square(self.weights.reshape(len(self.weights), -1), dtype=np.float64).sum(1)
        return float(np.mean(caused / np.maximum(variance, caused + 1e-20)))


def quantise(
    model: ModelProto, samples: Samples, threads: int, report: Report, *, float_weights: bool = False
) -> ModelProto:
    """The model (float32, batch 1, input ``images``) in symmetric QDQ form; the given one is changed.

    With ``float_weights`` the weights stay float32, already rounded, before a Q/DQ pair of their own.

    Raises:
        ConversionError: no images, values that are not finite, or nothing in the graph that bears INT8.
    """
    if not len(samples):
        raise ConversionError("int8 needs calibration images and there are none: give --data with photographs")
    spared = set(float_islands(model))
    sites = [site for site in _sites(model) if site.node.name not in spared]
    seen = _observe(model, sites, samples, threads, report)
    thresholds = {tensor: one.histogram.threshold(SQUARED) for tensor, one in seen.items()}
    kept = [
        site
        for site in sites
        if (limit := thresholds[site.node.input[0]]) > 0
        and site.noise(_squared_error(seen[site.node.input[0]].histogram, limit)) <= NOISE
    ]
    if not kept:
        raise ConversionError("int8: no convolution of this network bears symmetric INT8; choose fp16")
    writer = _Writer(model, float_weights)
    for site in kept:
        tensor = site.node.input[0]
        writer.rewrite(site, thresholds[tensor], seen[tensor].means)
    return writer.finished()


def _sites(model: ModelProto) -> Iterator[Site]:
    """The nodes with constant weights, in order. Exporters write no transposed input (transA) of a Gemm."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Conv":
            yield Site(node, weights, 0, options.get("group", 1))
        elif weights.ndim == 2 and all(options.get(name, 1) == 1 for name in ("alpha", "beta")):
            rows = options.get("transB", 0) == 1
            yield Site(node, weights if rows else weights.T, 0 if rows else 1, 1)


def _observe(
    model: ModelProto, sites: list[Site], samples: Samples, threads: int, report: Report
) -> dict[str, Observation]:
    """Run the float model on every sample: what was seen at each site's input, by tensor, and at its output."""
    readers = {site.node.input[0]: site for site in sites}
    seen = {tensor: Observation(site.weights.shape[1] * site.groups) for tensor, site in readers.items()}
    session = _watched(model, [*seen, *(site.node.output[0] for site in sites)], threads)
    for number, image in enumerate(samples):
        report(f"calibrating, image {number + 1} of {len(samples)}", number / len(samples))
        names = [output.name for output in session.get_outputs()]
        values = dict(zip(names, session.run(None, {INPUT: image}), strict=True))
        for tensor, observation in seen.items():
            blob = _channels_first(values.get(tensor, image), readers[tensor].node)
            if not np.isfinite(blob).all():
                raise ConversionError(f"tensor {tensor!r} is not finite on calibration image {number}; check the model")
            observation.add(blob[:, :, None])
        for site in sites:
            site.add_output(_channels_first(values[site.node.output[0]], site.node))
    return seen


def _watched(model: ModelProto, tensors: list[str], threads: int) -> Any:
    """A session of the float model that gives these tensors too."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {value.name for value in (*model.graph.output, *model.graph.input)}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in given)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(watched.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def _channels_first(values: Floats, node: NodeProto) -> Floats:
    """What a node reads or gives, (1, C, H, W) of a convolution or (..., C) of a product, as (C, positions)."""
    if node.op_type == "Conv":
        return values.reshape(values.shape[1], -1)
    return values.reshape(-1, values.shape[-1]).T


def _squared_error(histogram: Histogram, limit: float) -> float:
    """Mean squared error of rounding to +-127 levels within +-``limit``."""
    used = np.flatnonzero(histogram.counts)
    centres = (used + 0.5) * histogram.limit / BINS
    step = limit / LEVELS
    errors = np.minimum(np.rint(centres / step), LEVELS) * step - centres
    return float(np.average(errors**2, weights=histogram.counts[used]))


class _Writer:
    """Puts Q/DQ pairs into a graph: one per activation, however many read it, and one before each weight."""

    def __init__(self, model: ModelProto, float_weights: bool) -> None:
        self._model = model
        self._float_weights = float_weights
        self._before: dict[str, list[NodeProto]] = {}
        self._activations: dict[str, str] = {}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def rewrite(self, site: Site, threshold: float, means: Doubles) -> None:
        """Let a node read its input within +-``threshold`` and its weights in INT8."""
        node = site.node
        rows = site.weights.reshape(len(site.weights), -1)
        peaks = np.abs(rows).max(1)
        scales = np.where(peaks > 0, peaks / LEVELS, 1).astype(np.float32)
        integers = np.clip(np.rint(rows / scales[:, None]), -LEVELS, LEVELS).astype(np.int8)
        rounded = integers * scales[:, None]
        if node.op_type != "MatMul":
            shift = _mean_shift((rounded - rows).reshape(site.weights.shape), means, site.groups)
            self._correct_bias(node, shift)
        before = self._before.setdefault(node.output[0], [])
        node.input[0] = self._activation(node.input[0], threshold, before)
        stored = (rounded.astype(np.float32) if self._float_weights else integers).reshape(site.weights.shape)
        weight = f"{node.output[0]}_weight"
        self._constant(weight, np.ascontiguousarray(stored if site.axis == 0 else stored.T))
        node.input[1] = self._pair(weight, scales, site.axis, before)

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

    def _activation(self, tensor: str, threshold: float, before: list[NodeProto]) -> str:
        if tensor not in self._activations:
            scale = np.array(threshold / LEVELS, np.float32)
            self._activations[tensor] = self._pair(tensor, scale, None, before)
        return self._activations[tensor]

    def _pair(self, tensor: str, scale: Any, axis: int | None, before: list[NodeProto]) -> str:
        """Q (left out for what is INT8 already) and DQ behind a tensor; returns the name of the result."""
        from onnx import TensorProto, helper

        given = [f"{tensor}_scale", f"{tensor}_zero_point"]
        self._constant(given[0], scale)
        self._constant(given[1], np.zeros(scale.shape, np.int8))
        options = {} if axis is None else {"axis": axis}
        result, source = f"{tensor}_dequantized", tensor
        constant = self._constants.get(tensor)
        if constant is None or constant.data_type != TensorProto.INT8:
            source = f"{tensor}_quantized"
            before.append(helper.make_node("QuantizeLinear", [tensor, *given], [source], f"{tensor}_Q", **options))
        before.append(helper.make_node("DequantizeLinear", [source, *given], [result], f"{tensor}_DQ", **options))
        return result

    def _correct_bias(self, node: NodeProto, shift: Doubles) -> None:
        """Take the mean shift of the rounded weights back in the bias, which the node may share or lack."""
        from onnx import numpy_helper

        bias = np.zeros(len(shift), np.float32)
        if len(node.input) > 2:
            if node.input[2] not in self._constants:
                return
            bias = numpy_helper.to_array(self._constants[node.input[2]])
            if bias.shape != shift.shape:
                return
        name = f"{node.output[0]}_bias"
        self._constant(name, (bias - shift).astype(np.float32))
        del node.input[2:]
        node.input.append(name)

    def _constant(self, name: str, values: Any) -> None:
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(values, name)


def _mean_shift(rounding: Floats, means: Doubles, groups: int) -> Doubles:
    """Mean change of each output that the rounding of the weights causes on mean inputs (arXiv 1906.04721, 4.2)."""
    sums = rounding.reshape(*rounding.shape[:2], -1).sum(2, dtype=np.float64)
    shift: Doubles = np.einsum("goi,gi->go", sums.reshape(groups, -1, sums.shape[1]), means.reshape(groups, -1)).ravel()
    return shift
