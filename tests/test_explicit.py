"""Explicit INT8 in ONNX: valid graphs, the integers of the plan, and results that two evaluators agree on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install edgekit[convert]")

from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator
from onnx_graphs import ints, node, write

from edgekit.calibration.explicit import quantise
from edgekit.calibration.observation import observe
from edgekit.calibration.plan import PlannedGraph
from edgekit.calibration.planning import PlanRequest, planned
from edgekit.errors import ConversionError

SHAPE = (1, 3, 12, 12)
INT8 = ("left", "right", "product", "turned", "gemm")
FLOAT = ("stem0", "stem1", "stem2", "up", "out")
both = pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])


def on_grid(seed: int, *shape: int) -> tuple[Any, Any]:
    """Weights (outputs, ...) that lie on the grid of their channel, and their integers."""
    draw = np.random.default_rng(seed)
    integers = draw.integers(-127, 128, shape).astype(np.int8)
    integers.reshape(shape[0], -1)[:, 0] = 127
    scales = draw.uniform(0.1, 3, shape[0]) / 127 / np.sqrt(np.prod(shape[1:]))
    return (integers * scales.reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32), integers


GRID = {
    "left": on_grid(1, 8, 8, 3, 3),
    "right": on_grid(2, 8, 1, 3, 3),
    "product": on_grid(3, 9, 6),
    "turned": on_grid(4, 7, 9),
    "gemm": on_grid(5, 10, 7),
}


def constants() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    given = {f"w_{name}": weights for name, (weights, _) in GRID.items()}
    return given | {
        "w_stem0": draw.normal(0, 0.4, (8, 3, 3, 3)).astype(np.float32),
        "w_stem": draw.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
        "bias": draw.normal(0, 0.3, 8).astype(np.float32),
        "w_up": draw.normal(0, 0.3, (8, 6, 2, 2)).astype(np.float32),
        "w_product": GRID["product"][0].T.copy(),
        "w_gemm": GRID["gemm"][0].T.copy(),
        "w_out": draw.normal(0, 0.3, (10, 4)).astype(np.float32),
        "rows": ints(-1, 9),
    }


NODES = [
    node("Conv", "x", "w_stem0", name="stem0", pads=[1] * 4),
    node("Conv", "stem0", "w_stem", name="stem1", pads=[1] * 4),
    node("Conv", "stem1", "w_stem", name="stem2", pads=[1] * 4),
    node("Relu", "stem2", name="relu"),
    node("Conv", "relu", "w_left", "bias", name="left", pads=[1] * 4),
    node("Conv", "relu", "w_right", name="right", pads=[1] * 4, group=8),
    node("Add", "left", "right", name="sum"),
    node("ConvTranspose", "sum", "w_up", name="up", strides=[2, 2]),
    node("Transpose", "up", name="last", perm=[0, 2, 3, 1]),
    node("MatMul", "last", "w_product", name="product"),
    node("Reshape", "product", "rows", name="flat"),
    node("Gemm", "flat", "w_turned", name="turned", transB=1),
    node("Gemm", "turned", "w_gemm", name="gemm"),
    node("MatMul", "gemm", "w_out", name="out"),
]


def samples(count: int = 4, seed: int = 0) -> list[Any]:
    draw = np.random.default_rng(seed)
    return [draw.normal(0, 1, SHAPE).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of layer, two of which read one tensor."""
    return write(tmp_path_factory.mktemp("net") / "graph.onnx", NODES, constants(), shape=SHAPE)


@pytest.fixture(scope="module")
def plan(net: Path) -> PlannedGraph:
    found = planned(net, observe(net, samples(), 1, lambda count: None), PlanRequest(), ())
    assert found.float_layers == ("stem0", "stem1", "stem2", "out")
    return found


def arrays(model: Any) -> dict[str, Any]:
    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


def writers(model: Any) -> dict[str, Any]:
    return {name: node for node in model.graph.node for name in node.output}


