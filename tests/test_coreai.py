"""The Core AI target: what can be said without its toolchain, and, in it, the converter and Apple's interpreter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import converters
from edgekit.conversion.selection import refuse
from edgekit.converters import coreai, read_options
from edgekit.converters.coreai.integers import shift
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines import coreai as engine
from edgekit.runtimes.engines.base import guarded_folder

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")

from foreign_build import build
from jobs import make_job

nn = torch.nn
SIZE = 32
LOUD = 2.0**12
OUTPUTS = ("boxes", "classes")
FILES = tuple(f"{coreai.ASSET}/{name}" for name in ("main.hash", "main.mlirb", "metadata.json"))


class SmallDetector(nn.Module):  # type: ignore[misc]
    """SiLU, a depthwise convolution, pooling, upsampling, layer normalisation, softmax, a linear layer, two heads.

    Before the heads, large activations meet weights whose INT8 scales are below the normal numbers of float16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU(), nn.Conv2d(16, 16, 1), nn.SiLU()
        )
        self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 32)
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.faint = nn.Conv2d(32, 32, 1)
        self.faint.weight.data /= LOUD
        self.boxes, self.classes = nn.Conv2d(32, 4, 3, 1, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = x + self.depthwise(x)
        x = torch.cat((x, self.up(torch.max_pool2d(x, 2))), 1)[:, :16]
        rows = self.linear(self.norm(x.flatten(2).transpose(1, 2)))
        x = (rows.softmax(-1) * rows).transpose(1, 2).reshape(1, 32, SIZE // 2, SIZE // 2)
        x = self.faint(x * LOUD)
        return self.boxes(x), self.classes(x)


def graph_of() -> Graph:
    return Graph(
        files=FILES,
        inputs=(Tensor(name="images", shape=(1, 3, SIZE, SIZE)),),
        outputs=(Tensor(name="boxes", shape=(1, 4, 16, 16)),),
    )


def photographs(count: int) -> Any:
    """Smooth random images, uint8 (count, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(5).integers(0, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, SIZE // 4, SIZE // 4, 1), int)).astype(np.uint8)


# --- choices and refusals


def test_systems_without_core_ai_are_refused() -> None:
    assert read_options(coreai.TARGET, {}) == coreai.CoreaiOptions(minimum_os="27")
    with pytest.raises(UsageError, match=r"option of target coreai: Invalid enum value 'iOS18'"):
        read_options(coreai.TARGET, {"minimum_os": "iOS18"})


def test_a_missing_toolchain_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    assert "edgekit toolchain install coreai" in converters.target("coreai").missing
    with pytest.raises(EngineError, match=r"the interpreter .*is not installed: edgekit toolchain install coreai"):
        open_session("coreai", tmp_path, graph_of(), SessionOptions(device="interpreter"))


def test_the_systems_runtime_is_not_here(tmp_path: Path) -> None:
    if engine.ENGINE.available:
        pytest.skip("this host has the engine")
    with pytest.raises(EngineError, match=r"engine coreai runs on darwin, .*unit='interpreter' shows here"):
        open_session("coreai", tmp_path, graph_of(), SessionOptions())


def test_a_file_that_the_manifest_does_not_guard_is_refused(tmp_path: Path) -> None:
    (tmp_path / coreai.ASSET).mkdir()
    assert guarded_folder(tmp_path, graph_of(), ".aimodel") == tmp_path / coreai.ASSET
    (tmp_path / coreai.ASSET / "more").touch()
    with pytest.raises(EngineError, match=r"model\.aimodel/more: a file that the manifest does not list"):
        guarded_folder(tmp_path, graph_of(), ".aimodel")
    with pytest.raises(EngineError, match=r"'model\.aimodel/main\.hash' is not in an \.mlpackage folder"):
        guarded_folder(tmp_path, graph_of(), ".mlpackage")


def test_weights_are_multiplied_until_float16_holds_their_scales() -> None:
    assert shift(2.0**-14, step=0.02) == 0
    assert shift(1.2e-5, step=28.0) == 3
    assert shift(1e-9, step=28.0) == 14  # 2**-14 is still a normal number
    assert shift(1e-9, step=2.0**-8) == 6  # a step of the activation stays one
    assert shift(1e-9, step=0.0) == 0


# --- in the toolchain

needs = pytest.mark.skipif(coreai.TOOLCHAIN.state != "installed", reason="edgekit toolchain install coreai (1600 MB)")
INTERPRETER = SessionOptions(device="interpreter")


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(3)
    return SmallDetector().eval()


@pytest.fixture(scope="module")
def jobs(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of the exchange files, and one of the plan's."""

    def made(precision: str) -> Any:
        folder = tmp_path_factory.mktemp(precision)
        return make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, folder, precision, photographs(12))

    return {"float": made("fp32"), "w8a8": made("w8a8")}


@pytest.fixture(scope="module")
def built(jobs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Graph]]:
    return {
        name: build(jobs["float" if name.startswith("fp") else "w8a8"], tmp_path_factory.mktemp(name), "coreai", name)
        for name in coreai.TARGET.precisions
    }


