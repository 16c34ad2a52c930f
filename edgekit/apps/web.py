"""HOST: a web page around a bundle: the page, the runtime, onnxruntime-web and the bundle in one static folder.

Nothing is built or downloaded here. The page and the built runtime (`@edgekit/runtime`) come with edgekit, or are those
of the repository that edgekit runs from; onnxruntime-web is that of the toolchain ``web``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from edgekit.errors import ToolchainError, UsageError
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.runtimes.bundle.manifest import MANIFEST
from edgekit.worker import toolchains

ENGINES = ("web", "onnxruntime")
"""Engines whose files the page can run: ONNX."""

# fmt: off
DECODERS = (
    "anchor_free", "anchors", "centernet", "classes", "decoded", "distances", "fastestdet", "grid", "heatmaps",
    "keypoints", "movenet", "queries", "semantic", "simcc", "ssd", "vector",
)
# fmt: on
"""Decoders of the web runtime; a test holds them against its own list."""

ORT = (
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""What the page loads of onnxruntime-web: WebAssembly and WebGPU in one build."""

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
    opened, target = open_bundle(bundle), Path(out)
    _refuse(opened)
    if target.exists() or target.is_symlink():
        raise UsageError(
            f"{target}: is there already, and may have changes of yours; delete it, or name another folder with -o"
        )
    page, runtime, engine = _page(), _runtime(), _onnxruntime()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial_app = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            others = LANGUAGE_PAGE if opened.manifest.contract.language is None else DETECTION_PAGE
            shutil.copytree(page, partial_app, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*others))
            if others is DETECTION_PAGE:
                (partial_app / LANGUAGE_PAGE[0]).rename(partial_app / DETECTION_PAGE[0])
            shutil.copytree(runtime, partial_app / "edgekit", ignore=shutil.ignore_patterns("*.d.ts"))
            (partial_app / "ort").mkdir()
            for name in ORT:
                shutil.copyfile(engine / name, partial_app / "ort" / name)
            for name in (MANIFEST, *(file.path for file in opened.manifest.files)):
                (partial_app / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(opened.file(name), partial_app / "bundle" / name)
            partial_app.chmod(0o755)  # a temporary folder is its owner's alone
            partial_app.rename(target)
        finally:
            shutil.rmtree(partial_app, ignore_errors=True)
    except OSError as error:
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror  # of a tree: a list
        raise UsageError(f"{target}: cannot be written ({why}); name another folder with -o") from error
    return target


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


def _refuse(bundle: Bundle) -> None:
    manifest = bundle.manifest
    contract = manifest.contract
    engines = sorted(set(manifest.engines) - set(ENGINES))
    if engines:
        raise UsageError(
            f"{bundle.path}: is for {', '.join(engines)}, and a browser runs ONNX files; convert the model with "
            "--target web"
        )
    if contract.language is None and contract.decoder.name not in DECODERS:
        raise UsageError(
            f"{bundle.path}: its decoder {contract.decoder.name!r} is not one of the web runtime's: "
            f"{', '.join(DECODERS)}; add it to platforms/web/src/tasks/decoders"
        )


def _page() -> Path:
    """The page's files: in a wheel ``web_page`` beside this file, in the repository ``platforms/web/app``."""
    found = _shipped("web_page", "app")
    if found is None:
        raise ToolchainError("the page of edgekit app web is not part of this installation; install edgekit again")
    return found


def _runtime() -> Path:
    found = _shipped("web_runtime", "dist")
    if found is None or not (found / "index.js").is_file():
        raise ToolchainError(
            "the web runtime is not built; in edgekit's repository: cd platforms/web && npm ci && npm run build"
        )
    return found


def _shipped(packaged: str, name: str) -> Path | None:
    """A folder of platforms/web: where a wheel has it, else where the repository has it."""
    places = (Path(__file__).with_name(packaged), Path(__file__).parents[2] / "platforms" / "web" / name)
    return next((place for place in places if place.is_dir()), None)


def _onnxruntime() -> Path:
    """The folder ``dist`` of onnxruntime-web."""
    packages = (toolchains.node_modules("web"), Path(__file__).parents[2] / "platforms" / "web" / "node_modules")
    for package in packages:
        dist = package / "onnxruntime-web" / "dist"
        if all((dist / name).is_file() for name in ORT):
            return dist
    raise ToolchainError("onnxruntime-web is not installed: edgekit toolchain install web")
