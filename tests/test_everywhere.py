"""INT8 everywhere: what ONNX Runtime makes of it, sums that cannot saturate, and what stays in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install edgekit[onnx]")

import torch
from jobs import make_job
from torch import nn

from edgekit.calibration.everywhere import NEIGHBOURS, quantise_everywhere, weight_scales
from edgekit.calibration.plan import TensorRange
from edgekit.calibration.planning import reaching_flat_ends
from edgekit.converters import CONVOLUTIONS, Job
from edgekit.converters import onnx as target
from edgekit.converters._onnx_integers import integer_convolutions
from edgekit.errors import ConversionError
from edgekit.timing import instructions

SIZE = 32


class Body(nn.Module):
    """What detectors are made of: SiLU, a sum, a concatenation, pooling, upsampling, ReLU, a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList(nn.Conv2d(3 if not n else 8, 8, 3, padding=1) for n in range(3))
        self.wide = nn.Conv2d(8, 16, 1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.back = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(32, 16, 1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.stem:
            x = nn.functional.silu(layer(x))
        x = nn.functional.silu(self.wide(x))
        y = nn.functional.max_pool2d(nn.functional.silu(self.deep(x)), 2)
        y = nn.functional.interpolate(nn.functional.relu(self.back(y)), scale_factor=2)
        z = torch.cat([x + y, y], 1)
        batch, channels, height, width = z.shape
        z = z.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        result: torch.Tensor = self.head(nn.functional.silu(self.last(z)))
        return result


def images(count: int = 12) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    torch.manual_seed(0)
    return make_job(Body(), torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path_factory.mktemp("job"), "int8", images())


def written(job: Job, floats: tuple[str, ...] = (), **options: Any) -> Any:
    """The job's graph, with all of its layers but these in INT8."""
    plan = job.planned()
    layers = [layer.name for layer in plan.layers if layer.name not in floats]
    return quantise_everywhere(onnx.load(job.onnx), plan, originals=(), means={}, layers=layers, **options)


def ran(model: Any, level: str = "ORT_ENABLE_ALL") -> list[Any]:
    """Outputs of the calibration images."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    tensors = images().transpose(0, 3, 1, 2)[:, ::-1] / np.float32(255)
    return [session.run(None, {"images": tensor[None].astype(np.float32)})[0] for tensor in tensors]


def kinds(model: Any, tmp_path: Path) -> list[str]:
    """Operators after ONNX Runtime's own optimisation."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


def test_the_whole_body_runs_in_integers(job: Job, tmp_path: Path) -> None:
    found = kinds(written(job), tmp_path)
    assert found.count("QLinearConv") == len(job.planned().layers) == 8
    assert {"Conv", "Sigmoid", "Mul", "Add", "Concat", "Relu"}.isdisjoint(found)
    assert (found.count("QuantizeLinear"), found.count("DequantizeLinear")) == (1, 1)


def test_it_computes_what_the_float_network_does(job: Job) -> None:
    wanted, got = ran(onnx.load(job.onnx)), ran(written(job))
    spread = np.std(np.stack(wanted))
    assert max(np.abs(one - other).max() for one, other in zip(wanted, got, strict=True)) < 0.35 * spread
    assert np.mean([np.abs(one - other).mean() for one, other in zip(wanted, got, strict=True)]) < 0.06 * spread


def test_integers_are_those_that_the_pairs_say(job: Job) -> None:
    """ONNX Runtime without any optimisation computes the pairs one by one in float."""
    model = written(job)
    spread = np.std(np.stack(ran(model)))
    for fast, plain in zip(ran(model), ran(model, "ORT_DISABLE_ALL"), strict=True):
        assert np.abs(fast - plain).mean() < 0.02 * spread


def test_layers_may_stay_in_float(job: Job, tmp_path: Path) -> None:
    names = [layer.name for layer in job.planned().layers]
    found = kinds(written(job, floats=tuple(names[:3])), tmp_path)
    assert found.count("QLinearConv") == len(names) - 3
    with pytest.raises(ConversionError, match="no convolution of this network can be INT8"):
        written(job, floats=tuple(names))


def test_a_rectifier_is_the_end_of_a_range_and_moves_keep_the_grid(job: Job) -> None:
    model = written(job)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (relu,) = [node for node in model.graph.node if node.op_type == "Relu"]
    assert makers[relu.input[0]].op_type == "Conv"  # no pair between
    pairs = {node.input[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert constants[pairs[relu.output[0]].input[2]] == 0
    for kind in ("MaxPool", "Resize", "Transpose"):
        (move,) = [node for node in model.graph.node if node.op_type == kind]
        before, after = makers[move.input[0]], pairs[move.output[0]]
        assert constants[before.input[1]] == constants[after.input[1]], kind


def test_what_has_no_integer_operator_stays_in_float(tmp_path: Path) -> None:
    """HardSwish, and a product with a constant: quantising around them costs more than it gives."""

    class Hard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3 if not n else 8, 8, 3, padding=1) for n in range(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = nn.functional.hardswish(layer(x)) * 0.9
            return x

    model = written(make_job(Hard(), torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path, "int8", images()))
    hard = 0
    for node in model.graph.node:
        if node.op_type in ("HardSwish", "HardSigmoid", "Mul"):
            readers = [other for other in model.graph.node if node.output[0] in other.input]
            hard += 1
            assert all(other.op_type != "DequantizeLinear" for other in readers)
    assert hard >= 6
    assert np.isfinite(ran(model)[0]).all()


weights = arrays.arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 2, st.integers(1, 3), st.integers(1, 3)),
                        elements=st.floats(-4, 4, width=32))  # fmt: skip


@given(weights)
def test_no_two_neighbours_saturate_sixteen_bits(values: Any) -> None:
    """An oracle of its own: the largest sum that VPMADDUBSW can meet, over the NHWC order of a row."""

    def worst(limit: bool) -> float:
        scales = weight_scales(values, limit_neighbours=limit, depthwise=False)
        integers = np.clip(np.rint(values / scales[:, None, None, None]), -127, 127)
        sums = [0.0]
        for channel in integers:
            row = [channel[c, y, x] for y in range(channel.shape[1]) for x in range(channel.shape[2])
                   for c in range(channel.shape[0])]  # fmt: skip
            row += [0] * (len(row) % 2)
            for first, second in zip(row[::2], row[1::2], strict=True):
                sums += [max(first, 0) + max(second, 0), max(-first, 0) + max(-second, 0)]
        return max(sums)

    assert 255 * worst(True) < 2**15
    assert worst(False) >= worst(True)


def test_without_the_limit_they_would() -> None:
    values = np.ones((1, 2, 1, 1), np.float32)
    assert 255 * 2 * np.rint(1 / weight_scales(values, limit_neighbours=False, depthwise=False)[0]) > 2**15
    assert weight_scales(values, limit_neighbours=True, depthwise=False)[0] == pytest.approx(2 / NEIGHBOURS)
    assert weight_scales(values, limit_neighbours=True, depthwise=True)[0] == pytest.approx(1 / 127)


def test_a_bias_far_above_its_weights_still_fits_int32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = Body()
    with torch.no_grad():
        body.last.weight[0], body.last.bias[0] = 0, 3.0
        body.last.weight[1], body.last.bias[1] = 1e-12, -2.0
    job = make_job(body, torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path, "int8", images())
    wanted, got = ran(onnx.load(job.onnx)), ran(written(job))
    assert np.abs(np.stack(wanted) - np.stack(got)).mean() < 0.1 * np.std(np.stack(wanted))


def test_the_bundle_says_how_fast_it_is_and_how_much_is_integer(job: Job) -> None:
    graph = target.convert(job, lambda text, share: None)
    found = graph.report
    integers, total = (int(word) for word in str(found[CONVOLUTIONS]).split(" of "))
    assert 0 < integers < total == 8
    assert integer_convolutions(job.out / "model.onnx") == found[CONVOLUTIONS]
    assert graph.speed
    assert 0 < graph.speed.low <= graph.speed.ratio <= graph.speed.high
    assert graph.speed.instructions == instructions()
    assert graph.speed.engine == f"onnxruntime {onnxruntime.__version__}"


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-np.clip(x, -60, 60)))


def test_ranges_reach_where_an_activation_is_flat() -> None:
    one = TensorRange(lowest=-20, highest=15, low=-4, high=12, limit=12, method="squared", symmetric_method="squared")
    widened = reaching_flat_ends(one, silu)
    assert -6.1 < widened.low < -5.9
    assert widened.high == 12
    assert widened.narrow == widened.fitted == (-4, 12)
    assert one.fitted is None
    assert one.narrow == (-4, 12)
    assert reaching_flat_ends(one, None) == one
    assert reaching_flat_ends(one, lambda x: np.where(x > 0, x, 0.1 * x)) == one  # it flattens nowhere
    assert reaching_flat_ends(one, lambda x: np.maximum(x, 0)) == one  # flat from 0 on
    seen = msgspec.structs.replace(one, lowest=-5.0)
    assert reaching_flat_ends(seen, silu).low == -5.0  # no further than what was seen
    both = reaching_flat_ends(msgspec.structs.replace(one, high=3), np.tanh)
    assert (both.low, both.high) == (-4, 3)
