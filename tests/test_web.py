"""The web target: the file, onnxruntime-web in node, and the example page in Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from real_conversions import Converted
from target_lists import EVERYTHING
from tiny_onnx import GRAPH, write_model, write_tiny_bundle
from web_page import chromium, visit

from edgekit.converters import target
from edgekit.converters.web import TARGET
from edgekit.emulators import proof_device
from edgekit.emulators.web import EMULATOR
from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import ImageRule, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.model import load
from edgekit.shapes import scene
from edgekit.worker import toolchains

pytest.importorskip("onnx", reason="needs onnx to write models")

(TOOLCHAIN,) = TARGET.toolchains
INPUT = GRAPH.inputs[0]
NODE = SessionOptions(device="node")


def with_toolchain(test: Any) -> Any:
    """A test of what the toolchain does."""
    absent = TOOLCHAIN.state != "installed"
    return pytest.mark.skipif(absent, reason=f"edgekit toolchain install {TOOLCHAIN.name}")(test)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector as ONNX."""
    folder = tmp_path_factory.mktemp("web")
    write_model(folder / "model.onnx")
    return folder


def picture(seed: int = 3) -> Any:
    return np.random.default_rng(seed).random(INPUT.shape, dtype=np.float32)


def test_the_files_are_those_of_the_onnx_target(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
    from jobs import make_job

    from edgekit.converters import onnx, web

    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Conv2d(3 if not i else 4, 4, 3, 2, 1) for i in range(4)))
    job = make_job(module, torch.rand(1, 3, 32, 32), ("out",), tmp_path, "fp32")
    for precision in ("fp32", "fp16"):
        files = {}
        for name, converter in (("onnx", onnx), ("web", web)):
            out = tmp_path / f"{name}-{precision}"
            out.mkdir()
            graph = converter.convert(replace(job, precision=precision, out=out), lambda text, share: None)
            files[name] = (out / graph.files[0]).read_bytes()
        assert files["onnx"] == files["web"]


def test_a_browser_is_not_this_host(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"engine web runs on browsers, this host is .*; unit='node' shows here"):
        open_session("web", folder, GRAPH, SessionOptions())
    assert proof_device("web") == "node"
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    assert target("web").missing == f"toolchain missing: edgekit toolchain install web ({TOOLCHAIN.megabytes} MB)"
    with pytest.raises(EngineError, match="the node of engine web is not installed: edgekit toolchain install web"):
        open_session("web", folder, GRAPH, NODE)


def test_node_has_to_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"needs node on PATH; install Node.js"):
        EMULATOR.open_session(folder, GRAPH, NODE)


@with_toolchain
@pytest.mark.parametrize("threads", [0, 2])
def test_webassembly_computes_what_the_native_engine_does(folder: Path, threads: int) -> None:
    session = open_session("web", folder, GRAPH, SessionOptions(device="node", threads=threads))
    for seed in (1, 2):
        expected = open_session("onnxruntime", folder, GRAPH, SessionOptions()).run([picture(seed)])
        found = session.run([picture(seed)])
        for array, wanted in zip(found, expected, strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, wanted, atol=1e-5)
    assert session.placement.device == "node"
    assert session.placement.word == "executed"
    pinned = TOOLCHAIN.npm[0].partition("@")[2]
    said = f"onnxruntime-web {pinned}: WebAssembly SIMD, {threads or 1} thread"
    assert session.placement.arithmetic.startswith(said)


@with_toolchain
def test_errors_of_the_engine_are_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(EngineError, match=r"model.onnx: onnxruntime-web cannot open it: .+"):
        open_session("web", tmp_path, GRAPH, NODE)
    with pytest.raises(EngineError, match=r"model.onnx: onnxruntime-web cannot open it: ENOENT"):
        open_session("web", tmp_path / "nowhere", GRAPH, NODE)
    other = msgspec.structs.replace(GRAPH, outputs=(Tensor(name="nothing", shape=(1, 2)),))
    with pytest.raises(EngineError, match="the file has no nothing, which its manifest names; convert again"):
        open_session("web", folder, other, NODE)
    wrong = msgspec.structs.replace(GRAPH, inputs=(Tensor(name=INPUT.name, shape=(1, 3, 8, 8)),))
    session = open_session("web", folder, wrong, NODE)
    for _ in range(2):  # and it goes on after a failed run
        with pytest.raises(EngineError, match=r"onnxruntime-web failed: .*invalid dimensions"):
            session.run([np.zeros((1, 3, 8, 8), np.float32)])
    with pytest.raises(EngineError, match="the graph takes 1 input"):
        session.run([])


