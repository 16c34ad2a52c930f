"""Rounding weights: every quantiser finds the same integers again, biases take the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from edgekit.calibration.grid import on_grid, step_of
from edgekit.calibration.program_layers import constant, program_layers, watch
from edgekit.calibration.rounding import round_weights
from edgekit.errors import UsageError

nn = torch.nn
SIZE = 12


class Net(nn.Module):  # type: ignore[misc]
    """Every kind of layer. Two have no bias; the two products share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.depthwise = nn.Conv2d(8, 16, 3, 1, 2, dilation=2, groups=8)
        self.same = nn.Conv2d(16, 8, 4, padding="same", groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2)
        self.line = nn.Conv1d(6, 6, 5, 2, 2, groups=3, bias=False)
        self.linear = nn.Linear(6, 16)
        self.product = nn.Parameter(torch.randn(16, 4))
        self.offset = nn.Parameter(torch.randn(4))

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.stem(x))
        x = nn.functional.silu(self.depthwise(x))
        x = torch.relu(self.same(x))
        up = self.up(x)
        x = self.line(up.flatten(2))
        x = torch.relu(self.linear(x.transpose(1, 2)))
        return up, x @ self.product, torch.addmm(self.offset, x[0], self.product)


def exported(net: Any, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    module = net()
    return torch.export.export(module.eval(), (torch.zeros(1, 3, SIZE, SIZE),)).module()


def samples(count: int = 8, seed: int = 1) -> list[Any]:
    """Smooth images, whose neighbouring pixels are alike as in photographs."""
    draw = np.random.default_rng(seed).random((count, 1, 3, 3, 3), np.float32)
    return [np.kron(image, np.ones((4, 4), np.float32)) for image in draw]


def rounded(net: Any = Net, correct_bias: bool = False, images: Any = None) -> Any:
    module = exported(net)
    result = round_weights(
        module,
        samples() if images is None else images,
        correct_bias=correct_bias,
        progress=lambda *_: None,
    )
    return module, result


def weights(module: Any) -> dict[str, tuple[Any, int]]:
    return {
        layer.node.name: (constant(module, layer.weight).detach().numpy(), layer.axis)
        for layer in program_layers(module)
    }


def requantised(weight: Any, axis: int, dtype: Any) -> tuple[Any, Any]:
    """An independent quantiser, as toolchains have it: integers, and what they stand for, in its own precision."""
    weight = weight.astype(dtype)
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale = (np.abs(weight).max(others, keepdims=True) / dtype(127)).astype(dtype)
    steps = np.rint(weight / np.where(scale == 0, dtype(1), scale))
    return steps, steps * scale


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_quantiser_finds_the_same_integers_again(dtype: Any) -> None:
    module, _ = rounded(correct_bias=True)
    original = weights(exported(Net))
    for name, (weight, axis) in weights(module).items():
        steps, values = requantised(weight, axis, dtype)
        assert np.abs(steps).max() == 127, name
        exact = requantised(weight, axis, np.float64)[0]
        np.testing.assert_array_equal(steps, exact, err_msg=name)
        np.testing.assert_allclose(values, weight, rtol=2e-3 if dtype is np.float16 else 3e-7, err_msg=name)
        others = tuple(other for other in range(weight.ndim) if other != axis)
        np.testing.assert_array_equal(np.abs(weight).max(others), np.abs(original[name][0]).max(others), err_msg=name)


VALUES = st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)


@settings(deadline=None)
@given(weight=arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=VALUES))
def test_rounding_twice_changes_no_bit(weight: Any) -> None:
    for axis in (0, 1):
        once = on_grid(torch.from_numpy(weight), axis)
        twice = on_grid(once, axis)
        np.testing.assert_array_equal(once.numpy(), twice.numpy())
        np.testing.assert_array_equal(
            step_of(once, axis).numpy(), np.abs(weight).max(1 - axis, keepdims=True) / np.float32(127)
        )
        step = step_of(once, axis).numpy()
        assert (np.abs(once.numpy() - weight) <= step * 0.5001).all()


def test_channels_without_a_grid_stay_as_they_are() -> None:
    weight = torch.tensor([[0.0, 0.0], [1e-44, 3e-39], [torch.inf, 1.3], [1.0, 0.501]])
    found = on_grid(weight, 0)
    assert torch.equal(found[:3], weight[:3])
    assert not torch.equal(found[3], weight[3])


