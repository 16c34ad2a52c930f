"""The LiteRT target and engine, with the real toolchain and interpreter, against torch."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from edgekit.converters import Job
from edgekit.converters.litert import ranges as litert_ranges
from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")
pytest.importorskip("litert_torch", reason="needs the litert toolchain: pip install edgekit[convert]")
pytest.importorskip("ai_edge_quantizer", reason="needs the litert toolchain: pip install edgekit[convert]")

from jobs import make_job

from edgekit.calibration.correspondence import correspondence, fingerprint, weights_mark
from edgekit.calibration.observation import watched
from edgekit.converters import litert
from edgekit.converters.litert.network import LiteRTNetwork
from edgekit.converters.litert.ranges import CalibrationRun, float_operators, ranges_of, recognise

nn = torch.nn

SIZE = 64
PRECISIONS = ("fp32", "fp16", "int8")


class Zoo(nn.Module):  # type: ignore[misc]
    """All that small detectors are made of, with three outputs of one shape that only their values tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.SiLU(), nn.Conv2d(16, 24, 1), nn.SiLU()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(24, 48, 1), nn.ReLU6(), nn.Conv2d(48, 48, 5, 1, 2, groups=48), nn.Hardswish()
        )
        self.project = nn.Conv2d(48, 24, 1)
        self.down = nn.Sequential(nn.Conv2d(24, 32, 3, 2, 1, groups=4), nn.ReLU())
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.merge = nn.Sequential(nn.Conv2d(24 + 64, 24, 1), nn.SiLU())
        self.heads = nn.ModuleList(nn.Conv2d(24, 4, 1) for _ in range(3))
        self.classes = nn.Conv2d(64, 7, 1)

    def forward(self, x: Any) -> Any:
        x = self.depthwise(self.stem(x))
        x = x + self.project(self.expand(x))
        low = self.down(x)
        low = torch.cat((low, self.pool(low)), 1)
        x = self.merge(torch.cat((x, self.upsample(low)), 1))
        return (self.heads[2](x), self.classes(low), self.heads[0](x), self.heads[1](x))


