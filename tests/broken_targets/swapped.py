"""Two classes in the wrong order."""

from __future__ import annotations

from dataclasses import replace

from broken_targets._weights import change
from edgekit.converters import Job, Report, onnx
from edgekit.runtimes.bundle.manifest import Graph

TARGET = replace(onnx.TARGET, name="swapped")


def convert(job: Job, report: Report) -> Graph:
    """Two classes in the wrong order."""
    graph = onnx.convert(job, report)
    change(job, "classes", 1, lambda weight: weight[::-1].copy())
    return graph
