"""The IMX500 target and engine. What needs Sony's toolchains is marked so; the rest needs torch and ONNX Runtime."""

from __future__ import annotations

import copy
import dataclasses
import operator
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

from jobs import make_job
from real_conversions import Converted
from target_lists import WITH_TOOLCHAINS, toolchain

from edgekit import converters
from edgekit.calibration.originals import Original
from edgekit.converters import imx500, read_options
from edgekit.converters.imx500.network import rebuild, take_pixels
from edgekit.converters.imx500.observation import extremes, power_of_two, stored, watch
from edgekit.converters.imx500.pack import memory_report, pack
from edgekit.converters.imx500.rounding import rounding
from edgekit.converters.imx500.stem_weights import refine_stem
from edgekit.converters.imx500.two_parts import divide_inputs
from edgekit.converters.imx500.unsigned import ACTIVATIONS, store_unsigned
from edgekit.converters.imx500.widths import wide_nodes
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Graph, ImageRule, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines import imx500 as engine
from edgekit.runtimes.model import load
from edgekit.shapes import scene

nn = torch.nn
SIZE = 32
QUANTISER = SessionOptions(device="quantiser")
RULES = [
    pytest.param(ImageRule(size=(SIZE, SIZE)), id="rgb"),
    pytest.param(ImageRule(size=(SIZE, SIZE), color="bgr"), id="bgr"),
    pytest.param(ImageRule(size=(SIZE, SIZE), scale=1.0), id="pixels"),
    pytest.param(ImageRule(size=(SIZE, SIZE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)), id="mean"),
    pytest.param(ImageRule(size=(SIZE, SIZE), color="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)), id="bgr mean"),
]


class Zoo(nn.Module):  # type: ignore[misc]
    """All that small detectors are made of: two channel shuffles in both ways to write them among it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False)
        self.wide = nn.Conv2d(8, 8, 3, 1, 2, dilation=2)
        self.down = nn.Conv2d(16, 24, (3, 1), (2, 1), "valid")
        self.same = nn.Conv2d(16, 4, 3, padding="same")
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AvgPool2d(3, 2, 1)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.smooth = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(48, 5, 1)
        self.activations = nn.ModuleList(
            [nn.ReLU6(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2), nn.Hardtanh(-0.5, 0.5), nn.GELU()]
        )

    def shuffled(self, x: Any) -> tuple[Any, Any]:
        batch, count, height, width = x.shape
        x = x.reshape(batch * count // 2, 2, height * width).permute(1, 0, 2)
        x = x.reshape(2, -1, count // 2, height, width)
        return x[0], x[1]

    def forward(self, x: Any) -> Any:
        x = nn.functional.silu(self.stem(x))
        x = self.depthwise(torch.relu(x)) * 0.5
        left, right = self.shuffled(x)
        x = torch.cat((left, self.wide(right)), 1)
        x = x.reshape(1, 4, 4, 16, 16).transpose(1, 2).reshape(1, 16, 16, 16)
        first, second = x.chunk(2, 1)
        x = torch.cat((second - 0.1, first), 1)
        for activation in self.activations:
            x = x + activation(x)
        y = torch.cat((self.pool(x), self.average(x)), 1)
        y = torch.cat((self.upsample(y), x), 1)
        return self.head(y), self.down(x), self.smooth(self.same(x))


def exported(module: Any) -> Any:
    return torch.export.export(module.eval(), (torch.zeros(1, 3, SIZE, SIZE),)).module()


def run(module: Any, tensor: Any) -> list[Any]:
    with torch.no_grad():
        outputs = module(tensor)
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def picture(seed: int = 4) -> Any:
    """Uint8 (SIZE, SIZE, 3) BGR."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def camera(image: Any) -> Any:
    """What the chip reads of a BGR image: RGB, pixel / 256."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / 256)


def contract(image: Any, rule: ImageRule) -> Any:
    """What a model with this rule was trained on, written out here by its definition."""
    ordered = image if rule.color == "bgr" else image[..., ::-1]
    values = (ordered.astype(np.float64) * rule.scale - rule.mean) / rule.std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None]).astype(np.float32)


def test_target_says_what_it_is() -> None:
    target = converters.target("imx500")
    assert (target.engine, target.precisions, target.proof) == ("imx500", ("int8",), "reference")
    assert target.builder == "imx500"
    assert [tool.name for tool in target.toolchains] == ["imx500", "imx500-converter"]
    assert target.toolchains[1].programs == ("java",)


# The network


def test_the_rebuilt_network_computes_the_same() -> None:
    torch.manual_seed(1)
    module = exported(Zoo())
    rebuilt = rebuild(module)
    tensor = torch.rand(1, 3, SIZE, SIZE)
    for found, wanted in zip(run(rebuilt, tensor), run(module, tensor), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_shuffles_and_splits_become_slices_of_channels() -> None:
    rebuilt = rebuild(exported(Zoo()))
    called = [str(getattr(node.target, "__name__", "")) for node in rebuilt.graph.nodes if node.op == "call_function"]
    assert not {"reshape", "permute", "transpose", "chunk"} & set(called)
    assert called.count("getitem") == 2
    assert called.count("index_select") == 2  # the halves of the second shuffle, which are not evenly spaced


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (lambda x: torch.cumsum(x, 1), "cumsum"),
        (lambda x: x @ x.transpose(2, 3), "matmul"),
        (torch.erf, "erf"),
        (lambda x: torch.div(x, 0.5, rounding_mode="floor"), "div with rounding_mode='floor'"),
    ],
)
def test_operators_that_the_chip_lacks_are_named(layer: Callable[[Any], Any], operator: str) -> None:
    class Bad(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)

        def forward(self, x: Any) -> Any:
            return layer(self.stem(x))

    with pytest.raises(ConversionError, match=f"imx500 has no {operator}: it takes .*or take target onnx"):
        rebuild(exported(Bad()))


class Keywords(nn.Module):  # type: ignore[misc]
    """Operators whose arguments can only be given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        left, right = self.stem(x), self.other(x)
        added, taken = torch.add(left, right, alpha=3), torch.sub(left, right, alpha=0.5)
        return added, taken, torch.add(left, 0.25, alpha=2), nn.functional.gelu(left, approximate="tanh")


def test_arguments_given_by_name_are_kept() -> None:
    torch.manual_seed(1)
    module = exported(Keywords())
    assert sum(bool(node.kwargs) for node in module.graph.nodes) == 4
    tensor = torch.rand(1, 3, SIZE, SIZE)
    for found, wanted in zip(run(rebuild(module), tensor), run(module, tensor), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_network_takes_the_cameras_pixels(rule: ImageRule) -> None:
    torch.manual_seed(1)
    module = exported(Zoo())
    network = rebuild(module)
    take_pixels(network, rule)
    expected = run(module, torch.from_numpy(contract(picture(), rule)))
    for found, wanted in zip(run(network, camera(picture())), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-4 * float(np.abs(wanted).max()))


class Shifts(nn.Module):  # type: ignore[misc]
    """SiLU and its kin in front of all that lets a constant pass, and of some that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 8, (1, 3), 1, (0, 1), groups=2)
        self.pool, self.average = nn.MaxPool2d(5, 1, 2), nn.AvgPool2d(2)
        self.joined = nn.Conv2d(20, 8, 1)
        self.padded = nn.Conv2d(16, 4, 3, 1, 1)
        self.scaled, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Any) -> Any:
        silu, hard = nn.functional.silu, nn.functional.hardswish
        first = silu(self.stem(x))
        second = first + silu(self.depthwise(first))  # has the constant twice
        third = hard(self.grouped(second))
        pooled = nn.functional.interpolate(self.average(self.pool(third)), scale_factor=2, mode="nearest")
        left, right = pooled.chunk(2, 1)
        joined = self.joined(torch.cat((second, right, third), 1))
        uneven = self.padded(torch.cat((joined, silu(joined)), 1))  # padding of one value would be wrong for half
        multiplied = self.scaled(silu(joined) * 0.5)
        return uneven, multiplied, silu(self.last(joined)), left * 1.0


def test_activations_are_stored_unsigned_and_the_network_computes_the_same() -> None:
    torch.manual_seed(3)
    network = rebuild(exported(Shifts()))
    tensor = torch.rand(2, 3, SIZE, SIZE)
    before = run(network, tensor)
    count = store_unsigned(network, [tensor])
    for found, wanted in zip(run(network, tensor), before, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    raised = {node.args[0].name: node.args[1] for node in network.graph.nodes if node.target is operator.add}
    assert list(raised) == ["silu", "silu_1"]
    assert count == 2
    # `hard` is read by what is multiplied, the others by a convolution that pads uneven channels or by no convolution.
    pads = [node.kwargs["value"] for node in network.graph.nodes if node.target is nn.functional.pad]
    assert pads == [raised["silu"], 2 * raised["silu"]]
    assert len(set(raised.values())) == 1


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_that_is_bounded_below_by_little_is_stored_unsigned(name: str) -> None:
    torch.manual_seed(3)
    activation = getattr(nn, name)()
    assert -0.4 < float(activation(torch.linspace(-20, 20, 4001)).min()) < 0
    network = rebuild(exported(nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 4, 3, padding=1))))
    with torch.no_grad():
        network.get_submodule("conv2d").weight.mul_(40)
    tensor = torch.rand(2, 3, SIZE, SIZE)
    before = run(network, tensor)
    assert store_unsigned(network, [tensor]) == 1
    np.testing.assert_allclose(run(network, tensor)[0], before[0], atol=1e-4)
    (raised,) = [node for node in network.graph.nodes if node.target is operator.add]
    assert extremes(network, [tensor])[raised].lowest >= 0


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "Tanh"])
def test_other_activations_are_stored_as_they_are(name: str) -> None:
    torch.manual_seed(3)
    network = rebuild(exported(nn.Sequential(nn.Conv2d(3, 8, 3), getattr(nn, name)(), nn.Conv2d(8, 4, 3))))
    assert store_unsigned(network, [torch.rand(2, 3, SIZE, SIZE)]) == 0


def test_what_is_stored_unsigned_is_never_negative_and_has_zero_on_its_grid() -> None:
    torch.manual_seed(3)
    network = rebuild(exported(nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1))))
    with torch.no_grad():
        network.get_submodule("conv2d").weight.mul_(40)
    tensor = torch.rand(2, 3, SIZE, SIZE)
    store_unsigned(network, [tensor])
    (raised,) = [node for node in network.graph.nodes if node.target is operator.add]
    seen = extremes(network, [tensor])[raised]
    low, high = seen.lowest, seen.highest
    step = 2 ** np.ceil(np.log2(high)) / 256
    assert 0 <= low < step
    assert raised.args[1] % step == 0
    assert raised.args[1] < 0.2785 + step


def rounded_to(weight: Any, bits: int) -> Any:
    """Weights rounded for each channel."""
    step = weight.abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.round(weight / step) * step


@pytest.mark.parametrize("rule", RULES[1:4])
def test_the_convolutions_that_read_the_image_get_back_what_rounding_took(rule: ImageRule) -> None:
    torch.manual_seed(1)
    network = rebuild(exported(Deep()))
    tensor = torch.from_numpy(contract(picture(), rule))
    before = run(network, tensor)
    kept = {}
    with torch.no_grad():
        for name in ("conv2d", "conv2d_1"):
            layer = network.get_submodule(name)
            kept[name] = Original(layer.weight.numpy().copy(), layer.bias.numpy().copy())
            layer.weight.copy_(rounded_to(layer.weight, 4))
            layer.bias.add_(0.01)  # a correction
    assert refine_stem(copy.deepcopy(network), kept | {"conv2d_2": kept["conv2d"]}) == ["conv2d", "conv2d_1"]
    assert refine_stem(network, {"conv2d": kept["conv2d"]}) == ["conv2d"]
    rounded = run(network, tensor)
    assert refine_stem(network, {"conv2d_1": kept["conv2d_1"]}) == ["conv2d_1"]
    take_pixels(network, rule)
    for found, wanted, other in zip(run(network, camera(picture())), before, rounded, strict=True):
        assert 20 * float(np.abs(found - wanted).max()) < float(np.abs(other - wanted).max())


class Edges(nn.Module):  # type: ignore[misc]
    """A depthwise convolution of differences between neighbours behind values of which a few are large."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.other, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)
        kernel = torch.zeros(3, 3)
        kernel[1] = torch.tensor([-1.0, 0.0, 1.0])
        with torch.no_grad():
            self.depthwise.weight.copy_(kernel.expand(4, 1, 3, 3))
            self.stem.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]).reshape(4, 3, 1, 1))

    def forward(self, x: Any) -> Any:
        found = nn.functional.silu(self.depthwise(nn.functional.silu(self.stem(x))))
        return self.head(torch.cat((found, nn.functional.silu(self.other(found))), 1))