def seen_by_layers(images: list[Any]) -> dict[str, tuple[list[Any], list[Any]]]:
    """Inputs and outputs of every layer of the float network."""
    module, found = exported(Net), {}
    layers = program_layers(module)
    assert len(layers) == 8
    for layer in layers:
        found[layer.node.name] = ([], [])

    def keep(layer: Any, x: Any, y: Any) -> None:
        for place, value in zip(found[layer.node.name], (x, y), strict=True):
            place.append(value.clone())

    watch(module, layers, images, keep)
    return found


def applied(module: Any, name: str, inputs: list[Any]) -> list[Any]:
    """One layer of a module for given inputs, by torch's own operator."""
    (node,) = [node for node in module.graph.nodes if node.name == name]

    def value(argument: Any, x: Any) -> Any:
        if not isinstance(argument, torch.fx.Node):
            return argument
        return constant(module, argument.target) if argument.op == "get_attr" else x

    with torch.no_grad():
        return [node.target(*(value(argument, x) for argument in node.args)) for x in inputs]


def channel_means(layer: Any, values: list[Any]) -> Any:
    return torch.stack(values).movedim(layer.channels, 0).flatten(1).mean(1)


def test_the_corrected_bias_keeps_the_mean_of_each_channel_borders_included() -> None:
    module, result = rounded(correct_bias=True)
    plain, _ = rounded()
    assert (result.layers, result.biases) == (8, 7)
    seen = seen_by_layers(samples())
    for layer in program_layers(module):
        name = layer.node.name
        inputs, outputs = seen[name]
        wanted = channel_means(layer, outputs)
        shift = [(channel_means(layer, applied(made, name, inputs)) - wanted).abs().max() for made in (module, plain)]
        assert float(shift[1]) > 2e-5, name
        assert float(shift[0]) < 3e-6 or layer.operator == "matmul", name


class Shared(nn.Module):  # type: ignore[misc]
    """One convolution used twice, with another bias each time, and weights that something else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.other = nn.Parameter(torch.randn(3, 3, 1, 1))

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.first(x))
        x = self.first(x * 2)
        return nn.functional.conv2d(x, self.other) + self.other.sum()


def test_shared_weights_are_rounded_once_and_their_biases_part() -> None:
    original = exported(Shared)
    module, result = rounded(Shared, correct_bias=True)
    assert (result.layers, result.biases) == (2, 2)
    first, second = program_layers(module)
    assert constant(module, first.weight) is constant(module, second.weight)
    biases = [constant(module, layer.node.args[2].target) for layer in (first, second)]
    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(module.other, original.other)


@pytest.mark.parametrize("correct_bias", [False, True])
def test_graph_and_outputs_stay_what_they_were(correct_bias: bool) -> None:
    module, result = rounded(correct_bias=correct_bias)
    original = exported(Net)
    names = [node.name for node in original.graph.nodes if node.op == "call_function"]
    assert [node.name for node in module.graph.nodes if node.op == "call_function"] == names
    module.graph.lint()
    for sample in samples(4, 9):
        with torch.no_grad():
            for found, wanted in zip(module(torch.from_numpy(sample)), original(torch.from_numpy(sample)), strict=True):
                assert float((found - wanted).norm() / wanted.norm()) < 0.05
    assert 0 < result.before < 0.1
    assert result.after < result.before if correct_bias else result.after == result.before


def test_new_biases_reach_the_onnx_file(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    from edgekit.graph.exchange import write_exchange

    module, _ = rounded(Shared, correct_bias=True)
    write_exchange(module, torch.zeros(1, 3, SIZE, SIZE), ("out",), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    again = torch.export.load(tmp_path / "graph.pt2").module()
    for sample in samples(2, 9):
        with torch.no_grad():
            wanted = module(torch.from_numpy(sample)).numpy()
            reloaded = again(torch.from_numpy(sample))
        np.testing.assert_allclose(session.run(None, {"images": sample})[0], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            reloaded.numpy(), wanted[0] if reloaded.ndim < wanted.ndim else wanted, rtol=1e-4, atol=1e-5
        )


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="no calibration images to correct biases with"):
        rounded(correct_bias=True, images=[])
    _, result = rounded(images=[])
    assert (result.layers, result.before, result.after) == (8, 0.0, 0.0)
