"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from edgekit.calibration.explicit import quantise
from edgekit.converters import CONVOLUTIONS, PLAN, CacheOptions, Job, Report, Target, WrittenJob
from edgekit.converters._cache import cache_in_int8
from edgekit.converters._foreign import tool_error
from edgekit.converters._nncf import NNCF, import_nncf, quantisation
from edgekit.converters._onnx_precision import save
from edgekit.converters.openvino.stateful import make_stateful
from edgekit.errors import ConversionError
from edgekit.graph.blip2.cache import GrownCache, is_cache
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.openvino.session import CACHE_PRECISION, import_openvino
from edgekit.sources import WHOLE

TARGET = Target(
    name="openvino",
    summary="Intel and ARM CPUs, Intel GPUs and NPUs",
    engine="openvino",
    precisions=("fp32", "fp16", "int8"),
    requires=("openvino", "nncf", "onnx"),
    distributions=("openvino", "nncf", "torch"),
    recipes=(PLAN, NNCF),
    several=True,
    refuses={"Det": "OpenVINO's ONNX reader has no determinants"},
    parts=(WHOLE, *PART_NAMES),
    grid="lowest",
    options=CacheOptions,
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.xml`` and ``model.bin`` in the job's precision."""
    import onnx

    openvino = import_openvino()
    source = job.onnx
    if job.precision == "int8" and job.recipe == PLAN:
        source = job.work / "planned.onnx"
        save(quantise(onnx.load(job.onnx), job.planned(), symmetric=False), source, job.precision)
    if job.open_batch or job.open_size:
        job.open(source, job.work / "opened.onnx")
        source = job.work / "opened.onnx"
    try:
        model = openvino.Core().read_model(source)
    except RuntimeError as error:
        raise tool_error("OpenVINO cannot read the graph", error) from error
    if job.precision == "int8" and job.recipe == NNCF:
        nncf = import_nncf()
        report("quantising", 0.1)
        model = nncf.quantize(model, nncf.Dataset(job.calibration()), **quantisation(job))
    openvino.save_model(model, job.out / "model.xml", compress_to_fp16=job.precision == "fp16")
    graph = job.graph("model.xml", "model.bin")
    if job.precision == "int8":
        graph.report[CONVOLUTIONS] = integer_convolutions(job.out / "model.xml", (1, 3, *job.contract.image.size))
    return graph


def integer_convolutions(path: Path, shape: tuple[int, ...]) -> str:
    """How many of a file's convolutions this machine's CPU computes in integers: ``67 of 76``.

    Args:
        path: the ``.xml`` file, of one input.
        shape: of the input.
    """
    openvino = import_openvino()
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kernels = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "layerType" in info and str(info["layerType"].value) in ("Convolution", "Deconvolution"):
            kernels.append(str(info["primitiveType"].value))
    return f"{sum(kernel.endswith('_I8') for kernel in kernels)} of {len(kernels)}"


def _check_size(path: Path, given: int) -> None:
    """Refuse weights that became wider on the way: OpenVINO folds what it does not know into floats.

    Raises:
        ConversionError: the file is larger than what it was made from.
    """
    size = path.stat().st_size
    if size > 1.1 * given:
        raise ConversionError(
            f"{path.name} has {size / 1e6:.1f} MB, the weights in their precision {given / 1e6:.1f} MB: this OpenVINO "
            "does not keep them as small; try another version of it"
        )


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.xml`` and ``NAME.bin``; a decoder's cache becomes a state."""
    openvino = import_openvino()
    name, cache = job.part.name, partial(GrownCache, mask=job.part.source.family == "opt")
    written = job.part.write(job.work, cache)
    report("reading the graph", 0.5)
    try:
        model = openvino.Core().read_model(job.work / written.files[0])
    except RuntimeError as error:
        raise tool_error(f"OpenVINO cannot read the graph {name}", error) from error
    kept = [tensor for tensor in (*written.inputs, *written.outputs) if not is_cache(tensor.name)]
    small = cache_in_int8(job, TARGET.name)
    if len(kept) < len(written.inputs) + len(written.outputs):
        make_stateful(model, job.part.layers)
        if small:
            model.set_rt_info("u8", list(CACHE_PRECISION))
    openvino.save_model(model, job.out / f"{name}.xml", compress_to_fp16=False)
    _check_size(job.out / f"{name}.bin", sum((job.work / name).stat().st_size for name in written.files))
    return msgspec.structs.replace(
        written,
        files=(f"{name}.xml", f"{name}.bin"),
        inputs=tuple(tensor for tensor in written.inputs if tensor in kept),
        outputs=tuple(tensor for tensor in written.outputs if tensor in kept),
    )
