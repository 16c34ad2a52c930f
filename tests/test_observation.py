"""One pass over the calibration stream: what is kept of it, against torch, numpy and simulated rounding."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")

from onnx_graphs import ints, node, weights, write

from edgekit.calibration.layers import sites
from edgekit.calibration.observation import LayerStatistics, extremes, observe, watched
from edgekit.errors import ConversionError

functional = torch.nn.functional
SHAPE = (1, 3, 12, 10)
CONSTANTS = {
    "w_first": weights(8, 3, 3, 3, seed=1),
    "b_first": weights(8, seed=2),
    "w_depthwise": weights(8, 1, 3, 3, seed=3),
    "w_up": weights(8, 6, 2, 2, seed=4),
    "w_product": weights(6, 5, seed=5),
}


def quiet(count: int) -> None:
    """Told of progress and says nothing."""


def samples(count: int, seed: int = 0) -> list[Any]:
    draw = np.random.default_rng(seed)
    return [draw.normal(0.3, 1 + index, SHAPE).astype(np.float32) for index in range(count)]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution, a depthwise one, a transposed one and a product."""
    nodes = [
        node("Conv", "x", "w_first", "b_first", name="first", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "first", name="relu"),
        node("Conv", "relu", "w_depthwise", name="depthwise", group=8),
        node("ConvTranspose", "depthwise", "w_up", name="up", strides=[2, 2]),
        node("Transpose", "up", name="last", perm=[0, 2, 3, 1]),
        node("MatMul", "last", "w_product", name="product"),
    ]
    return write(tmp_path_factory.mktemp("net") / "graph.onnx", nodes, CONSTANTS, shape=SHAPE)


def by_torch(sample: Any) -> dict[str, Any]:
    """Every tensor of the network, computed by torch."""
    given = {name: torch.from_numpy(value) for name, value in CONSTANTS.items()}
    values = {"x": torch.from_numpy(sample)}
    values["first"] = functional.conv2d(values["x"], given["w_first"], given["b_first"], stride=2, padding=1)
    values["relu"] = torch.relu(values["first"])
    values["depthwise"] = functional.conv2d(values["relu"], given["w_depthwise"], groups=8)
    values["up"] = functional.conv_transpose2d(values["depthwise"], given["w_up"], stride=2)
    values["last"] = values["up"].permute(0, 2, 3, 1)
    values["product"] = values["last"] @ given["w_product"]
    return {name: value.numpy() for name, value in values.items()}


def channels_first(name: str, value: Any) -> Any:
    """(channels, positions)."""
    return np.moveaxis(value, -1 if name in ("last", "product") else 1, 0).reshape(
        value.shape[-1 if name in ("last", "product") else 1], -1
    )


def test_what_is_seen_is_what_torch_computes(net: Path) -> None:
    told: list[int] = []
    stream = samples(5)
    seen = observe(net, iter(stream), 1, told.append)
    values = [by_torch(sample) for sample in stream]
    assert told == [1, 2, 3, 4, 5]
    assert seen.samples == 5
    assert set(seen.tensors) == set(values[0])
    for name, statistics in seen.tensors.items():
        every = np.concatenate([one[name].ravel() for one in values])
        assert statistics.low == pytest.approx(min(every.min(), 0), rel=1e-4, abs=1e-6)
        assert statistics.high == pytest.approx(every.max(), rel=1e-4)
        assert statistics.counts.sum() == every.size
    assert list(seen.layers) == ["first", "depthwise", "up", "product"]
    for layer in seen.layers.values():
        rows = [channels_first(layer.site.input, one[layer.site.input]) for one in values]
        peaks = np.max([np.abs(one).max(1) for one in rows], 0)
        np.testing.assert_allclose(layer.peaks, peaks, rtol=1e-4)
        np.testing.assert_allclose(layer.means, np.mean([one.mean(1) for one in rows], 0), rtol=1e-3, atol=1e-4)
        assert layer.channel_ratio == pytest.approx(peaks.max() / peaks.min(), rel=1e-3)


def test_macs_are_the_multiplications_of_one_run(net: Path) -> None:
    layers = observe(net, samples(2), 1, quiet).layers
    assert layers["first"].macs == 8 * 3 * 9 * (6 * 5)
    assert layers["depthwise"].macs == 8 * 9 * (4 * 3)
    assert layers["up"].macs == 8 * 6 * 4 * (4 * 3)  # a transposed convolution spreads out every input position
    assert layers["product"].macs == 6 * 5 * (8 * 6)


@pytest.mark.parametrize("kind", ["Conv", "depthwise", "MatMul"])
def test_the_noise_is_that_of_a_simulation(kind: str, tmp_path: Path) -> None:
    """Uniform noise as rounding makes it, added to the input of a layer."""
    shape, groups = (1, 4, 60, 60), 4 if kind == "depthwise" else 1
    weight = weights(4, 1 if kind == "depthwise" else 4, 3, 3) if kind != "MatMul" else weights(60, 5)
    operator = (
        node("MatMul", "x", "w", name="y") if kind == "MatMul" else node("Conv", "x", "w", name="y", group=groups)
    )
    path = write(tmp_path / "graph.onnx", [operator], {"w": weight}, shape=shape)
    draw, step = np.random.default_rng(7), 1.5
    sizes = np.array([0.2, 1, 2, 3]).reshape(1, 4, 1, 1)
    stream = [(draw.normal(0, 1, shape) * sizes).astype(np.float32) for _ in range(6)]
    (layer,) = observe(path, stream, 1, quiet).layers.values()
    session = watched(onnx.load(path), (), 1)
    clean = [session.run(None, {"x": one})[0] for one in stream]
    loud = [
        session.run(None, {"x": one + draw.uniform(-step / 2, step / 2, shape).astype(np.float32)})[0] for one in stream
    ]
    axes = (0, 1, 2, 3) if kind == "MatMul" else (0, 1, 3, 4)
    caused, variance = np.var(np.subtract(loud, clean), axes), np.var(clean, axes)
    assert layer.noise_to_signal(step**2 / 12) == pytest.approx(
        np.mean(caused / np.maximum(variance, caused)), rel=0.06
    )
    assert layer.noise_to_signal(0.0) == 0
    assert layer.noise_to_signal(1e6) == pytest.approx(1, rel=1e-3)  # never more than all of it


