"""Core ML emulator: an interpreter of Core ML packages in torch, for hosts other than a Mac."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.emulators.base import Emulator
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs
from edgekit.runtimes.engines.coreml import as_float, check_names, functions_of, package_of
from edgekit.runtimes.engines.coreml.language import open_packages
from edgekit.runtimes.engines.coreml.network import PackageNetwork, State
from edgekit.runtimes.language.graph import LanguageGraph

if TYPE_CHECKING:
    from edgekit.emulators.coreml.interpreter import InterpretedState, Interpreter


class InterpretedSession:
    """One package, computed by edgekit's own interpreter; see `edgekit.emulators.coreml.interpreter`."""

    def __init__(self, package: Path, graph: Graph, options: SessionOptions) -> None:
        from edgekit.emulators.coreml.interpreter import Interpreter

        self._graph = graph
        self._interpreter = Interpreter(package, threads=options.threads)
        check_names(package, graph, [port.name for port in self._interpreter.inputs], self._interpreter.outputs)
        self.placement = _placement(self._interpreter)

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        named = {tensor.name: array for tensor, array in zip(self._graph.inputs, inputs, strict=True)}
        found = self._interpreter.run(named)
        return [as_float(found[tensor.name]) for tensor in self._graph.outputs]


def _placement(interpreter: Interpreter) -> Placement:
    return Placement(
        EMULATOR.device,
        {EMULATOR.device: sum(interpreter.kinds.values())},
        "float16 rounding, float32 sums" if interpreter.half else "float32",
        EMULATOR.word,
    )


class InterpretedFunction:
    """A function of a package; `edgekit.runtimes.engines.coreml.network.Function`."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self.states = tuple(port.name for port in interpreter.states)

    def make_state(self) -> InterpretedState:
        """A new state."""
        return self._interpreter.make_state()

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: State | None) -> Mapping[str, NDArray[Any]]:
        """Run once.

        Raises:
            EngineError: an input or the state does not fit.
        """
        from edgekit.emulators.coreml.interpreter import InterpretedState

        if state is not None and not isinstance(state, InterpretedState):
            raise EngineError(f"the interpreter was given a {type(state).__name__}, which is not a state of its own")
        return self._interpreter.run(inputs, state=state)


class CoreMlInterpreter(Emulator):
    """Reads the package and computes what it says."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> InterpretedSession:
        """Open the package that the graph's first file lies in.

        Raises:
            EngineError: the package is damaged, or has an operation that is not interpreted.
        """
        return InterpretedSession(package_of(folder, graph), graph, options)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> PackageNetwork:
        """Open every function of a package; each holds the weights for itself.

        Raises:
            EngineError: the package is damaged, or has an operation that is not interpreted.
        """
        from edgekit.emulators.coreml.interpreter import Interpreter

        package = package_of(folder, graph)
        opened = {
            tokens: Interpreter(package, threads=options.threads, function=name)
            for tokens, name in functions_of(graph).items()
        }
        functions = {tokens: InterpretedFunction(one) for tokens, one in opened.items()}
        return PackageNetwork(functions, graph, _placement(next(iter(opened.values()))))

    def open_language(
        self,
        folder: Path,
        graphs: Mapping[str, Graph],
        language: Language,
        embeddings: NDArray[Any],
        options: SessionOptions,
    ) -> LanguageGraph:
        """Open the packages of a language model.

        Raises:
            EngineError: a package is damaged, or its cache is not the contract's.
        """
        opened = {name: self.open_network(folder, graph, options) for name, graph in graphs.items()}
        return open_packages(opened, graphs, language, embeddings)


EMULATOR = CoreMlInterpreter(
    engine="coreml",
    device="interpreter",
    word="interpreted",
    by="edgekit's interpreter",
    of="Core ML",
    packages=("coremltools", "torch"),
)
