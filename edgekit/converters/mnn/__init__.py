"""MNN from the exchange ONNX file by the converter and quantiser in its wheel (`tool`)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgekit.calibration.layers import sites
from edgekit.calibration.plan import PlannedGraph
from edgekit.calibration.ranges import LEVELS
from edgekit.calibration.samples import Samples
from edgekit.converters import CONVOLUTIONS as IN_INTEGERS
from edgekit.converters import PLAN, Job, Report, Target, WrittenJob
from edgekit.converters.mnn.ranges import set_ranges
from edgekit.converters.mnn.tool import LINEAR, Weights, convert_onnx, files_of, quantised_layers, run_tool
from edgekit.converters.mnn.written import write
from edgekit.errors import ConversionError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph, Speed
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.mnn import ENGINE
from edgekit.runtimes.engines.mnn.flatbuffer import CONVOLUTIONS, MnnOperator, read_operators
from edgekit.sources import WHOLE
from edgekit.timing import in_turns

if TYPE_CHECKING:
    from onnx import ModelProto

WEIGHTS = "weights"
"""The recipe that stores weights in INT8, but for the layers that the plan leaves in float, and computes in float32."""

KL = "kl"
"""The recipe that takes the quantiser's own ranges, symmetric ones, and leaves layers in float."""

_NO_OPERATOR = ("Bernoulli", "DFT", "Hardmax", "IsInf", "IsNaN", "Mish")

TARGET = Target(
    name="mnn",
    summary="phones and small ARM boards with MNN",
    engine="mnn",
    precisions=("fp32", "fp16", "int8"),
    requires=("onnx", "MNN", "_tools"),
    distributions=("MNN", "torch", "onnxscript", "onnxslim"),
    recipes=(WEIGHTS, PLAN, KL),
    integer_only=True,
    mixed_recipes=(WEIGHTS,),
    refuses=dict.fromkeys(_NO_OPERATOR, "MNN has no such operator"),
    parts=(WHOLE, *PART_NAMES),
)

FILE = "model.mnn"

_FEW = 4
"""Images that the quantiser is shown when its ranges are written over afterwards."""


LEAST_STEP = 1e-6
"""The converter stores a channel of weights with a smaller step as zeros (MNN 3.6.1), however much the network
multiplies it later."""


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.mnn`` in the job's precision.

    Raises:
        ConversionError: MNN's tools refuse the network or crash, or int8 has no images.
    """
    out = job.out / FILE
    if job.precision == "int8":
        return _int8(job, out, report)
    _convert(job, out, report, *(["--fp16"] if job.precision == "fp16" else []))
    return job.graph(*files_of(out))


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.mnn``, whose cache lies in buffers of the host."""
    return write(job, report)


def _int8(job: Job, out: Path, report: Report) -> Graph:
    """By the job's recipe, timed beside the float file that it was made of."""
    import onnx

    samples, planned = job.calibration(), job.planned()  # refuse before the slow part
    source = job.work / "float.mnn"
    _convert(job, source, report)
    network = onnx.load(job.onnx, load_external_data=False)
    if job.recipe == WEIGHTS:
        _small_weights(source, network, out, job, report)
    else:
        _quantise(source, samples, out, job, report)
    if job.recipe == PLAN:
        set_ranges(out, source, network, planned.tensors)
    report("timing INT8 beside float32", 0.9)
    graph = msgspec.structs.replace(job.graph(*files_of(out)), report=_told(read_operators(out)))
    return msgspec.structs.replace(graph, speed=_speed(job, source, graph))


def _told(operators: list[MnnOperator]) -> dict[str, str | int | float]:
    """Count the convolutions that the file computes in integers, or only stores so."""
    stored = Counter(operator.stored for operator in operators if operator.stored)
    told: dict[str, str | int | float] = {IN_INTEGERS: f"{stored['int8']} of {stored.total()}"}
    if stored["int8 weights"]:
        told["weights in int8"] = f"{stored['int8 weights']} of {stored.total()} convolutions"
    return told


def _speed(job: Job, source: Path, graph: Graph) -> Speed:
    """How fast the INT8 file is here beside the float one, on one thread."""
    sample = next(iter(job.calibration()))
    options = SessionOptions(threads=1)
    floats = ENGINE.open_session(source.parent, msgspec.structs.replace(graph, files=(source.name,)), options)
    integers = ENGINE.open_session(job.out, graph, options)
    ratio = in_turns(lambda: floats.run([sample]), {FILE: lambda: integers.run([sample])})[FILE]
    return ratio.speed(f"mnn {metadata.version('MNN')}")