class Spread(nn.Module):  # type: ignore[misc]
    """A depthwise convolution whose input channels differ 1000 times in size, made up for by its weights.

    In float the sizes nearly cancel. One int8 scale for all channels leaves nothing of the small ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)])
        self.unlike = nn.Conv2d(8, 8, 3, 1, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.mix = nn.Conv2d(8, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)
        for layer in self.modules():  # as if trained: what comes out depends on the image more than on biases
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.normal_(layer.bias, 0, 0.05)
        sizes = torch.tensor([2.0, 2.0, *[0.002] * 6])
        with torch.no_grad():
            self.unlike.weight.mul_(sizes.reshape(-1, 1, 1, 1))
            self.unlike.bias.mul_(sizes)
            self.depthwise.weight.div_(sizes.reshape(-1, 1, 1, 1))

    def forward(self, x: Any) -> Any:
        for layer in self.stem:
            x = torch.relu(layer(x))
        x = nn.functional.silu(self.unlike(x))
        return self.head(torch.relu(self.mix(torch.relu(self.depthwise(x)))))


@dataclass(frozen=True)
class Converted:
    """A module in all precisions."""

    module: Any
    jobs: dict[str, Job]
    graphs: dict[str, Graph]
    reports: list[tuple[str, float]]

    def outputs(self, precision: str, image: Any) -> list[Any]:
        session = open_session("litert", self.jobs[precision].out, self.graphs[precision], SessionOptions())
        return [array.copy() for array in session.run([image])]

    def expected(self, image: Any) -> list[Any]:
        with torch.no_grad():
            outputs = self.module(torch.from_numpy(image))
        return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


def pictures(count: int, seed: int) -> Any:
    """Smooth random images, uint8 (count, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.repeat(np.repeat(coarse, SIZE // 8, 1), SIZE // 8, 2).astype(np.uint8)


def tensor_of(image: Any) -> Any:
    """What the contract of `make_job` makes of a BGR image."""
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def convert_all(module: Any, names: tuple[str, ...], folder: Path) -> Converted:
    module.eval()
    jobs, graphs, reports = {}, {}, []
    for precision in PRECISIONS:
        example = torch.rand(1, 3, SIZE, SIZE)
        jobs[precision] = make_job(module, example, names, folder, precision, pictures(24, seed=1))
        graphs[precision] = litert.convert(jobs[precision], lambda text, share: reports.append((text, share)))
    return Converted(module, jobs, graphs, reports)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(3)
    module = Zoo()
    # As if trained: outputs and activations of a size that matters, BatchNorm with statistics of its own.
    module.stem[1].running_mean.uniform_(-0.3, 0.3)
    module.stem[1].running_var.uniform_(0.02, 0.2)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        converted = convert_all(module, ("c", "classes", "a", "b"), tmp_path_factory.mktemp("zoo"))
    assert printed.getvalue() == "", "a child process speaks JSON on its standard output"
    return converted


@pytest.fixture(scope="session")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(5)
    return convert_all(Spread(), ("out",), tmp_path_factory.mktemp("spread"))


def noise(actual: Any, expected: Any) -> float:
    """Root mean squared error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / expected.std())


def test_target_says_what_it_is() -> None:
    assert litert.TARGET.name == "litert"
    assert litert.TARGET.engine == "litert"
    assert litert.TARGET.precisions == (*PRECISIONS, "w8a32")
    assert litert.TARGET.recipes_of("w8a32") == ("plan",)
    assert litert.TARGET.missing == ""


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 3e-3), ("int8", 0.08)])
def test_every_precision_gives_torchs_outputs_in_the_contracts_order(
    zoo: Converted, precision: str, most: float
) -> None:
    image = tensor_of(pictures(1, seed=9)[0])
    outputs, expected = zoo.outputs(precision, image), zoo.expected(image)
    assert [output.shape for output in outputs] == [wanted.shape for wanted in expected]
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == np.float32
        assert noise(output, wanted) < most
    same_shape = [0, 2, 3]
    for left in same_shape:  # any other order would be far off, or this proves nothing
        for right in same_shape:
            assert left == right or noise(outputs[left], expected[right]) > 0.5


def test_entry_describes_the_file(zoo: Converted) -> None:
    for precision in PRECISIONS:
        graph, job = zoo.graphs[precision], zoo.jobs[precision]
        assert [path.name for path in job.out.iterdir()] == list(graph.files) == ["model.tflite"]
        assert graph.inputs[0].shape == (1, 3, SIZE, SIZE)
        assert [tensor.shape for tensor in graph.outputs] == [tuple(shape) for shape in job.shapes.values()]
        assert {tensor.dtype for tensor in (*graph.inputs, *graph.outputs)} == {"float32"}


def test_smaller_precisions_make_smaller_files(zoo: Converted) -> None:
    fp32, fp16, int8 = ((zoo.jobs[precision].out / "model.tflite").read_bytes() for precision in PRECISIONS)
    assert len(fp32) > len(fp16)
    assert b"TFL3" == fp32[4:8] == fp16[4:8] == int8[4:8]


def test_float_files_are_made_once_and_progress_goes_forward(zoo: Converted) -> None:
    texts = [text for text, _ in zoo.reports]
    assert texts.count("converting with litert-torch") == 2  # of the source, and of the plan's graph
    assert not any("calibrating" in text for text in texts), "the plan knows all ranges"
    shares = [share for _, share in zoo.reports]
    assert all(0 <= share <= 1 for share in shares)
    last = len(texts) - 1 - texts[::-1].index("converting with litert-torch")
    assert shares[last:] == sorted(shares[last:])


def test_w8a32_stores_weights_on_the_plans_grid_and_computes_in_float(zoo: Converted, tmp_path: Path) -> None:
    """The oracle is ONNX Runtime on the plan's graph, whose weights lie on that grid already."""
    import onnxruntime

    job = replace(zoo.jobs["int8"], precision="w8a32", out=tmp_path)
    graph = litert.convert(job, lambda text, share: None)
    layers = LiteRTNetwork(tmp_path / "model.tflite")
    stored = sum(op.kind == "DEQUANTIZE" for op in layers.operators)
    count = sum(op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") for op in layers.operators)
    assert graph.report == {
        "convolutions in integers": f"0 of {count}",
        "weights in int8": f"{stored} of {count} convolutions",
    }
    assert count - len(job.planned().float_layers) - 1 <= stored < count
    image = tensor_of(pictures(1, seed=9)[0])
    found = open_session("litert", tmp_path, graph, SessionOptions()).run([image])
    wanted = onnxruntime.InferenceSession(str(job.onnx)).run(None, {"images": image})
    for one, other in zip(found, wanted, strict=True):
        assert noise(one, other) < 1e-4
    assert noise(found[0], zoo.expected(image)[0]) > 1e-4, "the negative control: weights are rounded"
    told = zoo.graphs["int8"].report
    assert told["convolutions in integers"] == f"{stored} of {count}"


@pytest.mark.nightly
def test_int8_planned_on_the_wrong_images_shows(zoo: Converted, tmp_path: Path) -> None:
    dark = make_job(
        zoo.module, torch.rand(1, 3, SIZE, SIZE), tuple(zoo.jobs["int8"].shapes), tmp_path, "int8", pictures(4, 2) // 64
    )
    graph = litert.convert(dark, lambda text, share: None)
    image = tensor_of(pictures(1, seed=9)[0])
    expected = zoo.expected(image)
    worse = [array.copy() for array in open_session("litert", dark.out, graph, SessionOptions()).run([image])]
    good = zoo.outputs("int8", image)
    assert np.mean([noise(a, b) for a, b in zip(worse, expected, strict=True)]) > 3 * np.mean(
        [noise(a, b) for a, b in zip(good, expected, strict=True)]
    )


def test_the_quantisers_own_calibration_is_the_other_recipe(zoo: Converted, tmp_path: Path) -> None:
    assert litert.TARGET.recipes == ("plan", "litert")
    told: list[str] = []
    job = replace(zoo.jobs["int8"], recipe="litert", out=tmp_path)
    graph = litert.convert(job, lambda text, share: told.append(text))
    assert [text for text in told if "calibrating" in text] == [
        "calibrating, image 16 of 24",
        "calibrating, image 24 of 24",
    ]
    image = tensor_of(pictures(1, seed=9)[0])
    for output, wanted in zip(
        open_session("litert", tmp_path, graph, SessionOptions()).run([image]), zoo.expected(image), strict=True
    ):
        assert noise(output, wanted) < 0.12
    assert (tmp_path / "model.tflite").read_bytes() != (zoo.jobs["int8"].out / "model.tflite").read_bytes()


@pytest.mark.parametrize("recipe", litert.TARGET.recipes)
def test_int8_prints_nothing(zoo: Converted, tmp_path: Path, capfd: pytest.CaptureFixture[str], recipe: str) -> None:
    litert.convert(replace(zoo.jobs["int8"], out=tmp_path, recipe=recipe), lambda text, share: None)
    assert capfd.readouterr().out == ""


# What a plan says of a file


def calibration(job: Job, told: list[int] | None = None) -> CalibrationRun:
    source = job.work / "float.tflite"
    return CalibrationRun(job, source, LiteRTNetwork(source), (told if told is not None else []).append)


def test_every_tensor_is_recognised_by_what_it_holds(zoo: Converted) -> None:
    given = calibration(zoo.jobs["int8"])
    names = recognise(given)
    assert set(names) == set(given.network.activations)
    sample = tensor_of(pictures(1, seed=77)[0])  # none of those that it was recognised by
    session = watched(onnx.load(given.job.onnx), list(given.job.planned().tensors), 1)
    outputs = [output.name for output in session.get_outputs()]
    wanted = dict(zip(outputs, session.run(outputs, {"images": sample}), strict=True)) | {"images": sample}
    (values,) = litert_ranges._run(given.path, given.network.activations, [sample], 1)
    for index, name in names.items():
        found = np.sort(values(index), axis=None)
        moved = given.network.source(index) != index and found.size != wanted[name].size  # padded
        if not moved:
            np.testing.assert_allclose(found, np.sort(wanted[name], axis=None), atol=1e-4)


def test_what_the_plan_does_not_know_is_observed(zoo: Converted) -> None:
    job = zoo.jobs["int8"]
    plan = job.planned()
    gone = [name for name, ends in plan.tensors.items() if ends.highest > 0.1][5]
    few = {name: ends for name, ends in plan.tensors.items() if name != gone}
    told: list[int] = []
    given = calibration(replace(job, plan=msgspec.structs.replace(plan, tensors=few)), told)
    names = recognise(given)
    ranges = ranges_of(given, names)
    assert told == list(range(1, 25))
    assert set(ranges) == set(given.network.activations)
    for index, ends in ranges.items():
        if names[index] == gone:
            assert ends.highest == pytest.approx(plan.tensors[gone].highest, rel=1e-3)
        else:
            assert ends == plan.tensors[names[index]]


def test_the_layers_of_the_plan_stay_in_float(zoo: Converted, tmp_path: Path) -> None:
    given = calibration(zoo.jobs["int8"])
    names = recognise(given)
    found = float_operators(given, names)
    weighted = [op for op in given.network.operators if given.network.weights(op) is not None]
    layers = given.job.planned().layers
    assert len(weighted) == len(layers) == 12
    islands = [op for op in found if op in weighted]
    assert [layer.float_reason for layer in layers].count("channels") == 1
    # The layer with unlike channels, and the one before it that makes them.
    assert len(islands) == len(given.job.planned().float_layers) + 1 == 9
    assert {"LOGISTIC", "MUL"} <= {op.kind for op in found}, "SiLU between layers in float is in float"
    assert sum(op.kind == "LOGISTIC" for op in found) == 2, "and no other"
    changed = calibration(replace(given.job, onnx=tmp_path / "scaled.onnx"))
    model = onnx.load(given.job.onnx)
    for tensor in model.graph.initializer:  # as if the toolchain had merged factors into the weights
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(model, changed.job.onnx)
    assert [op for op in float_operators(changed, names) if op in weighted] == islands
    nothing = tuple(msgspec.structs.replace(layer, float_reason="") for layer in layers)
    plan = msgspec.structs.replace(given.job.planned(), layers=nothing)
    assert float_operators(calibration(replace(given.job, plan=plan)), names) == []


@pytest.mark.nightly
def test_channels_too_unlike_for_one_scale_stay_float(spread: Converted, tmp_path: Path) -> None:
    image = tensor_of(pictures(1, seed=9)[0])
    (expected,) = spread.expected(image)
    good = noise(spread.outputs("int8", image)[0], expected)
    assert good < 0.05
    plan = spread.jobs["int8"].planned()
    (bad,) = [layer for layer in plan.layers if layer.float_reason == "channels"]
    given = calibration(spread.jobs["int8"])
    kinds = [op.kind for op in float_operators(given, recognise(given))]
    assert kinds.count("LOGISTIC") == 1, "what makes its input is float too"
    assert bad.depthwise
    layers = tuple(
        msgspec.structs.replace(one, float_reason="" if one is bad else one.float_reason) for one in plan.layers
    )
    job = replace(spread.jobs["int8"], out=tmp_path, plan=msgspec.structs.replace(plan, layers=layers))
    graph = litert.convert(job, lambda text, share: None)
    (flattened,) = open_session("litert", tmp_path, graph, SessionOptions()).run([image])
    assert noise(flattened, expected) > max(0.1, 3 * good)  # what one scale for all channels leaves


arrays = hypothesis_numpy.arrays(np.float32, (2, 3, 4), elements=st.floats(-1e3, 1e3, width=32), unique=True)


@settings(deadline=None)
@given(st.lists(arrays, min_size=1, max_size=5, unique_by=lambda values: float(values.sum())))
def test_tensors_are_found_again_in_any_order_of_axes(several: list[Any]) -> None:
    ours = {str(place): [fingerprint(values)] for place, values in enumerate(several)}
    theirs = {
        place: [fingerprint(np.ascontiguousarray(values.transpose(2, 0, 1)) * np.float32(1 + 1e-6))]
        for place, values in enumerate(several)
    }
    found = correspondence(theirs, ours)
    assert set(found) == set(theirs)
    for place, name in found.items():
        wanted, got = (fingerprint(several[int(one)])[1] for one in (place, name))
        assert np.abs(wanted - got).max() <= 1e-3 * np.abs(wanted).max() + 1e-30


def test_other_tensors_are_not_taken_for_it() -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    ours = {"x": [fingerprint(values)]}
    others = {"relu": np.maximum(values, 0), "scaled": values * 1.01, "padded": np.pad(values, 1), "minus": -values}
    assert correspondence({name: [fingerprint(other)] for name, other in others.items()}, ours) == {}
    assert weights_mark(values) == weights_mark(np.ascontiguousarray(values.transpose(0, 2, 3, 1)))
    assert weights_mark(values) != weights_mark(-values)
    zeros = np.array([0.0, -0.0, 1.0], np.float32)
    assert weights_mark(zeros) == weights_mark(zeros[[1, 0, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job, empty: replace(job, plan=None), "int8 needs a quantisation plan: give --data"),
        (lambda job, empty: replace(job, plan=None, precision="w8a32"), "w8a32 needs a quantisation plan: give --data"),
        (lambda job, empty: replace(job, samples=None), "give --data with a folder of photographs"),
        (lambda job, empty: replace(job, samples=replace(job.samples, path=empty)), "there are none: give --data"),
        (
            lambda job, empty: replace(job, shapes={**job.shapes, "a": (1, 4, 8, 8)}),
            r"output 'a' should have shape \(1, 4, 8, 8\), the file has \(1, 4, 16, 16\) as output_2",
        ),
    ],
)
def test_refused_jobs(zoo: Converted, tmp_path: Path, change: Callable[[Job, Path], Job], message: str) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((0, SIZE, SIZE, 3), np.uint8))
    with pytest.raises(ConversionError, match=message):
        litert.convert(
            change(replace(zoo.jobs["int8"], out=tmp_path), tmp_path / "empty.npy"), lambda text, share: None
        )


def test_toolchains_own_exceptions_become_conversion_errors(zoo: Converted, tmp_path: Path) -> None:
    (tmp_path / "float.tflite").write_bytes(b"nonsense")
    job = replace(zoo.jobs["fp16"], work=tmp_path, out=tmp_path)
    with pytest.raises(ConversionError, match="LiteRT fp16: "):
        litert.convert(job, lambda text, share: None)


# The engine


def test_outputs_held_on_to_do_not_block_the_next_run(zoo: Converted) -> None:
    session = open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions())
    images = [tensor_of(image) for image in pictures(2, seed=4)]
    held = session.run([images[0]])
    again = session.run([images[1]])
    assert held[0].base is not None, "a copy was made"
    for old, new, expected in zip(held, again, zoo.expected(images[1]), strict=True):
        np.testing.assert_array_equal(old, new)  # views: the second run is seen through the first one's arrays
        assert noise(new, expected) < 1e-5


def test_outputs_outlive_their_session(zoo: Converted) -> None:
    session = open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions())
    image = tensor_of(pictures(1, seed=4)[0])
    outputs = session.run([image])
    del session
    gc.collect()
    junk = [np.full(1 << 16, 7, np.float32) for _ in range(64)]  # would reuse freed memory
    for output, expected in zip(outputs, zoo.expected(image), strict=True):
        assert noise(output, expected) < 1e-5
    assert junk


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "takes 1 input"),
        ([np.zeros((1, 3, 32, 32), np.float32)], r"takes float32 \(1, 3, 64, 64\), not float32 \(1, 3, 32, 32\)"),
        ([np.zeros((1, 64, 64, 3), np.float32)], r"not float32 \(1, 64, 64, 3\)"),
        ([np.zeros((1, 3, 64, 64), np.uint8)], "not uint8"),
    ],
)
def test_wrong_inputs_are_refused_and_the_session_lives_on(zoo: Converted, inputs: list[Any], message: str) -> None:
    session = open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions(threads=1))
    with pytest.raises(EngineError, match=message) as held:
        session.run(inputs)
    image = tensor_of(pictures(1, seed=4)[0])
    assert noise(session.run([image])[0], zoo.expected(image)[0]) < 1e-5
    assert held.value is not None


