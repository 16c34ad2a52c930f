"""Emulator of ExecuTorch delegates that no host has: interprets the Core ML program in a ``.pte`` file.

Nothing here computes a Vulkan program: its session opens only to say that it was compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.arrays import Floats
from edgekit.emulators.base import Emulator
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Placement, Session, SessionOptions
from edgekit.runtimes.engines.executorch import (
    COREML,
    DELEGATE,
    VULKAN,
    delegate_of,
    delegated_operators,
    file_of,
)


class CompiledSession:
    """A file that cannot run here: all that is known is that it was lowered for its delegate."""

    def __init__(self, path: Path, graph: Graph) -> None:
        delegate = str(graph.report[DELEGATE])
        self._error = f"{path.name} was compiled for {delegate}, which this host cannot run: take it to a device"
        self.placement = Placement(delegate, delegated_operators(graph, delegate), "float32", "compiled")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        raise EngineError(self._error)


class DelegateInterpreter(Emulator):
    """Interprets Core ML programs, and opens Vulkan ones without computing them."""

    def needed(self, graph: Graph | None) -> bool:
        """For files whose delegate is not here, whatever else ExecuTorch can run."""
        return super().needed(None) if graph is None else delegate_of(graph) in (COREML, VULKAN)

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a ``.pte`` file that was lowered for Core ML or Vulkan.

        Raises:
            EngineError: the file is broken, cannot be interpreted, or is for a delegate that ExecuTorch runs here.
        """
        path, delegate = file_of(folder, graph), delegate_of(graph)
        if delegate == COREML:
            from edgekit.emulators.executorch.coreml import InterpretedDelegateSession

            return InterpretedDelegateSession(path, graph, options)
        if delegate == VULKAN:
            return CompiledSession(path, graph)
        raise EngineError(f"unit {options.device!r} is for Core ML files; this one is for {delegate}: unit='cpu'")


EMULATOR = DelegateInterpreter(
    engine="executorch",
    device="interpreter",
    word="interpreted",
    by="edgekit's interpreter",
    of="Core ML",
    packages=("coremltools", "torch", "executorch"),
)
