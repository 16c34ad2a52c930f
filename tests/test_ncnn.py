"""The ncnn converter, its INT8 writer and the ncnn engine, with the real pnnx and the real ncnn."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.converters.ncnn.model import (
    TAG_FLOAT16,
    TAG_FLOAT32,
    TAG_INT8,
    NcnnLayer,
    NcnnModel,
    Weight,
    parse_param,
    read_model,
)
from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
onnx = pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")
pytest.importorskip("ncnn", reason="needs ncnn")
pytest.importorskip("pnnx", reason="needs pnnx")

from jobs import make_job

from edgekit.calibration.layers import sites
from edgekit.converters import ncnn as converter
from edgekit.converters.ncnn import int8

nn = torch.nn
SIZE = 40
OUTPUTS = ("boxes", "classes")


class SmallDetector(nn.Module):
    """Everything mobile detectors are made of, once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 5, 1, 2, groups=16), nn.SiLU(), nn.Conv2d(16, 32, 1), nn.SiLU()
        )
        self.halves = nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1, groups=4), nn.Hardswish())
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.mix = nn.Sequential(nn.Conv2d(96, 32, 3, padding=1), nn.PReLU(32))
        self.boxes, self.classes = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Any) -> Any:
        x = self.depthwise(self.stem(x))
        first, second = x.chunk(2, 1)
        y = torch.cat((first, second + torch.relu(self.halves(second))), 1)
        low = self.down(y)
        pooled = torch.max_pool2d(low, 5, 1, 2)
        z = self.mix(torch.cat((self.up(low), self.up(pooled), y), 1))
        return self.boxes(z), self.classes(z)


