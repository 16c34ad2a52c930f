"""INT8 for ncnn: watch a float model on the calibration images, then write its convolutions in INT8.

ncnn quantises the input of a convolution with one symmetric scale and its weights with one scale per output channel;
what lies between convolutions stays float32. What keeps a detector alive under these rules (measured on trained
models): input ranges by mean absolute error, convolutions whose input channels differ too much in range left in
float32, and biases corrected for the error of the rounded weights, and for that alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.converters._ncnn_model import TAG_INT8, Layer, Model, Weight
from edgekit.errors import ConversionError

LEVELS = 127
BINS = 4096
FLOAT_FIRST = 3
SPREAD_LIMIT = 100.0

_WINOGRAD_LIMIT = (2**31 - 1) // 576

Floats = NDArray[np.float32]


class Histogram:
    """Histogram of absolute values from zero up, in one pass: its range doubles when a larger value comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0

    def add(self, values: Floats) -> None:
        """Count absolute values (any shape)."""
        top = float(values.max(initial=0.0))
        if top == 0.0:
            return
        if self.limit == 0.0:
            self.limit = top
        while self.limit < top:
            halved = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate((halved, np.zeros_like(halved)))
            self.limit *= 2
        bins = np.minimum((values.ravel() * (BINS / self.limit)).astype(np.int64), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def threshold(self) -> float:
        """The range limit that gives the least mean absolute error after rounding to +-127 levels; 0: all zero."""
        used = np.flatnonzero(self.counts)
        if not len(used):
            return 0.0
        counts = self.counts[used].astype(np.float64)
        centres = (used + 0.5) * (self.limit / BINS)
        top = (used[-1] + 1) * (self.limit / BINS)
        candidates = top * np.geomspace(0.02, 1.0, 160)
        steps = candidates[:, None] / LEVELS
        rounded = np.minimum(np.rint(centres / steps), LEVELS) * steps
        errors = np.abs(rounded - centres) @ counts
        return float(candidates[int(errors.argmin())])


class Observation:
    """What was seen at the input of one convolution."""

    def __init__(self, channels: int) -> None:
        self.histogram = Histogram()
        self.peaks = np.zeros(channels, np.float32)
        self.sums = np.zeros(channels, np.float64)
        self.count = 0

    def add(self, blob: Floats) -> None:
        """Take in one image's input (channels, height, width)."""
        absolute = np.abs(blob)
        self.histogram.add(absolute)
        np.maximum(self.peaks, absolute.max((1, 2)), out=self.peaks)
        self.sums += blob.sum((1, 2), dtype=np.float64)
        self.count += blob.shape[1] * blob.shape[2]

    @property
    def means(self) -> Floats:
        """Mean of each input channel."""
        return (self.sums / max(self.count, 1)).astype(np.float32)

    @property
    def spread(self) -> float:
        """Largest range of a channel over the smallest, among channels that are not always zero."""
        alive = self.peaks[self.peaks > 0]
        return float(alive.max() / alive.min()) if len(alive) else 1.0


def observe(model, net, input_name, samples):
    seen = {}
    import ncnn
    for image in samples:
        ex = net.create_extractor(); ex.set_light_mode(False)
        ex.input(input_name, ncnn.Mat(image[0]))
        for layer in model.layers:
            if layer.convolution:
                code, mat = ex.extract(layer.inputs[0])
                blob = np.asarray(mat)
                if layer.name not in seen: seen[layer.name] = Observation(blob.shape[0])
                seen[layer.name].add(blob)
    return seen


def quantise_layer(layer: Layer, observation: Observation, T, correct=True, cap=True) -> None:
    kernels = layer.kernels()
    outputs = kernels.shape[0]
    groups = layer.groups
    flat = kernels.reshape(groups if layer.kind == "ConvolutionDepthWise" else outputs, -1)
    peak = np.abs(flat).max(1)
    scales = np.where(peak > 0, LEVELS / np.maximum(peak, 1e-30), 1.0).astype(np.float32)
    if cap and layer.kind=="Convolution" and layer.number(1)==3 and layer.number(3,1)==1:
        tot = np.abs(flat).sum(1)*scales*LEVELS
        scales = (scales*np.minimum(1, _WINOGRAD_LIMIT/np.maximum(tot,1))).astype(np.float32)
        #print(layer.name, (tot/_WINOGRAD_LIMIT).max())
    q = np.clip(np.rint(flat * scales[:, None]), -LEVELS, LEVELS).astype(np.int8)
    bias = layer.weights[1].data if len(layer.weights) > 1 else np.zeros(outputs, np.float32)
    if correct:
        err = (q / scales[:, None] - flat).reshape(kernels.shape).sum((2, 3))  # (out, in/group)
        means = observation.means.reshape(groups, -1)
        og = outputs // groups
        shift = np.concatenate([err[g*og:(g+1)*og] @ means[g] for g in range(groups)])
        bias = bias - shift
    layer.params[5] = "1"
    layer.params[8] = "1" if layer.kind == "ConvolutionDepthWise" else "2"
    layer.weights = [Weight(q, TAG_INT8), Weight(bias.astype(np.float32)), Weight(scales), Weight(np.float32([LEVELS / T]))]
