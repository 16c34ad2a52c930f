"""Engines behind one protocol: what they give, what they refuse, and what they say of themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sample_bundles import forge
from tiny_conversions import environment
from tiny_models import CLASSES, SIZE, picture
from tiny_onnx import GRAPH, write_model, write_openvino, write_tiny_bundle

from edgekit.emulators import emulator
from edgekit.errors import EngineError, UsageError
from edgekit.runtimes import engines as runtimes
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Graph, ImageRule, Tensor
from edgekit.runtimes.engines import Session, SessionOptions, check_inputs, engine, engine_names, open_session
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.model import load

pytest.importorskip("onnx", reason="needs onnx to write models")
ENGINES = ("onnxruntime", "openvino")
Opened = Callable[..., Session]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector as an ONNX file and as OpenVINO IR."""
    for package in ENGINES:
        pytest.importorskip(package, reason=f"needs the extra of {package}")
    folder = tmp_path_factory.mktemp("engines")
    write_openvino(write_model(folder / "model.onnx"))
    return folder


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    """An engine."""
    return str(request.param)


def graph_for(name: str) -> Graph:
    files = ("model.xml", "model.bin") if name == "openvino" else ("model.onnx",)
    return msgspec.structs.replace(GRAPH, files=files)


@pytest.fixture
def opened(folder: Path, name: str) -> Opened:
    """Opens the tiny detector with the engine."""

    def opened(**options: object) -> Session:
        return open_session(name, folder, graph_for(name), SessionOptions(**options))  # type: ignore[arg-type]

    return opened


def tensor(seed: int = 0) -> runtimes.Array:
    return Preprocessor(ImageRule(size=(SIZE, SIZE), resize="stretch"))(picture(seed))[0]


def expected(x: runtimes.Array) -> list[NDArray[np.float64]]:
    """What the tiny detector gives, worked out in numpy: boxes, then classes."""
    cells = x.astype(np.float64).reshape(1, 3, 4, 16, 4, 16).mean((3, 5))
    red, green, _ = cells[0]
    classes = np.stack([8 * (red - green) - 3, 8 * (green - red) - 3])[None]
    return [np.repeat(0.1 * cells.sum(1, keepdims=True) + 0.35, 4, 1), classes]


# ---- what they give ----


def test_outputs_are_right_and_in_the_order_of_the_contract(opened: Opened) -> None:
    session = opened()
    for seed in range(3):
        for got, want in zip(session.run([tensor(seed)]), expected(tensor(seed)), strict=True):
            assert got.dtype == np.float32
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=1e-4)


def test_another_order_in_the_manifest_gives_another_order(folder: Path, name: str) -> None:
    graph = msgspec.structs.replace(graph_for(name), outputs=GRAPH.outputs[::-1])
    outputs = open_session(name, folder, graph, SessionOptions()).run([tensor()])
    assert [output.shape for output in outputs] == [(1, 2, 4, 4), (1, 4, 4, 4)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing_but_time(opened: Opened, threads: int) -> None:
    for got, want in zip(opened(threads=threads).run([tensor()]), opened().run([tensor()]), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to count threads")
def test_onnxruntime_starts_as_many_threads_as_it_is_told(bundles: dict[str, Path]) -> None:
    code = """
import sys, edgekit, onnxruntime, cv2
from pathlib import Path
before = len(list(Path("/proc/self/task").iterdir()))
model = edgekit.load(sys.argv[1], threads=int(sys.argv[2]))
print(len(list(Path("/proc/self/task").iterdir())) - before)
"""
    command = [sys.executable, "-c", code, str(bundles["onnxruntime"])]
    one, four = (int(subprocess.check_output([*command, threads], env=environment())) for threads in ("1", "4"))
    assert four - one == 3


def test_placement_names_the_device_and_counts_operators(opened: Opened) -> None:
    placement = opened().placement
    assert placement.device == "cpu"
    assert placement.arithmetic in ("float32", "f32")
    assert sum(placement.operators.values()) >= 3
    assert all("cpu" in unit.lower() for unit in placement.operators)


def test_strict_holds_where_all_runs_on_the_device(opened: Opened) -> None:
    assert opened(device="cpu", strict=True).run([tensor()])


# ---- what they refuse ----


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"the graph takes 1 input\(s\), not 0"),
        ([tensor()] * 2, r"the graph takes 1 input\(s\), not 2"),
        ([tensor()[:, :, :32]], r"input 'images' takes float32 \(1, 3, 64, 64\), not float32 \(1, 3, 32, 64\)"),
        ([tensor()[0]], r"input 'images' takes float32 \(1, 3, 64, 64\), not float32 \(3, 64, 64\)"),
        ([tensor().astype(np.float64)], r"takes float32 \(1, 3, 64, 64\), not float64 \(1, 3, 64, 64\)"),
        ([tensor().astype(np.uint8)], r"takes float32 .+, not uint8"),
    ],
)
def test_inputs_of_another_kind_are_refused(opened: Opened, inputs: list[runtimes.Array], message: str) -> None:
    session = opened()
    with pytest.raises(EngineError, match=message):
        session.run(inputs)
    assert session.run([tensor()])


