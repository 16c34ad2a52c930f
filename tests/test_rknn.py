"""The RKNN target: what can be said without the toolkit, and, in its toolchain, the compiler and the simulator."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import converters
from edgekit.calibration.plan import TensorRange
from edgekit.calibration.samples import Samples
from edgekit.conversion.selection import refuse
from edgekit.converters import read_options, rknn
from edgekit.converters.rknn import int8 as rknn_int8
from edgekit.emulators.rknn import toolkit
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, ImageRule, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines import rknn as engine

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
onnx = pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")

from foreign_build import build
from jobs import make_job

nn = torch.nn
SIZE = 32
OUTPUTS = ("boxes", "classes")


class SmallDetector(nn.Module):  # type: ignore[misc]
    """More than the three convolutions that stay in float16, with SiLU, ReLU, a sum, pooling, upsampling, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU(), nn.Conv2d(16, 16, 1))
        self.middle = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.SiLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.mix = nn.Sequential(nn.Conv2d(32, 24, 3, 1, 1), nn.ReLU())
        self.boxes, self.classes = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 5, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = self.middle(x + self.depthwise(x))
        x = self.mix(torch.cat((x, self.up(torch.max_pool2d(x, 2))), 1))
        return self.boxes(x), self.classes(x)


def photographs(count: int, seed: int = 5) -> Any:
    """Smooth random images, uint8 (count, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, SIZE // 4, SIZE // 4, 1), int)).astype(np.uint8)


def noise(found: Any, wanted: Any) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.var(wanted)))


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(3)
    return SmallDetector().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rknn")


@pytest.fixture(scope="module")
def job(detector: Any, folder: Path) -> Any:
    return make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, folder, "int8", photographs(12))


def graph_of() -> Graph:
    return Graph(
        files=(toolkit.FILE, *toolkit.INT8_PARTS),
        inputs=(Tensor(name="images", shape=(1, 3, SIZE, SIZE)),),
        outputs=(Tensor(name="boxes", shape=(1, 4, 16, 16)),),
    )


# --- choices and refusals


def test_options() -> None:
    assert read_options(rknn.TARGET, {}) == rknn.RknnOptions(platform="rk3588", algorithm="normal")
    assert read_options(rknn.TARGET, {"platform": "rk3566"}) == rknn.RknnOptions(platform="rk3566")
    with pytest.raises(UsageError, match=r"option of target rknn: Invalid enum value 'rk1808'"):
        read_options(rknn.TARGET, {"platform": "rk1808"})
    with pytest.raises(UsageError, match="option of target rknn"):
        read_options(rknn.TARGET, {"plattform": "rk3566"})


def test_graphs_that_change_as_they_run_are_refused() -> None:
    refuse(rknn.TARGET, {"Conv": "c", "LayerNormalization": "n"})
    with pytest.raises(ConversionError, match=r"rknn cannot take NonZero \(node 'where'\): RKNN-Toolkit2 takes only"):
        refuse(rknn.TARGET, {"NonZero": "where"})


def test_a_missing_toolchain_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    assert "edgekit toolchain install rknn" in converters.target("rknn").missing
    with pytest.raises(EngineError, match="simulator of engine rknn is not installed: edgekit toolchain install rknn"):
        open_session("rknn", tmp_path, graph_of(), SessionOptions(device="simulator"))


def test_the_npu_is_not_here(tmp_path: Path) -> None:
    if engine.ENGINE.available:
        pytest.skip("this host has the engine")
    with pytest.raises(EngineError, match=r"engine rknn runs on linux-aarch64, .*unit='simulator' shows here"):
        open_session("rknn", tmp_path, graph_of(), SessionOptions())


def test_every_device_has_a_core_mask() -> None:
    assert set(engine.CORES) == set(engine.ENGINE.devices)
    assert engine.CORES["npu012"] == engine.CORES["npu0"] | engine.CORES["npu1"] | engine.CORES["npu2"]
    assert len(set(engine.CORES.values())) == len(engine.CORES)


def test_strict_refuses_what_the_compiler_left_to_the_cpu() -> None:
    graph = msgspec.structs.replace(graph_of(), report={"npu_operators": 9, "cpu_operators": 1, "types": "int8"})
    placement = engine.placement_of(graph, "npu", "executed")
    assert placement.operators == {"NPU": 9, "CPU": 1}
    engine.check_strict(placement, SessionOptions())
    with pytest.raises(EngineError, match="strict: not everything runs on the NPU"):
        engine.check_strict(placement, SessionOptions(strict=True))


# --- calibration files


def test_the_dataset_holds_what_the_graph_takes(job: Any, tmp_path: Path) -> None:
    listing = rknn_int8.write_dataset(job.calibration(), tmp_path)
    paths = listing.read_text().splitlines()
    assert len(paths) == 12
    for path, tensor in zip(paths, job.calibration(), strict=True):
        np.testing.assert_array_equal(np.load(path), tensor)


def test_the_dataset_is_not_without_end(tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((rknn_int8.MOST + 30, 4, 4, 3), np.uint8))
    listing = rknn_int8.write_dataset(Samples(tmp_path / "many.npy", ImageRule(size=(4, 4))), tmp_path)
    paths = listing.read_text().splitlines()
    assert len(set(paths)) == rknn_int8.MOST
    assert {Path(paths[0]).stem, Path(paths[-1]).stem} == {"0", str(rknn_int8.MOST + 29)}


def test_no_images(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ConversionError, match="there are none: give --data"):
        rknn_int8.write_dataset(Samples(tmp_path / "none.npy", ImageRule(size=(4, 4))), tmp_path)


def test_the_plans_float_layers_stay_in_float(job: Any, tmp_path: Path) -> None:
    model = onnx.load(job.onnx)
    # The toolkit fuses a SiLU into one operator: its sigmoid has no range.
    tensors = [name for node in model.graph.node if node.op_type != "Sigmoid" for name in node.output]
    ranges = tmp_path / "cfg"
    known = "".join(f"    {name}:\n        qtype: asym\n" for name in tensors)
    ranges.write_text(f"{rknn_int8.UNTOUCHED}quantize_parameters:\n{known}")
    kept = rknn_int8.keep_float(ranges, model, job.planned().float_layers)
    convolutions = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    assert {*convolutions[:3], *OUTPUTS} <= set(kept)
    assert not set(convolutions[3:-2]) & set(kept)
    assert len(kept) == 3 + 2 + 2  # the third convolution has no activation behind it, nor have the heads
    chosen = ranges.read_text().partition("quantize_parameters:")[0]
    assert chosen == "custom_quantize_layers:\n" + "".join(f"    {name}: float16\n" for name in kept)
    with pytest.raises(ConversionError, match="has another form; install the pinned toolchain"):
        rknn_int8.keep_float(ranges, model, job.planned().float_layers)


def entry(name: str, ends: tuple[float, float], own: tuple[float, float], kind: str = "int8") -> str:
    """What the toolkit writes of a tensor."""
    told = {"min": ends[0], "max": ends[1], "scale": (ends[1] - ends[0]) / 255, "zero_point": -128}
    told |= {"ori_min": own[0], "ori_max": own[1]}
    lines = "".join(f"        {key}:\n        -   {value}\n" for key, value in told.items())
    return f"    {name}:\n        qtype: asym\n        qmethod: layer\n        dtype: {kind}\n{lines}"


def test_tensors_that_share_a_range_go_on_sharing_one(tmp_path: Path) -> None:
    def planned(low: float, high: float) -> TensorRange:
        return TensorRange(lowest=low, highest=high, low=low, high=high, limit=1, method="kl", symmetric_method="kl")

    shared, own = (0.0, 4.5), (-1.5, 2.5)
    before = [
        entry("images", (0.0, 1.0), (0.0, 1.0), "float32"),
        entry("conv", shared, (-7.5, 4.5)),  # a ReLU is fused behind it
        entry("relu", shared, shared),
        entry("pool", shared, shared),
        entry("other", own, own),
        entry("theirs", (-9.0, 9.0), (-9.0, 9.0)),  # the toolkit's own
    ]
    path = tmp_path / "cfg"
    path.write_text("quantize_parameters:\n" + "".join(before))
    tensors = {"images": planned(0, 0.9), "conv": planned(-6, 3), "relu": planned(0, 3.5), "pool": planned(-0.25, 3)}
    assert rknn_int8.set_ranges(path, tensors | {"other": planned(-1, 1e-5)}) == 4
    found = {name: re.findall(r"- +(\S+)", told) for name, told in rknn_int8._ENTRY.findall(path.read_text())}
    assert [name for name in found if found[name][:2] == ["-0.25", "3.5"]] == ["conv", "relu", "pool"]
    assert found["other"] == [
        "-1.0",
        "1.0e-05",
        str(4 / 255),
        "-128",
        "-1.5",
        "2.5",
    ]  # the rest the toolkit works out itself
    assert path.read_text().startswith("quantize_parameters:\n" + before[0])
    assert path.read_text().endswith(before[-1])


# --- the same program


PROGRAM = np.random.default_rng(0).integers(2, 0x50, 400_000).astype(np.uint8).tobytes()


def with_pointers(places: list[int], seed: int) -> bytes:
    """The program with three pointers of some process at each place."""
    changed, rng = bytearray(PROGRAM), np.random.default_rng(seed)
    for place in places:
        bases = np.array([0x7F00_0000_0000, 0x5500_0000_0000, 0x5600_0000_0000])
        changed[place : place + 24] = (bases + rng.integers(0, 1 << 40, 3)).astype("<u8").tobytes()
    return bytes(changed)


@given(st.lists(st.integers(0, 400), max_size=9, unique=True), st.integers(0, 1000), st.integers(0, 1000))
def test_pointers_do_not_make_another_program(places: list[int], ours: int, theirs: int) -> None:
    spread = [48 * place for place in places]
    assert toolkit.same_program(with_pointers(spread, ours), with_pointers(spread, theirs))
    assert toolkit.same_program(PROGRAM, with_pointers(spread, theirs))


@given(st.integers(0, 390_000), st.integers(401, 9000))
def test_other_weights_make_another_program(place: int, length: int) -> None:
    rest = bytes(value ^ 1 for value in PROGRAM[place : place + length])
    assert not toolkit.same_program(PROGRAM, PROGRAM[:place] + rest + PROGRAM[place + length :])


def test_small_changes_or_another_size_make_another_program() -> None:
    scattered = np.frombuffer(PROGRAM, np.uint8).copy()
    scattered[::900] ^= 1
    assert not toolkit.same_program(PROGRAM, scattered.tobytes())
    assert toolkit.same_program(PROGRAM, scattered[:100].tobytes() + PROGRAM[100:])  # what RK3576's compiler does
    assert not toolkit.same_program(PROGRAM, PROGRAM + b"\0")


# --- what the toolkit prints

PRINTED = """
import os, sys
from edgekit.emulators.rknn import toolkit
def work(**arguments):
    os.write(1, b"I building\\r\\x1b[1;31mE\\x1b[0m \\x1b[1;31mbuild: no such thing: Zebra\\x1b[0m\\n")
    os.write(2, b"E rknn-toolkit2 version: 2.5.0\\nW more\\n")
    if arguments.get("raises"):
        print("E build: Traceback (most recent call last):\\n  File x\\nKeyError: 'Stripes'", flush=True)
        raise ValueError("long")
    return arguments["code"]
