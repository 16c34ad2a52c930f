"""QNN: the Hexagon NPU of Qualcomm's Snapdragons by ONNX Runtime's provider, and its emulator on x86-64.

The file that is opened holds the context, the network as compiled for one SoC; the emulator runs that same file with
the NPU's arithmetic. The context of another SoC, or of another version of the libraries, does not load on a device: the
ONNX file beside it is then compiled there, which takes seconds and is said in the placement. The device's own session
is the emulator's but for the hardware, and has not run on a Snapdragon yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.arrays import Floats
from edgekit.emulators.qnn_provider import assigned, session
from edgekit.emulators.served import ServedSession
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, ProofWord
from edgekit.runtimes.engines import Engine, Placement, Session, SessionOptions, StandIn, check_inputs, host
from edgekit.runtimes.engines.onnxruntime import failures
from edgekit.worker import toolchains

EMULATOR = "emulator"
TOOLCHAIN = "qnn"

ENGINE = Engine(
    name="qnn",
    packages=("onnxruntime_qnn",),
    extra="qnn",
    devices=("htp",),
    hosts=("linux-aarch64", "win32-arm64"),
    stand_in=StandIn(device=EMULATOR, word="emulated", toolchain=TOOLCHAIN),
)


class QnnSession:
    """A context on the NPU or its emulator. No operator ever runs on the CPU: the session would not open."""

    def __init__(self, folder: Path, graph: Graph, options: SessionOptions) -> None:
        emulated = options.device == EMULATOR
        context, source = (folder / name for name in graph.files[:2])
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        arithmetic = str(graph.report.get("arithmetic", ""))
        try:
            self._session = session(context, {})
        except failures() as error:
            if emulated:
                raise EngineError(f"{context}: the emulator cannot open it: {error}") from error
            self._session = _compiled_here(source, context, error)
            arithmetic += ", compiled on this device: the context is for another SoC or version"
        counts = assigned(self._session)
        inside = int(graph.report.get("htp_operators", 0))
        if counts and inside and sum(counts.values()) == 1:  # the context itself, one operator to ONNX Runtime
            counts = dict.fromkeys(counts, inside)
        word: ProofWord = "emulated" if emulated else "executed"
        self.placement = Placement(options.device or ENGINE.devices[0], counts, arithmetic, word)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        feed = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        try:
            outputs: list[Floats] = self._session.run(self._outputs, feed)
        except failures() as error:
            raise EngineError(f"QNN failed: {error}") from error
        return outputs


def open_session(folder: Path, graph: Graph, options: SessionOptions) -> Session:
    """Open a graph on the NPU, or in the emulator when that is asked for by its name.

    Raises:
        EngineError: it cannot be opened, or the emulator was asked for on another host than its own.
    """
    if options.device == EMULATOR:
        if host() != "linux-x86_64":
            raise EngineError(f"the emulator of engine qnn runs on linux-x86_64, this host is {host()}")
        if Path(sys.prefix) != toolchains.python(TOOLCHAIN).parents[1]:
            return ServedSession(TOOLCHAIN, ENGINE.name, folder, graph, options)
    return QnnSession(folder, graph, options)


def _compiled_here(source: Path, context: Path, reason: Exception) -> object:
    try:
        return session(source, {})
    except failures() as error:
        raise EngineError(
            f"{context}: QNN cannot load the context ({reason}) and cannot compile {source.name}: {error}"
        ) from error
