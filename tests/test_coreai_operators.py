"""Operators that the coreai target refuses, or spells out as torch computes them.

What needs no toolchain is compared with torch; the rest runs in Core AI's interpreter, in its toolchain.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from edgekit.conversion.selection import refuse
from edgekit.converters import coreai
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions, open_session

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")

from foreign_build import build
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


# --- in the toolchain

needs = pytest.mark.skipif(coreai.TOOLCHAIN.state != "installed", reason="edgekit toolchain install coreai (1600 MB)")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_job(Operators(), torch.rand(1, 3, SIZE, SIZE), OUTPUTS, tmp_path_factory.mktemp("coreai"), "fp32")


@pytest.fixture(scope="module")
def built(job: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Graph]]:
    return {name: build(job, tmp_path_factory.mktemp(name), "coreai", name) for name in ("fp32", "fp16")}


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