def test_the_channel_ratio_leaves_out_dead_channels(net: Path) -> None:
    layer = LayerStatistics(next(iter(sites(onnx.load(net)))))
    assert layer.channel_ratio == 1
    layer.peaks[:] = [50.0, 2.0, 0.004]
    assert layer.channel_ratio == 25


def test_a_batch_inside_the_network_keeps_its_channels_apart(tmp_path: Path) -> None:
    """Windows of an image as a batch, as attention over windows has them."""
    nodes = [node("Reshape", "x", "windows", name="batch"), node("Conv", "batch", "w", name="y")]
    constants = {"windows": ints(2, 3, 6, 10), "w": weights(4, 3, 1, 1)}
    (sample,) = samples(1)
    (layer,) = observe(
        write(tmp_path / "graph.onnx", nodes, constants, shape=SHAPE), [sample], 1, quiet
    ).layers.values()
    np.testing.assert_allclose(layer.peaks, np.abs(sample.reshape(2, 3, -1)).max((0, 2)))


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    shape = (1, 3, 128, 128)
    nodes = [node("Conv", "x", "w", name="a"), node("Relu", "a", name="b"), node("Conv", "b", "w", name="c")]
    path = write(tmp_path / "graph.onnx", nodes, {"w": weights(3, 3, 1, 1)}, shape=shape)

    def stream(count: int) -> Iterator[Any]:
        draw = np.random.default_rng(0)
        for _ in range(count):
            yield draw.random(shape, np.float32)

    def memory(count: int) -> tuple[int, int]:
        tracemalloc.start()
        seen = observe(path, stream(count), 1, quiet)
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seen.samples == count
        return now, peak

    memory(1)  # imports
    (few, few_peak), (many, many_peak) = memory(20), memory(80)
    one = int(np.prod(shape)) * 4
    assert few_peak > 3 * one  # the samples themselves are counted
    assert many_peak < few_peak + one
    assert many < few + one


# ---- values that are none ----


def dark(path: Path, *operators: Any) -> Path:
    return write(path / "graph.onnx", operators, {"w": weights(4, 3, 1, 1)}, shape=SHAPE)


def test_nan_is_refused_with_the_tensor_and_the_image(tmp_path: Path) -> None:
    path = dark(tmp_path, node("Sqrt", "x", name="root"), node("Relu", "root", name="y"))
    stream = [np.ones(SHAPE, np.float32), -np.ones(SHAPE, np.float32)]
    with pytest.raises(ConversionError, match=r"^tensor 'root' is NaN on calibration image 1; check the model$"):
        observe(path, stream, 1, quiet)


def test_an_infinite_value_is_refused_where_a_layer_reads_it(tmp_path: Path) -> None:
    stream = [np.zeros(SHAPE, np.float32)]
    path = dark(tmp_path, node("Reciprocal", "x", name="endless"), node("Conv", "endless", "w", name="y"))
    with pytest.raises(ConversionError, match="tensor 'endless' is infinite on calibration image 0"):
        observe(path, stream, 1, quiet)
    path = dark(tmp_path, node("Log", "x", name="mask"), node("Exp", "mask", name="y"))
    assert (
        observe(path, stream, 1, quiet).tensors["mask"].counts.sum() == 0
    )  # as masks of attention and pooling have them


def test_no_samples_are_refused(net: Path) -> None:
    with pytest.raises(ConversionError, match=r"needs calibration images and there are none: give --data"):
        observe(net, [], 1, quiet)


# ---- the smaller looks ----


def test_extremes_are_the_largest_finite_magnitudes(net: Path, tmp_path: Path) -> None:
    stream = samples(3)
    found = extremes(net, iter(stream), 1)
    values = [by_torch(sample) for sample in stream]
    assert set(found) == {*values[0]} - {"x"}
    for name, largest in found.items():
        assert largest == pytest.approx(max(np.abs(one[name]).max() for one in values), rel=1e-4)
    path = dark(tmp_path, node("Reciprocal", "x", name="y"))
    sample = np.zeros(SHAPE, np.float32)
    sample[0, 0, 0, 0] = -0.25
    assert extremes(path, [sample], 1) == {"y": 4.0}


def test_image_statistics_get_the_extremes_of_every_image(net: Path) -> None:
    class Kept:
        """Statistics that keep everything."""

        def __init__(self) -> None:
            self.told: list[tuple[int, Any]] = []

        def add(self, image: int, ends: Any) -> None:
            self.told.append((image, ends))

    kept = Kept()
    observe(net, samples(3), 1, quiet, kept)  # type: ignore[arg-type]
    assert [image for image, _ in kept.told] == [0, 1, 2]
    for name, value in by_torch(samples(3)[2]).items():
        assert kept.told[2][1][name] == pytest.approx((value.min(), value.max()), rel=1e-4, abs=1e-6)
