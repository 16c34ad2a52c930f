"""QNN contexts for the Hexagon NPU of Qualcomm's Snapdragons: float16, and INT8 from a Q/DQ file.

A bundle holds the context, compiled for one SoC, and the ONNX file that it was compiled from: float32, which the NPU
computes in float16, or Q/DQ. A later SoC of the same or a newer architecture may load the context, any other compiles
the ONNX file when it opens the bundle.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgekit.converters import Job, Report, Target, WrittenJob
from edgekit.converters.qnn.written import refuse_lengths, write
from edgekit.errors import ConversionError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.sources import WHOLE
from edgekit.worker import call
from edgekit.worker.toolchains import Toolchain

SOCS = {
    "x-elite": (60, 73),
    "sm8450": (36, 69),
    "sm8475": (42, 69),
    "sm8550": (43, 73),
    "sm8650": (57, 75),
    "sm8750": (69, 79),
    "sm8850": (87, 81),
    "sa8255": (52, 73),
    "qcs9100": (77, 73),
    "qcs6490": (93, 68),
    "sa8295": (39, 68),
}
"""SoC model and Hexagon architecture by name, as in the QNN SDK's table of supported devices."""

FLOAT_SINCE = 69
"""The first Hexagon architecture with float16."""


class QnnOptions(Record, frozen=True, kw_only=True):
    """Options of the target: the SoC that the context is compiled for.

    Of parts of vision-language models: ``tokens`` is how many a text may have with its prompt and image, ``piece`` in
    how many at a time a prompt is read.
    """

    soc: Literal[
        "x-elite",
        "sm8450",
        "sm8475",
        "sm8550",
        "sm8650",
        "sm8750",
        "sm8850",
        "sa8255",
        "qcs9100",
        "qcs6490",
        "sa8295",
    ] = "x-elite"
    tokens: Annotated[int, msgspec.Meta(ge=8, le=2048)] = 128
    piece: Annotated[int, msgspec.Meta(ge=2, le=512)] = 32


TOOLCHAIN = Toolchain(
    name="qnn",
    summary="ONNX Runtime with Qualcomm's QNN libraries: compiler and emulator for the Hexagon NPU",
    megabytes=650,
    requirements=(
        "onnxruntime==1.31.1",
        "onnxruntime-qnn==2.7.0",
        "numpy==2.4.6",
        "msgspec==0.22.0",
        "opencv-python-headless==5.0.0.93",
    ),
    imports=("onnxruntime", "onnxruntime_qnn"),
    pythons=("3.11", "3.12", "3.13", "3.14"),
    licence=(
        "onnxruntime-qnn brings libraries under Qualcomm's own licence, proprietary and not for redistribution: "
        "Qualcomm_LICENSE.pdf in the package"
    ),
)

# Not in the provider's list of operators, and tried one by one with onnxruntime-qnn 2.7.0 (v73).
_REFUSED = (
    "Acos", "Acosh", "Asinh", "Atanh", "Celu", "Cosh", "Det", "GlobalLpPool", "Hardmax", "IsInf", "Loop", "MaxUnpool",
    "NonMaxSuppression", "OneHot", "ReduceL1", "ReduceLogSum", "ReduceSumSquare", "RNN", "Shrink", "Sinh", "Softsign",
    "Trilu", "DFT", "STFT",
)  # fmt: skip

TARGET = Target(
    name="qnn",
    summary="Snapdragon laptops and boards with a Hexagon NPU",
    engine="qnn",
    precisions=("fp16", "int8"),
    requires=("onnx", "onnxruntime"),
    distributions=("onnx", "onnxruntime", "onnxslim", "onnxscript", "torch"),
    options=QnnOptions,
    refuses=dict.fromkeys(_REFUSED, "QNN has no such operator for the Hexagon NPU, and nothing may fall to the CPU"),
    hosts=("linux-x86_64",),
    toolchains=(TOOLCHAIN,),
    integer_only=True,
    wide=True,
    parts=(WHOLE, *PART_NAMES),
    part_precisions=("fp16",),
)

CONTEXT, SOURCE = "model_ctx.onnx", "model.onnx"


def convert(job: Job, report: Report) -> Graph:
    """Write ``model_ctx.onnx``, the context, and ``model.onnx``, what it was compiled from.

    Raises:
        ConversionError: the NPU does not take all of the network or the precision, or int8 has no images.
    """
    soc, arch = SOCS[job.chosen(QnnOptions).soc]
    if job.precision == "fp16":
        _check_floats(job.chosen(QnnOptions))
    source = job.out / SOURCE
    arithmetic = "float16"
    if job.precision == "fp16":
        shutil.copyfile(job.onnx, source)
    else:
        arithmetic = f"int8, activations of 16 bits in {_int8(job, source, report)} operators"
    report("compiling for the NPU", 0.8)
    operators = _compile(source, job.out / CONTEXT, soc, arch)
    told: dict[str, str | int | float] = {
        "soc": job.chosen(QnnOptions).soc,
        "hexagon": f"v{arch}",
        "arithmetic": arithmetic,
        "htp_operators": operators,
        "context_bytes": (job.out / CONTEXT).stat().st_size,
    }
    return msgspec.structs.replace(job.graph(CONTEXT, SOURCE), report=told)


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write contexts of a part for one row and fixed numbers of tokens, with the ONNX files that they were made of.

    Raises:
        ConversionError: the NPU does not take the part, or has no float16.
    """
    options = job.chosen(QnnOptions)
    _check_floats(options)
    refuse_lengths(options)
    soc, arch = SOCS[options.soc]
    graph = write(job, options, lambda source, context: _compile(source, context, soc, arch), report)
    return msgspec.structs.replace(graph, report={"soc": options.soc, "hexagon": f"v{arch}", **graph.report})


def _check_floats(options: QnnOptions) -> None:
    arch = SOCS[options.soc][1]
    if arch < FLOAT_SINCE:
        raise ConversionError(
            f"{options.soc} has Hexagon v{arch}, which computes in integers only: "
            f"choose int8, or an SoC with v{FLOAT_SINCE} or later"
        )


def _int8(job: Job, destination: Path, report: Report) -> int:
    """Write the Q/DQ file; the number of operators whose activations have 16 bits."""
    from edgekit.converters.qnn import int8 as qnn_int8

    report("quantising", 0.3)
    return qnn_int8.quantise(job.onnx, destination, job.planned(), next(iter(job.calibration())))


def _compile(source: Path, destination: Path, soc: int, arch: int) -> int:
    """Compile in the toolchain; the number of operators on the NPU, which is all of them."""
    from edgekit.converters.qnn.context import Compiled, CompileJob

    told = call.run(
        "edgekit.converters.qnn.context:compile_context",
        CompileJob(source=str(source), destination=str(destination), soc_model=soc, htp_arch=arch),
        Compiled,
        name="compiling for the NPU",
        error=ConversionError,
        toolchain=TOOLCHAIN.name,
        group=False,  # it is a stage's own, and ends with that
    ).result
    if told.error or not destination.is_file():
        raise ConversionError(f"QNN does not compile this network for Hexagon v{arch}: {told.error or 'no context'}")
    return sum(told.operators.values())
