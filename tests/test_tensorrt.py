"""The TensorRT target's files: what they hold and what they compute, against torch and ONNX's own reference."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.converters import Job, NoTargetOptions, read_options, target
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines.tensorrt.build import BuildSettings
from edgekit.worker import toolchains

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")

from jobs import make_job
from onnx import numpy_helper

from edgekit.converters import tensorrt
from edgekit.converters.tensorrt import RTX, TensorrtOptions

nn = torch.nn

SIZE = 32
PRECISIONS = ("fp32", "fp16", "int8")
needs_rtx = pytest.mark.skipif(RTX.state != "installed", reason=f"edgekit toolchain install {RTX.name}")


class Small(nn.Module):  # type: ignore[misc]
    """Convolutions plain and depthwise, one without a bias, a product, an input that two convolutions read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(3 if not i else 8, 8, 3, 2 if not i else 1, 1) for i in range(3)))
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.left = nn.Conv2d(8, 16, 1, bias=False)
        self.right = nn.Conv2d(8, 16, 3, 2, 1)
        self.down = nn.Conv2d(16, 16, 3, 2, 1)
        self.product = nn.Linear(16, 16, bias=False)
        self.heads = nn.ModuleList(nn.Conv2d(16, 4, 1) for _ in range(2))

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.depthwise(nn.functional.silu(self.stem(x))))
        x = nn.functional.silu(self.down(self.left(x))) + self.right(x)
        x = self.product(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.heads[1](x), self.heads[0](x)


class Spread(nn.Module):  # type: ignore[misc]
    """A depthwise convolution whose input channels differ 1000 times in size, made up for by its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(3 if not i else 8, 8, 3, 1, 1) for i in range(3)))
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.mix = nn.Conv2d(8, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)
        sizes = torch.tensor([2.0, 2.0, *[0.002] * 6])
        with torch.no_grad():
            for layer in self.stem:  # or nothing of the image would be left after three of them
                layer.weight.mul_(3)
            self.stem[2].weight.mul_(sizes.reshape(-1, 1, 1, 1))
            self.stem[2].bias.mul_(sizes)
            self.depthwise.weight.div_(sizes.reshape(-1, 1, 1, 1))

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.mix(torch.relu(self.depthwise(torch.relu(self.stem(x)))))))


@dataclass(frozen=True)
class Converted:
    """A module in all precisions."""

    module: Any
    jobs: dict[str, Job]
    graphs: dict[str, Graph]

    def outputs(self, precision: str, image: Any) -> list[Any]:
        return run(self.jobs[precision].out, self.graphs[precision], image)

    def expected(self, image: Any) -> list[Any]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in self.module(torch.from_numpy(image))]

    def model(self, precision: str) -> Any:
        return onnx.load(self.jobs[precision].out / "model.onnx")


def run(folder: Path, graph: Graph, image: Any) -> list[Any]:
    return list(open_session("tensorrt", folder, graph, SessionOptions(device="reference")).run([image]))


def pictures(count: int, seed: int) -> Any:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.repeat(np.repeat(coarse, SIZE // 8, 1), SIZE // 8, 2).astype(np.uint8)


def tensor_of(image: Any) -> Any:
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def converted(module: Any, names: tuple[str, ...], folder: Path, **options: Any) -> Converted:
    example, images = torch.rand(1, 3, SIZE, SIZE), pictures(12, seed=1)
    float_job = make_job(module, example, names, folder, "fp32", images)
    jobs, graphs = {}, {}
    for precision in PRECISIONS:
        job = make_job(module, example, names, folder, precision, images) if precision == "int8" else float_job
        given = TensorrtOptions(**options)
        jobs[precision] = replace(job, precision=precision, out=folder / precision, options=given)
        jobs[precision].out.mkdir(exist_ok=True)
        graphs[precision] = tensorrt.convert(jobs[precision], lambda text, share: None)
    return Converted(module, jobs, graphs)


@pytest.fixture(scope="module")
def without_toolchains(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path_factory.mktemp("toolchains")))
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, without_toolchains: None) -> Converted:
    torch.manual_seed(3)
    return converted(Small(), ("b", "a"), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, without_toolchains: None) -> Converted:
    torch.manual_seed(5)
    return converted(Spread(), ("out",), tmp_path_factory.mktemp("spread"))


def noise(actual: Any, expected: Any) -> float:
    """Root mean squared error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / expected.std())


