"""ONNX for onnxruntime-web: the files of the onnx target, validated in WebAssembly."""

from __future__ import annotations

from edgekit.converters import Job, Report, Target, WrittenJob
from edgekit.converters._onnx_precision import RECIPES, write
from edgekit.graph.blip2.cache import HostCache
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.sources import WHOLE
from edgekit.worker.toolchains import Toolchain

TARGET = Target(
    name="web",
    summary="browsers (WebAssembly, WebGPU), with onnxruntime-web",
    engine="web",
    precisions=("fp32", "fp16", "int8"),
    recipes=RECIPES,
    requires=("onnx", "onnxruntime", "nncf", "onnx_ir"),
    distributions=("onnx", "onnxruntime", "onnxslim", "onnxscript", "nncf", "torch"),
    parts=(WHOLE, *PART_NAMES),
    grid="lowest",
    toolchains=(
        Toolchain(
            name="web",
            summary="onnxruntime-web, run by node as a browser runs it",
            megabytes=150,
            npm=("onnxruntime-web@1.30.0",),
            programs=("node", "npm"),
            licence="MIT",
        ),
    ),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.onnx`` in the job's precision; the page needs it and ``manifest.json``."""
    return write(job, report, engine=TARGET.engine)


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.onnx``, whose cache lies in the page's memory: WebAssembly would give whole buffers anew."""
    return job.part.write(job.out, HostCache)
