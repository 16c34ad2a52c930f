"""A file that is promised and not there."""

from __future__ import annotations

from dataclasses import replace

from edgekit.converters import Job, Report, onnx
from edgekit.converters._onnx_precision import FILE
from edgekit.runtimes.bundle.manifest import Graph

TARGET = replace(onnx.TARGET, name="unwritten")


def convert(job: Job, report: Report) -> Graph:
    """A file that is promised and not there."""
    graph = onnx.convert(job, report)
    (job.out / FILE).unlink()
    return graph
