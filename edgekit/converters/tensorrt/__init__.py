"""TensorRT on NVIDIA's Jetsons and GPUs: an ONNX file that the device builds its engine from when it first loads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from edgekit.calibration.half import SMALLEST
from edgekit.calibration.plan import PlannedGraph
from edgekit.converters import Job, Report, Target, WrittenJob
from edgekit.converters._onnx_precision import FILE, half, in_float32, save
from edgekit.converters.tensorrt.written import write
from edgekit.errors import ConversionError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.runtimes.engines.tensorrt.build import SETTINGS, BuildSettings
from edgekit.sources import WHOLE
from edgekit.worker import call
from edgekit.worker.toolchains import Toolchain

if TYPE_CHECKING:
    from onnx import ModelProto


class TensorrtOptions(Record, frozen=True, kw_only=True):
    """Options of the target.

    ``weights`` of int8 files: stored as int8, or as float32 before a Q/DQ pair, which TensorRT 8 needs (JetPack 5, 6.0)
    and which makes the file four times as large. ``floats`` is what int8 files compute in outside of their integers:
    by default float16, which is faster, and float32 where the weights are. ``workspace_megabytes`` and
    ``optimisation_level`` are for the build on the device. ``sm`` is the GPU generation that TensorRT-RTX builds for
    where that toolchain is installed. ``tokens`` is how many a text may have with its prompt and image, of parts of
    vision-language models.
    """

    weights: Literal["int8", "float32"] = "int8"
    floats: Literal["auto", "fp16", "fp32"] = "auto"
    workspace_megabytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    optimisation_level: Literal[0, 1, 2, 3, 4, 5] = 3
    sm: Literal[75, 80, 86, 89, 120] = 86
    tokens: Annotated[int, msgspec.Meta(ge=64)] = 512


RTX = Toolchain(
    name="tensorrt-rtx",
    summary="TensorRT-RTX, which parses and builds the tensorrt target's files without a GPU",
    megabytes=340,
    requirements=("numpy==2.4.6", "msgspec==0.22.0"),
    without_dependencies=("tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116"),
    imports=("tensorrt_rtx_libs", "tensorrt_rtx_bindings"),
    licence="NVIDIA's own licence for its libraries",
)

OPTIONAL_TOOLCHAINS = (RTX,)
"""Used where it is installed, never needed: a parse and a build say that TensorRT takes the file, they run nothing."""

# fmt: off
_NO_IMPORTER = (
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad",
    "Col2Im", "Compress", "ConvInteger", "CumProd", "DFT", "DeformConv", "Det", "DynamicQuantizeLinear",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "Multinomial", "QLinearConv", "QLinearMatMul", "Unique",
)
# fmt: on
"""Operators of ONNX that a network could have and TensorRT-RTX 1.7's parser does not import; it was asked for each."""

HALF_QDQ = 19
"""The first opset whose QuantizeLinear and DequantizeLinear take float16."""

