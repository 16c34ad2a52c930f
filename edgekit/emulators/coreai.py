"""Core AI's interpreter: Apple's own, of the package that writes the assets. It runs the saved file on Linux.

What it shows: the file opens, and its operators compute what the source does, in the types that the file says. A phone
specialises the same file for its Neural Engine or GPU, where roundings differ.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.emulators.base import Emulator
from edgekit.emulators.served import ServedSession
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Session, SessionOptions
from edgekit.runtimes.engines.base import guarded_folder
from edgekit.runtimes.engines.coreai import CoreAiSession


class Interpreter(Emulator):
    """Core AI's interpreter, in its toolchain."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> Session:
        """Open a graph, in this process where it is one of the toolchain.

        Raises:
            EngineError: the asset is damaged, of a newer format, or has other tensors than the manifest says.
        """
        asset = guarded_folder(folder, graph, ".aimodel")
        if self.inside:
            return CoreAiSession(asset, graph, options, "emulated")
        return ServedSession(self.toolchain, self.engine, folder, graph, options)


EMULATOR = Interpreter(
    engine="coreai",
    device="interpreter",
    word="emulated",
    by="Core AI's interpreter",
    of="an iPhone or Mac",
    toolchain="coreai",
)
