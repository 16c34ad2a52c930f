"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

from edgekit.converters import Job, Report, Target
from edgekit.converters._nncf import import_nncf, quantisation
from edgekit.errors import ConversionError
from edgekit.manifest import Graph
from edgekit.runtimes.openvino import import_openvino

TARGET = Target(
    name="openvino",
    summary="Intel and ARM CPUs, Intel GPUs and NPUs",
    engine="openvino",
    precisions=("fp32", "fp16", "int8"),
    requires=("openvino", "nncf", "onnx"),
    distributions=("openvino", "nncf", "torch"),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.xml`` and ``model.bin`` in the job's precision."""
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(job.onnx)
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO cannot read the graph: {error}") from error
    if job.precision == "int8":
        nncf = import_nncf()
        report("quantising", 0.1)
        model = nncf.quantize(model, nncf.Dataset(job.calibration()), **quantisation(job))
    openvino.save_model(model, job.out / "model.xml", compress_to_fp16=job.precision == "fp16")
    return job.graph("model.xml", "model.bin")
