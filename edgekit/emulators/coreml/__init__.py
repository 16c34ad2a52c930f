"""Core ML emulator: an interpreter of Core ML packages in torch, for hosts other than a Mac."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.arrays import Floats
from edgekit.emulators.base import Emulator
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs
from edgekit.runtimes.engines.coreml import as_float, check_names, package_of


class InterpretedSession:
    """One package, computed by edgekit's own interpreter; see `edgekit.emulators.coreml.interpreter`."""

    def __init__(self, package: Path, graph: Graph, options: SessionOptions) -> None:
        from edgekit.emulators.coreml.interpreter import Interpreter

        self._graph = graph
        self._interpreter = Interpreter(package, threads=options.threads)
        check_names(package, graph, [port.name for port in self._interpreter.inputs], self._interpreter.outputs)
        self.placement = Placement(
            EMULATOR.device,
            {EMULATOR.device: sum(self._interpreter.kinds.values())},
            "float16 rounding, float32 sums" if self._interpreter.half else "float32",
            EMULATOR.word,
        )

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        named = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        found = self._interpreter.run(named)
        return [as_float(found[tensor.name]) for tensor in self._graph.outputs]


class CoreMlInterpreter(Emulator):
    """Reads the package and computes what it says."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> InterpretedSession:
        """Open the package that the graph's first file lies in.

        Raises:
            EngineError: the package is damaged, or has an operation that is not interpreted.
        """
        return InterpretedSession(package_of(folder, graph), graph, options)


EMULATOR = CoreMlInterpreter(
    engine="coreml",
    device="interpreter",
    word="interpreted",
    by="edgekit's interpreter",
    of="Core ML",
    packages=("coremltools", "torch"),
)
