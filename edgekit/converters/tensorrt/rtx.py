"""Run in toolchain ``tensorrt-rtx``: builds a file's engine as a device would, for a GPU that need not be there.

TensorRT-RTX has TensorRT's parser, builder and Python API under another name; nothing that it builds runs here.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import EngineError
from edgekit.runtimes.engines.tensorrt.build import BuildSettings, build


def main() -> None:
    """``_tensorrt_rtx FILE SETTINGS SM``: prints version, layers, bytes, seconds as JSON, or why not."""
    file, settings, sm = sys.argv[1:]
    importlib.import_module("tensorrt_rtx_libs")  # loads what the bindings link to
    rtx = importlib.import_module("tensorrt_rtx_bindings")
    sys.modules["tensorrt"] = _for_absent_gpu(rtx, int(sm))
    start = time.monotonic()
    try:
        built = build(Path(file), msgspec.json.decode(settings, type=BuildSettings), "gpu", b"")
    except EngineError as error:
        sys.exit(str(error).replace("\n", " "))
    seconds = round(time.monotonic() - start, 1)
    said = {"version": rtx.__version__, "layers": built.operators["gpu"], "bytes": len(built.plan), "seconds": seconds}
    sys.stdout.write(json.dumps(said))


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


if __name__ == "__main__":
    main()
