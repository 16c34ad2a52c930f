"""Map a quantisation plan to a float ``.tflite`` file: the range of every tensor, and the operators that stay in float.

LiteRT wants every tensor in int8 with one scale. Its converter names tensors in its own way, so they are recognised by
what they hold on a few images; only what the plan does not know is observed on all of them. The other recipe is the
quantiser's own calibration on the plan's graph: moving averages of each image's extremes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration.correspondence import (
    Fingerprint,
    correspondence,
    fingerprint,
    fingerprints,
    weights_mark,
)
from edgekit.calibration.fitting import fit
from edgekit.calibration.layers import sites
from edgekit.calibration.plan import TensorRange
from edgekit.calibration.ranges import TensorStatistics
from edgekit.converters import Job
from edgekit.converters._quiet import quiet
from edgekit.converters.litert.network import LiteRTNetwork, LiteRTOperator
from edgekit.errors import ConversionError

LITERT = "litert"
"""The recipe that has the AI Edge Quantizer find the ranges."""

LOOKS = 2
"""Images by which tensors are recognised."""

CHUNK = 16
"""Images that the quantiser gets at a time: it holds all that it is given at once."""

Ranges = dict[str, dict[str, Any]]
"""``min`` and ``max`` by tensor name, as the quantiser's own ``calibrate`` returns them."""

OnImage = Callable[[int], None]
"""Called with the number of images done."""


@dataclass(frozen=True)
class CalibrationRun:
    """A job with its float file.

    Attributes:
        on_image: called after every image.
        channels_last: whether the file's input is NHWC.

    Raises:
        ConversionError: the job has no images.
    """

    job: Job
    path: Path
    network: LiteRTNetwork
    on_image: OnImage
    channels_last: bool = False

    def __post_init__(self) -> None:
        if not len(self.job.calibration()):
            raise ConversionError(
                f"{self.job.precision} needs calibration images, and there are none: give --data with photographs"
            )

    def inputs(self) -> Iterator[Floats]:
        """The file's inputs, image by image."""
        for sample in self.job.calibration():
            yield np.ascontiguousarray(sample.transpose(0, 2, 3, 1)) if self.channels_last else sample


def chosen_ranges(given: CalibrationRun, names: dict[int, str], quantiser: Any) -> Ranges:
    """Ranges for a configured quantiser, by the job's recipe.

    Args:
        given: the job and its file.
        names: from `recognise`.
        quantiser: the AI Edge Quantizer, told which operators become INT8.
    """
    if given.job.recipe == LITERT:
        return _own_calibration(given, quantiser)
    found = {}
    for index, one in ranges_of(given, names).items():
        shape = (1,) * given.network.rank(index)
        ends = {"min": np.full(shape, one.low, np.float32), "max": np.full(shape, one.high, np.float32)}
        found[given.network.name(index)] = ends
    return found


def _own_calibration(given: CalibrationRun, quantiser: Any) -> Ranges:
    interpreter = _inspectable(given.path, 1)
    ((key, signature),) = interpreter.get_signature_list().items()
    (entry,) = signature["inputs"]
    found, inputs, done = None, given.inputs(), 0
    while chunk := [{entry: values} for values in islice(inputs, CHUNK)]:
        with quiet():
            found = quantiser.calibrate({key: chunk}, found, num_threads=given.job.threads)
        done += len(chunk)
        given.on_image(done)
    return found or {}


def recognise(given: CalibrationRun) -> dict[int, str]:
    """The plan's names of a file's tensors by index, as far as the plan knows them.

    What only moves or pads a tensor that the plan knows has its name too.
    """
    network, threads = given.network, given.job.threads
    theirs: dict[int, list[Fingerprint]] = {index: [] for index in network.activations}
    for values in _run(given.path, network.activations, islice(given.inputs(), LOOKS), threads):
        for index, several in theirs.items():
            several.append(fingerprint(values(index)))
    samples = islice(given.job.calibration(), LOOKS)
    names = correspondence(theirs, fingerprints(given.job.onnx, samples, threads))
    return names | {
        index: names[network.source(index)]
        for index in network.activations
        if index not in names and network.source(index) in names
    }


def ranges_of(given: CalibrationRun, names: dict[int, str]) -> dict[int, TensorRange]:
    """The range of every tensor of a file by index: the plan's, and where it has none, one observed on all images."""
    planned = given.job.planned().tensors
    found = {index: planned[name] for index, name in names.items() if name in planned}
    unknown = {index: TensorStatistics() for index in given.network.activations if index not in found}
    inputs = given.inputs() if unknown else ()
    for count, values in enumerate(_run(given.path, list(unknown), inputs, given.job.threads), 1):
        for index, statistics in unknown.items():
            statistics.add(values(index))
        given.on_image(count)
    return found | {index: fit(statistics) for index, statistics in unknown.items()}


def float_operators(given: CalibrationRun, names: dict[int, str]) -> list[LiteRTOperator]:
    """The operators of layers that the plan keeps in float.

    A layer is recognised by its weights; among several with the same ones, or where the toolchain has merged a factor
    into them, by what it reads and by their number. What makes the input of a layer stays in float with it, but for the
    heads, whose inputs bear a grid.
    """
    import onnx

    job, network = given.job, given.network
    floats = {layer.name: layer for layer in job.planned().layers if layer.float_reason}
    known = [
        (site.name, site.input, site.weights.size, weights_mark(site.weights)) for site in sites(onnx.load(job.onnx))
    ]
    chosen = []
    for op in network.operators:
        weights = network.weights(op)
        if weights is None:
            continue
        mark, read = weights_mark(weights), names.get(network.source(network.read(op)))
        alike = [(name, source) for name, source, _, one in known if one == mark]
        near = alike or [(name, source) for name, source, size, _ in known if size == weights.size]
        found = [name for name, source in near if source == read] or [name for name, _ in alike]
        staying = [floats[name] for name in found if name in floats]
        if staying:
            chosen.append((op, any(layer.float_reason != "head" for layer in staying)))
    return network.float_operators(chosen)


def scopes(network: LiteRTNetwork, operators: list[LiteRTOperator]) -> str:
    """The expression that matches just these operators; the quantiser calls them by their outputs."""
    found = {"".join(f"{network.name(index)};" for index in op.outputs) for op in operators}
    return "^(?:" + "|".join(re.escape(scope) for scope in sorted(found)) + ")$"


def _run(path: Path, wanted: list[int], inputs: Iterable[Floats], threads: int) -> Iterator[Callable[[int], Floats]]:
    """Run a float file on inputs; for each a function that gives a tensor by index, until the next one comes."""
    if not wanted:
        return
    interpreter = _inspectable(path, threads)
    entry = interpreter.get_input_details()[0]["index"]
    for values in inputs:
        interpreter.set_tensor(entry, values)
        interpreter.invoke()
        yield interpreter.get_tensor


def _inspectable(path: Path, threads: int) -> Any:
    """An interpreter that keeps all intermediate tensors readable."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this takes memory is known
        interpreter = Interpreter(str(path), num_threads=threads, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    return interpreter
