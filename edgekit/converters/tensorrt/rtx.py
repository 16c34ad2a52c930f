"""Run in toolchain ``tensorrt-rtx``: builds a file's engine as a device would, for a GPU that need not be there.

TensorRT-RTX has TensorRT's parser, builder and Python API under another name; nothing that it builds runs here.
"""

from __future__ import annotations

import importlib
import sys
import time
import types
from pathlib import Path
from typing import Any

from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Record
from edgekit.runtimes.engines.tensorrt.build import BuildSettings, build
from edgekit.worker.call import Report


class TryJob(Record, frozen=True, kw_only=True):
    """The file, how to build it, and the compute capability of the GPU to build for (89 for 8.9)."""

    file: str
    settings: BuildSettings
    sm: int


class Tried(Record, frozen=True, kw_only=True):
    """TensorRT-RTX's version, the engine's layers and bytes, and the seconds that building it took."""

    version: str
    layers: int
    bytes: int
    seconds: float


def try_build(job: TryJob, report: Report) -> Tried:
    """Parse and build.

    Raises:
        ConversionError: it cannot.
    """
    importlib.import_module("tensorrt_rtx_libs")  # loads what the bindings link to
    rtx = importlib.import_module("tensorrt_rtx_bindings")
    sys.modules["tensorrt"] = _for_absent_gpu(rtx, job.sm)
    start = time.monotonic()
    try:
        built = build(Path(job.file), job.settings, "gpu", b"")
    except EngineError as error:
        raise ConversionError(str(error).replace("\n", " ")) from error
    seconds = round(time.monotonic() - start, 1)
    return Tried(version=rtx.__version__, layers=built.operators["gpu"], bytes=len(built.plan), seconds=seconds)


def _for_absent_gpu(rtx: Any, sm: int) -> types.ModuleType:
    """The module with a builder that is told which GPU to build for instead of asking the one that is there."""

    class Builder(rtx.Builder):  # type: ignore[misc]
        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{sm}"), 0)
            return config

    module = types.ModuleType("tensorrt")
    module.__dict__.update(vars(rtx), Builder=Builder)
    return module
