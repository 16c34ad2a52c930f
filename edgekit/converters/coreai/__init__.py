"""Core AI assets (``.aimodel``) by coreai-torch: float32, float16, INT8 weights, and INT8 activations as well.

All have float32 NCHW inputs and outputs, as on every other target. Only float32 computes in float32.

SiLU, softmax and layer normalisation stay single operations (`edgekit.converters.coreai.operators`).
"""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgekit.converters import Job, Report, Target
from edgekit.converters._foreign import tool_error
from edgekit.converters._quiet import quiet
from edgekit.converters.coreai.integers import with_integers
from edgekit.converters.coreai.operators import decomposed
from edgekit.errors import ConversionError
from edgekit.graph.exchange import INPUT
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.worker.toolchains import Toolchain

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


class CoreaiOptions(Record, frozen=True, kw_only=True):
    """``minimum_os`` is the oldest system that has to open the asset, for iOS and macOS alike. 27 is the first with
    Core AI, and the only one that coreai-core 1.0.0b3 writes for; for older systems there is the target coreml."""

    minimum_os: Literal["27"] = "27"


TOOLCHAIN = Toolchain(
    name="coreai",
    summary="Core AI: Apple's converter and interpreter for .aimodel assets",
    megabytes=1600,
    requirements=(
        "coreai-core==1.0.0b3",
        "coreai-torch==0.4.3",
        "coreai-opt==0.4.0",
        "torch==2.13.0",
        "numpy==2.4.6",
        "msgspec==0.22.0",
        "onnx==1.23.2",
        "opencv-python-headless==5.0.0.93",
    ),
    imports=("coreai.runtime", "coreai_torch", "coreai_opt"),
    pythons=("3.11", "3.12", "3.13", "3.14"),
)

TARGET = Target(
    name="coreai",
    summary="iPhone, iPad and Mac from iOS and macOS 27 on, with Core AI",
    engine="coreai",
    precisions=("fp32", "fp16", "int8", "w8a8"),
    requires=(),
    distributions=("coreai-core", "coreai-torch", "coreai-opt"),
    calibrated=("int8", "w8a8"),
    half_precisions=("fp16", "int8", "w8a8"),
    refuses={
        "Bernoulli": "coreai-torch converts no random numbers",
        "BitShift": "coreai-torch does not convert it",
        "Col2Im": "coreai-torch does not convert it",
        "Compress": "coreai-torch converts no indexing by a mask",
        "CumProd": "coreai-torch does not convert it; CumSum is converted",
        "Det": "coreai-torch does not convert it",
        "DFT": "coreai-torch converts no Fourier transforms",
        "IsNaN": "coreai-torch does not convert it; IsInf is converted",
        "MaxUnpool": "coreai-torch 0.4.3 writes wrong indices of maxima, without an error",
        "Multinomial": "coreai-torch converts no random numbers",
        "STFT": "coreai-torch converts no Fourier transforms",
        "Unique": "coreai-torch does not convert it",
    },
    options=CoreaiOptions,
    hosts=("linux-x86_64", "darwin"),
    toolchains=(TOOLCHAIN,),
    builder="coreai",
)

ASSET = "model.aimodel"
"""The folder that Core AI opens. Xcode takes it as it is."""

OVERFLOWS = 4
"""Images on which operators are looked for that overflow float16."""


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.aimodel`` in the job's precision.

    Raises:
        ConversionError: Core AI refuses the network, or an integer precision has no plan.
    """
    job.chosen(CoreaiOptions)
    if job.precision in TARGET.calibrated:
        job.planned()  # refuse before the slow part
    report("loading coreai-torch", 0.0)
    try:
        with quiet():
            import torch

            torch.set_num_threads(job.threads)
            program = torch.export.load(job.program)
        report("converting with coreai-torch", 0.2)
        with quiet(), torch.no_grad():
            return _written(_in_precision(program, job), job)
    except ConversionError:
        raise
    except Exception as error:  # the toolchain raises whatever its layers raise
        raise tool_error(f"Core AI {job.precision}", error, job.onnx) from error


def _in_precision(program: ExportedProgram, job: Job) -> ExportedProgram:
    """The program as it is to be written, with float32 inputs and outputs."""
    from coreai_opt.casting import cast_fp32_to_fp16

    example = _example(job)
    if job.precision in TARGET.calibrated:
        program = _exported(with_integers(program.module(), job), example)
    program = decomposed(program)
    if job.precision == "fp32":
        return program
    images = [] if job.samples is None else [_tensor(image) for image in islice(job.samples, OVERFLOWS)]
    half = cast_fp32_to_fp16(program, calibration_data=images or None)
    return decomposed(_exported(_float_ports(half.module()), example))


def _example(job: Job) -> Any:
    import torch

    return torch.zeros(1, 3, *job.contract.image.size)


def _tensor(image: Any) -> Any:
    import torch

    return torch.from_numpy(image)


def _exported(module: nn.Module, example: Any) -> ExportedProgram:
    import torch

    return torch.export.export(module, (example,))


def _float_ports(module: nn.Module) -> nn.Module:
    """A float16 network that takes and gives float32."""
    import torch

    class Ports(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(output.float() for output in self.inner(images.half()))

    return Ports()


def _written(program: ExportedProgram, job: Job) -> Graph:
    """Save the asset and describe it."""
    from coreai_torch import TorchConverter

    names = [output.name for output in job.contract.outputs]
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    staged = converter.add_exported_program(program, input_names=[INPUT], output_names=names)
    asset = job.out / ASSET
    shutil.rmtree(asset, ignore_errors=True)
    staged.to_coreai().save_asset(asset)
    files = sorted(path.relative_to(job.out).as_posix() for path in asset.rglob("*") if path.is_file())
    return msgspec.structs.replace(job.graph(*files), report=_told(program, job))


def _told(program: ExportedProgram, job: Job) -> dict[str, str | int | float]:
    """Operators by kind, and what they compute in."""
    kinds = Counter(
        str(node.target).removeprefix("aten.").partition(".")[0]
        for node in program.graph.nodes
        if node.op == "call_function" and "getitem" not in str(node.target)
    )
    arithmetic = "float32" if job.precision == "fp32" else "float16"
    return {"minimum_os": job.chosen(CoreaiOptions).minimum_os, "arithmetic": arithmetic, **dict(sorted(kinds.items()))}
