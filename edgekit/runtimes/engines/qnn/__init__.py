"""QNN: the Hexagon NPU of Qualcomm's Snapdragons by ONNX Runtime's provider.

The file that is opened holds the context, the network as compiled for one SoC. The context of another SoC, or of
another version of the libraries, does not load on a device: the ONNX file beside it is then compiled there, which takes
seconds and is said in the placement. `edgekit.emulators.qnn` opens the same session in QNN's emulator; on a Snapdragon
it has not run yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions, check_inputs, named_as
from edgekit.runtimes.engines.onnxruntime.session import failures
from edgekit.runtimes.engines.qnn.network import QnnNetwork, contexts
from edgekit.runtimes.engines.qnn.provider import assigned, session


class QnnSession:
    """A context on the NPU or, ``emulated``, on QNN's emulator on x86-64.

    No operator ever runs on the CPU: the session would not open.
    """

    def __init__(self, folder: Path, graph: Graph, options: SessionOptions, *, emulated: bool = False) -> None:
        context, source = (named_as(folder, name, ".onnx") for name in graph.files[:2])
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        (self._session,), self.placement = _opened([(context, source)], graph, options, emulated=emulated)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        feed = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        try:
            outputs: list[Floats] = self._session.run(self._outputs, feed)
        except failures() as error:
            raise EngineError(f"QNN failed: {error}") from error
        return outputs


def _opened(
    pairs: Sequence[tuple[Path, Path]], graph: Graph, options: SessionOptions, *, emulated: bool
) -> tuple[list[Any], Placement]:
    """ONNX Runtime's sessions of contexts, each with the file that it was compiled from, and where they run."""
    arithmetic, opened, counts = str(graph.report.get("arithmetic", "")), [], {}
    for context, source in pairs:
        try:
            opened.append(session(context, {}))
        except failures() as error:
            if emulated:
                raise EngineError(f"{context}: the emulator cannot open it: {error}") from error
            opened.append(_compiled_here(source, context, error))
            arithmetic += f", {source.name} compiled on this device: the context is for another SoC or version"
        counts = assigned(opened[-1])
    inside = int(graph.report.get("htp_operators", 0))
    if counts and inside and sum(counts.values()) == 1:  # the context itself, one operator to ONNX Runtime
        counts = dict.fromkeys(counts, inside)
    word: ProofWord = "emulated" if emulated else "executed"
    return opened, Placement(options.device or ENGINE.devices[0], counts, arithmetic, word)


def open_network(folder: Path, graph: Graph, options: SessionOptions, *, emulated: bool = False) -> QnnNetwork:
    """Open a part of a vision-language model on the NPU or, ``emulated``, in QNN's emulator.

    Raises:
        EngineError: QNN cannot load a context, and cannot compile the ONNX file either.
    """
    pairs = [
        (named_as(folder, context.name, ".onnx"), named_as(folder, source.name, ".onnx"))
        for context, source in contexts(folder, graph)
    ]
    if not pairs:
        raise EngineError(f"graph {graph.name!r} has no context and ONNX file, only {', '.join(graph.files)}")
    sessions, placement = _opened(pairs, graph, options, emulated=emulated)
    return QnnNetwork(sessions, graph, placement)


def _compiled_here(source: Path, context: Path, reason: Exception) -> object:
    try:
        return session(source, {})
    except failures() as error:
        raise EngineError(
            f"{context}: QNN cannot load the context ({reason}) and cannot compile {source.name}: {error}"
        ) from error


class Qnn(Engine):
    """QNN by ONNX Runtime."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> QnnSession:
        """Open a graph on the NPU.

        Raises:
            EngineError: QNN cannot load the context, and cannot compile the ONNX file either.
        """
        return QnnSession(folder, graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> QnnNetwork:
        """Open a part of a vision-language model on the NPU.

        Raises:
            EngineError: QNN cannot load a context, and cannot compile the ONNX file either.
        """
        return open_network(folder, graph, options)


ENGINE = Qnn(
    name="qnn",
    packages=("onnxruntime_qnn",),
    extra="qnn",
    devices=("htp",),
    hosts=("linux-aarch64", "win32-arm64"),
)
