"""HOST: a web page around a bundle: the page, the runtime, onnxruntime-web and the bundle in one static folder.

Nothing is built or downloaded here. The page and the built runtime (`@edgekit/runtime`) come with edgekit, or are those
of the repository that edgekit runs from; onnxruntime-web is that of the toolchain ``web``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from edgekit.apps._project import PLATFORMS, Platform, copy_bundle, part, shipped, written
from edgekit.errors import ToolchainError, UsageError
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.worker import toolchains

PLATFORM = Platform(
    runtime="web runtime",
    engines=("web", "onnxruntime"),
    runs="a browser runs ONNX files",
    convert="--target web",
    decoders="platforms/web/src/tasks/decoders",
    speaks=("web", "onnxruntime"),
)

ORT = (
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The files of onnxruntime-web that the page loads: WebAssembly and WebGPU in one build."""

DETECTION_PAGE = ("index.html", "app.js", "draw.js", "records.js")
LANGUAGE_PAGE = ("language.html", "language.js")
"""Files of the page that are there for one kind of bundle alone; ``language.html`` becomes its ``index.html``."""

HEADERS = {
    # Threads in WebAssembly need a page that is isolated from other origins.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-store",
}


def write_app(bundle: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a static folder that any web server can serve: a page for the bundle's task.

    It has a camera and pictures, or for a BLIP-2 a picture, its caption and questions.

    Args:
        bundle: a folder of the targets ``web`` or ``onnx``.
        out: the folder to make; it appears when it is whole.

    Returns:
        The folder.

    Raises:
        BundleError: the bundle cannot be opened.
        UsageError: ``out`` exists, or the page cannot run the bundle's engine, task or decoder.
        ToolchainError: the built runtime or onnxruntime-web is missing; says how to get it.
    """
    opened = open_bundle(bundle)
    PLATFORM.refuse(opened)
    page, runtime, engine = part("web_page", "web/app", "web"), _runtime(), _onnxruntime()
    with written(out) as app:
        others = LANGUAGE_PAGE if opened.manifest.contract.language is None else DETECTION_PAGE
        shutil.copytree(page, app, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*others))
        if others is DETECTION_PAGE:
            (app / LANGUAGE_PAGE[0]).rename(app / DETECTION_PAGE[0])
        shutil.copytree(runtime, app / "edgekit", ignore=shutil.ignore_patterns("*.d.ts"))
        (app / "ort").mkdir()
        for name in ORT:
            shutil.copyfile(engine / name, app / "ort" / name)
        copy_bundle(opened, app / "bundle")
    return Path(out)


def serve(folder: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve a folder on this machine alone until Ctrl-C.

    Args:
        folder: what ``write_app`` made.
        port: 0 for any that is free.
        ready: is given the address once it answers.

    Raises:
        UsageError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise UsageError(f"port {port}: cannot be served on ({error.strerror}); choose another --port") from error
    with server:
        ready(f"http://localhost:{server.server_port}/")
        server.serve_forever()


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder with the types and headers that the page needs, and says nothing."""

    extensions_map = {  # noqa: RUF012 - as its base has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """With ours."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as its base has it
        """Nothing: each file of a page would be a line."""


def _runtime() -> Path:
    found = shipped("web_runtime", "web/dist")
    if found is None or not (found / "index.js").is_file():
        raise ToolchainError(
            "the web runtime is not built; in edgekit's repository: cd platforms/web && npm ci && npm run build"
        )
    return found


def _onnxruntime() -> Path:
    """The folder ``dist`` of onnxruntime-web."""
    packages = (toolchains.node_modules("web"), PLATFORMS / "web" / "node_modules")
    for package in packages:
        dist = package / "onnxruntime-web" / "dist"
        if all((dist / name).is_file() for name in ORT):
            return dist
    raise ToolchainError("onnxruntime-web is not installed: edgekit toolchain install web")
