"""TorchScript: the traced program, as libtorch runs it."""

from __future__ import annotations

import warnings
from typing import Any

from edgekit.converters import Job, Report, Target
from edgekit.runtimes.bundle.manifest import Graph

TARGET = Target(
    name="torchscript",
    summary="C++ programs with libtorch",
    engine="torchscript",
    precisions=("fp32",),
    requires=("torch",),
    distributions=("torch",),
)

FILE = "model.torchscript"


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.torchscript``."""
    import torch

    report("tracing", 0.2)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = torch.export.load(job.program).module()
        trace: Any = torch.jit.trace
        trace(module, torch.zeros(1, 3, *job.contract.image.size), check_trace=False).save(str(job.out / FILE))
    return job.graph(FILE)
