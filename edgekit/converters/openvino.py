"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from edgekit.converters import Job, Report, Target
from edgekit.converters.onnx import graph_entry
from edgekit.errors import ConversionError
from edgekit.manifest import Graph
from edgekit.runtimes.openvino import import_openvino

TARGET = Target(
    name="openvino",
    summary="Intel and ARM CPUs, Intel GPUs and NPUs",
    engine="openvino",
    precisions=("fp32", "fp16", "int8"),
    requires=("openvino", "nncf"),
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
        samples = job.calibration()
        report("quantising", 0.1)
        # MIXED: asymmetric activations behind SiLU; the default preset left .453 where this leaves .500.
        preset = nncf.QuantizationPreset.MIXED
        model = nncf.quantize(model, nncf.Dataset(samples), preset=preset, subset_size=len(samples))
    openvino.save_model(model, job.out / "model.xml", compress_to_fp16=job.precision == "fp16")
    return graph_entry(job, "model.xml", "model.bin")


def import_nncf() -> Any:
    """The nncf package, silent and kept from phoning home."""
    import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf
