"""LiteRT (TFLite) files by litert-torch and the AI Edge Quantizer: float32, float16 weights, INT8 weights, static INT8.

All precisions keep float32 NCHW inputs and outputs: one way to run them all, and one plain copy on the way in (0.12 ms
at 640x640, where interleaving to NHWC takes 0.36 ms). The target that needs everything in integers is ethosu.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from edgekit.converters import PLAN, Job, Report, Target, WrittenJob
from edgekit.converters._foreign import tool_error
from edgekit.converters.litert.files import FILE, finished, float_file
from edgekit.converters.litert.layers import LiteRTLayers
from edgekit.converters.litert.network import LiteRTNetwork, LiteRTOperator
from edgekit.converters.litert.ranges import LITERT, CalibrationRun, chosen_ranges, float_operators, recognise, scopes
from edgekit.converters.litert.signatures import with_signatures
from edgekit.converters.litert.writer import LiteRTWriter
from edgekit.errors import ConversionError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.sources import WHOLE

W8A32 = "w8a32"
"""INT8 weights that are computed with in float: the smallest files that LiteRT's GPU delegate takes."""

TARGET = Target(
    name="litert",
    summary="Android, Raspberry Pi and other ARM boards with LiteRT (TFLite)",
    engine="litert",
    precisions=("fp32", "fp16", "int8", W8A32),
    calibrated=("int8", W8A32),
    one_recipe=(W8A32,),
    requires=("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
    distributions=("litert-torch", "litert-converter", "ai-edge-litert", "ai-edge-quantizer", "torch"),
    recipes=(PLAN, LITERT),
    parts=(WHOLE, *PART_NAMES),
    grid="symmetric",
    several=True,
    refuses={
        **dict.fromkeys(("DFT", "STFT"), "litert-torch writes no Fourier transforms"),
        **dict.fromkeys(("Col2Im", "Det"), "litert-torch does not write it, or LiteRT cannot open it"),
    },
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.tflite`` in the job's precision; the float file is made once for all precisions of a work folder.

    Raises:
        ConversionError: the toolchain refuses the network, int8 has no images, or the file is not what was asked for.
    """
    try:
        source = float_file(job, report)
        if job.precision == "fp32":
            shutil.copyfile(source, job.out / FILE)
        elif job.precision == "fp16":
            report("writing float16 weights", 0.9)
            (job.out / FILE).write_bytes(_half(source))
        elif job.precision == W8A32:
            (job.out / FILE).write_bytes(_small_weights(source, job, report))
        else:
            (job.out / FILE).write_bytes(_int8(source, job, report))
        graph = _entry(job)
        if job.precision in TARGET.calibrated:
            graph = msgspec.structs.replace(graph, report=LiteRTNetwork(job.out / FILE).arithmetic())
        return _opened(graph, job) if job.open_batch or job.open_size else graph
    except ConversionError:
        raise
    except Exception as error:  # the toolchain raises whatever its layers raise: MLIR, torch, flatbuffers
        raise tool_error(f"LiteRT {job.precision}", error, job.onnx) from error


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.tflite``, a tensor at a time. It takes one row of any length; a decoder's cache is the host's."""
    part = job.part
    with LiteRTWriter(job.out, part.name) as writer:
        part.describe(LiteRTLayers(writer, part.source.checkpoint, part.forms.layers))
        return writer.save()


def _half(source: Path) -> bytes:
    """Weights in float16; LiteRT computes in float32, or in float16 where the device can."""
    from ai_edge_quantizer import qtyping, quantizer

    half = quantizer.Quantizer(str(source))
    half.add_weight_only_config(
        ".*", qtyping.TFLOperationName.ALL_SUPPORTED, 16, algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING
    )
    return finished(half, None)


def _small_weights(source: Path, job: Job, report: Report) -> bytes:
    """Weights in INT8, on the plan's own grid: symmetric, a step for each output channel. Layers that the plan keeps in
    float keep float weights."""
    from ai_edge_quantizer import qtyping, quantizer

    network = LiteRTNetwork(source)
    given = CalibrationRun(job, source, network, lambda done: None)
    report("recognising tensors", 0.6)
    kept_float = float_operators(given, recognise(given))
    small = quantizer.Quantizer(str(source))
    small.add_weight_only_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8)
    _keep_float(small, network, kept_float)
    report("writing INT8 weights", 0.9)
    return finished(small, None)


def _int8(source: Path, job: Job, report: Report) -> bytes:
    """Static INT8 with float fallback for the layers that the plan keeps in float."""
    from ai_edge_quantizer import qtyping, quantizer

    network, count = LiteRTNetwork(source), len(job.calibration())
    given = CalibrationRun(
        job, source, network, lambda done: report(f"calibrating, image {done} of {count}", 0.6 + 0.3 * done / count)
    )
    report("recognising tensors", 0.6)
    names = recognise(given)
    kept_float = float_operators(given, names)
    kinds = qtyping.TFLOperationName
    static = quantizer.Quantizer(str(source))
    static.add_static_config(".*", kinds.ALL_SUPPORTED, 8, 8)
    for kind in (kinds.INPUT, kinds.OUTPUT):
        static.update_quantization_recipe(".*", kind, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    _keep_float(static, network, kept_float)
    ranges = chosen_ranges(given, names, static)
    report("quantising", 0.95)
    return finished(static, ranges)


def _keep_float(quantiser: Any, network: LiteRTNetwork, operators: list[LiteRTOperator]) -> None:
    """Tell a quantiser which operators to leave alone."""
    from ai_edge_quantizer import qtyping, quantizer

    if operators:
        quantiser.update_quantization_recipe(
            scopes(network, operators),
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
        )


def _opened(graph: Graph, job: Job) -> Graph:
    """Give the file a signature for each further batch and size, and the manifest entry its open dimensions."""
    path, before = job.out / FILE, (job.out / FILE).stat().st_size
    path.write_bytes(with_signatures(path.read_bytes(), job.inputs[1:]))
    opened = job.graph(FILE)
    tensors = [
        tuple(msgspec.structs.replace(named, shape=shaped.shape) for named, shaped in zip(own, wanted, strict=True))
        for own, wanted in ((graph.inputs, opened.inputs), (graph.outputs, opened.outputs))
    ]
    added = f"{len(job.inputs) - 1}, {(path.stat().st_size - before) / 1e3:.0f} kB of {before / 1e6:.2f} MB"
    return msgspec.structs.replace(
        graph, inputs=tensors[0], outputs=tensors[1], report={**graph.report, "further signatures": added}
    )


def _entry(job: Job) -> Graph:
    """The manifest entry, with the tensors by their names in the signature.

    The file's own order and tensor names are free; the signature's ``output_0``, ``output_1``, ... count the outputs
    of the program, which has them in the order of the contract.

    Raises:
        ConversionError: an output has another shape than in the program.
    """
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(job.out / FILE)).get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    found = []
    for number, output in enumerate(job.contract.outputs):
        name = f"output_{number}"
        shape = tuple(int(size) for size in outputs[name]["shape"]) if name in outputs else None
        if shape != tuple(job.shapes[output.name]):
            raise ConversionError(
                f"LiteRT: output {output.name!r} should have shape {tuple(job.shapes[output.name])}, "
                f"the file has {shape} as {name}"
            )
        found.append(Tensor(name=name, shape=shape))
    (entry,) = inputs
    return Graph(
        files=(FILE,),
        inputs=(Tensor(name=entry, shape=tuple(int(size) for size in inputs[entry]["shape"])),),
        outputs=tuple(found),
    )