def test_inputs_may_be_any_view(zoo: Converted) -> None:
    session = open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions(threads=2))
    image = tensor_of(pictures(1, seed=4)[0])
    plain = [array.copy() for array in session.run([image])]
    strided = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not strided.flags.c_contiguous
    for left, right in zip(session.run([strided]), plain, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("keep", [0, 3, 8, 100, 0.25, 0.5, 0.99])
def test_a_truncated_file_is_refused(zoo: Converted, tmp_path: Path, keep: float) -> None:
    data = (zoo.jobs["int8"].out / "model.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(EngineError, match="LiteRT cannot open it"):
        open_session("litert", tmp_path, zoo.graphs["int8"], SessionOptions())


@pytest.mark.parametrize("data", [b"not a model" * 99, b"\0\0\0\0TFL3" + bytes(range(256)) * 20])
def test_a_foreign_file_is_refused(zoo: Converted, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.tflite").write_bytes(data)
    with pytest.raises(EngineError, match="LiteRT cannot open it"):
        open_session("litert", tmp_path, zoo.graphs["fp32"], SessionOptions())


def test_a_missing_file_is_refused(zoo: Converted, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model\.tflite: LiteRT cannot open it"):
        open_session("litert", tmp_path, zoo.graphs["fp32"], SessionOptions())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(name="output_9", shape=(1, 4, 16, 16)), "has no tensor 'output_9', only output_0, output_1"),
        (
            Tensor(name="output_0", shape=(1, 4, 8, 8)),
            r"float32 \(1, 4, 16, 16\), but its manifest says .*\(1, 4, 8, 8\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_its_manifest_is_refused(zoo: Converted, tensor: Tensor, message: str) -> None:
    graph = msgspec.structs.replace(zoo.graphs["fp32"], outputs=(tensor,))
    with pytest.raises(EngineError, match=message):
        open_session("litert", zoo.jobs["fp32"].out, graph, SessionOptions())


def test_a_failing_engine_is_an_engine_error(zoo: Converted) -> None:
    session: Any = open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions())
    raw = session.interpreter.tensor(0)()  # an array of the engine's own, which it does not run beside
    with pytest.raises(EngineError, match=r"model\.tflite: LiteRT failed: There is at least 1 reference"):
        session.run([np.zeros((1, 3, SIZE, SIZE), np.float32)])
    assert raw.shape


def test_an_engine_that_cannot_be_imported_says_what_to_do(zoo: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(EngineError, match=r"cannot be imported .*: pip install --force-reinstall ai-edge-litert"):
        open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions())


def test_an_engine_built_for_another_numpy_says_what_to_do(zoo: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_litert import interpreter

    def refuse(**_: object) -> None:  # tflite-runtime 2.14 under numpy 2, seen in an environment of its own
        raise SystemError("<built-in method CreateWrapperFromFile> returned a result with an exception set")

    monkeypatch.setattr(interpreter, "Interpreter", refuse)
    with pytest.raises(EngineError, match=r"does not work with numpy .*: pip install 'numpy<2'"):
        open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions())


def test_placement_names_what_xnnpack_left(zoo: Converted) -> None:
    fp32 = open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions()).placement
    int8 = open_session("litert", zoo.jobs["int8"].out, zoo.graphs["int8"], SessionOptions()).placement
    network = LiteRTNetwork(zoo.jobs["fp32"].out / "model.tflite")
    assert sum(fp32.operators.values()) == len(network.operators)
    assert fp32.operators["builtin RESIZE_NEAREST_NEIGHBOR"] == 1
    assert fp32.operators["xnnpack"] > 0.8 * len(network.operators)
    assert (fp32.device, fp32.arithmetic, int8.arithmetic) == ("cpu", "float32", "int8")


def test_strict_refuses_what_leaves_xnnpack(zoo: Converted, spread: Converted) -> None:
    strict = SessionOptions(device="xnnpack", strict=True)
    with pytest.raises(EngineError, match="RESIZE_NEAREST_NEIGHBOR"):
        open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], strict)
    assert open_session("litert", zoo.jobs["fp32"].out, zoo.graphs["fp32"], SessionOptions(strict=True)).placement
    session = open_session("litert", spread.jobs["fp32"].out, spread.graphs["fp32"], strict)
    assert list(session.placement.operators) == ["xnnpack"]


