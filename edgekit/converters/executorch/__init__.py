"""ExecuTorch from the torch.export program: float32 for four delegates, static INT8 for XNNPACK."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgekit.converters import PLAN, Job, Report, Target, WrittenJob
from edgekit.converters._foreign import tool_error
from edgekit.converters._quiet import quiet
from edgekit.converters.executorch.int8 import TORCHAO, quantised
from edgekit.converters.executorch.lowering import counts, lowered_to, shared_histories
from edgekit.converters.executorch.partition import told_integers
from edgekit.converters.executorch.written import write
from edgekit.errors import ConversionError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.graph.exchange import COMPLEX_DFT
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.runtimes.engines.executorch import COREML, DELEGATE, XNNPACK
from edgekit.sources import WHOLE

FILE = "model.pte"


class ExecutorchOptions(Record, frozen=True):
    """``delegate`` is what runs the network: XNNPACK on any CPU, Core ML on Apple's devices, Vulkan on GPUs, or no
    more than ExecuTorch's own portable kernels, which are slow and run everywhere. ``tokens`` is how many tokens of
    image, prompt and answer a vision-language model has room for."""

    delegate: Literal["xnnpack", "coreml", "vulkan", "portable"] = "xnnpack"
    tokens: Annotated[int, msgspec.Meta(ge=2)] = 128


TARGET = Target(
    name="executorch",
    summary="Android, iOS and Raspberry Pi with ExecuTorch",
    engine="executorch",
    precisions=("fp32", "int8"),
    requires=("torch", "executorch", "torchao"),
    distributions=("executorch", "torchao", "torch", "coremltools"),
    options=ExecutorchOptions,
    refuses={
        COMPLEX_DFT: "ExecuTorch has Fourier transforms of real numbers only",
        **dict.fromkeys(("Col2Im", "Det"), "ExecuTorch does not lower it, or fails to run it"),
    },
    recipes=(PLAN, TORCHAO),
    parts=(WHOLE, *PART_NAMES),
    part_precisions=("fp32", "int8", "int4"),
    grid="symmetric",
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.pte`` in the job's precision.

    Raises:
        ConversionError: the delegate has not this precision or takes nothing of the network, int8 has no images, or
            the toolchain refuses the network.
    """
    delegate = job.chosen(ExecutorchOptions).delegate
    if job.precision == "int8" and delegate != XNNPACK:
        other = "; for Core ML in INT8 choose --target coreml" if delegate == COREML else ""
        raise ConversionError(f"executorch has no int8 for the delegate {delegate}, only for {XNNPACK}{other}")
    if job.precision == "int8":  # refuse before the slow part
        job.calibration()
        job.planned()
    report("loading ExecuTorch", 0.0)
    try:
        with quiet():
            import torch

            torch.set_num_threads(job.threads)
            program = torch.export.load(job.program)
        if job.precision == "int8":
            program = quantised(program, job, report, quiet)
        report(f"lowering for {delegate}", 0.4)
        with quiet(), shared_histories():
            lowered = lowered_to(program, delegate)
            counted = counts(lowered, delegate)
            integers = told_integers(lowered) if job.precision == "int8" else {}
            data = lowered.to_executorch().buffer
    except ConversionError:
        raise
    except Exception as error:  # the toolchain raises whatever its layers raise
        raise tool_error(f"ExecuTorch {job.precision} for {delegate}", error, job.onnx) from error
    (job.out / FILE).write_bytes(data)
    told = {DELEGATE: delegate, **counted, "arithmetic": "float32", **integers}
    return msgspec.structs.replace(job.graph(FILE), report=told)


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.pte`` for XNNPACK. It takes one row; a decoder's cache is the host's.

    Raises:
        ConversionError: another delegate, or the toolchain refuses the graph.
    """
    options = job.chosen(ExecutorchOptions)
    if options.delegate != XNNPACK:
        raise ConversionError(
            f"executorch writes parts of vision-language models for {XNNPACK}, not for {options.delegate}; leave the "
            "option delegate out"
        )
    return write(job, options.tokens, report)
