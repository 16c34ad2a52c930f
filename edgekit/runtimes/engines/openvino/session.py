"""Sessions of OpenVINO."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement, SessionOptions, check_inputs, named_as

CACHE_PRECISION = ("runtime_options", "KV_CACHE_PRECISION")
"""Where a file says what it wants its cache kept in; OpenVINO's CPU plugin reads it there too."""


def import_openvino() -> Any:
    """Import openvino without its telemetry.

    Importing it sends an event through ``openvino_telemetry`` when that is installed. With the name blocked, openvino
    and nncf use their own stubs.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVinoNetwork:
    """One IR file compiled for a device, with its inputs and outputs by name; for one input ``shape`` where it is open.

    Attributes:
        request: OpenVINO's own.
        graph: what the manifest says of the file.
    """

    def __init__(
        self,
        folder: Path,
        graph: Graph,
        options: SessionOptions,
        settings: Mapping[str, object] | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        openvino = import_openvino()
        if len(graph.files) != 2:
            raise EngineError(f"an OpenVINO graph has an .xml and a .bin, not {list(graph.files)}; convert again")
        # By itself OpenVINO takes the weights beside the graph, whether the manifest lists them or not.
        path, weights = named_as(folder, graph.files[0], ".xml"), folder / graph.files[1]
        device = (options.device or "cpu").upper()
        core = openvino.Core()
        if device not in {name.split(".")[0] for name in core.available_devices}:
            raise EngineError(
                f"unit {device.lower()!r} is not here; OpenVINO sees: {', '.join(core.available_devices)}"
            )
        wanted: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", **(settings or {})}
        if device == "CPU":
            # On a CPU with bf16 the plugin would compute in bf16 unasked, and boxes move by more than a pixel.
            wanted["INFERENCE_PRECISION_HINT"] = "f32"
        if options.threads:
            wanted["INFERENCE_NUM_THREADS"] = options.threads
        try:
            model = core.read_model(path, weights)
            if model.has_rt_info(list(CACHE_PRECISION)):
                wanted.pop(CACHE_PRECISION[1], None)
            if shape:
                model.reshape(list(shape))
            compiled = core.compile_model(model, device, wanted)
            self._ports = {tensor.name: compiled.output(tensor.name) for tensor in graph.outputs}
            operators = _executed(compiled, device)
        except (RuntimeError, ValueError) as error:  # ValueError: a message or name that is not UTF-8
            raise EngineError(f"{path}: OpenVINO cannot open it: {error}") from error
        self.graph = graph
        self.request: Any = compiled.create_infer_request()
        arithmetic = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self.placement = Placement(device.lower(), operators, arithmetic)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            # Shared: the engine reads the caller's array and hands out its own memory, nothing is copied.
            results = self.request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        return {name: np.asarray(results[port]) for name, port in self._ports.items()}


class OpenVinoSession:
    """One IR file with its inputs and outputs in the graph's order.

    A file that takes several batches and sizes is compiled for each as it is first used: left open, a small detector
    takes a third longer.
    """

    def __init__(self, folder: Path, graph: Graph, options: SessionOptions) -> None:
        self._graph = graph
        self._compile = partial(OpenVinoNetwork, folder, graph, options)
        first = self._compile(shape=options.shape)
        self._networks = {options.shape: first}
        self.placement = first.placement

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        feeds = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        shape = () if () in self._networks else tuple(inputs[0].shape)
        if shape not in self._networks:
            self._networks[shape] = self._compile(shape=shape)
        return list(self._networks[shape].run(feeds).values())


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
