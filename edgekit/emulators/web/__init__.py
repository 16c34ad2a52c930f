"""Browser emulator: onnxruntime-web in a node process.

The engine is the WebAssembly module and not the browser around it, and node has the same one (V8) that Chromium has:
what node computes was executed by the engine.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekit.emulators.base import Emulator
from edgekit.emulators.served import ServedNetwork, ServedSession
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.worker import toolchains


class Node(Emulator):
    """onnxruntime-web in node."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> ServedSession:
        """Open the first file of a graph in a node process, which ends with this one.

        Raises:
            EngineError: node is not on PATH, or onnxruntime-web refuses the file.
        """
        return ServedSession(self.toolchain, self.engine, folder, graph, options, self._command())

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> ServedNetwork:
        """Open the first file of a graph, with named inputs of free shapes.

        Raises:
            EngineError: node is not on PATH, or onnxruntime-web refuses the file.
        """
        return ServedNetwork(self.toolchain, self.engine, folder, graph, options, self._command())

    def _command(self) -> tuple[str, ...]:
        node = shutil.which("node")
        if node is None:
            raise EngineError("unit 'node' needs node on PATH; install Node.js 20 or newer")
        package = toolchains.node_modules(self.toolchain) / "onnxruntime-web"
        return node, str(Path(__file__).with_name("session.mjs")), str(package)


EMULATOR = Node(
    engine="web", device="node", word="executed", by="onnxruntime-web in node", of="a browser", toolchain="web"
)
