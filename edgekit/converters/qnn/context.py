"""Compiles an ONNX file to a context for one SoC; runs in the toolchain ``qnn``."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edgekit.runtimes.bundle.manifest import Record
from edgekit.runtimes.engines.qnn.provider import assigned, session
from edgekit.worker.call import Report


class CompileJob(Record, frozen=True, kw_only=True):
    """The ONNX file, where its context goes, and the SoC: its model and the version of its NPU."""

    source: str
    destination: str
    soc_model: int
    htp_arch: int


class Compiled(Record, frozen=True, kw_only=True):
    """Operators per provider, or the provider's own error."""

    operators: dict[str, int] = msgspec.field(default_factory=dict)
    error: str = ""


def compile_context(job: CompileJob, report: Report) -> Compiled:
    """Compile, and return the operators per provider or the error."""
    from edgekit.runtimes.engines.onnxruntime.session import failures

    source, destination = Path(job.source).absolute(), Path(job.destination).absolute()
    options = {"soc_model": str(job.soc_model), "htp_arch": str(job.htp_arch)}
    os.chdir(source.parent)  # ONNX Runtime names the context after a hash of the path that it was given
    try:
        return Compiled(operators=assigned(session(Path(source.name), options, destination)))
    except failures() as error:
        return Compiled(error=str(error))
