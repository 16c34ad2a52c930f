"""ONNX Runtime: onnx files on CPUs and NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EngineError
from edgekit.manifest import Graph
from edgekit.runtimes import Array, Engine, Placement, SessionOptions, check_inputs

ENGINE = Engine(name="onnxruntime", packages=("onnxruntime",), extra="onnx", devices=("cpu", "cuda"))

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeSession:
    """One ONNX file opened by ONNX Runtime."""

    def __init__(self, path: Path, graph: Graph, options: SessionOptions) -> None:
        import onnxruntime

        device = options.device or ENGINE.devices[0]
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3  # errors come as exceptions; warnings would go to a user's terminal
        settings.intra_op_num_threads = options.threads
        # Records which provider took which operator; without it a fall-back to the CPU is only a printed line.
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        wanted = _PROVIDERS[device]
        if wanted not in onnxruntime.get_available_providers():
            raise EngineError(
                f"device {device!r} needs {wanted}, which this onnxruntime lacks; install onnxruntime-gpu"
            )
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), settings, providers=list(dict.fromkeys([wanted, _PROVIDERS["cpu"]]))
            )
        except failures() as error:
            raise EngineError(f"{path}: ONNX Runtime cannot open it: {error}") from error
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.placement = Placement(device, _assigned(self._session))
        foreign = {unit: count for unit, count in self.placement.operators.items() if unit != wanted}
        if options.strict and (foreign or wanted not in self._session.get_providers()):
            raise EngineError(f"strict: not everything runs on {device!r}: {self.placement.operators}")

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        check_inputs(self._graph, inputs)
        feed = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        try:
            outputs: list[Array] = self._session.run(self._outputs, feed)
        except failures() as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return outputs


def open_session(folder: Path, graph: Graph, options: SessionOptions) -> OnnxRuntimeSession:
    """Open the first file of a graph."""
    return OnnxRuntimeSession(folder / graph.files[0], graph, options)


def _assigned(session: Any) -> dict[str, int]:
    """Number of operators per execution provider, after the engine's own optimisation; empty when it does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def failures() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = [getattr(state, name) for name in dir(state)]
    own = [kind for kind in named if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError)
