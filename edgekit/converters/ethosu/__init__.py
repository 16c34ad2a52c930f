"""Arm Ethos-U microNPUs: an all-integer LiteRT file, compiled by Arm's Vela.

Activations have 8 bits, and 16 around the layers that 8 bits do not do for (`PlannedGraph.wide_layers`): the NPU has
convolutions, sigmoids, products and sums of both widths, and a QUANTIZE between them.

The bundle holds both: ``model_vela.tflite`` runs on the NPU, ``model.tflite`` is the same graph before the compiler and
is what the emulator computes. A Linux board (i.MX 93: ethos-u65-256) opens the first with the Ethos-U delegate; on a
microcontroller (U55, U85 beside a Cortex-M) it goes to TFLite Micro with its Ethos-U kernel, as a C array.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edgekit.calibration.plan import TensorRange
from edgekit.converters import PLAN, Job, Report, Target
from edgekit.converters._foreign import tool_error
from edgekit.converters.ethosu.vela import COMPILED, compile_with_vela
from edgekit.converters.litert.files import FILE, finished, float_file
from edgekit.converters.litert.network import LiteRTNetwork, LiteRTOperator
from edgekit.converters.litert.ranges import LITERT, CalibrationRun, Ranges, chosen_ranges, recognise, scopes
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import Graph, ImageRule, Record, Tensor


class EthosuOptions(Record, frozen=True, kw_only=True):
    """The NPU and memory that Vela compiles for.

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
    wide=True,
    megabytes=16,
)


_WIDE = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "LOGISTIC", "TANH", "MUL", "ADD", "PAD"})
"""Operators that Vela takes with activations of 16 bits. Others around a wide layer keep 8."""


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.tflite`` in full-integer INT8 and compile it to ``model_vela.tflite``.

    Raises:
        ConversionError: the toolchain refuses the network, there are no images, or Vela fails.
    """
    try:
        source = float_file(job, report, channels_last=True)
        quantised, wide = _integers(source, job, report)
        (job.out / FILE).write_bytes(quantised)
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
    if wide:
        facts["arithmetic"] = f"int8, activations of 16 bits in {wide} operators"
    if equalised := job.planned().equalized:
        facts["equalised"] = ", ".join(f"{site.layer} ({site.before:.0f}x)" for site in equalised)
    return msgspec.structs.replace(graph, report=facts)


def _integers(source: Path, job: Job, report: Report) -> tuple[bytes, int]:
    """Static INT8 of every operator, with int8 inputs and outputs; and how many have activations of 16 bits."""
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
    names = recognise(given)
    wide = _wide_operators(network, names, job.planned().wide_layers)
    static = quantizer.Quantizer(str(source))
    static.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    if wide:
        static.add_static_config(scopes(network, wide), qtyping.TFLOperationName.ALL_SUPPORTED, 16, 8)
    ranges = chosen_ranges(given, names, static)
    _hold_everything(ranges, network, names, wide, job.planned().tensors)
    entry = network.name(network.activations[0])
    ranges[entry] = _every_pixel(ranges[entry], job.contract.image)
    return finished(static, ranges), len(wide)


def _wide_operators(network: LiteRTNetwork, names: dict[int, str], layers: Collection[str]) -> list[LiteRTOperator]:
    """The operators with activations of 16 bits: layers and what makes their inputs, back to the layers before.

    The file's outputs stay int8, so what gives them does too.
    """
    weighted = [op for op in network.operators if network.weights(op) is not None]
    chosen = [op for op in weighted if names.get(op.outputs[0]) in layers and not network.gives_output(op)]
    return [op for op in network.float_operators((one, True) for one in chosen) if op.kind in _WIDE]


def _hold_everything(
    ranges: Ranges,
    network: LiteRTNetwork,
    names: dict[int, str],
    wide: list[LiteRTOperator],
    planned: Mapping[str, TensorRange],
) -> None:
    """Widen the ranges of tensors that have 16 bits for all that read them to all that was observed, in place."""
    for index in (index for op in wide for index in op.outputs):
        if set(network.readers(index)) <= set(wide) and names.get(index) in planned:
            seen, ends = planned[names[index]], ranges[network.name(index)]
            ends["min"], ends["max"] = np.full_like(ends["min"], seen.lowest), np.full_like(ends["max"], seen.highest)


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