@needs
@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("precision", "low", "high"), [("fp32", 0, 1e-5), ("fp16", 1e-5, 0.01), ("int8", 1e-4, 0.05), ("w8a8", 1e-3, 0.1)]
)
def test_the_interpreter_computes_what_torch_does(
    precision: str, low: float, high: float, detector: Any, jobs: dict[str, Any], built: Any
) -> None:
    out, graph = built[precision]
    assert graph.files == FILES
    session = open_session("coreai", out, graph, INTERPRETER)
    assert (session.placement.device, session.placement.word) == ("interpreter", "emulated")
    assert session.placement.arithmetic == ("float32" if precision == "fp32" else "float16")
    for image in list(jobs["float"].calibration())[:2]:
        with torch.no_grad():
            expected = [output.numpy() for output in detector(torch.from_numpy(image))]
        errors = [
            float(np.sqrt(np.mean((found - wanted) ** 2) / np.var(wanted)))
            for found, wanted in zip(session.run([image]), expected, strict=True)
        ]
        assert low <= max(errors) < high  # better than ``low`` would not be this arithmetic


@needs
@pytest.mark.toolchain
def test_operators_stay_whole_and_weights_become_integers(built: Any) -> None:
    whole = built["fp32"][1].report
    assert (whole["silu"], whole["_softmax"], whole["native_layer_norm"]) == (3, 1, 1)
    assert "exp" not in whole
    assert "coreai" not in whole
    assert built["int8"][1].report["mul"] == whole["mul"] + 1  # what the layer of small weights reads, divided
    assert built["w8a8"][1].report["coreai"] > built["int8"][1].report["coreai"] > 0
    sizes = {name: sum((out / file).stat().st_size for file in graph.files) for name, (out, graph) in built.items()}
    assert sizes["fp16"] < sizes["fp32"]
    # so few weights that what INT8 adds to the program weighs more
    assert sizes["int8"] < sizes["fp32"]


@needs
@pytest.mark.toolchain
def test_a_flipped_byte_is_told(built: Any, tmp_path: Path) -> None:
    """By the asset's own hash too, where somebody has made the bundle's anew: the interpreter would end its process."""
    out, graph = built["fp32"]
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    path = tmp_path / coreai.ASSET / "main.mlirb"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"main\.mlirb is not the program that main\.hash is of; copy the"):
        open_session("coreai", tmp_path, graph, INTERPRETER)


@needs
@pytest.mark.toolchain
def test_an_asset_of_a_newer_format_is_told(built: Any, tmp_path: Path) -> None:
    out, graph = built["fp32"]
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    path = tmp_path / coreai.ASSET / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "assetVersion": "99.0"}))
    with pytest.raises(EngineError, match=r"Asset version \"99\.0\" is not supported; .*update coreai-core"):
        open_session("coreai", tmp_path, graph, INTERPRETER)


@needs
@pytest.mark.toolchain
def test_tensors_that_are_not_there_are_told(built: Any) -> None:
    out, graph = built["fp32"]
    wrong = Graph(files=graph.files, inputs=graph.inputs, outputs=(Tensor(name="masks", shape=(1, 4, 16, 16)),))
    with pytest.raises(EngineError, match=r"model\.aimodel has no output 'masks', only boxes, classes"):
        open_session("coreai", out, wrong, INTERPRETER)


@needs
@pytest.mark.toolchain
def test_elu_and_sampled_grids_are_written_in_other_operators(tmp_path: Path) -> None:
    class Sampled(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            grid = torch.tanh(x[:, :2].permute(0, 2, 3, 1) * 2 - 1)  # some points lie outside the image
            return nn.functional.grid_sample(nn.functional.elu(x * 2 - 1), grid * 1.5, align_corners=False)

    job = make_job(Sampled(), torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path / "job", "fp32", photographs(2))
    out, graph = build(job, tmp_path / "built", "coreai", "fp32")
    image = next(iter(job.calibration()))
    (found,) = open_session("coreai", out, graph, INTERPRETER).run([image])
    np.testing.assert_allclose(found, Sampled()(torch.from_numpy(image)).numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["DFT", "Det"])
def test_what_it_does_not_convert_is_refused_before_anything_is_built(kind: str) -> None:
    refuse(coreai.TARGET, {"Conv": "c", "LayerNormalization": "n", "GridSample": "g", "Elu": "e"})
    with pytest.raises(ConversionError, match=rf"coreai cannot take {kind} \(node 'there'\): coreai-torch"):
        refuse(coreai.TARGET, {kind: "there"})


@needs
@pytest.mark.toolchain
def test_an_operator_that_it_cannot_take_is_named(tmp_path: Path) -> None:
    class Spectrum(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.fft.rfft(x).abs()

    job = make_job(Spectrum(), torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path / "job", "fp32")
    with pytest.raises(ConversionError, match=r"Core AI fp32: .*fft.*DFT"):
        build(job, tmp_path / "built", "coreai", "fp32")