with toolkit.quietly() as log:
    here = os.getcwd()
    toolkit.step("fine", log, work, code=0)
    said = []
    for arguments in ({"code": -1}, {"raises": True}):
        try:
            toolkit.step("compiling", log, work, **arguments)
        except toolkit.EngineError as error:
            said.append(str(error))
assert os.getcwd() != here and not os.path.exists(here)
print("|".join(said))
"""


def test_errors_are_found_in_what_the_toolkit_prints() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True)
    first, second = done.stdout.strip().split("|")
    assert first == "RKNN-Toolkit2 failed at compiling: no such thing: Zebra"
    assert second == "RKNN-Toolkit2 failed at compiling: KeyError: 'Stripes'"
    assert done.stderr == ""


# --- in the toolchain

needs = pytest.mark.skipif(rknn.TOOLCHAIN.state != "installed", reason="edgekit toolchain install rknn (1500 MB)")


@pytest.fixture(scope="module")
def built(job: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Graph]]:
    return {name: build(job, tmp_path_factory.mktemp(name), "rknn", name) for name in ("fp16", "int8")}


@needs
@pytest.mark.toolchain
@pytest.mark.parametrize(("precision", "low", "high"), [("fp16", 1e-5, 0.01), ("int8", 1e-3, 0.1)])
def test_the_simulator_computes_what_torch_does(
    precision: str, low: float, high: float, detector: Any, job: Any, built: Any
) -> None:
    out, graph = built[precision]
    assert sorted(path.name for path in out.iterdir()) == sorted(graph.files)
    session = open_session("rknn", out, graph, SessionOptions(device="simulator", strict=True))
    assert (session.placement.device, session.placement.word) == ("simulator", "emulated")
    assert session.placement.operators == {"NPU": graph.report["npu_operators"]}
    assert session.placement.arithmetic.startswith("float16 in")
    assert ("int8 in" in session.placement.arithmetic) == (precision == "int8")
    assert graph.report["platform"] == "rk3588"
    assert graph.report["weight_memory_kb"] > 0
    for image in list(job.calibration())[:2]:
        outputs = session.run([image])
        with torch.no_grad():
            expected = [output.numpy() for output in detector(torch.from_numpy(image))]
        errors = [noise(found, wanted) for found, wanted in zip(outputs, expected, strict=True)]
        assert low < max(errors) < high  # better than ``low`` would not be this arithmetic
    with pytest.raises(EngineError, match="takes float32"):
        session.run([image[:, :2]])


@needs
@pytest.mark.toolchain
def test_the_simulator_refuses_a_file_that_it_would_not_simulate(built: Any, tmp_path: Path) -> None:
    """The file is compiled from other ranges than those beside it."""
    out, graph = built["int8"]
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    ranges = tmp_path / toolkit.INT8_PARTS[2]

    def wider(found: re.Match[str]) -> str:
        return f"{found[1]}{float(found[2]) * 1.25}"

    ranges.write_text(re.sub(r"( max:\n +- +)([\d.]+)", wider, ranges.read_text()))
    with pytest.raises(EngineError, match=r"model\.rknn: what would be simulated does not compile to this file"):
        open_session("rknn", tmp_path, graph, SessionOptions(device="simulator"))


@needs
@pytest.mark.toolchain
def test_the_recipes_differ_in_their_ranges_alone(job: Any, built: Any, tmp_path: Path) -> None:
    out, _ = built["int8"]
    theirs, _ = build(job, tmp_path, "rknn", "int8", recipe=rknn.TOOLKIT)

    def told(folder: Path) -> dict[str, Any]:
        text = (folder / toolkit.INT8_PARTS[2]).read_text()
        return {name: re.findall(r"- +(\S+)", lines) for name, lines in rknn_int8._ENTRY.findall(text)}

    ours, others, tensors = told(out), told(theirs), job.planned().tensors
    assert list(ours) == list(others)
    assert all(found[:2] == found[4:6] or name not in tensors for name, found in others.items() if "relu" in name)
    alone = [name for name in ours if name in tensors and ours[name][:2] != others[name][:2]]
    assert len(alone) > 8
    assert all(ours[name][2:] == others[name][2:] for name in ours)
    assert [float(value) for value in ours["silu_1"][:2]] == [tensors["silu_1"].low, tensors["silu_1"].high]


@needs
@pytest.mark.toolchain
@pytest.mark.parametrize("platform", ["rk3576", "rk3568", "rk3566", "rk3562"])
def test_every_chip_compiles(platform: str, job: Any, built: Any, tmp_path: Path) -> None:
    out, graph = build(job, tmp_path, "rknn", "int8", platform=platform)
    assert graph.report["platform"] == platform
    assert not toolkit.same_program(*((path / toolkit.FILE).read_bytes() for path in (out, built["int8"][0])))
    assert open_session("rknn", out, graph, SessionOptions(device="simulator")).placement.word == "emulated"


@needs
@pytest.mark.toolchain
def test_the_toolkits_own_words_are_told(job: Any, tmp_path: Path) -> None:
    entry, exit_ = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE]) for name in ("images", "y")
    )
    nodes = [
        onnx.helper.make_node("NonZero", ["images"], ["where"]),
        onnx.helper.make_node("Cast", ["where"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [entry], [exit_])
    path = tmp_path / "graph.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    broken = dataclasses.replace(job, onnx=path)
    with pytest.raises(ConversionError, match=r"RKNN-Toolkit2 failed at .*NonZero"):
        build(broken, tmp_path / "b", "rknn", "fp16")