TARGET = Target(
    name="tensorrt",
    summary="NVIDIA Jetson and GPUs, with TensorRT",
    engine="tensorrt",
    precisions=("fp32", "fp16", "int8"),
    requires=("onnx", "onnxruntime", "onnx_ir"),
    distributions=("onnx", "onnxruntime", "onnxslim", "onnxscript", "torch"),
    options=TensorrtOptions,
    half_precisions=("fp16", "int8"),
    several=True,
    parts=(WHOLE, *PART_NAMES),
    grid="symmetric",
    refuses=dict.fromkeys(_NO_IMPORTER, "TensorRT's ONNX parser does not import it"),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.onnx`` in the job's precision and ``build.json`` for the device.

    Raises:
        ConversionError: no layer of the graph can become INT8, or TensorRT-RTX, where installed, refuses the file.
    """
    import onnx

    from edgekit.calibration.explicit import quantise

    options = job.chosen(TensorrtOptions)
    floats = _floats(options)
    path = job.out / FILE
    if job.precision == "fp32":
        shutil.copyfile(job.onnx, path)
    elif job.precision == "fp16":
        save(half(onnx.load(job.onnx), job.half), path, job.precision)
    else:
        model = quantise(
            onnx.load(job.onnx),
            job.planned(),
            symmetric=True,
            layers=_integer_layers(job.planned(), floats),
            float_weights=options.weights == "float32",
        )
        save(_in_half(model, job) if floats == "fp16" else model, path, job.precision)
    if job.open_batch or job.open_size:
        job.open(path, path)
    settings = BuildSettings(
        precision=job.precision,  # type: ignore[arg-type]
        workspace_megabytes=options.workspace_megabytes,
        optimisation_level=options.optimisation_level,
        floats=floats if job.precision == "int8" else "fp32",
        profiles=job.inputs if job.open_batch or job.open_size else msgspec.UNSET,
    )
    (job.out / SETTINGS).write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
    told = in_float32(job) if settings.precision == "fp16" or settings.floats == "fp16" else {}
    if job.precision == "int8":
        told |= {"arithmetic": settings.arithmetic}
    return msgspec.structs.replace(
        job.graph(FILE, SETTINGS),
        report={**told, **_profiled(settings), **_tried(path, settings, options.sm, report)},
    )


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.onnx`` and ``NAME.build.json``; a decoder's cache lies in buffers of the host."""
    return write(job, job.chosen(TensorrtOptions), _tried, report)


def _integer_layers(plan: PlannedGraph, floats: str) -> list[str]:
    """Names of the layers that become INT8: beside float16 not the depthwise ones, unless there are no others.

    They have no INT8 kernel on tensor cores and are no faster than in float16 (github.com/NVIDIA/TensorRT/issues/1409,
    4529), and their symmetric inputs make most of what INT8 loses: of the raw outputs of YOLOX-Nano .188, without .096.
    """
    layers = [layer for layer in plan.layers if not layer.float_reason]
    dense = [layer.name for layer in layers if not layer.depthwise]
    return dense if floats == "fp16" and dense else [layer.name for layer in layers]


def _profiled(settings: BuildSettings) -> dict[str, str | int | float]:
    """The report on an engine for several inputs."""
    shapes = ", ".join(f"{batch}x{height}x{width}" for batch, _, height, width in settings.profiles or ())
    return {"optimisation profiles": shapes} if shapes else {}


def _floats(options: TensorrtOptions) -> Literal["fp16", "fp32"]:
    """The float type of an int8 file outside of its integers.

    Raises:
        ConversionError: float16, in a file for TensorRT 8, which takes Q/DQ of float32 only.
    """
    if options.floats == "auto":
        return "fp32" if options.weights == "float32" else "fp16"
    if options.floats == "fp16" and options.weights == "float32":
        raise ConversionError(
            "tensorrt.floats=fp16 and tensorrt.weights=float32 exclude each other: TensorRT 8, which needs float32 "
            "weights before Q/DQ, takes no Q/DQ of float16; leave one of them out"
        )
    return options.floats


def _in_half(model: ModelProto, job: Job) -> ModelProto:
    """A QDQ graph with float16 between its integers: what Q reads, what DQ gives, their scales, biases.

    Pairs with a scale that float16 holds with fewer bits stay in float32, and so do their readers.
    """
    from onnx import numpy_helper

    for domain in model.opset_import:
        if domain.domain in ("", "ai.onnx"):
            domain.version = max(domain.version, HALF_QDQ)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    fine = [node for node in pairs if (numpy_helper.to_array(constants[node.input[1]]) < SMALLEST).any()]
    given = {name for node in fine for name in node.output}
    layers = [node.name for node in model.graph.node if given.intersection(node.input)]
    return half(model, job.half, [*(node.name for node in fine), *layers])


def _tried(path: Path, settings: BuildSettings, sm: int, report: Report) -> dict[str, str | int | float]:
    """TensorRT-RTX's report on the file; empty if it is not installed.

    Raises:
        ConversionError: it cannot parse or build it.
    """
    if RTX.state != "installed":
        return {}
    report("building with TensorRT-RTX", 0.9)
    from edgekit.converters.tensorrt.rtx import Tried, TryJob

    tried = call.run(
        "edgekit.converters.tensorrt.rtx:try_build",
        TryJob(file=str(path), settings=settings, sm=sm),
        Tried,
        name="building with TensorRT-RTX",
        error=ConversionError,
        toolchain=RTX.name,
        group=False,  # it is a stage's own, and ends with that
    ).result
    return {
        "tensorrt_rtx": f"parsed and built for sm_{sm}, not run",
        **{f"tensorrt_rtx_{name}": value for name, value in msgspec.structs.asdict(tried).items()},
    }
