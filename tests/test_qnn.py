"""The QNN target: its Q/DQ files in ONNX Runtime, and, in the toolchain, the emulator of the Hexagon NPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from edgekit import converters
from edgekit.calibration.plan import PlannedGraph
from edgekit.conversion.selection import refuse
from edgekit.converters import read_options
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.worker import toolchains

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
onnx = pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from jobs import make_job

from edgekit.converters import qnn
from edgekit.converters.qnn import int8 as qnn_int8
from edgekit.emulators import qnn as emulator
from edgekit.runtimes.engines import qnn as engine

nn = torch.nn
SIZE = 32
OUTPUTS = ("boxes", "classes")


class SmallDetector(nn.Module):  # type: ignore[misc]
    """Strided, depthwise and pointwise convolutions, SiLU, a sum, pooling, upsampling, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU(), nn.Conv2d(16, 16, 1))
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.mix = nn.Sequential(nn.Conv2d(32, 24, 3, 1, 1), nn.ReLU())
        self.boxes, self.classes = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 5, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = x + self.depthwise(x)
        x = self.mix(torch.cat((x, self.up(torch.max_pool2d(x, 2))), 1))
        return self.boxes(x), self.classes(x)


class Unknown(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return torch.sinh(x)


def photographs(count: int, seed: int = 5) -> Any:
    """Smooth random images, uint8 (count, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, SIZE // 4, SIZE // 4, 1), int)).astype(np.uint8)


def quiet(text: str, share: float) -> None:
    """A report that nobody reads."""


def noise(found: Any, wanted: Any) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.var(wanted)))


def worst(module: Any, image: Any, outputs: list[Any]) -> float:
    with torch.no_grad():
        expected = module(torch.from_numpy(image))
    return max(noise(found, wanted.numpy()) for found, wanted in zip(outputs, expected, strict=True))


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(3)
    return SmallDetector().eval()


@pytest.fixture(scope="module")
def jobs(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("qnn")
    made = {}
    for precision in ("int8", "fp16"):
        job = make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, folder, precision, photographs(12))
        made[precision] = dataclasses.replace(job, options=qnn.QnnOptions())
    return made


def written(job: Any, plan: PlannedGraph, path: Path) -> Path:
    qnn_int8.quantise(job.onnx, path, plan, next(iter(job.calibration())))
    return path


@pytest.fixture(scope="module")
def quantised(jobs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(jobs["int8"], jobs["int8"].planned(), tmp_path_factory.mktemp("qdq") / "model.onnx")


def on_cpu(path: Path, image: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(list(OUTPUTS), {session.get_inputs()[0].name: image}))


# --- the form of the Q/DQ file ----------------------------------------------------------------------------------------
def test_every_operator_stands_between_integers_of_one_width(quantised: Path, jobs: Any) -> None:
    model = onnx.load(quantised)
    onnx.checker.check_model(model, full_check=True)
    makers = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    computing = [node for node in model.graph.node if not node.op_type.endswith("Linear")]
    kinds: dict[str, set[int]] = {node.name: set() for node in computing}
    assert {"Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"} <= {node.op_type for node in computing}
    for node in computing:
        fed = [name for name in node.input[: 3 if node.op_type == "Conv" else 2] if name and name not in stored]
        assert fed
        assert all(makers[name].op_type == "DequantizeLinear" for name in fed), node.name
        if node.op_type == "Conv":
            weight, bias = (makers[name] for name in node.input[1:3])
            assert stored[weight.input[0]].data_type == onnx.TensorProto.INT8
            assert len(onnx.numpy_helper.to_array(stored[weight.input[1]])) == stored[weight.input[0]].dims[0]
            assert not onnx.numpy_helper.to_array(stored[weight.input[2]]).any()
            assert stored[bias.input[0]].data_type == onnx.TensorProto.INT32
        for name in fed[: 1 if node.op_type == "Conv" else 2]:
            kinds[node.name].add(stored[makers[name].input[2]].data_type)
    narrow, wide = onnx.TensorProto.UINT8, onnx.TensorProto.UINT16
    assert all(found in ({narrow}, {wide}) for found in kinds.values())  # never both in one operator
    chosen = qnn_int8.wide_nodes(onnx.load(jobs["int8"].onnx), jobs["int8"].planned())
    assert {name for name, found in kinds.items() if found == {wide}} == chosen & set(kinds)  # without the ReLU
    assert sum(found == {narrow} for found in kinds.values()) > 3
    assert all(makers[output.name].op_type == "DequantizeLinear" for output in model.graph.output)


def test_float_layers_and_what_makes_their_inputs_have_16_bits(jobs: Any) -> None:
    model, plan = onnx.load(jobs["int8"].onnx), jobs["int8"].planned()
    makers = {output: node for node in model.graph.node for output in node.output}
    wide = qnn_int8.wide_nodes(model, plan)
    assert {makers[name].name for name in plan.float_layers} <= wide
    head = makers["boxes"]
    assert makers[head.input[0]].op_type == "Relu"
    mix = makers[makers[head.input[0]].input[0]]
    assert {makers[head.input[0]].name, mix.name} <= wide
    assert mix.op_type == "Conv"
    assert makers[mix.input[0]].op_type == "Concat"
    assert makers[mix.input[0]].name not in wide


def test_layers_that_lose_by_8_bits_have_16(jobs: Any) -> None:
    model, plan = onnx.load(jobs["int8"].onnx), jobs["int8"].planned()
    makers = {output: node.name for node in model.graph.node for output in node.output}

    def wide(noise: float, reason: str) -> set[str]:
        """With this noise in the first layer, and only the head of the boxes in float for this reason."""
        layers = [
            msgspec.structs.replace(
                one,
                noise_to_signal=noise if one is plan.layers[0] else 0.0,
                float_reason=reason if one.name == "boxes" else "",
            )
            for one in plan.layers
        ]
        return qnn_int8.wide_nodes(model, msgspec.structs.replace(plan, layers=tuple(layers)))

    first = makers[plan.layers[0].name]
    assert first in wide(1.1 * qnn_int8.NOISE, "head")
    assert first not in wide(0.9 * qnn_int8.NOISE, "head")
    assert wide(1.1 * qnn_int8.NOISE, "") == set()  # as with --no-float-fallback


def test_int8_computes_what_torch_does_but_not_too_well(quantised: Path, detector: Any, jobs: Any) -> None:
    image = next(iter(jobs["int8"].calibration()))
    assert 1e-3 < worst(detector, image, on_cpu(quantised, image)) < 0.08


def test_wide_layers_are_worth_it(quantised: Path, detector: Any, jobs: Any, tmp_path: Path) -> None:
    plan, image = jobs["int8"].planned(), next(iter(jobs["int8"].calibration()))
    layers = tuple(msgspec.structs.replace(layer, float_reason="") for layer in plan.layers)
    narrow = written(jobs["int8"], msgspec.structs.replace(plan, layers=layers), tmp_path / "narrow.onnx")
    one, other = (worst(detector, image, on_cpu(path, image)) for path in (quantised, narrow))
    assert one < 0.9 * other


def test_wrong_ranges_show(jobs: Any, detector: Any, quantised: Path, tmp_path: Path) -> None:
    plan, image = jobs["int8"].planned(), next(iter(jobs["int8"].calibration()))
    wrong = {
        name: msgspec.structs.replace(
            one, low=one.low / 4, high=one.high / 4, lowest=one.lowest / 4, highest=one.highest / 4
        )
        for name, one in plan.tensors.items()
    }
    path = written(jobs["int8"], msgspec.structs.replace(plan, tensors=wrong), tmp_path / "bad.onnx")
    good, bad = (worst(detector, image, on_cpu(path, image)) for path in (quantised, path))
    assert bad > 5 * good


# --- what is refused --------------------------------------------------------------------------------------------------
def test_int8_without_images(jobs: Any, tmp_path: Path) -> None:
    bare = dataclasses.replace(jobs["int8"], samples=None, out=tmp_path)
    with pytest.raises(ConversionError, match="int8 needs calibration images: give --data"):
        qnn.convert(bare, quiet)


def test_options() -> None:
    assert set(get_args(qnn.QnnOptions.__annotations__["soc"]) or qnn.SOCS) == set(qnn.SOCS)
    for soc in qnn.SOCS:
        assert read_options(qnn.TARGET, {"soc": soc}) == qnn.QnnOptions(soc=soc)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"option of target qnn: Invalid enum value 'pentium'"):
        read_options(qnn.TARGET, {"soc": "pentium"})


@pytest.mark.parametrize("soc", [name for name, (_, arch) in qnn.SOCS.items() if arch < qnn.FLOAT_SINCE])
def test_float_on_an_npu_of_integers(soc: Any, jobs: Any) -> None:
    job = dataclasses.replace(jobs["fp16"], options=qnn.QnnOptions(soc=soc))
    with pytest.raises(ConversionError, match=f"{soc} has Hexagon v68, which computes in integers only: choose int8"):
        qnn.convert(job, quiet)


def test_an_operator_of_no_npu_is_refused_before_qnn_speaks() -> None:
    refuse(qnn.TARGET, {"Conv": "c", "Resize": "r"})
    with pytest.raises(ConversionError, match=r"qnn cannot take NonMaxSuppression \(node 'last'\).*Targets that take"):
        refuse(qnn.TARGET, {"NonMaxSuppression": "last"})


def test_a_missing_toolchain_is_told(jobs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path))
    assert "edgekit toolchain install qnn" in converters.target("qnn").missing
    with pytest.raises(ConversionError, match="toolchain missing: edgekit toolchain install qnn"):
        qnn.convert(jobs["fp16"], quiet)
    with pytest.raises(EngineError, match="emulator of engine qnn is not installed: edgekit toolchain install qnn"):
        open_session("qnn", tmp_path, graph_of(), SessionOptions(device="emulator"))


def test_the_licence_is_told_and_the_engine_stays_out_of_the_main_environment() -> None:
    assert "Qualcomm_LICENSE.pdf" in qnn.TOOLCHAIN.licence
    assert not set(qnn.TARGET.requires) & {"onnxruntime_qnn"}


def test_the_npu_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.ENGINE.available:
        pytest.skip("this host has the engine")
    with pytest.raises(EngineError, match=r"engine qnn runs on linux-aarch64 or win32-arm64.*unit='emulator'"):
        open_session("qnn", tmp_path, graph_of(), SessionOptions())
    monkeypatch.setattr(emulator, "host", lambda: "linux-aarch64")
    with pytest.raises(EngineError, match="the emulator of engine qnn runs on linux-x86_64, this host is linux-aarch"):
        emulator.EMULATOR.open_session(tmp_path, graph_of(), SessionOptions(device="emulator"))


def graph_of() -> Graph:
    return Graph(
        files=(qnn.CONTEXT, qnn.SOURCE),
        inputs=(Tensor(name="images", shape=(1, 3, SIZE, SIZE)),),
        outputs=(Tensor(name="boxes", shape=(1, 4, 16, 16)),),
    )


# --- in the toolchain -------------------------------------------------------------------------------------------------
needs = pytest.mark.skipif(
    qnn.TOOLCHAIN.state != "installed" or not qnn.TOOLCHAIN.name, reason="edgekit toolchain install qnn (650 MB)"
)


@pytest.fixture(scope="module")
def graphs(jobs: dict[str, Any]) -> dict[str, Graph]:
    return {precision: qnn.convert(job, quiet) for precision, job in jobs.items()}


@needs
@pytest.mark.toolchain
@pytest.mark.parametrize(("precision", "low", "high"), [("fp16", 1e-5, 0.01), ("int8", 1e-3, 0.1)])
def test_the_emulator_computes_what_torch_does(
    precision: str, low: float, high: float, detector: Any, jobs: Any, graphs: Any
) -> None:
    job, graph = jobs[precision], graphs[precision]
    assert sorted(path.name for path in job.out.iterdir()) == sorted(graph.files)
    session = open_session("qnn", job.out, graph, SessionOptions(device="emulator", strict=True))
    assert (session.placement.device, session.placement.word) == ("emulator", "emulated")
    assert session.placement.operators == {"QNNExecutionProvider": graph.report["htp_operators"]}
    assert int(graph.report["htp_operators"]) > 15
    assert session.placement.arithmetic.startswith({"fp16": "float16", "int8": "int8, activations of 16"}[precision])
    for image in list(job.calibration())[:2]:
        outputs = session.run([image])
        assert [output.shape for output in outputs] == [tensor.shape for tensor in graph.outputs]
        assert low < worst(detector, image, outputs) < high  # better than ``low`` would not be this arithmetic
    with pytest.raises(EngineError, match="takes float32"):
        session.run([image[:, :2]])


@needs
@pytest.mark.toolchain
def test_the_context_is_what_runs_and_is_reproducible(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    job = dataclasses.replace(jobs["int8"], out=tmp_path)
    assert qnn.convert(job, quiet) == graphs["int8"]
    context = tmp_path / qnn.CONTEXT
    assert context.read_bytes() == (jobs["int8"].out / qnn.CONTEXT).read_bytes()
    (tmp_path / qnn.SOURCE).unlink()  # the emulator reads the context alone
    open_session("qnn", tmp_path, graphs["int8"], SessionOptions(device="emulator"))
    context.write_bytes(context.read_bytes()[:2000])
    with pytest.raises(EngineError, match=r"model_ctx\.onnx: the emulator cannot open it"):
        open_session("qnn", tmp_path, graphs["int8"], SessionOptions(device="emulator"))


@needs
@pytest.mark.toolchain
def test_what_does_not_fit_the_npu_is_not_left_to_the_cpu(tmp_path: Path) -> None:
    job = make_job(Unknown(), torch.rand(1, 3, SIZE, SIZE), ("out",), tmp_path, "fp16")
    job = dataclasses.replace(job, options=qnn.QnnOptions(soc="sm8550"))
    with pytest.raises(ConversionError, match=r"QNN does not compile this network for Hexagon v73: .*CPU"):
        qnn.convert(job, quiet)


@needs
@pytest.mark.toolchain
@pytest.mark.parametrize("soc", sorted(qnn.SOCS))
def test_every_soc_compiles(soc: Any, jobs: Any, graphs: Any, tmp_path: Path) -> None:
    number, arch = qnn.SOCS[soc]
    operators = qnn._compile(jobs["int8"].out / qnn.SOURCE, tmp_path / "ctx.onnx", number, arch)
    assert operators == graphs["int8"].report["htp_operators"]
    assert toolchains.installed("qnn")
