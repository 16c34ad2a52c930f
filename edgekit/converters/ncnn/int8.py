"""INT8 for ncnn: the convolutions of a float model on the grids of the quantisation plan.

ncnn quantises the input of a convolution with one symmetric scale and its weights with one scale per output channel;
what lies between convolutions stays float32. pnnx renames layers and tensors, but keeps the weights: a convolution of
the plan is found again by them.

Depthwise convolutions stay in float32. With float32 between the layers their INT8 saves nothing (quantising the
input costs as much as the nine products per value; they hold a tenth of the weights), it doubled the time of two
detectors on x86, and their input channels are what no single scale holds. Other grouped convolutions stay as well:
ncnn 1.0.20261020 computes them wrongly in INT8 where a group has 8 channels or more.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration.explicit import NO_INT8
from edgekit.calibration.layers import Site
from edgekit.calibration.plan import PlannedGraph
from edgekit.calibration.ranges import LEVELS
from edgekit.converters.ncnn.model import TAG_INT8, NcnnLayer, NcnnModel, Weight
from edgekit.errors import ConversionError

_WINOGRAD_SUM = (2**31 - 1) // 576
"""Largest sum of integer products that ncnn's Winograd F(4x4, 3x3) can hold: it carries it times 576 in 32 bits."""


def lower(model: NcnnModel, sites: Iterable[Site], plan: PlannedGraph) -> NcnnModel:
    """The model with the convolutions in INT8 that the plan does not leave in float.

    Args:
        model: what pnnx made of the plan's graph, in float32.
        sites: the layers of that graph in ONNX.
        plan: ranges of their inputs, and the layers that stay in float.

    Raises:
        ConversionError: none is left, so the result would not be an INT8 model.
    """
    limits = thresholds(model, sites, plan)
    if not limits:
        raise ConversionError(f"ncnn {NO_INT8}")
    layers = [quantised(layer, limits[layer.name]) if layer.name in limits else layer for layer in model.layers]
    return NcnnModel(layers, model.blobs)


def thresholds(model: NcnnModel, sites: Iterable[Site], plan: PlannedGraph) -> dict[str, float]:
    """The largest magnitude of the input of each convolution that becomes INT8, and of the last product, by its name in
    ncnn.

    A layer that is not found, because pnnx put something into its weights, stays in float32.
    """
    left: dict[bytes, list[Site]] = {}
    for site in sites:
        left.setdefault(_key(site.weights), []).append(site)
    found = {}
    # Products within a network stay in float: of the last one alone it was measured what INT8 costs.
    last = next((layer.name for layer in reversed(model.layers) if layer.weights), "")
    for layer in model.layers:
        if not (layer.kind == "Convolution" or (layer.kind == "InnerProduct" and layer.name == last)):
            continue
        if not layer.weights or not (same := left.get(_key(layer.kernels()))):
            continue
        site = same.pop(0)  # layers that share their weights come in one order in both files
        limit = plan.tensors[site.input].limit
        if limit > 0 and site.name not in plan.float_layers:
            found[layer.name] = limit
    return found


def _key(weights: Floats) -> bytes:
    return np.ascontiguousarray(weights, np.float32).tobytes()


def quantised(layer: NcnnLayer, threshold: float) -> NcnnLayer:
    """A convolution without groups or a product in INT8, for inputs within +-``threshold``.

    Stored as ncnn's ``load_model`` reads it: int8 weights, biases, one weight scale per output channel, one input
    scale. Parameter 8 says so: 2 by ncnn's own tools; over 100 would mean a fused requantisation of the output, which
    is not wanted: SiLU follows in float32.
    """
    kernels = layer.kernels()
    rows = kernels.reshape(len(kernels), -1)
    scales = _weight_scales(layer, rows)
    integers = np.clip(np.rint(rows * scales[:, None]), -LEVELS, LEVELS).astype(np.int8)
    biases = layer.weights[1].data if len(layer.weights) > 1 else np.zeros(len(kernels), np.float32)
    return NcnnLayer(
        layer.kind,
        layer.name,
        layer.inputs,
        layer.outputs,
        {**layer.params, (5 if layer.kind == "Convolution" else 1): "1", 8: "2"},
        [
            Weight(integers, TAG_INT8),
            Weight(biases),
            Weight(scales),
            Weight(np.array([LEVELS / threshold], np.float32)),
        ],
    )


def _weight_scales(layer: NcnnLayer, rows: Floats) -> Floats:
    """Integer steps per unit of weight, one for each row: those of the plan, on whose grid the weights lie already."""
    peaks = np.abs(rows).max(1)
    scales = np.where(peaks > 0, LEVELS / np.where(peaks > 0, peaks, 1), 1)
    if layer.kind == "Convolution" and layer.number(1) == 3 and layer.number(11, 3) == 3 and layer.number(3, 1) == 1:
        # ncnn's own tools give every 3x3 convolution 6-bit weights for this; only as many bits are given up here as
        # the worst input can need.
        worst = np.abs(rows).sum(1) * scales * LEVELS
        scales = scales * np.minimum(1, _WINOGRAD_SUM / np.maximum(worst, 1))
    return scales.astype(np.float32)