def smooth() -> Any:
    """Tensors (1, 3, SIZE, SIZE) that change little from place to place, with one bright corner."""
    ramp = torch.linspace(0, 1, SIZE) * torch.linspace(0.5, 1, SIZE)[:, None]
    tensor = ramp.expand(1, 3, SIZE, SIZE).clone()
    tensor[..., :2, :2] = 30
    return tensor


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_depthwise_layer_that_8_bits_do_not_do_for_reads_two_parts(unsigned: bool) -> None:
    torch.manual_seed(3)
    network = rebuild(exported(Edges()))
    tensor = smooth()
    (before,) = run(network, tensor)
    if unsigned:
        store_unsigned(network, [tensor])
    # Not even the one that gives the output: of what it joins, another convolution reads a part with 8 bits.
    assert divide_inputs(copy.deepcopy(network), [tensor], noise=1.0) == []
    assert "conv2d_1" in divide_inputs(network, [tensor])
    (after,) = run(network, tensor)
    np.testing.assert_allclose(after, before, atol=2e-5)
    (above,) = [node for node in network.graph.nodes if node.name == "conv2d_1_above"]
    (whole,) = above.args[0].args[:1]
    (rest,) = [node for node in above.users if node.target is torch.sub]
    lower, shift = rest, 0.0
    if not unsigned:
        (lower,) = rest.users
        shift = lower.args[1]
    seen = extremes(network, [tensor])
    assert seen[lower].lowest >= 0
    assert 10 * seen[lower].highest < seen[above].highest
    # What each part rounds to, added, is the activation to a step of the lower part, also where it is large.
    values: dict[Any, Any] = {}
    watch(network, [tensor], lambda node, _, __, value: values.setdefault(node, value))
    upper = stored(values[above], power_of_two(seen[above].highest))
    step = power_of_two(seen[lower].highest) / 256
    found = stored(values[whole] - upper, 256 * step, shift) + upper
    assert float((found - values[whole]).abs().max()) <= step
    undivided = stored(values[whole], power_of_two(seen[whole].highest + shift), shift)
    assert float((undivided - values[whole]).abs().max()) > 4 * step


