"""Equalising channels: exact in float, only where it is asked for, and a gain in INT8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from edgekit.calibration.equalization import equalize

nn = torch.nn
SIZE = 16
SIZES = torch.tensor([2.0, 1.0, 0.3, 0.002, 0.002, 0.01, 0.02, 0.05])


class Net(nn.Module):  # type: ignore[misc]
    """A depthwise convolution whose input channels differ 1000 times; its weights make up for it."""

    def __init__(
        self, activation: Any, multiplier: int = 1, before: bool = False, head_groups: int = 4, behind: Any = None
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.activation, self.behind = activation, behind or nn.Identity()
        self.depthwise = nn.Conv2d(8, 8 * multiplier, 3, 1, 1, groups=8)
        self.head = nn.Conv2d(8 * multiplier, 4, 1, groups=head_groups)
        self.also = before
        with torch.no_grad():
            self.stem.weight.mul_(SIZES.reshape(-1, 1, 1, 1))
            self.stem.bias.mul_(SIZES)
            self.depthwise.weight.div_(SIZES.repeat_interleave(multiplier).reshape(-1, 1, 1, 1))

    def forward(self, x: Any) -> Any:
        x = self.activation(self.stem(x))
        y = self.head(self.behind(self.depthwise(x)))
        return (y, x * 2) if self.also else y


def exported(module: Any) -> Any:
    return torch.export.export(module.eval(), (torch.zeros(1, 3, SIZE, SIZE),)).module()


def samples(count: int = 6) -> list[Any]:
    draw = np.random.default_rng(1)
    return [draw.random((1, 3, SIZE, SIZE), np.float32) for _ in range(count)]


def run(module: Any, sample: Any) -> list[Any]:
    with torch.no_grad():
        outputs = module(torch.from_numpy(sample))
    return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


def depthwise_input(module: Any, sample: Any) -> Any:
    """What the 3x3 depthwise convolution reads, by an interpreter of torch's own."""
    found = []

    class Watch(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            if "conv2d" in str(n.target) and len(n.args) > 6 and n.args[6] == 8:
                x, weight = (self.env[argument] for argument in n.args[:2])
                if weight.shape[-1] == 3:
                    found.append((x, weight))
            return super().run_node(n)

    with torch.no_grad():
        Watch(module).run(torch.from_numpy(sample))
    ((x, weight),) = found
    return x, weight


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Identity()], ids=str)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_the_function_stays_and_the_channels_become_equal(activation: Any, multiplier: int) -> None:
    torch.manual_seed(2)
    module = exported(Net(activation, multiplier))
    expected = [run(module, sample) for sample in samples()]
    (site,) = equalize(module, samples())
    assert site.before > 300
    assert site.after < 1.01
    assert bool(site.gate) == isinstance(activation, nn.SiLU)
    for sample, (wanted,) in zip(samples(), expected, strict=True):
        np.testing.assert_allclose(run(module, sample)[0], wanted, rtol=1e-4, atol=1e-4)
    largest = torch.stack([depthwise_input(module, sample)[0].abs().amax((0, 2, 3)) for sample in samples()]).amax(0)
    assert float(largest.max() / largest.min()) < 1.01


@pytest.mark.parametrize("multiplier", [1, 2])
def test_channels_before_a_dense_reader_are_kept_apart(multiplier: int) -> None:
    """In front of SiLU: the function stays, and no tensor that a depthwise convolution reads has channels far apart."""
    torch.manual_seed(2)
    module = exported(Net(nn.SiLU(), multiplier, head_groups=1))
    expected = [run(module, sample) for sample in samples()]
    before = sum(weights.numel() for weights in module.state_dict().values())
    (site,) = equalize(module, samples())
    assert (site.groups, site.gate, site.through) == (5, "", "silu")
    assert site.before > 300
    assert site.after < 4
    for sample, (wanted,) in zip(samples(), expected, strict=True):
        np.testing.assert_allclose(run(module, sample)[0], wanted, rtol=1e-4, atol=1e-4)
    used = [node for node in module.graph.nodes if node.op == "call_function" and "conv2d" in str(node.target)]
    assert len(used) == 11, "a convolution and a depthwise one for each group, and the head"
    weights = sum(module.state_dict()[str(arg.target)].numel() for node in used for arg in node.args[1:3])
    assert weights == before, "not one product more"


@pytest.mark.parametrize("behind", [nn.SiLU(), nn.ReLU()], ids=str)
def test_channels_stay_apart_up_to_the_activation_behind(behind: Any) -> None:
    """No concatenation comes between a depthwise convolution and its activation: it would be one more rounding."""
    torch.manual_seed(2)
    module = exported(Net(nn.SiLU(), head_groups=1, behind=behind))
    expected = [run(module, sample) for sample in samples()]
    (site,) = equalize(module, samples())
    assert site.groups == 5
    for sample, (wanted,) in zip(samples(), expected, strict=True):
        np.testing.assert_allclose(run(module, sample)[0], wanted, rtol=1e-4, atol=1e-4)
    (joined,) = [node for node in module.graph.nodes if "cat" in str(node.target)]
    kind = type(behind).__name__.lower()
    assert [kind in str(piece.target) for piece in joined.args[0]] == [True] * 5
    assert all("conv2d" in str(reader.target) for reader in joined.users)


