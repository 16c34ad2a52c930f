"""ONNX for ONNX Runtime: the exchange file itself, its fp16 form, and QDQ INT8 by one of three recipes."""

from __future__ import annotations

from functools import partial

from edgekit.converters import CacheOptions, Job, Report, Target, WrittenJob
from edgekit.converters._cache import cache_in_int8
from edgekit.converters._onnx_precision import RECIPES, write
from edgekit.graph.blip2.cache import SharedCache
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.sources import WHOLE

TARGET = Target(
    name="onnx",
    summary="servers, PCs and boards with ONNX Runtime",
    engine="onnxruntime",
    precisions=("fp32", "fp16", "int8"),
    recipes=RECIPES,
    several=True,
    parts=(WHOLE, *PART_NAMES),
    grid="lowest",
    options=CacheOptions,
    static_cache=True,
    requires=("onnx", "onnxruntime", "nncf", "onnx_ir"),
    distributions=("onnx", "onnxruntime", "onnxslim", "onnxscript", "nncf", "torch"),
)


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.onnx`` in the job's precision."""
    return write(job, report, engine=TARGET.engine)


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.onnx``; a decoder appends to its cache in place."""
    cache_in_int8(job, TARGET.name)
    return job.part.write(job.out, partial(SharedCache, scales=job.part.scales))
