"""How much each convolution's INT8 costs the outputs of a network, and what to do about it.

Each convolution in turn is quantised alone, with each candidate range, and the error of the raw outputs is measured.
The errors of single convolutions add up to that of all of them well enough (2.2 % predicted, 1.8 % found, and 2.1 %
for 2.4 %, on two detectors of 70 convolutions) to plan by: every convolution gets its best range, and the worst ones
stay in float32. That finds the convolution whose input channels differ 300-fold in range, which no scale can hold
and which ruins a detector by itself, without looking for it by rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.calibration.ranges import Observation
from edgekit.calibration.samples import Samples
from edgekit.converters import Report
from edgekit.converters._ncnn_int8 import quantised
from edgekit.converters._ncnn_model import Model
from edgekit.errors import ConversionError
from edgekit.images import Floats
from edgekit.manifest import Graph
from edgekit.runtimes import Session, SessionOptions
from edgekit.runtimes.ncnn import open_session

EXPONENTS = (1.5, 2.0, 3.0)
"""Candidate ranges, as exponents of `Histogram.threshold`. Less than 1.5 clips the few large values that confident
detections are made of: scores fell by .28 on a depthwise + SiLU detector with exponent 1, by .02 to .03 with 2."""

PROBES = 8
"""Images that errors are measured on, spread over the samples: the time of a conversion is proportional to them."""

NOISE = 0.012
"""Error of the outputs, over their variance, that the INT8 convolutions together may cause."""

ALONE = 0.01
"""Error at which a single convolution stays float32 whatever the share."""

FLOAT_SHARE = 1 / 8
"""Share of convolutions that may stay float32 to get below ``NOISE``."""


@dataclass(frozen=True)
class Choice:
    """The best range found for one convolution, and the error of the outputs when it alone is in INT8."""

    name: str
    threshold: float
    error: float


class Probe:
    """Measures the error of a model's outputs against those of the float model."""

    def __init__(self, graph: Graph, folder: Path, samples: Samples, threads: int) -> None:
        self._graph, self._folder, self._options = graph, folder, SessionOptions(threads=threads)
        step = max(1, len(samples) // PROBES)
        self._images = [image for number, image in enumerate(samples) if number % step == 0][:PROBES]
        self._expected = [_run(self._open(), image) for image in self._images]
        self._weights = [_relevance(list(values)) for values in zip(*self._expected, strict=True)]

    def error(self, model: Model) -> float:
        """Mean over the outputs of the weighted squared error, over their variance."""
        model.write(self._folder / self._graph.files[0], self._folder / self._graph.files[1])
        session = self._open()
        total = 0.0
        for index, image in enumerate(self._images):
            for output, (found, wanted) in enumerate(zip(_run(session, image), self._expected[index], strict=True)):
                total += float(np.mean((found - wanted) ** 2 * self._weights[output][index]))
        return total / (len(self._images) * len(self._weights))

    def _open(self) -> Session:
        return open_session(self._folder, self._graph, self._options)


def _run(session: Session, image: Floats) -> list[Floats]:
    return [output.copy() for output in session.run([image])]


def _relevance(values: list[Floats]) -> list[Floats]:
    """Weights of squared errors for one output, for each image: (1 + z * z) / 2 over the variance.

    z is a value's distance from the mean of its channel in standard deviations. Almost all of an image is
    background; what stands out from it is what becomes a detection, and its error must not drown in the mean.
    """
    stack = np.stack(values)
    axes = tuple(axis for axis in range(stack.ndim) if axis != 2) if stack.ndim > 3 else None
    squares = (stack - stack.mean(axes, keepdims=True)) ** 2
    variance = max(float(squares.mean()), 1e-12)
    weights: list[Floats] = list(((1 + squares / variance) / (2 * variance)).astype(np.float32))
    return weights


def measure(model: Model, seen: dict[str, Observation], probe: Probe, report: Report) -> list[Choice]:
    """The best range of every convolution, with its error. Convolutions that only ever saw zeros are left out."""
    choices = []
    for number, (name, observation) in enumerate(seen.items()):
        report(f"measuring convolution {number + 1} of {len(seen)}", number / len(seen))
        thresholds = sorted({observation.histogram.threshold(exponent) for exponent in EXPONENTS} - {0.0})
        tried = [Choice(name, limit, probe.error(apply(model, seen, {name: limit}))) for limit in thresholds]
        if tried:
            choices.append(min(tried, key=lambda choice: choice.error))
    return choices


def plan(choices: list[Choice], convolutions: int) -> dict[str, float]:
    """The convolutions to write in INT8, with their thresholds; the others stay float32.

    Raises:
        ConversionError: none would be left, so the result would not be an INT8 model.
    """
    remaining = sum(choice.error for choice in choices)
    spare = int(np.ceil(convolutions * FLOAT_SHARE))
    kept = {}
    for choice in sorted(choices, key=lambda choice: -choice.error):
        if choice.error > ALONE or (remaining > NOISE and spare > 0):
            spare -= 1
            remaining -= choice.error
        else:
            kept[choice.name] = choice.threshold
    if not kept:
        raise ConversionError("ncnn int8: no convolution of this network bears INT8; choose fp16")
    return kept


def apply(model: Model, seen: dict[str, Observation], thresholds: dict[str, float]) -> Model:
    """The model with the named convolutions in INT8."""
    layers = [
        quantised(layer, seen[layer.name], thresholds[layer.name]) if layer.name in thresholds else layer
        for layer in model.layers
    ]
    return Model(layers, model.blobs)
