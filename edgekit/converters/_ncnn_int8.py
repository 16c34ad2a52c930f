"""INT8 for ncnn: watch a float model on the calibration images, then write its convolutions in INT8.

ncnn quantises the input of a convolution with one symmetric scale and its weights with one scale per output channel;
what lies between convolutions stays float32. Which range suits which convolution, and which convolutions stay in
float32, is measured in `edgekit.converters._ncnn_sensitivity`.

Depthwise convolutions stay in float32. With float32 between the layers their INT8 saves nothing (quantising the
input costs as much as the nine products per value; they hold a tenth of the weights), it doubled the time of two
detectors on x86, and their input channels are what no single scale holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.calibration.ranges import LEVELS, Observation
from edgekit.calibration.samples import Samples
from edgekit.converters import Report
from edgekit.converters._ncnn_model import TAG_INT8, Layer, Model, Weight
from edgekit.errors import ConversionError
from edgekit.images import Floats

_WINOGRAD_SUM = (2**31 - 1) // 576
"""Largest sum of integer products that ncnn's Winograd F(4x4, 3x3) can hold: it carries it times 576 in 32 bits."""


def candidates(model: Model) -> list[Layer]:
    """The convolutions that INT8 is for."""
    return [layer for layer in model.layers if layer.convolution and not layer.depthwise]


def observe(
    model: Model, param: Path, weights: Path, samples: Samples, threads: int, report: Report
) -> dict[str, Observation]:
    """Run the float model on every sample and look at the input of each candidate convolution, by its name.

    One image is held at a time, so memory does not grow with their number.

    Raises:
        ConversionError: ncnn cannot run the model, there are no samples, or a value is not finite.
    """
    if not len(samples):
        raise ConversionError("int8 needs calibration images and there are none: give --data with photographs")
    net = _load(param, weights, threads)
    (source,) = [layer.outputs[0] for layer in model.layers if layer.kind == "Input"]
    layers = candidates(model)
    seen: dict[str, Observation] = {}
    for number, image in enumerate(samples):
        report(f"calibrating, image {number + 1} of {len(samples)}", number / len(samples))
        for name, blob in _inputs(net, layers, source, image):
            if not np.isfinite(blob).all():
                raise ConversionError(
                    f"the input of {name!r} is not finite on calibration image {number}; check the model"
                )
            if name not in seen:
                seen[name] = Observation(len(blob))
            seen[name].add(blob)
    return seen


def _load(param: Path, weights: Path, threads: int) -> Any:
    """The float model in ncnn, in plain float32."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise ConversionError(f"ncnn cannot load the float model {param}; see the log of pnnx beside it")
    return net


def _inputs(net: Any, layers: list[Layer], source: str, image: Floats) -> Iterator[tuple[str, Floats]]:
    """The input of every given convolution for one image, with the convolution's name."""
    import ncnn

    extractor = net.create_extractor()
    extractor.set_light_mode(False)  # keep every blob until it has been looked at
    extractor.input(source, ncnn.Mat(image[0]).clone())  # a layer that works in place crashes on numpy's memory
    for layer in layers:
        code, mat = extractor.extract(layer.inputs[0])
        if code:
            raise ConversionError(f"ncnn failed to compute the input of {layer.name!r} (code {code})")
        yield layer.name, np.asarray(mat)


def quantised(layer: Layer, observation: Observation, threshold: float) -> Layer:
    """A convolution in INT8, for inputs within +-``threshold``.

    Stored as ncnn's ``load_model`` reads it: int8 weights, biases, one weight scale per output channel (per group
    in a ConvolutionDepthWise), one input scale. Parameter 8 says so: 2 and 1 by ncnn's own tools; over 100 would
    mean a fused requantisation of the output, which is not wanted: SiLU follows in float32.
    """
    kernels = layer.kernels()
    rows = kernels.reshape(layer.groups if layer.kind == "ConvolutionDepthWise" else len(kernels), -1)
    scales = _weight_scales(layer, rows)
    integers = np.clip(np.rint(rows * scales[:, None]), -LEVELS, LEVELS).astype(np.int8)
    biases = layer.weights[1].data if len(layer.weights) > 1 else np.zeros(len(kernels), np.float32)
    rounding = (integers / scales[:, None] - rows).reshape(kernels.shape)
    biases = (biases - _mean_shift(rounding, observation.means, layer.groups)).astype(np.float32)
    return Layer(
        layer.kind,
        layer.name,
        layer.inputs,
        layer.outputs,
        {**layer.params, 5: "1", 8: "1" if layer.kind == "ConvolutionDepthWise" else "2"},
        [
            Weight(integers, TAG_INT8),
            Weight(biases),
            Weight(scales),
            Weight(np.array([LEVELS / threshold], np.float32)),
        ],
    )


def _weight_scales(layer: Layer, rows: Floats) -> Floats:
    """Integer steps per unit of weight, one for each row."""
    peaks = np.abs(rows).max(1)
    scales = np.where(peaks > 0, LEVELS / np.where(peaks > 0, peaks, 1), 1)
    if layer.kind == "Convolution" and layer.number(1) == 3 and layer.number(11, 3) == 3 and layer.number(3, 1) == 1:
        # ncnn's own tools give every 3x3 convolution 6-bit weights for this; only as many bits are given up here as
        # the worst input can need.
        worst = np.abs(rows).sum(1) * scales * LEVELS
        scales = scales * np.minimum(1, _WINOGRAD_SUM / np.maximum(worst, 1))
    return scales.astype(np.float32)


def _mean_shift(rounding: Floats, means: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Mean change of each output channel that the rounding of the weights causes on mean inputs.

    From weights alone and on float inputs (as in arXiv 1906.04721, section 4.2): correcting for quantised
    predecessors as well was found to ruin models whose ranges clip.
    """
    sums = rounding.sum((2, 3), dtype=np.float64).reshape(groups, -1, rounding.shape[1])
    shift: NDArray[np.float64] = np.einsum("goi,gi->go", sums, means.reshape(groups, -1)).ravel()
    return shift