def outputs(model: Any, stream: list[Any]) -> Any:
    """By ONNX Runtime, operator by operator: its products of integers saturate on x86 without VNNI."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": sample})[0] for sample in stream])


def off(model: Any, net: Path) -> float:
    """Root mean square of the error over the standard deviation, on samples that were not looked at."""
    wanted = outputs(onnx.load(net), samples(seed=9))
    return float(np.sqrt(np.mean((outputs(model, samples(seed=9)) - wanted) ** 2)) / wanted.std())


@both
@pytest.mark.parametrize("float_weights", [False, True], ids=["int8 weights", "float weights"])
def test_the_graph_is_valid_and_its_results_are_close(
    net: Path, plan: PlannedGraph, symmetric: bool, float_weights: bool
) -> None:
    model = quantise(onnx.load(net), plan, symmetric=symmetric, float_weights=float_weights)
    onnx.checker.check_model(model, full_check=True)
    assert 0.001 < off(model, net) < 0.08
    halved = {
        name: msgspec.structs.replace(one, low=one.low / 2, high=one.high / 2, limit=one.limit / 2)
        for name, one in plan.tensors.items()
    }
    wrong = quantise(onnx.load(net), msgspec.structs.replace(plan, tensors=halved), symmetric=symmetric)
    assert off(wrong, net) > 4 * off(model, net)


@both
def test_the_specification_has_the_same_results(net: Path, plan: PlannedGraph, symmetric: bool) -> None:
    model = quantise(onnx.load(net), plan, symmetric=symmetric)
    found = outputs(model, samples(2, seed=9))
    model.opset_import[0].version = 19  # the evaluator lacks the older number of the same Q and DQ
    session = ReferenceEvaluator(model)
    wanted = np.concatenate([session.run(None, {"x": sample})[0] for sample in samples(2, seed=9)])
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * wanted.std()  # some values lie on the edge of a step


@both
@pytest.mark.parametrize("float_weights", [False, True], ids=["int8 weights", "float weights"])
def test_weights_become_the_integers_of_the_plan(
    net: Path, plan: PlannedGraph, symmetric: bool, float_weights: bool
) -> None:
    model = quantise(onnx.load(net), plan, symmetric=symmetric, float_weights=float_weights)
    held, made = arrays(model), writers(model)
    for name in INT8:
        layer = made[name]
        dequantise = made[layer.input[1]]
        scale, zero = held[dequantise.input[1]], held[dequantise.input[2]]
        axis = {one.name: one.i for one in dequantise.attribute}["axis"]
        assert axis == (1 if name in ("product", "gemm") else 0)
        assert zero.dtype == np.int8
        assert not zero.any()
        weights, integers = GRID[name]
        assert scale.shape == (len(weights),)
        np.testing.assert_allclose(scale, np.abs(weights).reshape(len(weights), -1).max(1) / 127, rtol=1e-6)
        stored = held[dequantise.input[0] if not float_weights else made[dequantise.input[0]].input[0]]
        stored = np.moveaxis(stored, axis, 0)
        if float_weights:
            assert stored.dtype == np.float32
            np.testing.assert_allclose(stored, weights, rtol=1e-6)
        else:
            assert stored.dtype == np.int8
            np.testing.assert_array_equal(stored, integers)


@both
def test_activations_lie_on_the_grid_of_their_range(net: Path, plan: PlannedGraph, symmetric: bool) -> None:
    model = quantise(onnx.load(net), plan, symmetric=symmetric)
    held, made = arrays(model), writers(model)
    quantised = {node.input[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert set(quantised) == {"relu", "last", "flat", "turned"}, "two layers that read one tensor share its pair"
    assert made["left"].input[0] == made["right"].input[0]
    for tensor, node_ in quantised.items():
        scale, zero, ends = float(held[node_.input[1]]), held[node_.input[2]], plan.tensors[tensor]
        assert zero.dtype == (np.int8 if symmetric else np.uint8)
        if symmetric:
            assert zero == 0
            assert scale == pytest.approx(ends.limit / 127)
        else:
            first = -int(zero) * scale
            assert (first, first + 255 * scale) == pytest.approx((ends.low, ends.high), abs=0.51 * scale)


@both
def test_what_stays_in_float_is_not_touched(net: Path, plan: PlannedGraph, symmetric: bool) -> None:
    source = onnx.load(net)
    model = quantise(onnx.load(net), plan, symmetric=symmetric)
    before, after = writers(source), writers(model)
    for name in FLOAT:
        assert after[name] == before[name]
        np.testing.assert_array_equal(arrays(model)[before[name].input[1]], arrays(source)[before[name].input[1]])
    assert after["left"].input[2] == "bias"
    assert arrays(model)["bias"].dtype == np.float32
    assert [node.op_type for node in model.graph.node if "Linear" not in node.op_type] == [
        node.op_type for node in source.graph.node
    ]
    read = {name for node in model.graph.node for name in node.input}
    assert set(arrays(model)) <= read  # the float weights of INT8 layers are gone
    assert "w_left" not in arrays(model)


def test_layers_can_be_named(net: Path, plan: PlannedGraph) -> None:
    model = quantise(onnx.load(net), plan, symmetric=False, layers=("left", "out", "up"))
    made = writers(model)
    changed = [name for name in (*INT8, *FLOAT) if "dequantized" in made[name].input[1]]
    assert changed == ["left", "out"]  # engines have no transposed convolution in INT8
    less = quantise(onnx.load(net), plan.keep_float(["left", "gemm"], "budget"), symmetric=False)
    assert "left_weight" not in arrays(less)
    assert off(less, net) < off(quantise(onnx.load(net), plan, symmetric=False), net)


@both
def test_nothing_left_for_int8_is_an_error(net: Path, plan: PlannedGraph, symmetric: bool) -> None:
    wanted = r"^int8: all convolutions and products .* --no-float-fallback makes them INT8, or choose fp16$"
    with pytest.raises(ConversionError, match=wanted):
        quantise(onnx.load(net), plan.keep_float(INT8, "budget"), symmetric=symmetric)
    with pytest.raises(ConversionError, match=wanted):
        quantise(onnx.load(net), plan, symmetric=symmetric, layers=("up",))


@both
def test_an_input_that_is_always_zero_leaves_its_layer_in_float(tmp_path: Path, symmetric: bool) -> None:
    nodes = copy.deepcopy(NODES)
    nodes.insert(4, node("Sub", "relu", "relu", name="zero"))
    nodes[5].input[0] = "zero"  # left
    path = write(tmp_path / "graph.onnx", nodes, constants(), shape=SHAPE)
    found = planned(path, observe(path, samples(), 1, lambda count: None), PlanRequest(), ())
    made = writers(quantise(onnx.load(path), found, symmetric=symmetric))
    assert made["left"].input[0] == "zero"
    assert made["right"].input[0] == "relu_dequantized"


@both
def test_a_narrow_range_has_a_grid_as_fine_as_a_wide_one(tmp_path: Path, symmetric: bool) -> None:
    """Values of 1e-6 behind the stem, made large again by the layer that reads them."""
    given = constants()
    given["w_small"], given["w_left"] = given["w_stem"] * np.float32(1e-6), given["w_left"] * np.float32(1e6)
    given["w_right"] = given["w_right"] * np.float32(1e6)
    nodes = copy.deepcopy(NODES)
    nodes[2].input[1] = "w_small"
    path = write(tmp_path / "graph.onnx", nodes, given, shape=SHAPE)
    found = planned(path, observe(path, samples(), 1, lambda count: None), PlanRequest(), ())
    assert found.tensors["relu"].high < 1e-4
    assert off(quantise(onnx.load(path), found, symmetric=symmetric), path) < 0.08


def test_weights_that_are_nothing_become_zeros(tmp_path: Path) -> None:
    given = constants()
    given["w_left"][2] = 0
    given["w_left"][3] = 1e-44
    given["w_left"][3, 0] = 0
    path = write(tmp_path / "graph.onnx", NODES, given, shape=SHAPE)
    found = planned(path, observe(path, samples(), 1, lambda count: None), PlanRequest(), ())
    model = quantise(onnx.load(path), found, symmetric=True)
    held, dequantise = arrays(model), writers(model)[writers(model)["left"].input[1]]
    assert not held[dequantise.input[0]][2:4].any()
    assert (held[dequantise.input[1]][2:4] == 1).all()
    assert off(model, path) < 0.08


def test_constants_of_the_network_keep_their_names(tmp_path: Path) -> None:
    """A network may call its own parameter as the INT8 weights of another layer would be called."""
    nodes, given = copy.deepcopy(NODES), constants()
    given["left_weight"] = given.pop("w_out")
    given["relu_scale"] = given.pop("w_stem0")
    nodes[-1].input[1], nodes[0].input[1] = "left_weight", "relu_scale"
    path = write(tmp_path / "graph.onnx", nodes, given, shape=SHAPE)
    found = planned(path, observe(path, samples(), 1, lambda count: None), PlanRequest(), ())
    model = quantise(onnx.load(path), found, symmetric=False)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(arrays(model)["left_weight"], given["left_weight"])
    assert off(model, path) < 0.08
