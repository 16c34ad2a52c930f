"""What the TensorRT engine does on a device, against a module that records calls: nothing here was run by TensorRT.

The driver's functions are called through ctypes as the real ones are. What the files hold is tested in test_tensorrt.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from sample_bundles import sample_manifest
from tiny_onnx import GRAPH, write_model

from edgekit.cli.build import command as build_command
from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.bundle.folder import locked, open_bundle, stage
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines import tensorrt as engine
from edgekit.runtimes.engines.tensorrt import cache as tensorrt_cache
from edgekit.runtimes.engines.tensorrt import cuda as tensorrt_cuda
from edgekit.runtimes.engines.tensorrt.build import SETTINGS, BuildSettings

pytest.importorskip("onnx", reason="needs onnx to write models")
pytest.importorskip("onnxruntime", reason="the module that stands for TensorRT computes with it")

FAKE = Path(__file__).parent / "fake_tensorrt"
INPUT = GRAPH.inputs[0]
TWO_FILES = msgspec.structs.replace(GRAPH, files=("model.onnx", SETTINGS))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Any]:
    """The recording module under TensorRT's name, in release 10.3."""
    monkeypatch.syspath_prepend(str(FAKE))
    module = importlib.import_module("tensorrt")
    module.reset()
    yield module
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The driver of an Orin."""
    monkeypatch.syspath_prepend(str(FAKE))
    found = importlib.import_module("fake_driver").Driver()
    monkeypatch.setattr(tensorrt_cuda, "load", lambda: found)
    return found


def written(folder: Path, precision: str = "fp32", **settings: Any) -> Path:
    """The tiny detector as the tensorrt target writes it."""
    folder.mkdir(exist_ok=True)
    write_model(folder / "model.onnx")
    kept = BuildSettings(precision=precision, **settings)  # type: ignore[arg-type]
    (folder / SETTINGS).write_bytes(msgspec.json.encode(kept))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "model")


def bundle_of(folder: Path, **changes: Any) -> Path:
    """A bundle made of such a folder."""
    with stage(folder.with_name("bundle")) as staging:
        for name in TWO_FILES.files:
            (staging.folder / name).write_bytes((folder / name).read_bytes())
        given = {"target": "tensorrt", "engine": "tensorrt", "graphs": (TWO_FILES,), **changes}
        staging.seal(sample_manifest(**given))
        return staging.commit().path


def opened(folder: Path, graph: Graph = TWO_FILES, **options: Any) -> Any:
    return open_session("tensorrt", folder, graph, SessionOptions(**options))


def picture(seed: int = 3) -> Any:
    return np.random.default_rng(seed).random(INPUT.shape, dtype=np.float32)


def entry(cache: Path) -> Path:
    (found,) = cache.glob("*.engine")
    return found


def test_numbers_go_in_and_come_out_where_they_belong(trt: Any, driver: Any, folder: Path) -> None:
    session = opened(folder)
    for seed in (1, 2):
        expected = open_session("onnxruntime", folder, GRAPH, SessionOptions()).run([picture(seed)])
        found = session.run([picture(seed)])
        for array, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, wanted)
    assert session.placement.device == "gpu"
    assert session.placement.operators["gpu"] > 0
    assert session.placement.word == "executed"


def test_memory_is_given_back_and_arrays_outlive_their_session(trt: Any, driver: Any, folder: Path) -> None:
    session = opened(folder)
    outputs = session.run([picture()])
    kept = [array.copy() for array in outputs]
    buffers = 2 * (len(GRAPH.inputs) + len(GRAPH.outputs))
    assert len(driver.memory) == buffers
    del session
    gc.collect()
    assert len(driver.memory) == len(outputs)  # what the caller's arrays lie in
    for array, wanted in zip(outputs, kept, strict=True):
        np.testing.assert_array_equal(array, wanted)
    del outputs, array
    gc.collect()
    assert not driver.memory
    assert driver.calls.count("cuStreamDestroy_v2") == 1


def test_another_thread_may_run_the_session(trt: Any, driver: Any, folder: Path) -> None:
    session, found = opened(folder), []
    driver.calls.clear()
    thread = threading.Thread(target=lambda: found.append(session.run([picture()])))
    thread.start()
    thread.join()
    assert found
    assert driver.calls[0] == "cuCtxSetCurrent"


def test_the_second_load_takes_the_engine_from_the_cache(trt: Any, driver: Any, folder: Path, cache: Path) -> None:
    opened(folder)
    placed = opened(folder).placement
    assert len(trt.recorded("build")) == 1
    assert placed == opened(folder).placement
    assert entry(cache).stat().st_mode & 0o077 == 0
    assert cache.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in folder.iterdir()) == [SETTINGS, "model.onnx"], "the bundle is not touched"


@pytest.mark.parametrize(
    "change",
    [
        lambda trt, driver, folder: trt.reset("10.4.0"),
        lambda trt, driver, folder: setattr(driver, "name", b"Xavier"),
        lambda trt, driver, folder: setattr(driver, "capability", (7, 2)),
        lambda trt, driver, folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b""),
        lambda trt, driver, folder: written(folder, optimisation_level=5),
    ],
    ids=["tensorrt", "gpu", "capability", "same", "settings"],
)
def test_an_engine_serves_one_device_version_and_file(
    trt: Any, driver: Any, folder: Path, cache: Path, change: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    opened(folder)
    change(trt, driver, folder)
    opened(folder)
    expected = 1 if request.node.callspec.id == "same" else 2
    assert len(list(cache.glob("*.engine"))) == expected


def test_another_file_gets_another_engine(trt: Any, driver: Any, folder: Path) -> None:
    import onnx

    opened(folder)
    model = onnx.load(folder / "model.onnx")
    model.doc_string = "another one"
    onnx.save_model(model, folder / "model.onnx")
    opened(folder)
    assert len(trt.recorded("build")) == 2


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def _foreign_plan(path: Path) -> None:
    """A whole entry of another key: what a copy from another device looks like."""
    header, _, plan = path.read_bytes().partition(b"\n")
    told = json.loads(header)
    told["key"]["gpu"] = "another GPU"
    path.write_bytes(json.dumps(told).encode() + b"\n" + plan)


def _no_header(path: Path) -> None:
    path.write_bytes(b"\xff\x00 not JSON\n" + path.read_bytes())


def _writable_by_all(path: Path) -> None:
    path.chmod(0o666)


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [_truncate, _flip, _foreign_plan, _no_header, _writable_by_all, _gone])
def test_what_cannot_be_trusted_is_built_again(
    trt: Any, driver: Any, folder: Path, cache: Path, harm: Callable[[Path], None]
) -> None:
    opened(folder)
    harm(entry(cache))
    before = len(trt.recorded("load"))
    opened(folder)
    assert len(trt.recorded("build")) == 2
    assert len(trt.recorded("load")) == before + 1, "TensorRT must not have seen the other plan"
    opened(folder)
    assert len(trt.recorded("build")) == 2, "and what was built then is kept"


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can give a file away")
def test_an_engine_of_another_user_is_built_again(trt: Any, driver: Any, folder: Path, cache: Path) -> None:
    opened(folder)
    os.chown(entry(cache), 12345, 12345)
    opened(folder)
    assert len(trt.recorded("build")) == 2


def test_a_plan_that_tensorrt_refuses_is_built_again_once(trt: Any, driver: Any, folder: Path) -> None:
    opened(folder)
    trt.FAILS.add("load once")
    opened(folder)
    assert len(trt.recorded("build")) == 2
    trt.FAILS.add("load")
    with pytest.raises(EngineError, match="cannot load the engine that it built"):
        opened(folder)


def test_the_timing_cache_is_kept_and_whole(trt: Any, driver: Any, folder: Path, cache: Path) -> None:
    opened(folder)
    opened(written(folder, optimisation_level=1))  # another engine of the same device and version
    assert [data for data, _ in trt.recorded("timing")] == [b"", b"t"]
    (path,) = cache.glob("*.timing")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    opened(written(folder, optimisation_level=2))
    assert trt.recorded("timing")[-1] == (b"", False)


def test_two_processes_build_once(trt: Any, driver: Any, folder: Path, cache: Path, monkeypatch: Any) -> None:
    waits: list[float] = []
    opened(folder)
    whole, path = entry(cache).read_bytes(), entry(cache)
    path.unlink()
    held = locked(path.with_suffix(".lock"))
    held.__enter__()

    def other_process_finishes(seconds: float) -> None:
        waits.append(seconds)
        path.write_bytes(whole)
        path.chmod(0o600)
        held.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", other_process_finishes)
    opened(folder)
    assert len(waits) == 1
    assert len(trt.recorded("build")) == 1


def test_a_writer_that_is_killed_leaves_no_entry(cache: Path, folder: Path, tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from edgekit.runtimes.engines.tensorrt import cache as c\n"
        "key = c.Key(gpu='g', capability='8.7', tensorrt='10', file='f', settings='s', device='gpu', strict=False)\n"
        "c.os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "c.write(key, b'plan' * 1000, {})"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, check=False)
    assert done.returncode == -9
    assert not list(cache.glob("*.engine"))


@pytest.mark.parametrize(
    ("version", "precision", "network", "flags"),
    [
        ("8.6.2", "fp32", {"EXPLICIT_BATCH"}, set()),
        ("8.6.2", "fp16", {"EXPLICIT_BATCH"}, {"FP16"}),
        ("8.6.2", "int8", {"EXPLICIT_BATCH"}, {"INT8"}),
        ("10.3.0", "fp16", {"EXPLICIT_BATCH", "STRONGLY_TYPED"}, set()),
        ("10.3.0", "int8", {"EXPLICIT_BATCH", "STRONGLY_TYPED"}, set()),
        ("11.4.0", "int8", {"STRONGLY_TYPED"}, set()),
    ],
)
def test_each_release_is_told_the_precision_its_own_way(
    trt: Any, driver: Any, tmp_path: Path, version: str, precision: str, network: set[str], flags: set[str]
) -> None:
    trt.reset(version)
    opened(written(tmp_path / "model", precision, workspace_megabytes=64, optimisation_level=4))
    assert trt.recorded("network") == [(network,)]
    assert trt.recorded("workspace") == [(64 << 20,)]
    assert trt.recorded("build") == [(flags, 4, ("GPU", -1))]  # and TF32, which is on by default, is off


def test_several_inputs_have_a_profile_and_a_context_each(trt: Any, driver: Any, tmp_path: Path) -> None:
    import onnx

    from edgekit.graph.open_shapes import open_shapes

    _, channels, height, width = INPUT.shape
    shapes = ((1, channels, height, width), (2, channels, 2 * height, width))
    folder = written(tmp_path / "model", profiles=shapes)
    onnx.save_model(open_shapes(onnx.load(folder / "model.onnx"), batch=True, size=True), folder / "model.onnx")
    graph = msgspec.structs.replace(
        TWO_FILES,
        inputs=(msgspec.structs.replace(INPUT, shape=(-1, channels, -1, -1)),),
        outputs=tuple(
            msgspec.structs.replace(one, shape=(-1, one.shape[1], *(-1 for _ in one.shape[2:])))
            for one in GRAPH.outputs
        ),
    )
    session = opened(folder, graph, shape=shapes[1])
    assert trt.recorded("profile") == [(INPUT.name, shape, shape, shape) for shape in shapes]
    assert trt.recorded("choose") == [(1,)]
    reference = open_session(
        "onnxruntime", folder, msgspec.structs.replace(graph, files=("model.onnx",)), SessionOptions()
    )
    for shape in (*shapes, shapes[0]):
        images = np.random.default_rng(1).random(shape, dtype=np.float32)
        for array, wanted in zip(session.run([images]), reference.run([images]), strict=True):
            np.testing.assert_array_equal(array, wanted)
    assert trt.recorded("choose") == [(1,), (0,)], "one context for each, kept"
    with pytest.raises(EngineError, match=r"built for inputs .*, not \(3, "):
        session.run([np.zeros((3, channels, height, width), np.float32)])
    trt.FAILS.add("profile")
    with pytest.raises(EngineError, match="TensorRT does not take the input"):
        opened(folder, graph)


def test_on_a_dla(trt: Any, driver: Any, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", "fp16")
    placed = opened(folder, device="dla1").placement
    assert trt.recorded("network") == [({"EXPLICIT_BATCH"},)]
    assert trt.recorded("build") == [({"FP16", "GPU_FALLBACK"}, 3, ("DLA", 1))]
    assert trt.recorded("load") == [(1,)]
    assert set(placed.operators) == {"dla1", "gpu"}
    assert opened(folder, device="dla1").placement == placed, "also when the engine comes from the cache"
    opened(folder, device="dla1", strict=True)
    assert trt.recorded("build")[-1] == ({"FP16"}, 3, ("DLA", 1))


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("int8", "dla0", "a DLA takes no QuantizeLinear"),
        ("fp32", "dla0", "a DLA does not compute in float32; convert with fp16"),
        ("fp16", "dla1", "this device has 1 DLA core.s., no 'dla1'; use unit='gpu'"),
    ],
)
def test_what_a_dla_cannot_do_is_refused(
    trt: Any, driver: Any, tmp_path: Path, monkeypatch: Any, precision: str, device: str, message: str
) -> None:
    monkeypatch.setattr(trt.Builder, "num_DLA_cores", 1)
    with pytest.raises(EngineError, match=message):
        opened(written(tmp_path / "model", precision), device=device)


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("parse", r"TensorRT 10.3.0 cannot parse it: no importer for operator NonZero$"),
        ("build", r"TensorRT 10.3.0 cannot build it for 'gpu': no kernel for this layer"),
        ("context", "not enough memory to run this engine"),
    ],
)
def test_a_failing_tensorrt_is_told(trt: Any, driver: Any, folder: Path, failing: str, message: str) -> None:
    trt.FAILS.add(failing)
    with pytest.raises(EngineError, match=message):
        opened(folder)


def test_an_old_tensorrt_gets_advice(trt: Any, driver: Any, tmp_path: Path) -> None:
    trt.reset("8.6.2")
    trt.FAILS.add("parse")
    with pytest.raises(EngineError, match=r"--option tensorrt.weights=float32"):
        opened(written(tmp_path / "model", "int8"))


def test_a_failing_run_is_told(trt: Any, driver: Any, folder: Path) -> None:
    session = opened(folder)
    trt.FAILS.add("run")
    with pytest.raises(EngineError, match="failed to run the engine"):
        session.run([picture()])
    driver.failing = "cuMemcpyHtoDAsync_v2"
    with pytest.raises(EngineError, match=r"cuMemcpyHtoDAsync_v2 failed: out of memory \(CUDA error 500\)"):
        session.run([picture()])
    with pytest.raises(EngineError, match="the graph takes 1 input"):
        session.run([])


def test_a_file_that_is_not_what_the_manifest_says(trt: Any, driver: Any, folder: Path) -> None:
    other = msgspec.structs.replace(TWO_FILES, outputs=(Tensor(name="nothing", shape=(1, 2)),))
    with pytest.raises(EngineError, match="the engine has no tensor 'nothing', only"):
        opened(folder, other)
    wrong = msgspec.structs.replace(TWO_FILES, inputs=(Tensor(name=INPUT.name, shape=(1, 3, 8, 8)),))
    with pytest.raises(EngineError, match="but its manifest says float32"):
        opened(folder, wrong)
    with pytest.raises(EngineError, match=r"has an ONNX file and build.json"):
        opened(folder, GRAPH)
    (folder / SETTINGS).write_text('{"precision": "int5"}')
    with pytest.raises(EngineError, match="not the settings of a build"):
        opened(folder)


def test_without_a_driver_and_without_tensorrt(trt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_cuda, "_LIBRARY", "libno-such-driver.so")
    with pytest.raises(EngineError, match=r"needs NVIDIA's driver, and libno-such-driver.so cannot be loaded"):
        opened(folder)


def test_a_cache_that_cannot_be_written(
    trt: Any, driver: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"cannot be made .*; set EDGEKIT_CACHE to another folder"):
        opened(folder)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "full"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorrt_cache.os, "fsync", full)
    with pytest.raises(EngineError, match=r"cannot be written \(No space left on device\); free space"):
        opened(folder)
    assert not [path for path in (tmp_path / "full" / "tensorrt").iterdir() if path.suffix != ".lock"]


def test_the_cache_follows_the_users_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tensorrt_cache.folder() == tmp_path / "xdg" / "edgekit" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tensorrt_cache.folder() == tmp_path / "home" / ".cache" / "edgekit" / "tensorrt"


def test_build_makes_the_engine_ahead_of_time(trt: Any, driver: Any, folder: Path, cache: Path) -> None:
    bundle = bundle_of(folder)
    first = CliRunner().invoke(build_command, [str(bundle), "--json"], catch_exceptions=False)
    report = json.loads(first.stdout)
    assert report["engines"][0]["built"] is True
    assert Path(report["engines"][0]["path"]) == entry(cache)
    again = CliRunner().invoke(build_command, [str(bundle)], catch_exceptions=False)
    assert again.stdout.startswith(f"was built before: {entry(cache)} (")
    opened(bundle)
    assert len(trt.recorded("build")) == 1
    open_bundle(bundle)  # still what its hashes say


def test_build_refuses_what_needs_no_build(
    trt: Any, driver: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(bundle_of(folder))
    with pytest.raises(UsageError, match="'npu' is not one of: gpu, dla0, dla1"):
        engine.prepare_bundle(bundle, SessionOptions(device="npu"))
    other = open_bundle(bundle_of(folder, engine="onnxruntime"))
    with pytest.raises(UsageError, match="is for engine onnxruntime, which opens its file as it is"):
        engine.prepare_bundle(other, SessionOptions())
    sys.modules.pop("tensorrt", None)
    monkeypatch.undo()
    with pytest.raises(EngineError, match="engine tensorrt needs tensorrt: it comes with JetPack"):
        engine.prepare_bundle(bundle, SessionOptions())