def test_shapes_are_compared_in_the_layout_of_the_file() -> None:
    graph = msgspec.structs.replace(GRAPH, inputs=(Tensor(name="images", shape=(1, 4, 6, 3), layout="nhwc"),))
    check_inputs(graph, [np.zeros((1, 3, 4, 6), np.float32)])
    with pytest.raises(EngineError, match=r"takes float32 \(1, 3, 4, 6\), not float32 \(1, 4, 6, 3\)"):
        check_inputs(graph, [np.zeros((1, 4, 6, 3), np.float32)])


def test_a_file_of_another_shape_than_the_manifest_says_is_an_error_not_a_crash(folder: Path, name: str) -> None:
    graph = msgspec.structs.replace(graph_for(name), inputs=(Tensor(name="images", shape=(1, 3, 32, 32)),))
    words = r"OpenVINO failed: .*|input 'images' has shape \[1, 3, 64, 64\], the manifest says \[1, 3, 32, 32\]"
    with pytest.raises(EngineError, match=words):
        open_session(name, folder, graph, SessionOptions()).run([np.zeros((1, 3, 32, 32), np.float32)])


def test_an_output_that_the_file_lacks_is_an_error(folder: Path, name: str) -> None:
    outputs = (Tensor(name="masks", shape=(1, 4, 4, 4)), GRAPH.outputs[1])
    with pytest.raises(EngineError, match="masks"):
        open_session(name, folder, msgspec.structs.replace(graph_for(name), outputs=outputs), SessionOptions()).run(
            [tensor()]
        )


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "missing"])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str, tmp_path: Path) -> None:
    graph = graph_for(name)
    for file in graph.files:
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    first = tmp_path / graph.files[0]
    data = first.read_bytes()
    damaged = {"empty": b"", "half": data[: len(data) // 2], "noise": np.random.default_rng(0).bytes(len(data))}
    if damage == "missing":
        first.unlink()
    else:
        first.write_bytes(damaged[damage])
    with pytest.raises(EngineError, match=rf"{re.escape(str(first))}: (ONNX Runtime|OpenVINO) cannot open it: .+"):
        open_session(name, tmp_path, graph, SessionOptions())


def test_an_unknown_device_is_refused_with_the_choices(opened: Opened, name: str) -> None:
    valid = ", ".join(engine(name).devices)
    with pytest.raises(UsageError, match=rf"unit 'tpu' is not one of: {valid} \(engine {name}\)"):
        opened(device="tpu")


def test_a_device_that_is_not_here_says_what_is(folder: Path) -> None:
    import onnxruntime
    from openvino import Core

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EngineError, match=r"unit 'cuda' needs CUDAExecutionProvider, .+ install onnxruntime-gpu"):
            open_session("onnxruntime", folder, graph_for("onnxruntime"), SessionOptions(device="cuda"))
    if "NPU" not in Core().available_devices:
        with pytest.raises(EngineError, match=r"unit 'npu' is not here; OpenVINO sees: .*CPU"):
            open_session("openvino", folder, graph_for("openvino"), SessionOptions(device="npu"))


def test_a_negative_number_of_threads_is_refused(opened: Opened) -> None:
    with pytest.raises(UsageError, match=r"threads must be 0 \(the engine's choice\) or more, not -1"):
        opened(threads=-1)


def test_an_unknown_engine_is_refused_with_the_choices(folder: Path) -> None:
    with pytest.raises(
        UsageError, match=r"engine 'abacus' is not one of: coreai, coreml, .*litert, .*onnxruntime, openvino"
    ):
        open_session("abacus", folder, GRAPH, SessionOptions())


def test_every_engine_declares_itself() -> None:
    for name in engine_names():
        declared = engine(name)
        assert declared.name == name
        assert declared.devices
        assert declared.packages or emulator(name)
        assert declared.extra or declared.install
        if declared.hosts:
            assert emulator(name), "an engine that is not for every host needs something that checks its files"


# ---- a whole model on them ----


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> dict[str, Path]:
    """The tiny detector as a bundle of each engine."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: write_tiny_bundle(root / name, engine=name) for name in ENGINES}


def test_a_model_finds_the_cells_that_were_drawn(bundles: dict[str, Path], name: str) -> None:
    model = load(bundles[name], threads=1)
    image = picture(5)
    result = model(image)
    red, green = (image[8::16, 8::16, channel] > 150 for channel in (2, 1))
    found = np.zeros((2, 4, 4), bool)
    for box, kind in zip(result.boxes, result.class_ids, strict=True):
        found[kind, int((box[1] + box[3]) / 32), int((box[0] + box[2]) / 32)] = True
    np.testing.assert_array_equal(found, np.stack([red, green]))
    assert set(result.names) <= set(CLASSES)


@pytest.mark.parametrize("dark", ["nan", "inf"])
def test_nan_and_infinite_outputs_are_an_error(tmp_path: Path, dark: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    path = write_tiny_bundle(tmp_path / "tiny", dark)
    model = load(path, warm_up=0)
    assert len(model(picture(5))) > 3
    with pytest.raises(EngineError, match="the graph gave NaN or infinite outputs; convert in another precision"):
        model(np.zeros((SIZE, SIZE, 3), np.uint8))


def test_a_bundle_for_an_engine_that_nobody_knows_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="engine 'abacus' is not one of"):
        load(forge(bundles["onnxruntime"], tmp_path / "forged", engine="abacus"))
    assert open_bundle(tmp_path / "forged").manifest.engine == "abacus"


# ---- engines that are missing or broken, in a process of their own ----

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.fixture
def without(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """An environment in which packages cannot be found, from the first import on."""

    def without(*packages: str) -> dict[str, str]:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(f"BLOCKED = {packages!r}\n{BLOCK}")
        return environment(PYTHONPATH=str(tmp_path / "site"))

    return without


def run(code: str, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(bundle: Path) -> str:
    """A program that prints how the bundle is refused."""
    load = f"import edgekit\ntry: edgekit.load({str(bundle)!r})\n"
    return f"{load}except edgekit.EdgekitError as error: print(type(error).__name__, error)"


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_engine_says_what_to_install(
    bundles: dict[str, Path], name: str, extra: str, without: Callable[..., dict[str, str]]
) -> None:
    said = run(refused(bundles[name]), without(name))
    assert said.strip() == f"EngineError engine {name} needs {name}: pip install edgekit[{extra}]"


def test_one_engine_is_enough(bundles: dict[str, Path], without: Callable[..., dict[str, str]]) -> None:
    code = f"import edgekit, numpy as np; print(len(edgekit.load({str(bundles['onnxruntime'])!r})(np.load('x.npy'))))"
    others = ("torch", "onnx", "openvino", "ncnn", "ai_edge_litert", "tflite_runtime", "nncf", "yaml", "rich")
    env = without(*others)
    site = Path(env["PYTHONPATH"])
    np.save(site / "x.npy", picture(5))
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=site, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len(load(bundles["onnxruntime"])(picture(5)))


def test_an_engine_that_is_there_but_broken_is_an_error_with_its_reason(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "raise ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')"
    )
    said = run(refused(bundles["onnxruntime"]), environment(PYTHONPATH=str(tmp_path)))
    assert said.startswith("EngineError engine onnxruntime is installed but cannot be imported (libgomp.so.1: cannot")
    assert "pip install --force-reinstall edgekit[onnx]" in said


# ---- nobody phones home ----

LISTEN = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
"""


def test_openvino_and_nncf_do_not_phone_home(bundles: dict[str, Path]) -> None:
    pytest.importorskip("nncf", reason="needs the extra 'convert'")
    code = f"""{LISTEN}
from edgekit.converters._nncf import import_nncf
from edgekit.runtimes.engines.openvino.session import import_openvino
openvino, nncf = import_openvino(), import_nncf()
model = openvino.Core().read_model({str(bundles["openvino"] / "model.xml")!r})
import json, threading, time
time.sleep(0.5)
loaded = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
print(json.dumps([seen, loaded, sys.modules["openvino_telemetry"]]))
"""
    assert json.loads(run(code, environment()).splitlines()[-1]) == [[], [], None]


def test_the_listener_of_the_test_above_hears() -> None:
    code = f"{LISTEN}import socket\ntry: socket.getaddrinfo('localhost', 1)\nexcept OSError: pass\nprint(len(seen))"
    assert int(run(code, environment())) >= 1
