"""Arithmetic and bytes of graphs against independent counts, and what a machine reaches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_conversions import PRECISIONS, TARGETS

from edgekit.errors import EngineError, UsageError
from edgekit.profiling.roofline import available_cores, reached, roofline
from edgekit.runtimes.bundle.folder import open_bundle


def test_arithmetic_bounds_what_computes_much_with_little() -> None:
    found = roofline(2e9, 1e6, (1e11, 1e10), 40.0)
    assert (found.bound, found.limit, found.share) == ("arithmetic", 20.0, 0.5)
    assert (found.operations, found.bytes, found.peak_operations, found.peak_bytes) == (2e9, 1e6, 1e11, 1e10)


def test_memory_bounds_what_moves_much_for_little() -> None:
    found = roofline(2e6, 1e8, (1e11, 1e10), 40.0)
    assert (found.bound, found.limit, found.share) == ("memory", 10.0, 0.25)


@pytest.mark.parametrize(("peaks", "time"), [((0.0, 1.0), 1.0), ((1.0, -1.0), 1.0), ((1.0, 1.0), 0.0)])
def test_what_cannot_be_is_refused(peaks: tuple[float, float], time: float) -> None:
    with pytest.raises(UsageError, match="peaks and time must be positive"):
        roofline(1.0, 1.0, peaks, time)


def test_a_machine_reaches_something() -> None:
    operations, moved = reached(1)
    print(f"{operations / 1e9:.1f} GFLOP/s, {moved / 1e9:.1f} GB/s")
    assert 1e7 < operations < 1e14
    assert 1e7 < moved < 1e13
    assert available_cores() >= 1


def test_a_number_of_threads_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="threads must be 0"):
        reached(-1)


def test_a_failing_measurement_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EngineError, match="what this machine reaches could not be measured"):
        reached(1)


def counted(module: Any, example: Any, folder: Path) -> tuple[dict[str, int], int]:
    """What edgekit counts on the exchange file, and what torch counts while it runs the module."""
    torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
    from torch.utils.flop_counter import FlopCounterMode

    from edgekit.conversion.arithmetic import arithmetic
    from edgekit.graph.exchange import write_exchange

    module = module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs = module(example)
    count = len(outputs) if isinstance(outputs, (tuple, list)) else 1
    folder.mkdir(exist_ok=True)
    exchange = write_exchange(module, example, tuple(f"out{index}" for index in range(count)), folder)
    return arithmetic(exchange.onnx), counter.get_total_flops()


@pytest.mark.nightly
def test_the_demo_detector_has_the_operations_that_torch_counts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
    from edgekit.shapes.trained import detector

    found, wanted = counted(detector(), torch.zeros(1, 3, 256, 256), tmp_path)
    assert found["operations"] == wanted > 2e8
    parameters = sum(one.numel() for one in detector().parameters())
    # BatchNorm's scales are folded into the convolutions, which get a bias in place of its offset.
    assert 0.95 * 4 * parameters < found["weight_bytes"] <= 4 * parameters


def test_every_product_is_counted_as_torch_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")

    class Products(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.grouped = torch.nn.Conv2d(3, 12, (3, 5), 2, groups=3)
            self.transposed = torch.nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=2)
            self.linear = torch.nn.Linear(8, 5)
            self.flat = torch.nn.Linear(40, 7)

        def forward(self, x: Any) -> Any:
            x = self.transposed(torch.relu(self.grouped(x)))
            tokens = self.linear(x.flatten(2).transpose(1, 2))
            mixed = tokens.transpose(1, 2) @ tokens
            return x, self.flat(torch.cat((mixed.flatten(1), tokens[:, :3].flatten(1)), 1))

    found, wanted = counted(Products(), torch.zeros(1, 3, 32, 32), tmp_path)
    assert found["operations"] == wanted > 0
    assert found["weight_bytes"] == 4 * sum(one.numel() for one in Products().parameters())


def write_onnx(path: Path, nodes: list[Any], shape: list[Any], **constants: list[int]) -> Path:
    """Nodes from ``x`` to ``y`` with constants of these shapes."""
    onnx = pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")
    from onnx import helper, numpy_helper

    tensors = [numpy_helper.from_array(np.ones(sides, np.float32), name) for name, sides in constants.items()]
    given, result = (helper.make_tensor_value_info(*one) for one in (("x", 1, shape), ("y", 1, None)))
    made = [helper.make_node(kind, inputs, outputs, **more) for kind, inputs, outputs, more in nodes]
    graph = helper.make_graph(made, "products", [given], [result], tensors)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_activations_are_those_between_what_an_engine_does_not_fuse(tmp_path: Path) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("Sigmoid", ["a"], ["gate"], {}),
        ("Mul", ["a", "gate"], ["b"], {}),
        ("Conv", ["b", "v"], ["c"], {}),
        ("Add", ["b", "c"], ["d"], {}),
        ("MaxPool", ["d"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ]
    path = write_onnx(tmp_path / "g.onnx", nodes, [1, 3, 8, 8], w=[4, 3, 3, 3], v=[4, 4, 1, 1])
    from edgekit.conversion.arithmetic import arithmetic

    kept = 3 * 64 + 4 * 64 + 4 * 64 + 4 * 16  # x, b, d, y; a, gate and c are never stored
    assert arithmetic(path) == {
        "operations": 2 * (4 * 64 * 27 + 4 * 64 * 4),
        "weight_bytes": 4 * (4 * 27 + 16),
        "activation_bytes": 4 * kept,
    }


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_counted_either_way_round(tmp_path: Path, transposed: int) -> None:
    from edgekit.conversion.arithmetic import arithmetic

    shape = [5, 6] if transposed else [6, 5]
    nodes = [("Gemm", ["x", "w"], ["y"], {"transA": transposed})]
    assert arithmetic(write_onnx(tmp_path / "g.onnx", nodes, shape, w=[5, 7]))["operations"] == 2 * 6 * 5 * 7


def test_shapes_that_are_not_known_have_no_arithmetic(tmp_path: Path) -> None:
    from edgekit.conversion.arithmetic import arithmetic

    nodes = [("Conv", ["x", "w"], ["y"], {})]
    path = write_onnx(tmp_path / "g.onnx", nodes, ["batch", 3, 8, 8], w=[4, 3, 1, 1])
    assert arithmetic(path) == {}


@pytest.mark.convert
def test_every_bundle_says_what_its_source_computes(converted: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
    from tiny_models import SIZE, detector

    wanted, operations = counted(detector(), torch.zeros(1, 3, SIZE, SIZE), tmp_path)
    assert wanted["operations"] == operations
    for target in TARGETS:
        for precision in PRECISIONS:
            report = open_bundle(converted.path(target, precision)).manifest.graphs[0].report
            assert {name: report[name] for name in wanted} == wanted
