"""onnxruntime-web: ONNX files in browsers. On this side of the network node runs the same WebAssembly."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekit.emulators.served import ServedSession
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import Engine, SessionOptions, StandIn
from edgekit.worker import toolchains

TOOLCHAIN = "web"

# The engine is the WebAssembly module and not the browser around it, and node has the same one (V8) that Chromium has:
# what node computes was executed by the engine.
ENGINE = Engine(
    name="web",
    packages=(),
    hosts=("browsers",),
    devices=("wasm",),
    install="examples/web shows a page that opens a bundle",
    stand_in=StandIn(device="node", word="executed", toolchain=TOOLCHAIN),
)


def open_session(folder: Path, graph: Graph, options: SessionOptions) -> ServedSession:
    """Open the first file of a graph with onnxruntime-web in a node process, which ends with this one.

    Raises:
        EngineError: node is not on PATH, or onnxruntime-web refuses the file.
    """
    node = shutil.which("node")
    if node is None:
        raise EngineError("device 'node' needs node on PATH; install Node.js 20 or newer")
    package = toolchains.node_modules(TOOLCHAIN) / "onnxruntime-web"
    program = Path(__file__).with_name("session.mjs")
    return ServedSession(TOOLCHAIN, "web", folder, graph, options, (node, str(program), str(package)))