@with_toolchain
def test_node_ends_with_its_session_and_with_its_parent(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tiny_onnx import GRAPH\n"
        "from edgekit.runtimes.engines import SessionOptions, open_session\n"
        f"session = open_session('web', Path({str(folder)!r}), GRAPH, SessionOptions(device='node', threads=2))\n"
        "print(session._process._running.pid, flush=True)\n"
        "if sys.argv[1] == 'deleted': del session\n"
        "time.sleep(600)"
    )
    for ending in ("deleted", "killed"):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        parent = subprocess.Popen(
            [sys.executable, "-c", code, ending], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert parent.stdout is not None
            node = int(parent.stdout.readline())
            if ending == "killed":
                os.kill(parent.pid, signal.SIGKILL)
            assert ended(node), f"node outlived a session that was {ending}"
        finally:
            parent.kill()
            parent.communicate()


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits as a zombie for whoever adopted it, after some patience."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@with_toolchain
def test_a_crash_of_node_is_told(folder: Path) -> None:
    session: Any = open_session("web", folder, GRAPH, NODE)
    session._process.kill()
    session._process.wait()
    with pytest.raises(EngineError, match="web in toolchain web: the child process was killed by SIGKILL"):
        session.run([picture()])


PLACEMENTS = """
import { placement } from "PAGE";
const cases = JSON.parse(process.argv[1]);
console.log(JSON.stringify(cases.map(([rule, width, height]) => placement(rule, width, height))));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_example_page_places_images_as_the_runtime_does() -> None:
    page = Path(__file__).parents[1] / "examples" / "web" / "detector.mjs"
    rules = [
        ImageRule(size=size, resize=resize, align=align, crop=0.875 if resize == "crop" else 1.0)
        for size in ((64, 64), (37, 91), (352, 320))
        for resize, align in (
            ("letterbox", "center"),
            ("letterbox", "corner"),
            ("stretch", "center"),
            ("crop", "center"),
        )
    ]
    originals = [(1, 1), (203, 317), (317, 203), (64, 64), (1, 300), (4999, 31)]
    cases = [(rule, width, height) for rule in rules for width, height in originals]
    code = PLACEMENTS.replace("PAGE", page.as_uri())
    given = msgspec.json.encode(cases).decode()
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code, given], capture_output=True, text=True, check=True
    )
    for case, found in zip(cases, json.loads(done.stdout), strict=True):
        mapping = transform(*case)
        wanted = (mapping.offset_x, mapping.offset_y, *mapping.resized)
        assert (found["left"], found["top"], found["width"], found["height"]) == wanted, case


@with_toolchain
@pytest.mark.nightly
@pytest.mark.skipif(not EVERYTHING, reason="needs the trained detector: make test-all")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_example_page_finds_what_the_runtime_finds(
    precision: str, target_bundles: Converted, tmp_path: Path
) -> None:
    if not chromium():
        pytest.skip("needs Chromium: apt-get install chromium")
    bundle = Path(target_bundles.bundle("web", precision)["path"]).absolute()
    model = load(bundle, unit="node")
    # The first needs no resizing: the same pixels, so the same boxes. Browsers resize a little otherwise than OpenCV.
    cases = (
        ("whole", scene(310_002).image, 0.01, 1e-4),
        ("letterbox", scene(310_001, (203, 317)).image, 1.5, 0.1),
    )
    for name, image, pixels, drift in cases:
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), image)
        site = tmp_path / name
        site.mkdir()
        status, found = visit(site, bundle, distribution(), path, tmp_path / f"{name}-page.png")
        expected = model.predict(image)
        sure = [index for index, score in enumerate(expected.scores) if score > 0.4]
        assert status.startswith(f"{len(found)} found in ")
        assert status.endswith("by wasm")
        assert len(sure) >= 2
        for index in sure:
            (one,) = [
                one
                for one in found
                if one["name"] == expected.names[index]
                and np.allclose(one["box"], expected.boxes[index], rtol=0, atol=pixels)
            ]
            assert one["score"] == pytest.approx(float(expected.scores[index]), abs=drift)
        assert cv2.imread(str(tmp_path / f"{name}-page.png")).std() > 10, "the page shows something"


@with_toolchain
def test_the_example_page_refuses_other_decoders(tmp_path: Path) -> None:
    if not chromium():
        pytest.skip("needs Chromium: apt-get install chromium")
    bundle = write_tiny_bundle(tmp_path / "tiny")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["contract"]["decoder"]["name"] = "fastestdet"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "site").mkdir()
    status, found = visit(tmp_path / "site", bundle, distribution(), None, tmp_path / "page.png")
    assert (status, found) == ("error: decoder fastestdet: this page decodes anchor_free only", None)


def distribution() -> Path:
    """What the page loads of onnxruntime-web."""
    return toolchains.node_modules(TOOLCHAIN.name) / "onnxruntime-web" / "dist"