def test_no_channels_are_kept_apart_where_scaling_is_free_or_nothing_is_asked_for() -> None:
    torch.manual_seed(2)
    assert [site.groups for site in equalize(exported(Net(nn.ReLU(), head_groups=1)), samples())] == [1]
    assert equalize(exported(Net(nn.SiLU(), head_groups=1)), samples(), through_silu=float("inf")) == []


class ScaledSiLU(nn.Module):  # type: ignore[misc]
    """x * sigmoid(x / r), the division written as one of three operators."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        r = 3 * SIZES
        shape = (-1, 1, 1, 1) if way == "conv2d" else (1, -1, 1, 1)
        self.register_buffer("constant", (r if way == "div" else 1 / r).reshape(shape))

    def forward(self, x: Any) -> Any:
        if self.way == "conv2d":
            return x * torch.sigmoid(nn.functional.conv2d(x, self.constant, groups=8))
        return x * torch.sigmoid(x / self.constant if self.way == "div" else x * self.constant)


@pytest.mark.parametrize("way", ["mul", "div", "conv2d"])
def test_a_silu_with_scales_of_its_own_costs_nothing(way: str) -> None:
    torch.manual_seed(2)
    module = exported(Net(ScaledSiLU(way)))
    expected = [run(module, sample) for sample in samples()]
    (site,) = [site for site in equalize(module, samples()) if site.through]
    assert (site.through, site.gate) == ("scaled silu", "")
    assert site.before > 100
    assert site.after < 1.01
    for sample, (wanted,) in zip(samples(), expected, strict=True):
        np.testing.assert_allclose(run(module, sample)[0], wanted, rtol=1e-4, atol=1e-4)


def rounded_to_8_bits(x: Any) -> Any:
    step = (x.max() - x.min()) / 255
    return torch.round(x / step) * step


def test_one_scale_for_all_channels_holds_them_afterwards_and_not_before() -> None:
    torch.manual_seed(2)
    module = exported(Net(nn.SiLU()))
    sample = samples()[0]

    def error() -> float:
        x, weight = depthwise_input(module, sample)
        outputs = [nn.functional.conv2d(value, weight, groups=8) for value in (x, rounded_to_8_bits(x))]
        return float((outputs[0] - outputs[1]).norm() / outputs[0].norm())

    before = error()
    equalize(module, samples())
    assert before > 0.2
    assert error() < 0.02


class Twice(Net):
    def forward(self, x: Any) -> Any:
        x = self.activation(self.stem(x))
        return self.head(self.depthwise(x) + nn.functional.conv2d(x * 2, self.depthwise.weight, padding=1, groups=8))


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: Net(nn.ReLU6()), id="ReLU6 does not commute with a scale"),
        pytest.param(lambda: Net(nn.Hardswish()), id="nor does Hardswish"),
        pytest.param(lambda: Net(nn.ReLU(), before=True), id="something else reads the activation"),
        pytest.param(lambda: Twice(nn.Identity()), id="the weight serves two convolutions"),
    ],
)
def test_what_cannot_be_scaled_is_left_alone(made: Callable[[], Any]) -> None:
    torch.manual_seed(2)
    module = exported(made())
    expected = run(module, samples()[0])
    assert equalize(module, samples()) == []
    for found, wanted in zip(run(module, samples()[0]), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


class Block(nn.Module):  # type: ignore[misc]
    """LayerNorm with a few channels that stand out, as trained transformers have them, and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.norm = nn.LayerNorm(32)
        self.first, self.second = nn.Linear(32, 48), nn.Linear(32, 16, bias=False)
        with torch.no_grad():
            self.norm.weight[[3, 17]] = 80.0
            for layer in (self.first, self.second):
                layer.weight[:, [3, 17]] /= 80.0

    def forward(self, x: Any) -> Any:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        return self.first(x).relu(), self.second(x)


def test_channels_that_stand_out_behind_layer_norm_go_into_the_weights() -> None:
    torch.manual_seed(2)
    module = exported(Block())
    expected = [run(module, sample) for sample in samples()]
    (site,) = equalize(module, samples())
    assert (site.layer, site.readers) == ("layer_norm", ("linear", "linear_1"))
    assert site.before > 50
    assert site.after < 25
    for sample, wanted in zip(samples(), expected, strict=True):
        for found, value in zip(run(module, sample), wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4)


def test_what_is_read_by_a_sum_too_is_left_alone_behind_layer_norm() -> None:
    class Residual(Block):
        def forward(self, x: Any) -> Any:
            y = self.norm(self.patches(x).flatten(2).transpose(1, 2))
            return self.first(y), y + 1

    torch.manual_seed(2)
    assert equalize(exported(Residual()), samples()) == []


def test_small_spreads_are_left_alone_unless_asked_for() -> None:
    torch.manual_seed(2)
    module = exported(Net(nn.ReLU()))
    assert equalize(module, samples(), free=1e6) == []
    assert [site.layer for site in equalize(module, samples(), free=8.0)] == ["conv2d"]


def test_a_channel_that_nothing_wakes_keeps_its_scale() -> None:
    torch.manual_seed(2)
    net = Net(nn.ReLU())
    with torch.no_grad():
        net.stem.bias[3] = -100.0
    module = exported(net)
    before = float(depthwise_input(module, samples()[0])[1][3].abs().sum())
    (site,) = equalize(module, samples())
    assert site.before < 5000
    assert float(depthwise_input(module, samples()[0])[1][3].abs().sum()) == before


def test_no_samples_change_nothing() -> None:
    assert equalize(exported(Net(nn.ReLU())), []) == []
