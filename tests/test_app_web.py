"""``edgekit app web``: the folder it writes, what it refuses, and how it is served. Chromium: test_platform_web.py."""

from __future__ import annotations

import json
import re
import shutil
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny_onnx import write_tiny_bundle

from edgekit.apps import _project, web
from edgekit.cli import main
from edgekit.errors import BundleError, ToolchainError, UsageError
from edgekit.runtimes.bundle import manifest_file
from edgekit.runtimes.bundle.folder import open_bundle, replace_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime and an engine that are only files: nothing here runs them."""
    runtime, engine = (
        tmp_path / "runtime",
        tmp_path / "toolchains" / "web" / "node_modules" / "onnxruntime-web" / "dist",
    )
    for folder in (runtime, engine):
        folder.mkdir(parents=True)
    for name in ("index.js", "index.d.ts"):
        (runtime / name).write_text(f"// {name}")
    for name in (*web.ORT, "ort.all.js"):
        (engine / name).write_text(name)
    monkeypatch.setattr(web, "_runtime", lambda: runtime)
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "toolchains"))
    return runtime


def changed(bundle: Path, **contract: Any) -> Path:
    """The bundle with another manifest, sealed again."""
    import msgspec

    manifest = open_bundle(bundle).manifest
    engine = contract.pop("engine", manifest.engine)
    decoder = msgspec.structs.replace(manifest.contract.decoder, **contract)
    changed = msgspec.structs.replace(manifest.contract, decoder=decoder)
    replace_manifest(
        bundle, manifest_file.encode(msgspec.structs.replace(manifest, contract=changed, engine=engine, digest=""))
    )
    return bundle


def test_the_folder_has_all_that_a_server_needs(bundle: Path, built: Path, tmp_path: Path) -> None:
    app = web.write_app(bundle, tmp_path / "new" / "app")
    found = {path.relative_to(app).as_posix() for path in app.rglob("*") if path.is_file()}
    page = {"index.html", "app.js", "page.js", "draw.js", "records.js", "app.css", "LICENCES.txt"}
    model = {f"bundle/{name}" for name in ("manifest.json", "model.onnx")}
    assert found == page | model | {f"ort/{name}" for name in web.ORT} | {"edgekit/index.js"}
    assert open_bundle(app / "bundle").manifest == open_bundle(bundle).manifest
    licences = (app / "LICENCES.txt").read_text()
    assert "Microsoft Corporation" in licences
    assert (ROOT / "LICENSE").read_text() in licences
    # The page names nothing that is not in the folder, and no other server.
    for name in page - {"LICENCES.txt"}:
        text = (app / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), name
        for file in re.findall(r'(?:src|href)="((?!data:|#)[^"]+)"|from "\./([^"]+)"|"\./([^"]+)"', text):
            assert (app / "".join(file)).is_file(), file
    assert [path.name for path in app.parent.iterdir()] == ["app"]


def test_a_blip2_gets_a_page_of_its_own(built: Path, tmp_path: Path) -> None:
    old = ROOT / "tests" / "old_bundles" / "opt-onnx-int8"
    app = web.write_app(old, tmp_path / "app")
    page = {path.name for path in app.iterdir()} - {"bundle", "edgekit", "ort"}
    assert page == {"index.html", "language.js", "page.js", "app.css", "LICENCES.txt"}
    assert '<script type="module" src="language.js">' in (app / "index.html").read_text()
    assert open_bundle(app / "bundle").manifest == open_bundle(old).manifest
    for name in page - {"LICENCES.txt"}:
        assert not re.search(r"https?://", (app / name).read_text().replace("http://www.w3.org/2000/svg", "")), name


def test_what_is_there_already_stays(bundle: Path, built: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "app").mkdir()
    with pytest.raises(UsageError, match=r"app: is there already, .* delete it, or name another folder with -o"):
        web.write_app(bundle, tmp_path / "app")
    with pytest.raises(SystemExit, match="2"):
        main(["app", "web", str(bundle), "-o", str(tmp_path / "app")])
    assert "is there already" in capsys.readouterr().err
    assert not list((tmp_path / "app").iterdir())


def test_bundles_that_the_page_cannot_run_are_refused(bundle: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "app"
    with pytest.raises(UsageError, match=r"is for litert, and a browser runs ONNX files; convert .* --target web"):
        web.write_app(changed(bundle, engine="litert"), out)
    with pytest.raises(UsageError, match="its decoder 'mine' is not one of the web runtime's: anchor_free, "):
        web.write_app(changed(bundle, engine="onnxruntime", name="mine"), out)
    with pytest.raises(BundleError, match="no-such-bundle"):
        web.write_app(tmp_path / "no-such-bundle", out)
    assert not out.exists()


def test_what_is_missing_is_named_and_nothing_is_downloaded(
    bundle: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PLATFORMS", tmp_path)
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "none"))
    with pytest.raises(ToolchainError, match="onnxruntime-web is not installed: edgekit toolchain install web"):
        web.write_app(bundle, tmp_path / "app")
    monkeypatch.undo()
    monkeypatch.setattr(_project, "PLATFORMS", tmp_path)
    with pytest.raises(ToolchainError, match="the files of edgekit app web are missing from this installation"):
        web.write_app(bundle, tmp_path / "app")
    with pytest.raises(ToolchainError, match=r"the web runtime is not built; .*npm ci && npm run build"):
        web._runtime()


def test_a_full_disk_leaves_nothing(bundle: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UsageError, match=r"app: cannot be written \(.*No space left on device\)"):
        web.write_app(bundle, tmp_path / "out" / "app")
    assert not list((tmp_path / "out").iterdir())


def test_it_is_served_isolated_and_with_the_right_types(bundle: Path, built: Path, tmp_path: Path) -> None:
    app = web.write_app(bundle, tmp_path / "app")
    addresses: list[str] = []
    there = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        there.set()

    threading.Thread(target=web.serve, args=(app, 0, ready), daemon=True).start()
    assert there.wait(10)
    types = {
        "": "text/html",
        "app.js": "text/javascript",
        "ort/ort.webgpu.bundle.min.mjs": "text/javascript",
        "ort/ort-wasm-simd-threaded.asyncify.wasm": "application/wasm",
        "bundle/manifest.json": "application/json",
    }
    for name, kind in types.items():
        with urllib.request.urlopen(addresses[0].replace("localhost", "127.0.0.1") + name, timeout=10) as answer:
            assert answer.headers["Content-Type"].split(";")[0] == kind
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    port = int(re.findall(r":(\d+)/", addresses[0])[0])
    with pytest.raises(UsageError, match=rf"port {port}: cannot be served on .* choose another --port"):
        web.serve(app, port, ready)


def test_the_decoders_are_those_of_the_web_runtime() -> None:
    sources = (ROOT / "platforms" / "web" / "src" / "tasks" / "decoders").glob("*.ts")
    found = {name for path in sources for name in re.findall(r'^decoder\(\s*"(\w+)"', path.read_text(), re.MULTILINE)}
    assert found == set(_project.DECODERS)
    supported = json.loads((ROOT / "platforms" / "web" / "package.json").read_text())
    assert supported["name"] == "@edgekit/runtime"
