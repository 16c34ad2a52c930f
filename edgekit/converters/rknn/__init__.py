"""RKNN files for Rockchip's NPUs by RKNN-Toolkit2: float16, and INT8 with float16 where it matters.

The file takes the normalised NCHW float32 tensor, as every target's does, and rknnlite converts it on the CPU. The NPU
is fastest with uint8 NHWC pixels and the normalisation folded into the first convolution (``mean_values``,
``std_values``): that saves a conversion of each image, and needs an input of another type than the session has.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgekit.converters import PLAN, Job, Report, Target, WrittenJob
from edgekit.converters.rknn.written import write
from edgekit.emulators.rknn import toolkit
from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.sources import WHOLE
from edgekit.worker.toolchains import Toolchain


class RknnOptions(Record, frozen=True, kw_only=True):
    """Options of the target: the chip, and how the toolkit chooses ranges for INT8 where it does (recipe ``toolkit``).

    Of its algorithms, ``kl_divergence`` lost scores on the demo detector (mean drift .058, ``normal`` .011); ``mmse``
    takes seven times as long and was better at IoU 0.75 and worse at 0.5. ``tokens`` is how long a text of a retrieval
    model may be.
    """

    platform: Literal["rk3588", "rk3576", "rk3568", "rk3566", "rk3562"] = "rk3588"
    algorithm: Literal["normal", "mmse", "kl_divergence"] = "normal"
    tokens: Annotated[int, msgspec.Meta(ge=1)] = 32


TOOLCHAIN = Toolchain(
    name="rknn",
    summary="RKNN-Toolkit2: compiler and simulator for Rockchip's NPUs",
    megabytes=1500,
    requirements=(
        "numpy==1.26.4",
        "msgspec==0.22.0",
        "opencv-python-headless==4.11.0.86",
        "onnx==1.18.0",
        "onnxruntime==1.26.0",
        "protobuf==4.25.4",
        "scipy==1.17.1",
        "psutil==7.2.2",
        "ruamel.yaml==0.19.1",
        "tqdm==4.70.1",
        "fast-histogram==0.14",
        "setuptools==80.9.0",
        "filelock==4.2.11",
        "fsspec==2026.9.0",
        "jinja2==3.1.6",
        "networkx==3.6.1",
        "sympy==1.14.0",
        "typing_extensions==4.16.0",
    ),
    # The toolkit wants torch <= 2.4 and opencv-python; it imports the first at every start and takes this one.
    without_dependencies=("torch==2.13.0", "rknn-toolkit2==2.5.0"),
    imports=("rknn.api",),
    pythons=("3.10", "3.11", "3.12"),
    licence="rknn-toolkit2 is Rockchip's and proprietary: read its licence at github.com/airockchip/rknn-toolkit2",
)

_DYNAMIC = "RKNN-Toolkit2 takes only graphs whose shapes and branches are fixed"
# Tried one by one with RKNN-Toolkit2 2.5.0. Others that the NPU lacks go to the board's CPU, which the report counts.

TOOLKIT = "toolkit"
"""The recipe that takes the toolkit's own ranges."""

TARGET = Target(
    name="rknn",
    summary="Rockchip boards (RK3588, RK3576, RK3568, RK3566, RK3562) with their NPU",
    engine="rknn",
    precisions=("fp16", "int8"),
    requires=(),
    distributions=("rknn-toolkit2",),
    options=RknnOptions,
    recipes=(PLAN, TOOLKIT),
    refuses={
        **dict.fromkeys(("DFT", "STFT"), "RKNN has no Fourier transforms"),
        "If": _DYNAMIC,
        "Loop": _DYNAMIC,
        "NonMaxSuppression": _DYNAMIC,
        "NonZero": _DYNAMIC,
    },
    hosts=("linux-x86_64",),
    toolchains=(TOOLCHAIN,),
    builder="rknn",
    parts=(WHOLE, "vision", "qformer"),
    part_precisions=("fp16",),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.rknn`` and, for the simulator, what it was compiled from.

    Raises:
        ConversionError: the toolkit refuses the network, or int8 has no images.
    """
    options = job.chosen(RknnOptions)
    try:
        parts = _float(job) if job.precision == "fp16" else _int8(job, options, report)
        report("compiling for the NPU", 0.7)
        assembled = toolkit.assemble(job.out, parts, options.platform)
        toolkit.save(assembled, job.out / toolkit.FILE)
    except EngineError as error:
        raise ConversionError(str(error)) from error
    told = toolkit.told(assembled, options.platform)
    return msgspec.structs.replace(job.graph(toolkit.FILE, *parts), report=told)


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.rknn`` in float16, for one image and of a retrieval model for texts of a fixed length.

    Raises:
        ConversionError: the toolkit refuses the part.
    """
    options = job.chosen(RknnOptions)
    try:
        return write(job, options.platform, options.tokens, TOOLCHAIN.name, report)
    except EngineError as error:
        raise ConversionError(f"{job.part.name}: {error}") from error


def _float(job: Job) -> tuple[str, ...]:
    (part,) = toolkit.FLOAT_PARTS
    shutil.copyfile(job.onnx, job.out / part)
    return toolkit.FLOAT_PARTS


def _int8(job: Job, options: RknnOptions, report: Report) -> tuple[str, ...]:
    """Calibrate, choose what stays in float16, and leave the toolkit's three files in the bundle."""
    import onnx

    from edgekit.converters.rknn import int8 as rknn_int8

    folder = (job.work / job.precision).absolute()
    folder.mkdir(exist_ok=True)
    report("preparing calibration images", 0.0)
    dataset = rknn_int8.write_dataset(job.calibration(), folder)
    report("calibrating", 0.2)
    with toolkit.quietly() as log:
        converter = toolkit.import_rknn()(verbose=False)
        toolkit.configure(converter, log, options.platform, quantized_algorithm=options.algorithm)
        toolkit.step("reading the ONNX file", log, converter.load_onnx, model=str(Path(job.onnx).absolute()))
        toolkit.step("calibrating", log, converter.hybrid_quantization_step1, dataset=str(dataset))
        for ending, part in zip((".model", ".data", ".quantization.cfg"), toolkit.INT8_PARTS, strict=True):
            shutil.copyfile(Path(f"{job.onnx.stem}{ending}"), job.out / part)  # written where the toolkit stands
    shutil.rmtree(folder)
    model = onnx.load(job.onnx, load_external_data=False)
    ranges = job.out / toolkit.INT8_PARTS[2]
    if job.recipe == PLAN:
        rknn_int8.set_ranges(ranges, job.planned().tensors)
    rknn_int8.keep_float(ranges, model, job.planned().float_layers)
    return toolkit.INT8_PARTS