class Deep(nn.Module):  # type: ignore[misc]
    """Convolutions that read what can be divided: activations, what is joined or added; and a pooling, which cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.second, self.third, self.fourth = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.fifth, self.sixth = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)
        self.boxes, self.scores = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.pooled, self.behind = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            self.sixth.bias.add_(20)

    def forward(self, x: Any) -> Any:
        silu = nn.functional.silu
        left, right = silu(self.left(x)), silu(self.right(x))
        x = silu(self.third(torch.cat((silu(self.second(left)), right), 1)))
        x = torch.relu(self.fourth(x))
        x = x + silu(self.fifth(x))  # what the fifth reads is added, too
        pooled = silu(self.pooled(torch.cat((x, nn.functional.max_pool2d(x, 3, 1, 1)), 1)))
        x = silu(self.behind(self.sixth(pooled)))
        return self.boxes(x), self.scores(x)


def divided(noise: float) -> list[str]:
    """The layers of Deep that read two parts; it computes the same."""
    torch.manual_seed(3)
    network = rebuild(exported(Deep()))
    tensor = smooth()
    before = run(network, tensor)
    store_unsigned(network, [tensor])
    names = divide_inputs(network, [tensor], noise)
    for found, wanted in zip(run(network, tensor), before, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5 * float(np.abs(wanted).max()))
    wide = wide_nodes(network)
    for name in names:  # what is divided has 16 bits, its parts have 8
        (above,) = [node for node in network.graph.nodes if node.name == f"{name}_above"] or [None]
        if above is not None:
            assert above.args[0].args[0].name in wide
            assert not {above.name, *(one.name for one in above.users if one.target is torch.sub)} & set(wide)
    return sorted(names)


def test_layers_read_two_parts_by_their_noise_and_their_place() -> None:
    heads, others = ["conv2d_10", "conv2d_9"], [f"conv2d_{number}" for number in (2, 3, 4, 5, 7, 8)]
    assert divided(1e9) == heads
    assert divided(0.0) == sorted(others + heads)
    # conv2d_6, which joins the pooled, is not among them: the pooling reads and gives 8 bits.


@pytest.mark.parametrize("signed", [False, True])
def test_a_rounding_to_16_bits_is_one(signed: bool) -> None:
    values = torch.tensor([-5.0, -4.0, -0.3, 0.0, 0.3, 1.0, 3.99999, 4.0, 5.0])
    found = rounding(4.0, 16, signed=signed)(values).numpy()
    step = 4 / 2**15 if signed else 4 / 2**16
    np.testing.assert_array_equal(found, np.rint(found / step) * step)
    np.testing.assert_allclose(found, values.numpy().clip(-4.0 if signed else 0.0, 4.0 - step), atol=step / 2)
    if not signed:
        return
    int16 = ort_rounded(values.numpy(), step)  # by an engine's own operators
    np.testing.assert_array_equal(found, int16)


def ort_rounded(values: Any, step: float) -> Any:
    from onnx import TensorProto, helper

    scale, zero = helper.make_tensor("s", TensorProto.FLOAT, [], [step]), helper.make_tensor("z", 5, [], [0])
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(values)]) for name in "xy"]
    graph = helper.make_graph(nodes, "rounding", ends[:1], ends[1:], [scale, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0]


def test_an_activation_that_is_zero_throughout_is_left_alone() -> None:
    network = rebuild(exported(Edges()))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert divide_inputs(network, [smooth()], noise=0.0) == []
    assert store_unsigned(network, [smooth()]) == 0


def test_what_only_sums_and_activations_read_has_16_bits() -> None:
    torch.manual_seed(3)
    network = rebuild(exported(Edges()))
    assert not {"silu", "silu_1"} & set(wide_nodes(network))  # read by convolutions
    divide_inputs(network, [smooth()])
    wide = wide_nodes(network)
    assert {"silu", "conv2d_1", "conv2d_1_upper"} <= set(wide)  # divided, and what is added
    assert "silu_2" in wide  # read by a concatenation alone
    assert "conv2d_3" in wide  # the output
    assert not {"conv2d", "conv2d_1_above"} & set(wide)  # not stored; read by a convolution


def identity(path: Path, rule: ImageRule) -> Graph:
    """A file that gives back what it takes as pixels."""
    from onnx import TensorProto, helper

    shape = ["batch", 3, SIZE, SIZE]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["out"])],
        "pixels",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    imx500._take_contract_tensors(model, rule)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    tensor = (1, 3, SIZE, SIZE)
    return Graph(
        files=("packerOut.zip", path.name),
        inputs=(Tensor(name="images", shape=tensor),),
        outputs=(Tensor(name="out", shape=tensor),),
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_emulator_turns_contract_tensors_back_into_pixels(rule: ImageRule, tmp_path: Path) -> None:
    graph = identity(tmp_path / "quantised.onnx", rule)
    session = open_session("imx500", tmp_path, graph, QUANTISER)
    (found,) = session.run([contract(picture(), rule)])
    np.testing.assert_allclose(found, camera(picture()).numpy(), atol=2e-6)
    assert (session.placement.word, session.placement.device) == ("reference", "quantiser")


# The converter


REPORT = """{"Memory Report": {"Name": "network", "Runtime Memory Physical Size": "1775616B",
"Model Memory Physical Size": "332896B", "Reserved Memory": "1024B", "Memory Usage": "%dB",
"Total Memory Available On Chip": "8388480B", "Memory Utilization": "26%%", "Fit In Chip": %s}}"""


def test_the_memory_report_is_read() -> None:
    assert memory_report(REPORT % (2109536, "true")) == {
        "fits": "yes",
        "memory_bytes": 2109536,
        "memory_available_bytes": 8388480,
        "weights_bytes": 332896,
        "runtime_bytes": 1775616,
    }


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            f"cat > $4/network_MemoryReport.json <<'E'\n{REPORT % (9000000, 'false')}\nE\nexit 1",
            r"needs 9000000 bytes of the chip's 8388480: .*imx500\.input_persistency=false",
        ),
        ("echo 'x ERROR : node Foo is not supported'; echo bye; exit 3", "failed: x ERROR : node Foo is not supported"),
        ("exit 4", "the IMX500 converter failed: no output"),
        ("true", "the IMX500 converter failed: no output"),
    ],
)
def test_a_converter_that_fails_is_reported(script: str, message: str, tmp_path: Path) -> None:
    program = tmp_path / "imxconv-pt"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.raises(ConversionError, match=message):
        pack(program, tmp_path / "network.onnx", tmp_path, persistent=True)


@pytest.mark.parametrize("tries", [1, 2, 3, 4])
def test_a_network_that_has_no_room_for_parts_gets_fewer(
    tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a packer that has room from the given try on, and a quantiser that notes what it was asked for."""
    small, large = (REPORT % size for size in ((1000, "true"), (9000000, "false")))
    program = tmp_path / "imxconv-pt"
    program.write_text(
        f"""#!/bin/sh
echo >> {tmp_path}/tries
if [ $(wc -l < {tmp_path}/tries) -ge {tries} ]
then echo '{small}' > $4/network_MemoryReport.json; touch $4/packerOut.zip
else echo '{large}' > $4/network_MemoryReport.json; exit 1
fi
"""
    )
    program.chmod(0o755)
    asked: list[float] = []

    def quantised(_: Any, __: Any, noise: float) -> list[str]:
        asked.append(noise)
        return ["layer"] if np.isfinite(noise) else []

    monkeypatch.setattr(imx500, "_quantised", quantised)
    monkeypatch.setattr(imx500.toolchains, "program", lambda *_: program)
    job = make_job(nn.Conv2d(3, 4, 3), torch.rand(1, 3, SIZE, SIZE), ("a",), tmp_path, "int8")
    job = dataclasses.replace(job, options=imx500.Imx500Options())
    if tries > len(imx500.LIMITS):
        with pytest.raises(ConversionError, match="needs 9000000 bytes"):
            imx500._made(job, lambda *_: None)
    else:
        facts, divided = imx500._made(job, lambda *_: None)
        assert facts["memory_bytes"] == 1000
        assert divided == ([] if tries == len(imx500.LIMITS) else ["layer"])
    assert asked == list(imx500.LIMITS[:tries])


