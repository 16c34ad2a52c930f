"""Arm Ethos-U microNPUs: a LiteRT file with nothing but integers in it, compiled by Arm's Vela.

The bundle holds both: ``model_vela.tflite`` runs on the NPU, ``model.tflite`` is the same graph before the compiler and
is what the emulator computes. A Linux board (i.MX 93: ethos-u65-256) opens the first with the Ethos-U delegate; on a
microcontroller (U55, U85 beside a Cortex-M) it goes to TFLite Micro with its Ethos-U kernel, as a C array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edgekit.converters import PLAN, Job, Report, Target
from edgekit.converters._foreign import tool_error
from edgekit.converters.ethosu.vela import COMPILED, compile_with_vela
from edgekit.converters.litert.files import FILE, finished, float_file
from edgekit.converters.litert.network import LiteRTNetwork
from edgekit.converters.litert.ranges import LITERT, CalibrationRun, chosen_ranges, recognise
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import Graph, ImageRule, Record, Tensor


class EthosuOptions(Record, frozen=True, kw_only=True):
    """What Vela compiles for.

    ``system`` and ``memory`` are sections of Vela's own ``Arm/vela.ini`` (clocks and bandwidths; where weights and
    feature maps lie), to be given together; left empty, Vela takes its defaults for the accelerator. ``optimise`` is
    Vela's strategy.
    """

    accelerator: Literal[
        "ethos-u55-32",
        "ethos-u55-64",
        "ethos-u55-128",
        "ethos-u55-256",
        "ethos-u65-256",
        "ethos-u65-512",
        "ethos-u85-128",
        "ethos-u85-256",
        "ethos-u85-512",
        "ethos-u85-1024",
        "ethos-u85-2048",
    ] = "ethos-u65-256"
    system: str = ""
    memory: Literal[
        "",
        "Sram_Only",
        "Shared_Sram",
        "Dedicated_Sram",
        "Dedicated_Sram_256KB",
        "Dedicated_Sram_384KB",
        "Dedicated_Sram_512KB",
    ] = ""
    optimise: Literal["Performance", "Size"] = "Performance"

    def __post_init__(self) -> None:
        if bool(self.system) != bool(self.memory):  # Vela knows no default for one where the other is given
            raise ValueError("give both of system and memory, or neither")


TARGET = Target(
    name="ethosu",
    summary="boards and microcontrollers with an Arm Ethos-U NPU",
    engine="ethosu",
    precisions=("int8",),
    requires=("litert_torch", "ai_edge_litert", "ai_edge_quantizer", "ethosu"),
    distributions=("ethos-u-vela", "litert-torch", "litert-converter", "ai-edge-quantizer", "torch"),
    options=EthosuOptions,
    refuses=dict.fromkeys(("DFT", "STFT"), "the NPU has no Fourier transforms, and litert-torch writes none"),
    recipes=(PLAN, LITERT),
    integer_only=True,
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.tflite`` in full-integer INT8 and compile it to ``model_vela.tflite``.

    Raises:
        ConversionError: the toolchain refuses the network, there are no images, or Vela fails.
    """
    try:
        source = float_file(job, report, channels_last=True)
        (job.out / FILE).write_bytes(_integers(source, job, report))
    except ConversionError:
        raise
    except Exception as error:  # the toolchain raises whatever its layers raise: MLIR, torch, flatbuffers
        raise tool_error(f"Ethos-U {job.precision}", error) from error
    graph = _entry(job)
    report("compiling with Vela", 0.9)
    options = job.chosen(EthosuOptions)
    facts = compile_with_vela(
        job.out / FILE,
        job.out,
        job.work,
        accelerator=options.accelerator,
        system=options.system,
        memory=options.memory,
        optimise=options.optimise,
    )
    if equalised := job.planned().equalized:
        facts["equalised"] = ", ".join(f"{site.layer} ({site.before:.0f}x)" for site in equalised)
    return msgspec.structs.replace(graph, report=facts)


def _integers(source: Path, job: Job, report: Report) -> bytes:
    """Static INT8 of every operator, with int8 inputs and outputs."""
    from ai_edge_quantizer import qtyping, quantizer

    network, count = LiteRTNetwork(source), len(job.calibration())
    given = CalibrationRun(
        job,
        source,
        network,
        lambda done: report(f"calibrating, image {done} of {count}", 0.6 + 0.2 * done / count),
        channels_last=True,
    )
    report("recognising tensors", 0.6)
    names = recognise(given) if job.recipe == PLAN else {}
    static = quantizer.Quantizer(str(source))
    static.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    ranges = chosen_ranges(given, names, static)
    entry = network.name(network.activations[0])
    ranges[entry] = _every_pixel(ranges[entry], job.contract.image)
    return finished(static, ranges)


def _every_pixel(ends: dict[str, Any], rule: ImageRule) -> dict[str, Any]:
    """The input's range, which has to hold every pixel exactly."""
    values = (np.array([[0.0], [255.0]]) * rule.scale - np.array(rule.mean)) / np.array(rule.std)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return {"min": np.full_like(ends["min"], low), "max": np.full_like(ends["max"], high)}


def _entry(job: Job) -> Graph:
    """The manifest entry: the compiled file first, tensors by their names in the signature, which Vela keeps.

    Raises:
        ConversionError: an input or output is not int8, or has another shape than in the program.
    """
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(job.out / FILE)).get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    (entry,) = inputs
    tensors = []
    wanted = {entry: (1, 3, *job.contract.image.size)} | {
        f"output_{number}": tuple(job.shapes[output.name]) for number, output in enumerate(job.contract.outputs)
    }
    for name, shape in wanted.items():
        channels_last = (shape[0], *shape[2:], shape[1]) if len(shape) > 2 else shape
        detail = inputs.get(name) or outputs.get(name)
        found = tuple(int(size) for size in detail["shape"]) if detail else None
        if detail is None or found != channels_last or np.dtype(detail["dtype"]) != np.int8:
            kind = np.dtype(detail["dtype"]) if detail else "nothing"
            raise ConversionError(f"Ethos-U: {name} should be int8 {channels_last}, the file has {kind} {found}")
        layout: Literal["nchw", "nhwc"] = "nhwc" if len(shape) > 2 else "nchw"
        scale, zero_point = detail["quantization"]
        tensors.append(
            Tensor(
                name=name,
                shape=channels_last,
                dtype="int8",
                layout=layout,
                scale=float(scale),
                zero_point=int(zero_point),
            )
        )
    return Graph(files=(COMPILED, FILE), inputs=(tensors[0],), outputs=tuple(tensors[1:]))
