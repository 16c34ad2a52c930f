"""onnxruntime-web: ONNX files in browsers. Python opens none; `edgekit.emulators.web` runs the same WebAssembly."""

from __future__ import annotations

from edgekit.runtimes.engines.base import Engine

ENGINE = Engine(
    name="web",
    packages=(),
    hosts=("browsers",),
    devices=("wasm",),
    install="examples/web shows a page that opens a bundle",
)