def test_options_are_read() -> None:
    target = converters.target("imx500")
    assert read_options(target, {"input_persistency": "false"}) == imx500.Imx500Options(input_persistency=False)
    with pytest.raises(UsageError, match="input_persistency"):
        read_options(target, {"input_persistency": "maybe"})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "give --data with a folder of photographs"),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), "needs calibration images, and there are none"),
    ],
)
def test_no_images_are_refused(images: Any, message: str, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    job = make_job(Zoo(), torch.rand(1, 3, SIZE, SIZE), names, tmp_path, "int8", images)
    with pytest.raises(ConversionError, match=message):
        imx500._network(job)


# The engine


def test_the_camera_takes_no_image(tmp_path: Path) -> None:
    graph = identity(tmp_path / "quantised.onnx", ImageRule(size=(SIZE, SIZE)))
    with pytest.raises(EngineError, match=r"runs the network on its own frames.*imx500-package -i .*packerOut\.zip"):
        engine.ENGINE.open_session(tmp_path, graph, SessionOptions())
    if not engine.ENGINE.available:
        with pytest.raises(EngineError, match="unit='quantiser' shows here what the file computes"):
            open_session("imx500", tmp_path, graph, SessionOptions())


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    graph = identity(tmp_path / "quantised.onnx", ImageRule(size=(SIZE, SIZE)))
    other = msgspec.structs.replace(graph, outputs=(Tensor(name="boxes", shape=(1, 3, SIZE, SIZE)),))
    with pytest.raises(EngineError, match="has no tensor 'boxes', only images, out"):
        open_session("imx500", tmp_path, other, QUANTISER)
    (tmp_path / "quantised.onnx").write_bytes(b"nonsense")
    with pytest.raises(EngineError, match="ONNX Runtime cannot open it"):
        open_session("imx500", tmp_path, graph, QUANTISER)


OUTPUTS = Graph(
    files=("packerOut.zip", "quantised.onnx"),
    inputs=(Tensor(name="images", shape=(1, 3, 64, 64)),),
    outputs=tuple(
        Tensor(name=name, shape=shape)
        for name, shape in (("boxes", (1, 4, 8, 16)), ("classes", (1, 7, 8, 16)), ("more", (1, 7, 8, 16)))
    ),
)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_cameras_outputs_come_in_the_contracts_order(batch: bool, channels_last: bool) -> None:
    wanted = [np.random.default_rng(i).random(tensor.shape, np.float32) for i, tensor in enumerate(OUTPUTS.outputs)]
    given = [array.transpose(0, 2, 3, 1) if channels_last else array for array in wanted]
    given = [given[1], given[2], given[0]]
    found = engine.contract_outputs(OUTPUTS, given if batch else [array[0] for array in given])
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_missing_output_is_named() -> None:
    with pytest.raises(EngineError, match=r"is 'more' \(7, 8, 16\): it gave \(8, 16, 4\), \(8, 16, 7\)"):
        engine.contract_outputs(OUTPUTS, [np.zeros((8, 16, 4)), np.zeros((8, 16, 7))])


# What Sony's toolchains made


needs_toolchains = pytest.mark.skipif(not WITH_TOOLCHAINS, reason="imx500 is for make test-toolchains")


@pytest.mark.toolchain
@needs_toolchains
@toolchain("imx500")
@toolchain("imx500-converter")
class TestMade:
    def test_the_packed_network_is_the_contracts(
        self, target_bundles: Converted, fastestdet_bundles: Converted
    ) -> None:
        for bundles in (target_bundles, fastestdet_bundles):
            bundle = open_bundle(bundles.bundle("imx500", "int8")["path"])
            graph = bundle.manifest.graphs[0]
            with zipfile.ZipFile(bundle.path / graph.files[0]) as packed:
                described = ElementTree.fromstring(packed.read("dnnParams.xml"))
            sizes = {
                kind: [
                    tuple(sorted(int(size.get("size", 0)) for size in tensor.iter("dimension")))
                    for tensor in sorted(described.iter(kind), key=lambda tensor: int(tensor.get("ordinal", 0)))
                ]
                for kind in ("inputTensor", "outputTensor")
            }
            assert sizes["inputTensor"] == [tuple(sorted((3, *bundle.manifest.contract.image.size)))]
            assert sizes["outputTensor"] == [tuple(sorted(tensor.shape[1:])) for tensor in graph.outputs]
            (entry,) = described.iter("inputTensor")
            assert (entry.get("scale"), entry.get("format")) == ("0.00390625", "unsigned")
            assert graph.report["fits"] == "yes"
            assert 0 < int(graph.report["memory_bytes"]) < int(graph.report["memory_available_bytes"])

    def test_the_emulator_computes_what_the_file_says(self, fastestdet_bundles: Converted, shared_data: Path) -> None:
        """Against ONNX's own evaluator in numpy, which knows no optimisation; ONNX Runtime's change the results."""
        import cv2
        from onnx.reference import ReferenceEvaluator

        bundle = open_bundle(fastestdet_bundles.bundle("imx500", "int8")["path"])
        graph, rule = bundle.manifest.graphs[0], bundle.manifest.contract.image
        photograph = cv2.imread(str(min((shared_data / "calibration").glob("*.jpg"))))
        tensor = contract(cv2.resize(photograph, rule.size[::-1]), rule)
        names = [output.name for output in graph.outputs]
        path = str(bundle.path / graph.files[1])
        found = open_session("imx500", bundle.path, graph, QUANTISER).run([tensor])
        wanted = ReferenceEvaluator(path).run(names, {"images": tensor})
        optimised = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(names, {"images": tensor})
        for left, right, other in zip(found, wanted, optimised, strict=True):
            assert float(np.linalg.norm(left - right) / np.linalg.norm(right)) < 0.02  # a tie may round either way
            assert float(np.linalg.norm(other - right) / np.linalg.norm(right)) > 0.05

    def test_upper_parts_hold_all_that_photographs_make(self, fastestdet_bundles: Converted, shared_data: Path) -> None:
        import cv2

        bundle = open_bundle(fastestdet_bundles.bundle("imx500", "int8")["path"])
        graph, rule = bundle.manifest.graphs[0], bundle.manifest.contract.image
        model = onnx.load(bundle.path / graph.files[1])
        constants = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
        constants |= {tensor.name: tensor for tensor in model.graph.initializer}
        upper = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and "_above" in node.name]
        assert len(upper) > 5
        reach = [256 * float(onnx.numpy_helper.to_array(constants[node.input[1]])) for node in upper]
        assert [2 ** round(np.log2(one)) for one in reach] == reach
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.input[0]) for node in upper)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for path in sorted((shared_data / "calibration").glob("*.jpg")):
            tensor = contract(cv2.resize(cv2.imread(str(path)), rule.size[::-1]), rule)
            found = session.run([node.input[0] for node in upper], {"images": tensor})
            assert all(float(values.max()) < one for values, one in zip(found, reach, strict=True))

    def test_it_detects(self, target_bundles: Converted) -> None:
        model = load(target_bundles.bundle("imx500", "int8")["path"], unit="quantiser")
        assert model.placement.word == "reference"
        assert len(model.predict(scene(310_003).image)) > 0