def photographs(count: int, size: int = SIZE) -> np.ndarray[Any, Any]:
    """Smooth random images, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(0, 255, (count, 5, 5, 3))
    return np.kron(coarse, np.ones((1, size // 5, size // 5, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(3)
    return SmallDetector().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ncnn")


@pytest.fixture(scope="module")
def jobs(detector: Any, folder: Path) -> dict[str, Any]:
    return {
        precision: make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, folder, precision, photographs(12))
        for precision in ("fp32", "fp16", "int8")
    }


@pytest.fixture(scope="module")
def graphs(jobs: dict[str, Any]) -> dict[str, Graph]:
    return {precision: converter.convert(job, lambda text, share: None) for precision, job in jobs.items()}


@pytest.fixture(scope="module")
def images(jobs: dict[str, Any]) -> list[Any]:
    return list(jobs["int8"].samples)


def expected(module: Any, image: Any) -> list[Any]:
    with torch.no_grad():
        outputs = module(torch.from_numpy(image))
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def relative_error(found: Any, wanted: Any) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.var(wanted)))


def graph_of(outputs: tuple[tuple[int, ...], ...], size: tuple[int, ...] = (1, 3, SIZE, SIZE)) -> Graph:
    named = tuple(Tensor(name=f"out{index}", shape=shape) for index, shape in enumerate(outputs))
    return Graph(files=("model.ncnn.param", "model.ncnn.bin"), inputs=(Tensor(name="in0", shape=size),), outputs=named)


# --- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "low", "high"), [("fp32", 0.0, 1e-5), ("fp16", 1e-5, 3e-3), ("int8", 1e-3, 0.12)]
)
def test_every_precision_computes_what_torch_does(
    precision: str, low: float, high: float, detector: Any, jobs: Any, graphs: Any, images: list[Any]
) -> None:
    session = open_session("ncnn", jobs[precision].out, graphs[precision], SessionOptions(threads=1))
    for image in images[:3]:
        for found, wanted in zip(session.run([image]), expected(detector, image), strict=True):
            assert found.shape == wanted.shape
            assert found.dtype == np.float32
            # The lower bound is the negative control: an int8 file that computes in float would be too good.
            assert low <= relative_error(found, wanted) <= high


def test_only_two_files_are_written_and_the_small_ones_are_small(jobs: Any, graphs: Any) -> None:
    sizes = {}
    for precision, job in jobs.items():
        assert sorted(path.name for path in job.out.iterdir()) == ["model.ncnn.bin", "model.ncnn.param"]
        sizes[precision] = (job.out / "model.ncnn.bin").stat().st_size
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_placement_tells_the_arithmetic(jobs: Any, graphs: Any) -> None:
    told = {
        name: open_session("ncnn", jobs[name].out, graphs[name], SessionOptions(strict=True)).placement
        for name in ("fp32", "fp16", "int8")
    }
    layers = len(parse_param((jobs["fp32"].out / "model.ncnn.param").read_text(), "p").layers)
    assert all(placement.operators == {"cpu": layers} and placement.device == "cpu" for placement in told.values())
    assert told["fp32"].arithmetic == "float32"
    assert "float16" in told["fp16"].arithmetic
    assert re.fullmatch(r"int8 in \d of 8 convolutions .*", told["int8"].arithmetic)


def test_int8_is_static_without_fused_requantisation(jobs: Any, graphs: Any) -> None:
    text = (jobs["int8"].out / "model.ncnn.param").read_text()
    switches = re.findall(r" 8=(\d+)", text)
    assert len(switches) >= 2
    assert set(switches) == {"2"}
    depthwise = [line for line in text.splitlines() if line.startswith("ConvolutionDepthWise") and " 7=16" in line]
    assert len(depthwise) == 1
    assert " 8=" not in depthwise[0]


def test_precisions_share_the_float_model(jobs: Any, graphs: Any) -> None:
    work = jobs["fp32"].work
    assert sorted(path.name for path in work.iterdir()) == ["fp16", "fp32", "traced.pt"]
    before = (work / "fp32" / "model.ncnn.bin").stat().st_mtime_ns
    converter.convert(jobs["fp32"], lambda text, share: None)
    assert (work / "fp32" / "model.ncnn.bin").stat().st_mtime_ns == before


def test_progress_rises(jobs: Any, graphs: Any) -> None:
    shares: list[float] = []
    converter.convert(jobs["int8"], lambda text, share: shares.append(share))
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_int8_is_reproducible(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    again = dataclasses.replace(jobs["int8"], out=tmp_path)
    converter.convert(again, lambda text, share: None)
    for name in ("model.ncnn.param", "model.ncnn.bin"):
        assert (tmp_path / name).read_bytes() == (jobs["int8"].out / name).read_bytes()


def test_int8_without_images_is_refused(jobs: Any, tmp_path: Path) -> None:
    bare = dataclasses.replace(jobs["int8"], plan=None, out=tmp_path)
    with pytest.raises(ConversionError, match="int8 needs a quantisation plan: give --data"):
        converter.convert(bare, lambda text, share: None)


def test_an_operator_ncnn_lacks_is_named(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sort(x * 2.0, dim=1)[0]

    job = make_job(Sorted(), torch.rand(1, 3, 20, 20), ("sorted",), tmp_path, "fp32")
    with pytest.raises(ConversionError, match=r"does not run in ncnn: .*sort"):
        converter.convert(job, lambda text, share: None)
    assert not list((tmp_path / "work").glob("fp32*"))


def test_pnnx_failing_is_told_with_its_log(jobs: Any, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    (work / "traced.pt").write_bytes(b"not TorchScript")
    with pytest.raises(ConversionError, match=r"pnnx failed \(exit code -?\d+\): "):
        converter.convert(dataclasses.replace(jobs["fp32"], work=work, out=out), lambda text, share: None)


def test_nan_in_the_float_model_is_refused(tmp_path: Path) -> None:
    convolution = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        convolution.weight[0, 0, 0, 0] = float("nan")
    job = make_job(convolution, torch.rand(1, 3, 20, 20), ("y",), tmp_path, "fp32")
    with pytest.raises(ConversionError, match=r"NaN or infinity for output 'y'"):
        converter.convert(job, lambda text, share: None)


@pytest.mark.nightly
@pytest.mark.convert
def test_fastestdet_as_given_equals_torch(shared_data: Path, tmp_path: Path) -> None:
    module = torch.export.load(shared_data / "models" / "fastestdet_coco.pt2").module()
    example = torch.rand(1, 3, 352, 352, generator=torch.Generator().manual_seed(1))
    job = make_job(_Plain(module), example, ("map",), tmp_path, "fp32")
    session = open_session("ncnn", job.out, converter.convert(job, lambda text, share: None), SessionOptions(threads=1))
    (found,) = session.run([example.numpy()])
    np.testing.assert_allclose(found, expected(module, example.numpy())[0], atol=1e-4)


class _Plain(nn.Module):
    """A torch.export module, which cannot be put into eval mode itself."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.__dict__["module"] = module

    def forward(self, x: Any) -> Any:
        return self.module(x)


# --- the files -------------------------------------------------------------------------------------------------------


