"""TorchScript run by torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Engine, Placement, SessionOptions, check_inputs


class TorchScriptSession:
    """One TorchScript file."""

    def __init__(self, path: Path, graph: Graph) -> None:
        import torch

        load: Any = torch.jit.load
        try:
            self._module = load(str(path))
        except RuntimeError as error:
            raise EngineError(f"{path}: torch cannot open it: {error}") from error
        self._graph = graph
        self.placement = Placement("cpu")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        import torch

        check_inputs(self._graph, inputs)
        with torch.no_grad():
            outputs = self._module(*(torch.from_numpy(array) for array in inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple | list) else (outputs,))]


class TorchScript(Engine):
    """libtorch."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> TorchScriptSession:
        """Open the first file of a graph."""
        return TorchScriptSession(folder / graph.files[0], graph)


ENGINE = TorchScript(name="torchscript", packages=("torch",), extra="convert")