def _small_weights(source: Path, network: ModelProto, out: Path, job: Job, report: Report) -> None:
    """Store weights in INT8, with the plan's own steps: one for each output channel, symmetric.

    Raises:
        ConversionError: all layers stay in float.
    """
    kept = {*job.planned().float_layers, *_too_fine(network)}
    convolutions = [one.name for one in read_operators(source) if one.kind in CONVOLUTIONS]
    names = [name for name in convolutions if name.removesuffix(LINEAR) not in kept]
    if not names:
        raise ConversionError(
            "int8 by the recipe weights: the plan leaves all layers of this network in float; choose "
            f"--recipe {PLAN}, --no-float-fallback, or fp16"
        )
    layers = {name: Weights(bits=8) for name in names}
    with tempfile.TemporaryDirectory(prefix="weights.", dir=job.work) as scratch:
        _convert(job, out, report, *quantised_layers(layers, Path(scratch)))


def _too_fine(network: ModelProto) -> set[str]:
    """Layers with a channel of weights that the converter would store as zeros."""
    found = set()
    for site in sites(network):
        steps = np.abs(site.weights.reshape(len(site.weights), -1)).max(1) / LEVELS
        if ((steps > 0) & (steps < LEAST_STEP)).any():
            found.add(site.name)
    return found


def _convert(job: Job, out: Path, report: Report, *more: str) -> None:
    report("converting with MNN", 0.1)
    convert_onnx(job.onnx, out, *more)


def _quantise(source: Path, samples: Samples, out: Path, job: Job, report: Report) -> None:
    """Static INT8 by MNN's quantiser.

    Its method EMA gives every tensor an affine range, in which the plan's are written afterwards, and leaves nothing in
    float; KL gives symmetric ranges.

    Raises:
        ConversionError: it fails, or there are no images.
    """
    if not len(samples):
        raise ConversionError("int8 needs calibration images and there are none: give --data with photographs")
    with tempfile.TemporaryDirectory(prefix="int8.", dir=job.work) as scratch:
        folder = Path(scratch)
        report("writing calibration images", 0.2)
        count = len(samples) if job.recipe == KL else min(_FEW, len(samples))
        _write_images(samples, folder / "images", count)
        report("quantising with MNN", 0.3)
        config = folder / "quantiser.json"
        config.write_text(json.dumps(_configuration(samples, folder / "images", source, job)), encoding="utf-8")
        # It writes more beside the file that it is told to.
        run_tool("mnnquant", [str(source), str(folder / FILE), str(config)], folder / FILE, job.onnx)
        shutil.move(folder / FILE, out)


def _write_images(samples: Samples, folder: Path, count: int) -> None:
    """The first calibration images in input size, losslessly, as files that the quantiser reads and normalises."""
    import cv2

    folder.mkdir()
    for number, image in enumerate(samples.images[:count]):
        if not cv2.imwrite(str(folder / f"{number:06}.png"), image):
            raise ConversionError(f"{folder}: calibration images cannot be written; is the disk full?")


def _configuration(samples: Samples, folder: Path, source: Path, job: Job) -> dict[str, object]:
    """The quantiser's configuration; it normalises as ``(pixel - mean) * normal``."""
    rule = samples.rule
    height, width = rule.size
    return {
        "format": rule.color.upper(),
        "mean": [mean / rule.scale for mean in rule.mean],
        "normal": [rule.scale / std for std in rule.std],
        "width": width,
        "height": height,
        "path": f"{folder}{os.sep}",
        "used_sample_num": len(list(folder.iterdir())),
        "input_type": "image",
        "feature_quantize_method": "KL" if job.recipe == KL else "EMA",
        "batch_size": 1,  # with EMA it would be another by default, and shapes are fixed
        "weight_quantize_method": "MAX_ABS",
        # In integers, Winograd's transforms of 3x3 convolutions cost ten times the error of everything else.
        "winogradOpt": False,
        "skip_quant_op_names": _kept(source, job.planned()),
        "debug": False,
    }


def _kept(source: Path, plan: PlannedGraph) -> list[str]:
    """Names of the convolutions that KL leaves in float, which are those of the plan's layers; EMA leaves none."""
    return [one.name for one in read_operators(source) if one.kind in CONVOLUTIONS and one.name in plan.float_layers]
