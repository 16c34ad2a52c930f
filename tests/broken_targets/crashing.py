"""A converter that takes its process with it."""

from __future__ import annotations

import os
from dataclasses import replace

from edgekit.converters import Job, Report, onnx
from edgekit.runtimes.bundle.manifest import Graph

TARGET = replace(onnx.TARGET, name="crashing")


def convert(job: Job, report: Report) -> Graph:
    """A converter that takes its process with it."""
    onnx.convert(job, report)
    os.abort()
