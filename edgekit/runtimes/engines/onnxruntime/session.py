"""Sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Placement, SessionOptions, check_inputs, named_as

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""ONNX Runtime's name of what runs operators on each device."""


class OnnxRuntimeNetwork:
    """One ONNX file opened by ONNX Runtime, with its inputs and outputs by name.

    Attributes:
        session: ONNX Runtime's own.
        graph: what the manifest says of the file.
    """

    def __init__(self, folder: Path, graph: Graph, options: SessionOptions, profile: Path | None = None) -> None:
        import onnxruntime

        path = named_as(folder, graph.files[0], ".onnx")
        device = options.device or "cpu"
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3  # errors come as exceptions; warnings would go to a user's terminal
        settings.intra_op_num_threads = options.threads
        # Records which provider took which operator; without it a fall-back to the CPU is only a printed line.
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if profile is not None:  # where the engine writes what each operator took, when its profiling ends
            settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
        wanted = PROVIDERS[device]
        if wanted not in onnxruntime.get_available_providers():
            raise EngineError(f"unit {device!r} needs {wanted}, which this onnxruntime lacks; install onnxruntime-gpu")
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path),
                settings,
                providers=list(dict.fromkeys([wanted, PROVIDERS["cpu"]])),
                enable_fallback=0,  # it would print the error, and try the same again
            )
        except failures() as error:
            raise EngineError(f"{path}: ONNX Runtime cannot open it: {error}") from error
        self.graph = graph
        _check_names(path, graph, self.session)
        self._outputs = [tensor.name for tensor in graph.outputs]
        self.placement = Placement(device, _assigned(self.session))
        foreign = {unit: count for unit, count in self.placement.operators.items() if unit != wanted}
        if options.strict and (foreign or wanted not in self.session.get_providers()):
            raise EngineError(f"strict: not everything runs on {device!r}: {self.placement.operators}")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            outputs = self.session.run(self._outputs, feeds)
        except failures() as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(self._outputs, outputs, strict=True))


class OnnxRuntimeSession:
    """One ONNX file with its inputs and outputs in the graph's order."""

    def __init__(self, network: OnnxRuntimeNetwork) -> None:
        self._network = network
        self.placement = network.placement

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        graph = self._network.graph
        check_inputs(graph, inputs)
        feeds = {tensor.name: array for tensor, array in zip(graph.inputs, inputs, strict=True)}
        return list(self._network.run(feeds).values())


def _assigned(session: Any) -> dict[str, int]:
    """Number of operators per execution provider, after the engine's own optimisation; empty when it does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def _check_names(path: Path, graph: Graph, session: Any) -> None:
    """Refuse a file that lacks an input or output of the manifest, or has it in another shape."""
    try:
        for what, ports, tensors in (
            ("input", session.get_inputs(), graph.inputs),
            ("output", session.get_outputs(), graph.outputs),
        ):
            found = {port.name: port.shape for port in ports}
            for tensor in tensors:
                if tensor.name not in found:
                    raise EngineError(f"{path}: has no {what} {tensor.name!r}, only {', '.join(found)}; convert again")
                if not _fits(tensor.shape, found[tensor.name]):
                    raise EngineError(
                        f"{path}: {what} {tensor.name!r} has shape {found[tensor.name]}, the manifest says "
                        f"{list(tensor.shape)}; convert again"
                    )
    except UnicodeDecodeError as error:
        raise EngineError(f"{path}: has names that are not UTF-8 ({error}); convert again") from error


def _fits(said: Sequence[int], found: Sequence[object]) -> bool:
    """Whether a shape of the manifest is that of the file, as far as both have numbers: -1 and names are any size."""
    return len(said) == len(found) and all(
        size == other for size, other in zip(said, found, strict=True) if size >= 0 and isinstance(other, int)
    )


def failures() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which share no base of their own. ValueError is for inputs of other names and
    messages that are not UTF-8."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = [getattr(state, name) for name in dir(state)]
    own = [kind for kind in named if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