def constants(model: Any) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 3e-3), ("int8", 0.05)])
def test_every_precision_gives_torchs_outputs_in_the_contracts_order(
    small: Converted, precision: str, most: float
) -> None:
    image = tensor_of(pictures(1, seed=9)[0])
    outputs, expected = small.outputs(precision, image), small.expected(image)
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.shape == wanted.shape
        assert noise(output, wanted) < most
    assert noise(outputs[0], expected[1]) > 0.5  # or the order proves nothing


def test_the_reference_computes_the_files_qdq_arithmetic(small: Converted, tmp_path: Path) -> None:
    """ONNX's own evaluator takes every node as the specification has it; in float16 it adds up in float16, too."""
    from onnx.reference import ReferenceEvaluator

    image = tensor_of(pictures(1, seed=9)[0])
    job = replace(small.jobs["int8"], out=tmp_path, options=TensorrtOptions(floats="fp32"))
    graph = tensorrt.convert(job, lambda text, share: None)
    model = onnx.load(tmp_path / "model.onnx")
    model.opset_import[0].version = 19  # the evaluator lacks the older number of the same Q and DQ
    wanted = ReferenceEvaluator(model).run(None, {"images": image})
    float_outputs = small.outputs("fp32", image)
    for output, expected, unquantised in zip(run(tmp_path, graph, image), wanted, float_outputs, strict=True):
        assert noise(output, expected) < 1e-3  # a value on the edge of a step may fall to the other side
        assert noise(unquantised, expected) > 10 * noise(output, expected)


def test_an_emulator_says_what_it_is(small: Converted) -> None:
    for precision, arithmetic in [("fp32", "float32"), ("fp16", "float16"), ("int8", "int8 where")]:
        options = SessionOptions(device="reference")
        placement = open_session("tensorrt", small.jobs[precision].out, small.graphs[precision], options).placement
        assert (placement.device, placement.word) == ("reference", "reference")
        assert placement.arithmetic.startswith(arithmetic)
    with pytest.raises(EngineError, match=r"engine tensorrt needs tensorrt: it comes with JetPack.*unit='reference'"):
        open_session("tensorrt", small.jobs["fp32"].out, small.graphs["fp32"], SessionOptions())


