"""OpenVINO: IR files on Intel and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EngineError
from edgekit.manifest import Graph
from edgekit.runtimes import Array, Engine, Placement, SessionOptions, check_inputs

ENGINE = Engine(name="openvino", packages=("openvino",), extra="openvino", devices=("cpu", "gpu", "npu"))


def import_openvino() -> Any:
    """The openvino package, kept from phoning home.

    Importing it sends an event through ``openvino_telemetry`` when that is installed. With the name blocked, openvino
    and nncf use their own stubs.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVinoSession:
    """One IR file compiled for a device."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        openvino = import_openvino()
        device = (options.device or ENGINE.devices[0]).upper()
        core = openvino.Core()
        if device not in {name.split(".")[0] for name in core.available_devices}:
            raise EngineError(
                f"device {device.lower()!r} is not here; OpenVINO sees: {', '.join(core.available_devices)}"
            )
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            # On a CPU with bf16 the plugin would compute in bf16 unasked, and boxes move by more than a pixel.
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            compiled = core.compile_model(core.read_model(path), device, settings)
            self._ports = [compiled.output(tensor.name) for tensor in graph.outputs]
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot open it: {error}") from error
        self._graph = graph
        self._request = compiled.create_infer_request()
        arithmetic = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self.placement = Placement(device.lower(), _executed(compiled, device), arithmetic)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        check_inputs(self._graph, inputs)
        try:
            # Shared: the engine reads the caller's array and hands out its own memory, nothing is copied.
            results = self._request.infer(list(inputs), share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        return [np.asarray(results[port]) for port in self._ports]


def open_session(folder: Path, graph: Graph, options: SessionOptions) -> OpenVinoSession:
    """Open the first file of a graph; the weights lie beside it."""
    return OpenVinoSession(folder / graph.files[0], graph, options)


def _executed(compiled: Any, device: str) -> dict[str, int]:
    """Number of operators after fusion, by the arithmetic the plugin chose for each."""
    counts: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind = str(info["layerType"].value) if "layerType" in info else node.get_type_name()
        if kind in {"Input", "Output", "Const", "Parameter", "Result", "Constant"}:
            continue
        precision = str(info["runtimePrecision"].value) if "runtimePrecision" in info else "unknown"
        unit = f"{device.lower()} {precision}"
        counts[unit] = counts.get(unit, 0) + 1
    return counts