class EveryWeight(nn.Module):
    """Every kind of layer with weights that the reader knows and pnnx makes of torch modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.norms = nn.Sequential(
            nn.BatchNorm2d(8), nn.PReLU(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
        )
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.up_depthwise = nn.ConvTranspose2d(6, 6, 2, 2, groups=6)
        self.table = nn.Parameter(torch.rand(1, 6, 1, 1))
        self.linear, self.norm = nn.Linear(80, 12), nn.LayerNorm(12)

    def forward(self, x: Any) -> Any:
        x = self.norms(torch.cat((self.grouped(self.first(x)),), 1) + x.mean())
        x = self.up_depthwise(self.up(x)) * self.table
        return self.norm(self.linear(x))


@pytest.fixture(scope="module")
def every_weight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("every_weight")
    module = EveryWeight().eval()
    for name, half in (("fp32", False), ("fp16", True)):
        (folder / name).mkdir()
        with torch.no_grad():
            torch.jit.trace(module, torch.rand(1, 3, 20, 20), check_trace=False).save(str(folder / name / "model.pt"))
        converter._run_pnnx(folder / name, half)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_files_read_and_written_are_the_same_bytes(precision: str, every_weight: Path, jobs: Any, graphs: Any) -> None:
    for folder in (every_weight / precision, jobs[precision].work / precision):
        param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        model = read_model(param, weights)
        assert model.param().encode() == param.read_bytes()
        assert model.bin() == weights.read_bytes()
        tags = {weight.tag for layer in model.layers for weight in layer.weights} - {None}
        assert (TAG_FLOAT16 if precision == "fp16" else TAG_FLOAT32) in tags


def test_the_reader_met_every_kind_it_was_made_for(every_weight: Path) -> None:
    model = read_model(every_weight / "fp32" / "model.ncnn.param", every_weight / "fp32" / "model.ncnn.bin")
    kinds = {layer.kind for layer in model.layers if layer.weights}
    assert kinds >= {"Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "PReLU"}
    assert kinds >= {"GroupNorm", "InstanceNorm", "LayerNorm", "MemoryData"}
    assert kinds & {"InnerProduct", "Gemm"}


def _files(folder: Path, lines: list[str], data: bytes = b"", blobs: int = 9) -> tuple[Path, Path]:
    param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")
    weights.write_bytes(data)
    return param, weights


@pytest.mark.parametrize(
    ("lines", "data", "message"),
    [
        (
            ["LSTM lstm 1 1 a b 0=8"],
            b"",
            "layer 'lstm' is a LSTM, whose weights the INT8 writer does not know; choose fp16",
        ),
        (["Convolution c 1 1 a b 0=1 1=1 6=1 8=2"], b"", "convolution 'c' is quantised already"),
        (
            ["Convolution c 1 1 a b 0=1 1=1 6=1"],
            b"\x01\x02\x03\x04" + bytes(4),
            "unknown weight tag 0x04030201 at byte 0",
        ),
        (["Convolution c 1 1 a b 0=1 1=1 6=9"], bytes(8), "ends at byte 8, its layers need more"),
        (["ReLU r 1 1 a b"], bytes(4), "has 4 bytes but its layers account for 0"),
        (["ReLU r 1 3 a b"], b"", "layer 'r' ends early"),
        (["ReLU r one 1 a b"], b"", "not a readable ncnn graph"),
    ],
)
def test_files_that_cannot_be_quantised_are_refused(
    tmp_path: Path, lines: list[str], data: bytes, message: str
) -> None:
    with pytest.raises(ConversionError, match=re.escape(message)):
        read_model(*_files(tmp_path, lines, data))


@pytest.mark.parametrize(
    ("text", "message"), [("", "index"), ("GIF89a\n1 1\n", "GIF89a"), ("7767517\n4 1\n", "says 4")]
)
def test_what_is_no_param_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConversionError, match=rf"model.param is not a readable ncnn graph.*{message}.*convert"):
        parse_param(text, "model.param")


def test_int8_weights_are_padded_to_four_bytes() -> None:
    assert Weight(np.array([1, -2, 3], np.int8), TAG_INT8).stored() == b"\x38\x4b\x0d\x00\x01\xfe\x03\x00"


# --- quantising -------------------------------------------------------------------------------------------------------


def _single(outputs: int, kernel: int, stride: int, weights: Any) -> NcnnLayer:
    params = {0: outputs, 1: kernel, 11: kernel, 2: 1, 12: 1, 3: stride, 13: stride, 4: kernel // 2, 14: kernel // 2}
    params |= {5: 1, 6: weights.size}
    biases = np.linspace(-1, 1, outputs).astype(np.float32)
    return NcnnLayer(
        "Convolution", "c", ["in0"], ["out0"], {key: str(value) for key, value in params.items()},
        [Weight(weights.ravel(), TAG_FLOAT32), Weight(biases)],
    )  # fmt: skip


CASES = [
    (24, 16, 1, 1),
    (32, 64, 3, 1),
    (16, 3, 3, 2),
    (24, 24, 5, 2),
]


def _run_single(folder: Path, layer: NcnnLayer, x: Any, stride: int) -> Any:
    model = NcnnModel([NcnnLayer("Input", "in0", [], ["in0"], {}), layer], 2)
    model.write(folder / "model.ncnn.param", folder / "model.ncnn.bin")
    side = -(-x.shape[2] // stride)
    graph = graph_of(((1, layer.number(0), side, side),), x.shape)
    return open_session("ncnn", folder, graph, SessionOptions(threads=1)).run([x])[0]


@pytest.mark.parametrize(("outputs", "inputs", "kernel", "stride"), CASES)
def test_int8_kernels_compute_the_integers_that_were_written(
    tmp_path: Path, outputs: int, inputs: int, kernel: int, stride: int
) -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(outputs, inputs, kernel, kernel)).astype(np.float32)
    weights *= np.exp(rng.normal(size=(outputs, 1, 1, 1))).astype(np.float32)
    x = rng.normal(size=(1, inputs, 14, 14)).astype(np.float32)
    layer = int8.quantised(_single(outputs, kernel, stride, weights), 2.5)
    found = _run_single(tmp_path, layer, x, stride)

    integers, biases, scales, (input_scale,) = (weight.data for weight in layer.weights)
    assert input_scale == pytest.approx(127 / 2.5)
    grid = torch.from_numpy(np.clip(np.rint(x * input_scale), -127, 127).astype(np.float64))
    kernels = torch.from_numpy(integers.reshape(weights.shape).astype(np.float64))
    sums = torch.nn.functional.conv2d(grid, kernels, stride=stride, padding=kernel // 2).numpy()[0]
    wanted = sums / (scales[:, None, None] * input_scale) + biases[:, None, None]
    np.testing.assert_allclose(found[0], wanted, atol=1e-5 * float(np.abs(wanted).max()))

    exact = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(weights), torch.linspace(-1, 1, outputs), stride, kernel // 2
    ).numpy()
    assert 1e-4 < relative_error(found, exact) < 0.1


def test_winograd_does_not_overflow_on_the_worst_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((1, 512, 14, 14), np.float32)
    plain = _single(16, 3, 1, np.ones((16, 512, 3, 3), np.float32))

    def middle() -> tuple[float, float]:
        layer = int8.quantised(plain, 1.0)
        written = float(layer.weights[0].data[8].sum() / layer.weights[2].data[8] + layer.weights[1].data[8])
        return float(_run_single(tmp_path, layer, x, 1)[0, 8, 6, 6]), written

    found, written = middle()
    assert found == pytest.approx(written, rel=1e-3)
    assert written == pytest.approx(512 * 9, rel=0.1)
    monkeypatch.setattr(int8, "_WINOGRAD_SUM", 2**40)  # negative control: without the bound the sum wraps around
    found, written = middle()
    assert abs(found - written) > 1000


def planned_model(job: Any) -> tuple[NcnnModel, list[Any]]:
    """What pnnx made of a plan's graph, and the graph's layers."""
    folder = job.work / "fp32"
    return read_model(folder / "model.ncnn.param", folder / "model.ncnn.bin"), list(sites(onnx.load(job.onnx)))


def test_convolutions_read_the_ranges_of_the_plan_and_its_floats_stay_float(jobs: Any, graphs: Any) -> None:
    job = jobs["int8"]
    model, layers = planned_model(job)
    by_weights = {site.weights.tobytes(): site for site in layers}
    limits = int8.thresholds(model, layers, job.planned())
    dense = {layer.name: by_weights[layer.kernels().tobytes()] for layer in model.layers if layer.kind == "Convolution"}
    assert len(dense) == len(layers) - 2  # one is depthwise, one has groups, which ncnn computes wrongly
    kept = {name for name, site in dense.items() if site.name in job.planned().float_layers}
    assert len(kept) >= 4  # the heads, and the stem but for its depthwise convolution
    assert set(limits) == set(dense) - kept
    for name, limit in limits.items():
        assert limit == job.planned().tensors[dense[name].input].limit
    written = parse_param((job.out / "model.ncnn.param").read_text(), "p")
    assert {layer.name for layer in written.layers if layer.convolution or 8 in layer.params} == set(limits)


def test_weights_lie_on_the_grid_already(jobs: Any, graphs: Any) -> None:
    """So nothing is lost by rounding them; the negative control is the network as it was given."""
    errors = {}
    whole, layers = planned_model(jobs["int8"])
    integers_of = int8.thresholds(whole, layers, jobs["int8"].planned())  # the others keep weights of their own
    for name, job in (("int8", jobs["int8"]), ("fp32", jobs["fp32"])):
        model, _ = planned_model(job)
        layer = next(layer for layer in model.layers if layer.name in integers_of)
        integers, _, scales, _ = (weight.data for weight in int8.quantised(layer, 1.0).weights)
        rows = layer.kernels().reshape(len(scales), -1)
        errors[name] = float(np.abs(integers / scales[:, None] - rows).max() / np.abs(rows).max())
    assert errors["int8"] < 1e-6 < 1e-3 < errors["fp32"]


def test_layers_that_the_plan_returns_to_float_are_float(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    job = jobs["int8"]
    model, layers = planned_model(job)
    plan = job.planned()
    every = int8.thresholds(model, layers, plan)
    one = next(layer for layer in plan.layers if not layer.float_reason and not layer.depthwise)
    budget = tuple(
        msgspec.structs.replace(layer, float_reason=layer.float_reason or "budget" * (layer == one))
        for layer in plan.layers
    )
    fewer = int8.thresholds(model, layers, msgspec.structs.replace(plan, layers=budget))
    assert len(set(every) - set(fewer)) == 1
    nothing = tuple(msgspec.structs.replace(layer, float_reason="budget") for layer in plan.layers)
    with pytest.raises(ConversionError, match="all convolutions and products of this network stay in float"):
        int8.lower(model, layers, msgspec.structs.replace(plan, layers=nothing))


def test_layers_that_share_their_weights_are_told_apart_by_their_order(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(*(nn.Conv2d(3 if not index else 8, 8, 3, padding=1) for index in range(3)))
            self.shared, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.shared(torch.relu(self.stem(x)) * 5))
            return self.head(torch.relu(self.shared(x * 9)))

    torch.manual_seed(1)
    job = make_job(Shared(), torch.rand(1, 3, SIZE, SIZE), ("y",), tmp_path, "int8", photographs(6))
    converter.convert(job, lambda text, share: None)
    model, layers = planned_model(job)
    plan = job.planned()
    limits = list(int8.thresholds(model, layers, plan).values())
    assert limits == [plan.tensors[layer.input].limit for layer in plan.layers if not layer.float_reason]
    assert len(limits) == 2
    assert limits[0] != limits[1]


def test_a_convolution_that_is_not_found_stays_float(jobs: Any, graphs: Any) -> None:
    job = jobs["int8"]
    model, layers = planned_model(job)
    every = int8.thresholds(model, layers, job.planned())
    for layer in model.layers:
        if layer.name in list(every)[:1]:
            layer.weights[0] = Weight(layer.weights[0].data * np.float32(1.5), TAG_FLOAT32)
    assert list(int8.thresholds(model, layers, job.planned())) == list(every)[1:]


# --- the engine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(jobs: Any, graphs: Any, tmp_path: Path) -> tuple[Path, Graph]:
    shutil.copytree(jobs["fp32"].out, tmp_path / "bundle")
    return tmp_path / "bundle", graphs["fp32"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "not a whole ncnn graph"),
        (lambda data: b"\xff\xfe\x00" * 50, "not an ncnn graph (not text)"),
        (lambda data: data[: len(data) // 2], "not a whole ncnn graph"),
        (lambda data: data.replace(b"7767517", b"1234567"), "not a whole ncnn graph"),
        (lambda data: data.replace(b"Pooling", b"Dancing"), "it has no layer Dancing"),
        (lambda data: data.replace(b"out0", b"our0"), "has no blob out0, which the manifest names"),
        (lambda data: re.sub(rb"\n(\d+) \d+\n", rb"\n\1 99999\n", data, count=1), "the header says 99999 blobs"),
        (lambda data: re.sub(rb"(Pooling +\S+ +)1 1", rb"\1 x 1", data), "not an ncnn layer"),
        (lambda data: re.sub(rb"(Pooling +\S+ +)1 1.*", rb"\1 1 9 a", data), "ends early"),
    ],
)
def test_a_damaged_graph_is_an_engine_error(damaged: Any, change: Any, message: str) -> None:
    folder, graph = damaged
    path = folder / "model.ncnn.param"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(EngineError, match=re.escape(message)):
        open_session("ncnn", folder, graph, SessionOptions())


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_truncated_weights_are_an_engine_error(damaged: Any, share: float) -> None:
    folder, graph = damaged
    path = folder / "model.ncnn.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(EngineError, match=r"model.ncnn.bin: ncnn \S+ cannot read the weights, truncated\?"):
        open_session("ncnn", folder, graph, SessionOptions())


def test_missing_files_are_engine_errors(damaged: Any) -> None:
    folder, graph = damaged
    (folder / "model.ncnn.bin").unlink()
    with pytest.raises(EngineError, match=r"model.ncnn.bin: missing"):
        open_session("ncnn", folder, graph, SessionOptions())
    lone = Graph(files=("model.ncnn.param",), inputs=graph.inputs, outputs=graph.outputs)
    with pytest.raises(EngineError, match=r"has a .param and a .bin, not \['model.ncnn.param'\]"):
        open_session("ncnn", folder, lone, SessionOptions())


def test_wrong_inputs_and_outputs_are_engine_errors(jobs: Any, graphs: Any) -> None:
    session = open_session("ncnn", jobs["fp32"].out, graphs["fp32"], SessionOptions())
    with pytest.raises(EngineError, match=r"input 'in0' takes shape \[1, 3, 40, 40\], not \[1, 3, 48, 40\]"):
        session.run([np.zeros((1, 3, 48, 40), np.float32)])
    with pytest.raises(EngineError, match="the graph takes 1 inputs, not 2"):
        session.run([np.zeros((1, 3, 40, 40), np.float32)] * 2)
    other = open_session("ncnn", jobs["fp32"].out, graph_of(((1, 4, 20, 20), (1, 7, 20, 20))), SessionOptions())
    with pytest.raises(
        EngineError, match=r"output 'out1' came as float32 \[5, 20, 20\], the manifest says .*1, 7, 20, 20"
    ):
        other.run([np.zeros((1, 3, 40, 40), np.float32)])


def test_rows_that_ncnn_pads_arrive_whole_and_inputs_stay_as_they_were(tmp_path: Path) -> None:
    class InPlaceFirst(nn.Module):
        def forward(self, x: Any) -> Any:
            y = torch.relu(x)
            return y, y * 2.0

    module, x = InPlaceFirst(), torch.randn(1, 3, 5, 7)  # 35 floats a channel: ncnn pads channels to 16 bytes
    job = make_job(module, x, ("y", "z"), tmp_path, "fp32")
    session = open_session("ncnn", job.out, converter.convert(job, lambda text, share: None), SessionOptions())
    given = x.numpy().copy()
    for found, wanted in zip(session.run([given]), expected(module, given), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(given, x.numpy())
    # Views into other arrays, with strides of their own.
    wide = np.random.default_rng(0).normal(size=(1, 3, 5, 14)).astype(np.float32)
    np.testing.assert_array_equal(session.run([wide[..., ::2]])[0], np.maximum(wide[..., ::2], 0))


def test_outputs_survive_further_runs_and_the_session(jobs: Any, graphs: Any, images: list[Any]) -> None:
    session = open_session("ncnn", jobs["fp32"].out, graphs["fp32"], SessionOptions(threads=2))
    first = session.run([images[0]])
    copies = [output.copy() for output in first]
    session.run([images[1]])
    del session
    for output, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_the_engine_needs_numpy_and_ncnn_only(jobs: Any, graphs: Any) -> None:
    code = """
import sys, numpy as np
from pathlib import Path
import msgspec
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions, open_session
graph = msgspec.json.decode(sys.argv[2], type=Graph)
session = open_session("ncnn", Path(sys.argv[1]), graph, SessionOptions(threads=1))
session.run([np.zeros(graph.inputs[0].shape, np.float32)])
heavy = {"torch", "cv2", "onnx", "onnxruntime", "openvino", "pnnx", "edgekit.converters", "edgekit.sources"}
print(sorted(heavy & set(sys.modules)))
"""
    import msgspec

    text = msgspec.json.encode(graphs["int8"]).decode()
    done = subprocess.run([sys.executable, "-c", code, str(jobs["int8"].out), text], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
