"""The exchange ONNX file in a precision, for the targets whose engine opens ONNX."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.calibration.explicit import quantise
from edgekit.calibration.half import around
from edgekit.calibration.plan import Fp16Issue
from edgekit.converters import CONVOLUTIONS, PLAN, Job, Report
from edgekit.converters._nncf import NNCF, import_nncf, quantisation
from edgekit.converters._onnx_integers import FILE as FILE
from edgekit.converters._onnx_integers import integer_convolutions, quantised, speeds_of
from edgekit.errors import ConversionError
from edgekit.graph.exchange import INPUT
from edgekit.runtimes.bundle.manifest import Graph, Speed
from edgekit.timing import versioned

if TYPE_CHECKING:
    from onnx import ModelProto

INPUTS = "inputs"
"""The recipe that rounds what layers read and nothing else: mostly the most accurate, and slower than float32."""

RECIPES = (PLAN, INPUTS, NNCF)


def write(job: Job, report: Report, *, engine: str) -> Graph:
    """Write ``model.onnx`` in the job's precision, as it is, in fp16, or QDQ INT8; returns the manifest entry.

    INT8 is timed against float32 where ``engine``, which the file is for, or its emulator is here.
    """
    import onnx

    if job.precision == "fp32":
        shutil.copyfile(job.onnx, job.out / FILE)
    elif job.precision == "fp16":
        save(half(onnx.load(job.onnx), job.half), job.out / FILE, job.precision)
    else:
        save(_quantised(onnx.load(job.onnx), job, report, engine), job.out / FILE, job.precision)
    graph = msgspec.structs.replace(job.graph(FILE), report=in_float32(job))
    if job.precision == "int8":
        graph.report[CONVOLUTIONS] = integer_convolutions(job.out / FILE)
        report("timing INT8 beside float32", 0.8)
        graph = msgspec.structs.replace(graph, speed=_speed(job, engine))
    if job.open_batch or job.open_size:
        job.open(job.out / FILE, job.out / FILE)
    return graph


def _speed(job: Job, engine: str) -> Speed | msgspec.UnsetType:
    """How fast the INT8 file is here beside the float32 one."""
    found = speeds_of({FILE: (job.out / FILE).read_bytes()}, job, engine)
    return found[FILE].speed(versioned(engine)) if found else msgspec.UNSET


def in_float32(job: Job) -> dict[str, str | int | float]:
    """The manifest's entry on operators kept in float32; empty if float16 can compute all."""
    import onnx

    if not job.half:
        return {}
    kept = around(onnx.load(job.onnx, load_external_data=False), job.half)
    return {"float32 operators": ", ".join(kept)}


def save(model: ModelProto, path: Path, precision: str) -> None:
    """Check a model and write it.

    Raises:
        ConversionError: it is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the {precision} ONNX file is not valid: {error}") from error
    onnx.save_model(model, path)


def half(model: ModelProto, troubles: tuple[Fp16Issue, ...] = (), kept: Collection[str] = ()) -> ModelProto:
    """Weights and arithmetic in float16, but for the operators around ``troubles`` and the nodes named in ``kept``;
    inputs and outputs are float32."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=[*around(model, troubles), *kept])
    _without_repetitions(halved)
    _unhalve_on_the_way(halved)
    # The casts it adds at the inputs and outputs are not in topological order, which the checker refuses.
    in_order = TopologicalSortPass()(RemoveUnusedNodesPass()(onnx_ir.from_proto(halved)).model).model
    sorted_model: ModelProto = onnx_ir.to_proto(in_order)
    return sorted_model


def _without_repetitions(model: ModelProto) -> None:
    """Remove the duplicate casts that the converter writes if two blocked operators read one tensor."""
    written: set[str] = set()
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Cast" or node.output[0] not in written:
            nodes.append(node)
        written.update(node.output)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _unhalve_on_the_way(model: ModelProto) -> None:
    """Remove casts to float16 and back between operators in float32.

    The converter puts a cast on either side of each operator, so what float16 cannot hold would be lost there.
    """
    from onnx import TensorProto

    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    for node in casts.values():
        before = casts.get(node.input[0])
        if before is not None and (before.attribute[0].i, node.attribute[0].i) == (
            TensorProto.FLOAT16,
            TensorProto.FLOAT,
        ):
            node.input[0] = before.input[0]


def _quantised(model: ModelProto, job: Job, report: Report, engine: str) -> ModelProto:
    """QDQ by the job's recipe: the plan's ranges on every tensor or at the inputs of layers, or NNCF.

    ONNX Runtime's own tool quantises every tensor at its extremes; on a depthwise + SiLU detector that left .246 of
    .504 mAP where NNCF leaves .508: per-channel weights, asymmetric activations where they help, biases corrected.
    """
    if job.recipe == PLAN:
        return quantised(model, job, report, engine=engine)
    if job.recipe == INPUTS:
        return quantise(model, job.planned(), symmetric=False)
    nncf = import_nncf()
    report("quantising", 0.1)
    dataset = nncf.Dataset(job.calibration(), lambda tensor: {INPUT: tensor})
    made: ModelProto = nncf.quantize(model, dataset, **quantisation(job, per_tensor_activations=True))
    return made
