"""Operators that the coreai target refuses or spells out, and damaged assets.

What needs no toolchain is compared with torch; the rest runs in Core AI's interpreter, in its toolchain.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.conversion.jobs import BuildJob, Prepared, Reference
from edgekit.conversion.runner import run
from edgekit.conversion.selection import refuse
from edgekit.conversion.workspace import Workspace
from edgekit.converters import coreai
from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Graph, Origin, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines.coreai import CoreAiSession

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")

from jobs import make_job

from edgekit.converters.coreai.operators import _average

F = torch.nn.functional
SIZE = 16
OUTPUTS = ("averages", "activations", "sampled")


class Operators(torch.nn.Module):  # type: ignore[misc]
    """What coreai-torch would write wrong, refuse, or spell out."""

    def forward(self, x: Any) -> Any:
        averages = [
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.avg_pool2d(x, 3, 2, 0, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)[:, :, :8, :8],
        ]
        averages[1] = averages[1][:, :, :8, :8]
        normal = F.layer_norm(x, (SIZE,))
        activations = torch.cat((F.elu(x - 0.5), F.silu(x), F.softmax(normal, 1)), 1)
        grid = (x[:, :2].permute(0, 2, 3, 1) - 0.5) * 2.4
        return torch.cat(averages, 1), activations, F.grid_sample(x, grid, align_corners=False)


def quiet(text: str, share: float) -> None:
    """A report that nobody reads."""


# --- without the toolchain


def test_operators_without_a_counterpart_are_refused_by_name() -> None:
    refuse(coreai.TARGET, {"Conv": "c", "LayerNormalization": "n", "GridSample": "g", "TopK": "k", "LSTM": "l"})
    for name in ("DFT", "STFT", "Det", "CumProd", "Col2Im", "MaxUnpool", "Unique", "IsNaN"):
        with pytest.raises(ConversionError, match=rf"coreai cannot take {name} \(node 'n'\): coreai-torch .*onnx"):
            refuse(coreai.TARGET, {name: "n"})


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_averages_are_what_torch_computes(ceil: bool, counted: bool) -> None:
    images = torch.randn(2, 3, 13, 16, generator=torch.Generator().manual_seed(1))
    spelled = 0
    for kernel, stride, padding in itertools.product(
        ((3, 3), (2, 4), (5, 5)), ((1, 2), (2, 2), (3, 3)), ((0,), (1, 1))
    ):
        found = _average(images, kernel, stride, padding, ceil, counted)
        if found is NotImplemented:  # coreai-torch writes it as it is
            assert not ceil
            assert counted or not any(padding)
            continue
        spelled += 1
        wanted = F.avg_pool2d(images, kernel, stride, padding, ceil, counted)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert spelled == (18 if ceil else 0 if counted else 9)


def entry() -> Graph:
    return Graph(
        files=("model.aimodel/main.mlirb",),
        inputs=(Tensor(name="images", shape=(1, 3, SIZE, SIZE)),),
        outputs=(Tensor(name=OUTPUTS[0], shape=(1, 9, 8, 8)),),
    )


def test_a_flipped_byte_or_a_missing_file_is_told_before_core_ai_reads_it(tmp_path: Path) -> None:
    """Core AI's own loader opens an asset whose weights were changed."""
    asset = tmp_path / "model.aimodel"
    asset.mkdir()
    program = bytearray(b"MLIR and then the weights")
    (asset / "main.hash").write_bytes(hashlib.sha256(program).digest())
    (asset / "main.mlirb").write_bytes(program)
    with pytest.raises(EngineError, match=r"metadata\.json is missing; copy the bundle again"):
        CoreAiSession(asset, entry(), SessionOptions(), "emulated")
    (asset / "metadata.json").write_text("{}")
    program[-3] ^= 1
    (asset / "main.mlirb").write_bytes(program)
    with pytest.raises(EngineError, match=r"main\.mlirb is damaged: its SHA-256 is not the one in main\.hash"):
        CoreAiSession(asset, entry(), SessionOptions(), "emulated")


# --- in the toolchain

needs = pytest.mark.skipif(coreai.TOOLCHAIN.state != "installed", reason="edgekit toolchain install coreai (1600 MB)")


def build(job: Any, folder: Path, precision: str) -> tuple[Path, Graph]:
    """Convert in the toolchain, as a conversion does."""
    workspace, out = Workspace(folder / "prepared"), folder / precision
    workspace.folder.mkdir(parents=True)
    out.mkdir()
    shutil.copyfile(job.onnx, workspace.onnx)
    shutil.copyfile(job.program, workspace.program)
    told = Prepared(
        name="small",
        parts=(),
        contract=job.contract,
        origin=Origin(kind="test", name="small", sha256=""),
        shapes=job.shapes,
        operators={},
        calibration=None,
        proof_sha256="",
        proof_views=0,
        photographs=0,
        reference=Reference(how=""),
        versions={},
    )
    workspace.write_prepared(told)
    work = BuildJob(folder=str(workspace.folder), part="model", target="coreai", precision=precision, out=str(out))
    return out, run(work, Graph, quiet, toolchain="coreai")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_job(Operators(), torch.rand(1, 3, SIZE, SIZE), OUTPUTS, tmp_path_factory.mktemp("coreai"), "fp32")


@pytest.fixture(scope="module")
def built(job: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Graph]]:
    return {name: build(job, tmp_path_factory.mktemp(name), name) for name in ("fp32", "fp16")}


@needs
@pytest.mark.toolchain
@pytest.mark.parametrize(("precision", "low", "high"), [("fp32", 0.0, 1e-5), ("fp16", 1e-5, 0.02)])
def test_the_interpreter_computes_what_torch_does(precision: str, low: float, high: float, built: Any) -> None:
    out, graph = built[precision]
    session = open_session("coreai", out, graph, SessionOptions(device="interpreter"))
    assert (session.placement.device, session.placement.word) == ("interpreter", "emulated")
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    for found, wanted in zip(session.run([images.numpy()]), Operators()(images), strict=True):
        error = float(abs(found - wanted.numpy()).max())
        assert low <= error < high  # better than ``low`` would not be this arithmetic


@needs
@pytest.mark.toolchain
def test_activations_and_normalisations_stay_single_operations(built: Any) -> None:
    for _, graph in built.values():
        assert {"silu", "_softmax", "native_layer_norm"} <= set(graph.report)


@needs
@pytest.mark.toolchain
def test_an_asset_of_a_newer_format_says_so(built: Any, tmp_path: Path) -> None:
    out, graph = built["fp32"]
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    metadata = tmp_path / coreai.ASSET / coreai.METADATA
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"assetVersion": "9.0"}))
    with pytest.raises(EngineError, match=r'Asset version "9\.0" is not supported; .*or update coreai-core'):
        open_session("coreai", tmp_path, graph, SessionOptions(device="interpreter"))