def test_int8_is_what_tensorrt_takes(small: Converted) -> None:
    model = small.model("int8")
    values = constants(model)
    maker = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        zero, scale = values[node.input[2]], values[node.input[1]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        assert scale.dtype == np.float16
    assert model.opset_import[0].version == 19
    assert {array.dtype for array in values.values()} <= {np.dtype(kind) for kind in ("f2", "i1", "i8", "f4")}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    integer = [node for node in weighted if node.input[1] in maker]
    assert [node.op_type for node in weighted].count("Conv") == 9
    assert len(integer) == 4
    assert not {node.name for node in integer} & {node.name for node in [*weighted[:4], *weighted[-2:]]}, (
        "stem, depthwise and heads"
    )
    for node in integer:
        dequantise = maker[node.input[1]]
        stored = values[dequantise.input[0]]
        axis = 1 if node.op_type == "MatMul" else 0
        assert stored.dtype == np.int8
        assert np.abs(stored.astype(int)).max() <= 127
        assert values[dequantise.input[1]].shape == (stored.shape[axis],)
        assert maker[node.input[0]].op_type == "DequantizeLinear"
        if len(node.input) > 2:
            assert values[node.input[2]].dtype == np.float16
    read = {node.input[0] for node in pairs}
    assert len([node for node in pairs if node.op_type == "QuantizeLinear"]) == 3, "two convolutions share one"
    assert set(values) <= {name for node in model.graph.node for name in node.input} | read


def test_beside_float32_depthwise_layers_are_int8(small: Converted, tmp_path: Path) -> None:
    job = replace(small.jobs["int8"], out=tmp_path, options=TensorrtOptions(floats="fp32"))
    tensorrt.convert(job, lambda text, share: None)
    written = onnx.load(tmp_path / "model.onnx").graph.node
    assert len([node for node in written if node.op_type == "QuantizeLinear"]) == 4


def test_float_weights_compute_the_same(small: Converted, tmp_path: Path) -> None:
    job = replace(small.jobs["int8"], out=tmp_path, options=TensorrtOptions(weights="float32"))
    graph = tensorrt.convert(job, lambda text, share: None)
    image = tensor_of(pictures(1, seed=9)[0])
    in_float = replace(small.jobs["int8"], out=tmp_path / "floats", options=TensorrtOptions(floats="fp32"))
    in_float.out.mkdir()
    same = run(in_float.out, tensorrt.convert(in_float, lambda text, share: None), image)
    for output, wanted, halves in zip(run(tmp_path, graph, image), same, small.outputs("int8", image), strict=True):
        np.testing.assert_allclose(output, wanted, atol=1e-5)
        assert 1e-5 < noise(halves, wanted) < 0.02, "float16 between the integers"
    stored = constants(onnx.load(tmp_path / "model.onnx"))
    assert not [array for array in stored.values() if array.dtype == np.int8 and array.any()]


def test_scales_that_float16_cannot_hold_stay_in_float32(small: Converted, tmp_path: Path) -> None:
    """Of one layer the weights are made small, and its result is not multiplied again: float16 would flush it."""
    job = small.jobs["int8"]
    model = onnx.load(job.onnx)
    name = next(layer.name for layer in job.planned().layers if not layer.float_reason and not layer.depthwise)
    node = next(node for node in model.graph.node if node.output[0] == name)
    for tensor in model.graph.initializer:
        if tensor.name in node.input:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-6), tensor.name))
    onnx.save(model, tmp_path / "small.onnx")
    tensorrt.convert(replace(job, onnx=tmp_path / "small.onnx", out=tmp_path), lambda text, share: None)
    written = onnx.load(tmp_path / "model.onnx")
    values = constants(written)
    scales = [values[one.input[1]] for one in written.graph.node if one.op_type == "DequantizeLinear"]
    assert [array.dtype for array in scales if (array < 2.0**-14).any()] == [np.float32]


def test_float16_and_float_weights_exclude_each_other(small: Converted, tmp_path: Path) -> None:
    job = replace(small.jobs["int8"], out=tmp_path, options=TensorrtOptions(weights="float32", floats="fp16"))
    with pytest.raises(ConversionError, match=r"floats=fp16 and tensorrt.weights=float32 exclude each other"):
        tensorrt.convert(job, lambda text, share: None)


def test_channels_too_unlike_for_one_scale_are_made_equal(spread: Converted) -> None:
    image = tensor_of(pictures(1, seed=9)[0])
    (expected,) = spread.expected(image)
    assert [site.layer for site in spread.jobs["int8"].planned().equalized] != []
    assert noise(spread.outputs("int8", image)[0], expected[None]) < 0.05


def test_layers_that_the_plan_keeps_in_float_stay_float(small: Converted, tmp_path: Path) -> None:
    job = small.jobs["int8"]
    kept = [layer.name for layer in job.planned().layers if not layer.float_reason][1:]
    assert len(kept) == 4
    graph = tensorrt.convert(
        replace(job, out=tmp_path, plan=job.planned().keep_float(kept, "budget")), lambda text, share: None
    )
    image = tensor_of(pictures(1, seed=9)[0])
    expected = small.expected(image)
    assert noise(run(tmp_path, graph, image)[0], expected[0]) < noise(small.outputs("int8", image)[0], expected[0])
    stored = constants(onnx.load(tmp_path / "model.onnx"))
    assert len([array for array in stored.values() if array.dtype == np.int8 and array.any()]) == 1


def test_the_device_is_told_how_to_build(tmp_path: Path, without_toolchains: None) -> None:
    torch.manual_seed(3)
    done = converted(Small(), ("b", "a"), tmp_path, workspace_megabytes=256, optimisation_level=5)
    for precision in PRECISIONS:
        assert done.graphs[precision].files == ("model.onnx", "build.json")
        floats = "fp16" if precision == "int8" else "fp32"
        told = {"arithmetic": "int8 where the file has Q/DQ, float16 elsewhere"} if precision == "int8" else {}
        assert done.graphs[precision].report == told
        settings = msgspec.json.decode((done.jobs[precision].out / "build.json").read_bytes())
        assert settings.pop("floats") == floats
        assert settings == {"precision": precision, "workspace_megabytes": 256, "optimisation_level": 5}


def test_options_are_checked() -> None:
    given = read_options(target("tensorrt"), {"optimisation_level": "5", "weights": "float32", "sm": "89"})
    assert given == TensorrtOptions(optimisation_level=5, weights="float32", sm=89)
    for wrong in ({"weights": "int4"}, {"optimisation_level": "6"}, {"workspace_megabytes": "-1"}, {"sm": "53"}):
        with pytest.raises(UsageError, match="option of target tensorrt"):
            read_options(target("tensorrt"), wrong)


def test_what_cannot_be_converted_is_refused(small: Converted, tmp_path: Path) -> None:
    job = replace(small.jobs["int8"], out=tmp_path)
    with pytest.raises(ConversionError, match="the job holds NoTargetOptions"):
        tensorrt.convert(replace(job, options=NoTargetOptions()), lambda text, share: None)
    with pytest.raises(ConversionError, match="int8 needs a quantisation plan: give --data"):
        tensorrt.convert(replace(job, plan=None), lambda text, share: None)
    every = job.planned().keep_float([layer.name for layer in job.planned().layers], "budget")
    with pytest.raises(ConversionError, match="all convolutions and products of this network stay in float"):
        tensorrt.convert(replace(job, plan=every), lambda text, share: None)


@pytest.mark.toolchain
@needs_rtx
@pytest.mark.parametrize("weights", ["int8", "float32"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_rtx_parses_and_builds_every_file(
    small: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, weights: Any
) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(INSTALLED))
    options = TensorrtOptions(weights=weights, sm=89, workspace_megabytes=64)
    graph = tensorrt.convert(replace(small.jobs[precision], out=tmp_path, options=options), lambda text, share: None)
    assert graph.report["tensorrt_rtx"] == "parsed and built for sm_89, not run"
    assert graph.report["tensorrt_rtx_version"] == "1.7.1.116"
    assert int(graph.report["tensorrt_rtx_layers"]) >= 15
    assert int(graph.report["tensorrt_rtx_bytes"]) > 1000


@pytest.mark.toolchain
@needs_rtx
def test_tensorrt_rtx_refuses_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(INSTALLED))
    (tmp_path / "model.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(ConversionError, match=r"cannot parse it: .*Failed to parse"):
        tensorrt._tried(tmp_path / "model.onnx", BuildSettings(precision="fp32"), 86, lambda text, share: None)


@pytest.mark.toolchain
@needs_rtx
def test_what_is_refused_is_what_the_parser_does_not_import() -> None:
    code = (
        "import sys, tensorrt_rtx_libs, tensorrt_rtx_bindings as trt\n"
        "log = trt.Logger(trt.Logger.ERROR); builder = trt.Builder(log)\n"
        "parser = trt.OnnxParser(builder.create_network(0), log)\n"
        "print(*(name for name in sys.argv[1:] if parser.supports_operator(name)))"
    )
    interpreter = INSTALLED / RTX.name / "env" / "bin" / "python"
    asked = [*target("tensorrt").refuses, "Conv", "QuantizeLinear"]
    done = subprocess.run([str(interpreter), "-c", code, *asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Conv", "QuantizeLinear"]


INSTALLED = toolchains.root()
"""Where the toolchains were when this file was read: the fixtures hide them."""
