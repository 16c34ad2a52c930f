"""OpenVINO IR for Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

from edgekit.calibration.islands import float_islands
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
    return graph_entry(job, "model.xml", "model.bin")


def quantisation(job: Job) -> dict[str, Any]:
    """Arguments of ``nncf.quantize`` for a graph that came from the exchange ONNX file.

    MIXED: asymmetric activations behind SiLU; on a depthwise + SiLU detector (float mAP .504) the default preset left
    .453 where this leaves .500.
    """
    import onnx

    nncf = import_nncf()
    islands = float_islands(onnx.load(job.onnx, load_external_data=False))
    # A pattern, because OpenVINO splits a convolution with a bias and renames it NAME/WithoutBiases.
    scope = nncf.IgnoredScope(patterns=[f"^{re.escape(name)}(/.*)?$" for name in islands])
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(job.calibration()),
        "ignored_scope": scope,
    }


def import_nncf() -> Any:
    """The nncf package, silent and kept from phoning home."""
    import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf
