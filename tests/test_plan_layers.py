"""What a quantiser knows of a graph: layers, activation functions, the names that both exchange forms share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")

from onnx_graphs import image, ints, node, weights, write

from edgekit.calibration.layers import (
    STEM,
    activations,
    float_fallback_layers,
    names_in,
    node_names,
    responses,
    sites,
)
from edgekit.calibration.observation import watched
from edgekit.calibration.plan import Advice, Equalization, Layer, Methods, Plan, PlannedGraph, TensorRange
from edgekit.graph.exchange import write_exchange

nn = torch.nn
SHAPE = (1, 4, 6, 5)


def model(path: Path, nodes: Sequence[Any], constants: dict[str, Any] | None = None, **given: Any) -> Any:
    return onnx.load(write(path / "graph.onnx", nodes, constants, shape=given.pop("shape", SHAPE), **given))


def tensors(graph: Any, names: Sequence[str], sample: Any) -> dict[str, Any]:
    """What ONNX Runtime holds in tensors of a model."""
    return dict(zip(names, watched(graph, names, 1).run(list(names), {"x": sample}), strict=True))


# ---- layers ----


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every kind of layer with 1x1 kernels, and what is none."""
    nodes = [
        node("Conv", "x", "w_conv", "bias", name="conv"),
        node("Conv", "conv", "w_grouped", name="grouped", group=2),
        node("Conv", "grouped", "w_depthwise", name="depthwise", group=4),
        node("ConvTranspose", "depthwise", "w_up", name="up"),
        node("ConvTranspose", "up", "w_up_grouped", name="up_grouped", group=2),
        node("Transpose", "up_grouped", name="last", perm=[0, 2, 3, 1]),
        node("MatMul", "last", "w_product", name="product"),
        node("Reshape", "product", "rows", name="flat"),
        node("Gemm", "flat", "w_product", name="gemm"),
        node("Gemm", "gemm", "w_turned", "bias", name="turned", transB=1),
        node("Gemm", "turned", "w_product", name="scaled", alpha=0.5),
        node("Transpose", "scaled", name="across", perm=[1, 0]),
        node("MatMul", "across", "scaled", name="both_computed"),
    ]
    constants = {
        "w_conv": weights(4, 4, 1, 1),
        "bias": weights(4, seed=2),
        "w_grouped": weights(4, 2, 1, 1, seed=3),
        "w_depthwise": weights(4, 1, 1, 1, seed=4),
        "w_up": weights(4, 6, 1, 1, seed=5),
        "w_up_grouped": weights(6, 2, 1, 1, seed=6),
        "w_product": weights(4, 4, seed=7),
        "w_turned": weights(4, 4, seed=8),
        "rows": ints(-1, 4),
    }
    return model(tmp_path_factory.mktemp("zoo"), nodes, constants)


def test_layers_are_what_has_constant_weights(zoo: Any) -> None:
    found = {site.name: site for site in sites(zoo)}
    assert list(found) == ["conv", "grouped", "depthwise", "up", "product", "gemm", "turned"]
    assert {name for name, site in found.items() if site.depthwise} == {"depthwise"}
    assert [site.channels for site in found.values()] == [4] * 7
    assert [len(site.weights) for site in found.values()] == [4, 4, 4, 6, 4, 4, 4]
    assert {name: site.axis for name, site in found.items()} == {
        "conv": 0, "grouped": 0, "depthwise": 0, "up": 1, "product": 1, "gemm": 1, "turned": 0
    }  # fmt: skip
    assert found["grouped"].input == "conv"


def test_weights_times_input_rows_are_the_output_rows(zoo: Any) -> None:
    """Whatever the layout in the file is, and with several images in a batch."""
    zoo.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    names = list(dict.fromkeys(name for site in sites(zoo) for name in (site.input, site.name)))
    values = tensors(zoo, [name for name in names if name != "x"], np.repeat(image(SHAPE).numpy(), 2, 0))
    values["x"] = np.repeat(image(SHAPE).numpy(), 2, 0)
    for site in sites(zoo):
        given, made = site.rows(values[site.input]), site.rows(values[site.name])
        matrix = site.weights.reshape(len(site.weights), -1)
        parts = np.split(given, site.groups)
        wanted = np.concatenate([w @ x for w, x in zip(np.split(matrix, site.groups), parts, strict=True)])
        shift = (made - wanted).mean(1, keepdims=True)  # a bias
        np.testing.assert_allclose(made - wanted, np.broadcast_to(shift, made.shape), atol=1e-4)


def test_the_first_layers_and_those_of_the_outputs_stay_in_float(tmp_path: Path) -> None:
    names = [f"conv{index}" for index in range(1, 7)]
    nodes, before = [], "x"
    for name in names:
        nodes.append(node("Conv", before, "w", name=name))
        before = name
    nodes += [
        node("Relu", "conv6", name="relu"),
        node("MatMul", "relu", "m", name="scores"),
        node("Identity", "relu", name="other"),
    ]
    constants = {"w": weights(4, 4, 1, 1), "m": weights(5, 5)}
    graph = model(tmp_path, nodes, constants, outputs=["scores", "conv5", "other"])
    assert STEM == 3
    assert float_fallback_layers(graph) == ["conv1", "conv2", "conv3", "conv5", "scores"]
    short = model(tmp_path, nodes[:2], constants, outputs=["conv2"])
    assert float_fallback_layers(short) == ["conv1", "conv2"]


def test_a_product_that_gives_an_output_in_another_shape_is_a_head(tmp_path: Path) -> None:
    class Products(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            self.scores, self.boxes = nn.Linear(8, 4), nn.Linear(8, 4, bias=False)

        def forward(self, x: Any) -> Any:
            x = self.stem(x).flatten(2).transpose(1, 2)
            for layer in self.layers:
                x = torch.relu(layer(x))
            return self.scores(x), self.boxes(x) + 1

    exchange = write_exchange(Products().eval(), torch.zeros(1, 3, 4, 4), ("scores", "boxes"), tmp_path)
    graph = onnx.load(exchange.onnx)
    assert len(list(sites(graph))) == 6
    assert float_fallback_layers(graph) == [
        site.name for site in sites(graph) if site.name != list(sites(graph))[3].name
    ]


def test_nodes_are_found_by_what_they_write(zoo: Any) -> None:
    assert node_names(zoo, ["gemm", "conv", "x", "nothing"]) == ["/conv", "/gemm"]


def test_activations_are_the_float_tensors_that_nodes_write(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", name="a"),
        node("Shape", "a", name="shape"),
        node("Reshape", "a", "shape", name="b"),
        node("Greater", "b", "x", name="mask"),
        node("Where", "mask", "a", "b", name="c"),
    ]
    assert activations(model(tmp_path, nodes)) == ["a", "b", "c"]


# ---- the activation behind a tensor ----

FUNCTIONS: dict[str, list[Any]] = {
    "Relu": [node("Relu", "x", name="y")],
    "LeakyRelu": [node("LeakyRelu", "x", name="y", alpha=0.2)],
    "LeakyRelu, default": [node("LeakyRelu", "x", name="y")],
    "Sigmoid": [node("Sigmoid", "x", name="y")],
    "HardSigmoid, default": [node("HardSigmoid", "x", name="y")],
    "HardSigmoid of torch": [node("HardSigmoid", "x", name="y", alpha=1 / 6, beta=0.5)],
    "HardSwish": [node("HardSwish", "x", name="y")],
    "Tanh": [node("Tanh", "x", name="y")],
    "SiLU": [node("Sigmoid", "x", name="gate"), node("Mul", "x", "gate", name="y")],
    "SiLU, the other way round": [node("Sigmoid", "x", name="gate"), node("Mul", "gate", "x", name="y")],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_behind_a_tensor_is_the_engines(name: str, tmp_path: Path) -> None:
    graph = model(tmp_path, FUNCTIONS[name])
    sample = 5 * image(SHAPE).numpy()
    wanted = tensors(graph, ["y"], sample)["y"]
    np.testing.assert_allclose(responses(graph)["x"](sample.astype(np.float64)), wanted, atol=1e-5)


NONE: dict[str, list[Any]] = {
    "two that read it": [node("Relu", "x", name="a"), node("Tanh", "x", name="b"), node("Add", "a", "b", name="y")],
    "no function": [node("Conv", "x", "w", name="y")],
    "its square": [node("Mul", "x", "x", name="y")],
    "a gate of another's": [
        node("Tanh", "x", name="other"),
        node("Sigmoid", "other", name="gate"),
        node("Mul", "x", "gate", name="y"),
    ],
    "a gate for another": [
        node("Sigmoid", "x", name="gate"),
        node("Mul", "x", "w", name="other"),
        node("Add", "gate", "other", name="y"),
    ],
}


@pytest.mark.parametrize("name", NONE)
def test_what_more_than_a_function_reads_has_none(name: str, tmp_path: Path) -> None:
    assert "x" not in responses(model(tmp_path, NONE[name], {"w": weights(4, 4, 1, 1)}, infer=False))


def test_an_output_of_the_graph_is_read_as_it_is(tmp_path: Path) -> None:
    nodes = [node("Tanh", "x", name="raw"), node("Sigmoid", "raw", name="y")]
    assert "raw" not in responses(model(tmp_path, nodes, outputs=["raw", "y"]))
    assert "raw" in responses(model(tmp_path, nodes, outputs=["y"]))


# ---- names ----


class Blocks(nn.Module):  # type: ignore[misc]
    """BatchNorm that is folded, SiLU that is written as two nodes, a product, and a layer that nothing needs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.product = nn.Linear(8, 8)
        self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        x = self.depthwise(self.stem(x)) + 1
        x = torch.cat([self.product(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), x], 1)[:, 4:12]
        return self.boxes(x), self.classes(nn.functional.interpolate(x, scale_factor=2))


def test_both_exchange_forms_call_the_same_values_by_the_same_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    exchange = write_exchange(Blocks().eval(), torch.zeros(1, 3, 16, 16), ("boxes", "classes"), tmp_path)
    sample = torch.rand(1, 3, 16, 16)
    program = torch.export.load(exchange.program).module()
    held: dict[str, Any] = {}

    class Watch(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            held[n.name] = super().run_node(n)
            return held[n.name]

    with torch.no_grad():
        Watch(program).run(sample)
    graph = onnx.load(exchange.onnx)
    names = [name for name in activations(graph) if name not in exchange.shapes]
    found = dict(zip(names, watched(graph, names, 1).run(names, {"images": sample.numpy()}), strict=True))
    layers = [site.name for site in sites(graph)]
    shared = [name for name in names if name in held]
    # A product with a bias is written as Reshape, Gemm and Reshape: only what comes before and behind has the names.
    assert [name for name in layers if name not in shared and "gemm" not in name] == ["boxes", "classes"]
    assert {"conv2d", "conv2d_1", "permute", "linear", "relu"} <= {*shared}
    for name in shared:
        np.testing.assert_allclose(found[name], held[name].numpy(), atol=1e-5, err_msg=name)


def layered(values_of: dict[str, Any], scales: dict[str, float] | None = None) -> Any:
    """Convolutions of one value one after the other, called as the keys say; some with other scales."""
    from onnx import helper, numpy_helper

    nodes, constants, before = [], [], "image"
    for name, values in values_of.items():
        scaled = values * np.float32((scales or {}).get(name, 1))
        constants.append(numpy_helper.from_array(scaled, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [before, f"{name}.weight"], [name], kernel_shape=values.shape[2:]))
        before = name
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("image", before)]
    return helper.make_model(helper.make_graph(nodes, "layers", ports[:1], ports[1:], constants))


def test_layers_are_known_again_by_their_weights() -> None:
    """In another order, with BatchNorm folded in, cut, and with one that was made anew."""
    random = np.random.default_rng(0)
    stem, left, right, behind = (random.normal(size=(4, 4, 3, 3)).astype(np.float32) for _ in range(4))
    source = layered({"787": stem, "790": left, "793": right, "output": behind})
    model = layered(
        {"conv2d": stem, "conv2d_1": right, "conv2d_2": left, "new": random.normal(size=stem.shape).astype("f4")},
        {"conv2d_1": 0.3, "conv2d_2": 5},
    )
    assert names_in(source, model) == {"conv2d": "787", "conv2d_1": "793", "conv2d_2": "790"}
    assert names_in(layered({"787": random.normal(size=stem.shape).astype("f4")}), model) == {}


def test_what_float_is_worth_is_not_worth_16_bits_yet() -> None:
    """From 2 % noise on a layer stays in float, from 10 % on it has 16 bits, and then the stem does too."""

    def wide(stem: float, other: float) -> tuple[str, ...]:
        found = (("first", "stem", 0.0), ("second", "stem", stem), ("third", "channels", other), ("last", "head", 0.5))
        layers = tuple(
            Layer(
                name=name, kind="Conv", input=name, depthwise=True, weights=9, macs=9, channel_ratio=2,
                noise_to_signal=noise, float_reason=reason,
            )
            for name, reason, noise in found
        )  # fmt: skip
        return PlannedGraph(tensors={}, layers=layers).wide_layers

    assert wide(0.05, 0.05) == ()
    assert wide(0.05, 0.2) == ("third",)
    assert wide(0.2, 0.05) == ("first", "second")
    assert wide(0.2, 0.2) == ("first", "second", "third")


def test_a_plan_for_readers_has_the_names_of_the_file() -> None:
    ends = TensorRange(lowest=0, highest=1, low=0, high=1, limit=1, method="min-max", symmetric_method="min-max")
    layers = tuple(
        Layer(
            name=name, kind="Conv", input=entry, depthwise=False, weights=9, macs=9, channel_ratio=2, noise_to_signal=0
        )
        for name, entry in (("conv2d", "images"), ("conv2d_1", "relu"))
    )
    site = Equalization(layer="conv2d", readers=("conv2d_1",), through="relu", before=9, after=1)
    plan = Plan(
        edgekit="0.1.0", model="ab" * 32, images=4, images_sha256="cd" * 32, methods=Methods(),
        mixed=PlannedGraph(tensors={"conv2d": ends, "relu": ends}, layers=layers, equalized=(site,)),
        advice=Advice(sentences=("a.jpg reaches 4.0 times further than all others at conv2d_1: look at it",)),
    )  # fmt: skip
    assert plan.for_readers() is plan, "where nothing is known"
    shown = msgspec.structs.replace(plan, layer_names={"conv2d": "787", "conv2d_1": "790"}).for_readers()
    assert [(one.name, one.input) for one in shown.mixed.layers] == [("787", "images"), ("790", "relu")]
    assert list(shown.mixed.tensors) == ["787", "relu"]
    assert (shown.mixed.equalized[0].layer, shown.mixed.equalized[0].readers) == ("787", ("790",))
    assert shown.advice is not None
    assert shown.advice.sentences == ("a.jpg reaches 4.0 times further than all others at 790: look at it",)
