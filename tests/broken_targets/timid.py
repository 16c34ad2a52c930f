"""Scores that are a little too low."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from broken_targets._weights import change
from edgekit.converters import Job, Report, onnx
from edgekit.runtimes.bundle.manifest import Graph

TARGET = replace(onnx.TARGET, name="timid")


def convert(job: Job, report: Report) -> Graph:
    """Scores that are a little too low."""
    graph = onnx.convert(job, report)
    change(job, "classes", 2, lambda bias: bias - np.float32(0.3))
    return graph
