"""ONNX for ONNX Runtime: the exchange file itself, its fp16 form, and QDQ INT8 by NNCF."""

from __future__ import annotations

from edgekit.converters import Job, PartJob, Report, Target
from edgekit.converters._onnx_precision import RECIPES, write
from edgekit.graph.blip2.cache import SharedCache
from edgekit.runtimes.bundle.manifest import Graph

TARGET = Target(
    name="onnx",
    summary="servers, PCs and boards with ONNX Runtime",
    engine="onnxruntime",
    precisions=("fp32", "fp16", "int8"),
    recipes=RECIPES,
    requires=("onnx", "onnxruntime", "nncf", "onnx_ir"),
    distributions=("onnx", "onnxruntime", "onnxslim", "onnxscript", "nncf", "torch"),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.onnx`` in the job's precision."""
    return write(job, report)


def convert_part(job: PartJob, report: Report) -> Graph:
    """Write one graph of a vision-language model; a decoder appends to its cache in place."""
    return job.source.write(job.graph, job.out, job.forms, SharedCache)