def test_channel_last_files_take_and_give_nchw(tmp_path: Path) -> None:
    import litert_torch

    torch.manual_seed(0)
    module = nn.Conv2d(3, 5, 3, 2, 1).eval()
    last = litert_torch.to_channel_last_io(module, args=[0], outputs=[0])
    litert_torch.convert(last, (torch.rand(1, 32, 48, 3),)).export(str(tmp_path / "m.tflite"))
    graph = Graph(
        files=("m.tflite",),
        inputs=(Tensor(name="args_0", shape=(1, 32, 48, 3), layout="nhwc"),),
        outputs=(Tensor(name="output_0", shape=(1, 16, 24, 5), layout="nhwc"),),
    )
    image = np.random.default_rng(0).random((1, 3, 32, 48), np.float32)
    (output,) = open_session("litert", tmp_path, graph, SessionOptions()).run([image])
    with torch.no_grad():
        np.testing.assert_allclose(output, module(torch.from_numpy(image)).numpy(), atol=1e-5)


class Block(nn.Module):  # type: ignore[misc]
    """A block of ConvNeXt on a grid of one cell: linear layers on a vector in four dimensions. Before it a place in
    sines and cosines, computed as RT-DETR does it, from counted numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, SIZE, SIZE)
        self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Any) -> Any:
        wavelengths = 10000 ** (torch.arange(8, dtype=torch.float64) / 8)
        x = self.stem(x) + (1 / wavelengths).sin().float()[:, None, None]
        seen = self.narrow(nn.functional.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
        return x + seen.permute(0, 3, 1, 2)


def test_linear_layers_on_a_single_cell_and_places_of_cells(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Block().eval()
    job = make_job(module, torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path, "fp32", pictures(2, seed=1))
    graph = litert.convert(job, lambda text, share: None)
    image = tensor_of(pictures(1, seed=9)[0])
    (output,) = open_session("litert", job.out, graph, SessionOptions()).run([image])
    with torch.no_grad():
        np.testing.assert_allclose(output, module(torch.from_numpy(image)).numpy(), atol=1e-5)


def test_running_needs_numpy_and_the_engine_only(zoo: Converted) -> None:
    code = """
import json, sys
from pathlib import Path
import msgspec, numpy
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions, open_session
graph = msgspec.json.decode(sys.argv[2], type=Graph)
session = open_session("litert", Path(sys.argv[1]), graph, SessionOptions())
session.run([numpy.zeros(graph.inputs[0].shape, numpy.float32)])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    graph = msgspec.json.encode(zoo.graphs["int8"]).decode()
    command = [sys.executable, "-c", code, str(zoo.jobs["int8"].out), graph]
    loaded = set(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    assert "ai_edge_litert" in loaded
    assert not loaded & {"torch", "cv2", "tensorflow", "jax", "litert_torch", "ai_edge_quantizer", "onnxruntime"}
