"""The Ethos-U target and engine: a file of integers alone, compiled by the real Vela, against torch and LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")
pytest.importorskip("litert_torch", reason="needs the litert toolchain: pip install edgekit[convert]")
pytest.importorskip("ethosu", reason="needs Vela: pip install edgekit[convert]")

from jobs import make_job
from real_conversions import Converted

from edgekit import converters
from edgekit.calibration.plan import ROUNDED, Methods
from edgekit.calibration.planning import PlanRequest, Streams, make_plan
from edgekit.converters import Job, ethosu, read_options
from edgekit.converters.ethosu import EthosuOptions
from edgekit.converters.ethosu import vela as ethosu_vela
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.graph.exchange import write_exchange
from edgekit.runtimes import engines as runtimes
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines import ethosu as engine

nn = torch.nn
SIZE = 32
OUTPUTS = ("b", "a")
REFERENCE = SessionOptions(device="reference")


class Net(nn.Module):  # type: ignore[misc]
    """SiLU between convolutions, a depthwise input that no single scale can hold, two outputs of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.mix = nn.Conv2d(8, 16, 1)
        self.heads = nn.ModuleList([nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)])
        sizes = torch.tensor([20.0, *[0.02] * 7])
        with torch.no_grad():
            self.stem.weight.mul_(sizes.reshape(-1, 1, 1, 1))
            self.stem.bias.mul_(sizes)
            self.depthwise.weight.div_(sizes.reshape(-1, 1, 1, 1))

    def forward(self, x: Any) -> Any:
        x = nn.functional.silu(self.stem(x))
        x = nn.functional.silu(self.mix(self.depthwise(x)))
        return self.heads[1](x), self.heads[0](x)


@dataclass(frozen=True)
class Made:
    module: Any
    job: Job
    graph: Graph

    def expected(self, image: Any) -> list[Any]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in self.module(torch.from_numpy(image))]


def pictures(count: int, seed: int) -> Any:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.repeat(np.repeat(coarse, SIZE // 8, 1), SIZE // 8, 2).astype(np.uint8)


def tensor_of(image: Any) -> Any:
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def silent(text: str, share: float) -> None:
    del text, share


def planned_job(module: Any, folder: Path, methods: Methods) -> Job:
    """A job with the plan's graph for integer-only targets that have activations of 16 bits."""
    example = torch.rand(1, 3, SIZE, SIZE)
    job = make_job(module, example, OUTPUTS, folder, "fp32", pictures(24, seed=1))
    assert job.samples is not None

    def write(changed: Any, place: Path) -> None:
        write_exchange(changed, example, OUTPUTS, place)

    request = PlanRequest(methods=methods, integer=False)
    plan = make_plan(job.program, job.onnx, Streams(job.samples), folder, request, write, silent)
    onnx, program = folder / ROUNDED / "graph.onnx", folder / ROUNDED / "graph.pt2"
    return replace(job, onnx=onnx, program=program, precision="int8", plan=plan.mixed, options=EthosuOptions())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(3)
    module, folder = Net().eval(), tmp_path_factory.mktemp("ethosu")
    job = planned_job(module, folder, Methods())
    return Made(module, job, ethosu.convert(job, silent))


def noise(actual: Any, expected: Any) -> float:
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / expected.std())


def schema(path: Path) -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)


def test_target_says_what_it_is() -> None:
    target = converters.target("ethosu")
    assert (target.engine, target.precisions, target.missing, target.proof) == ("ethosu", ("int8",), "", "reference")


def test_the_emulator_gives_torchs_outputs_in_the_contracts_order(made: Made) -> None:
    session = open_session("ethosu", made.job.out, made.graph, REFERENCE)
    image = tensor_of(pictures(1, seed=9)[0])
    outputs, expected = session.run([image]), made.expected(image)
    for output, wanted in zip(outputs, expected, strict=True):
        assert (output.shape, output.dtype) == (wanted.shape, np.float32)
        assert noise(output, wanted) < 0.06
    assert noise(outputs[0], expected[1]) > 0.5
    assert (session.placement.word, session.placement.device, session.placement.arithmetic) == (
        "reference",
        "reference",
        "int8",
    )
    assert sum(session.placement.operators.values()) > 5


def test_a_layer_that_8_bits_cannot_hold_has_16(made: Made) -> None:
    """And the layers of the stem with it; inputs, outputs and the rest have 8."""
    assert made.job.planned().wide_layers == ("conv2d", "conv2d_1", "conv2d_2")
    assert made.graph.report["arithmetic"] == "int8, activations of 16 bits in 6 operators"
    model = schema(made.job.out / "model.tflite")
    (graph,) = model.subgraphs
    codes = {3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 14: "LOGISTIC", 18: "MUL"}
    found = [
        (codes[code], int(graph.tensors[op.outputs[0]].type))
        for op in graph.operators
        if (code := model.operatorCodes[op.opcodeIndex].builtinCode) in codes
    ]
    int16, int8 = 7, 9
    assert [kind for kind, size in found if size == int16] == [
        "CONV_2D",
        "LOGISTIC",
        "MUL",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
    ]
    assert [kind for kind, size in found if size == int8] == ["LOGISTIC", "MUL", "CONV_2D", "CONV_2D"]


@pytest.mark.nightly
def test_without_16_bits_nothing_is_left_of_it(made: Made, tmp_path: Path) -> None:
    flat = planned_job(made.module, tmp_path, Methods(float_fallback=False))
    graph = ethosu.convert(flat, silent)
    assert "arithmetic" not in graph.report
    image = tensor_of(pictures(1, seed=9)[0])
    outputs = open_session("ethosu", flat.out, graph, REFERENCE).run([image])
    assert noise(outputs[0], made.expected(image)[0]) > 0.12


def test_the_quantisers_own_calibration_is_the_other_recipe(made: Made, tmp_path: Path) -> None:
    assert ethosu.TARGET.recipes == ("plan", "litert")
    told: list[str] = []
    job = replace(made.job, recipe="litert", out=tmp_path)
    graph = ethosu.convert(job, lambda text, share: told.append(text))
    assert "calibrating, image 24 of 24" in told
    image = tensor_of(pictures(1, seed=9)[0])
    outputs = open_session("ethosu", tmp_path, graph, REFERENCE).run([image])
    for output, wanted in zip(outputs, made.expected(image), strict=True):
        assert noise(output, wanted) < 0.08
    assert (tmp_path / "model.tflite").read_bytes() != (made.job.out / "model.tflite").read_bytes()


def test_everything_is_integers(made: Made) -> None:
    model = schema(made.job.out / "model.tflite")
    (graph,) = model.subgraphs
    kinds = {int(tensor.type) for tensor in graph.tensors}
    assert kinds <= {2, 4, 7, 9}  # int32 (biases, shapes), int64, int16, int8; 0 would be float32
    assert {int(graph.tensors[index].type) for index in (*graph.inputs, *graph.outputs)} == {9}


def test_the_input_holds_every_pixel_exactly(made: Made) -> None:
    graph = schema(made.job.out / "model.tflite").subgraphs[0]
    grid = graph.tensors[graph.inputs[0]].quantization
    assert float(grid.scale[0]) == pytest.approx(1 / 255, rel=1e-6)
    assert int(grid.zeroPoint[0]) == -128
    entry = made.graph.inputs[0]
    assert (entry.scale, entry.zero_point) == (float(grid.scale[0]), -128), "the manifest tells a port"


def test_the_grids_are_those_of_the_plan(made: Made) -> None:
    """In 8 bits its ranges, in 16 all that was observed."""
    plan = made.job.planned()
    model = schema(made.job.out / "model.tflite")
    graph = model.subgraphs[0]
    logistic, int8 = 14, 9
    read = [op.inputs[0] for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode == logistic]
    wide, narrow = sorted((graph.tensors[index] for index in read), key=lambda tensor: tensor.type == int8)
    first, second = (node.input[0] for node in onnx.load(made.job.onnx).graph.node if node.op_type == "Sigmoid")
    seen, ends = plan.tensors[first], plan.tensors[second]
    assert float(wide.quantization.scale[0]) * 32767 == pytest.approx(max(-seen.lowest, seen.highest), rel=1e-3)
    assert float(narrow.quantization.scale[0]) * 255 == pytest.approx(ends.high - ends.low, rel=1e-3)


def test_the_file_is_run_by_the_reference_kernels_bit_for_bit(made: Made) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path, image = made.job.out / "model.tflite", tensor_of(pictures(1, seed=9)[0])
    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    runner = interpreter.get_signature_runner()
    (entry,) = runner.get_input_details()
    steps = (np.round(image.transpose(0, 2, 3, 1) * 255) - 128).astype(np.int8)
    raw = runner(**{entry: steps})
    session = open_session("ethosu", made.job.out, made.graph, REFERENCE)
    for number, output in enumerate(session.run([image])):
        scale, zero = runner.get_output_details()[f"output_{number}"]["quantization"]
        found = np.round(output.transpose(0, 2, 3, 1) / scale + zero).astype(int)
        np.testing.assert_array_equal(found, raw[f"output_{number}"])


def test_vela_put_everything_on_the_npu(made: Made) -> None:
    report = made.graph.report
    assert made.graph.files == ("model_vela.tflite", "model.tflite")
    assert report["accelerator"] == "Ethos_U65_256"
    assert (report["placement"], report["cpu_operators"]) == ("100 % on the NPU", 0)
    assert int(report["npu_operators"]) >= 7
    for name in ("cycles", "estimated_ms", "sram_kib", "dram_kib", "macs"):
        assert float(report[name]) > 0
    model = schema(made.job.out / "model_vela.tflite")
    assert [model.operatorCodes[op.opcodeIndex].customCode for op in model.subgraphs[0].operators] == [b"ethos-u"]


def test_what_stays_on_the_cpu_is_named(made: Made, tmp_path: Path) -> None:
    """A float file, of which the NPU takes nothing."""
    source = tmp_path / "model.tflite"
    source.write_bytes((made.job.work / "float.tflite").read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    facts = ethosu_vela.compile_with_vela(source, out, tmp_path, accelerator="ethos-u55-128", optimise="Size")
    assert facts["accelerator"] == "Ethos_U55_128"
    assert facts["npu_operators"] == 0
    assert int(facts["cpu_operators"]) > 5
    assert str(facts["placement"]).startswith("on the CPU: ")
    assert "CONV_2D" in str(facts["placement"])


def test_options_reach_vela(made: Made, tmp_path: Path) -> None:
    given = {"accelerator": "ethos-u55-128", "system": "Ethos_U55_Deep_Embedded", "memory": "Shared_Sram"}
    options = read_options(converters.target("ethosu"), given)
    graph = ethosu.convert(replace(made.job, options=options, out=tmp_path), silent)
    assert graph.report["accelerator"] == "Ethos_U55_128"
    assert (graph.report["system"], graph.report["memory"]) == ("Ethos_U55_Deep_Embedded", "Shared_Sram")
    assert float(graph.report["flash_kib"]) > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"accelerator": "ethos-u55-7"}, "Invalid enum value 'ethos-u55-7'"),
        ({"npu": "yes"}, "'npu'"),
        ({"system": "Ethos_U65_Mid_End"}, "give both of system and memory, or neither"),
    ],
)
def test_options_that_do_not_exist_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_options(converters.target("ethosu"), given)


def empty(job: Job, folder: Path) -> Job:
    np.save(folder / "empty.npy", np.zeros((0, SIZE, SIZE, 3), np.uint8))
    assert job.samples is not None
    return replace(job, samples=replace(job.samples, path=folder / "empty.npy"))


def nonsense(job: Job, folder: Path) -> Job:
    (folder / "float.tflite").write_bytes(b"nonsense")
    return replace(job, work=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job, folder: replace(job, samples=None), "give --data with a folder of photographs"),
        (empty, "needs calibration images, and there are none"),
        (nonsense, "Ethos-U int8: "),
        (
            lambda job, folder: replace(job, options=EthosuOptions(system="Ethos_U99", memory="Sram_Only")),
            r"Vela \(ethos-u65-256\) failed: .*Ethos_U99",
        ),
        (
            lambda job, folder: replace(job, shapes={**job.shapes, "a": (1, 5, 9, 9)}),
            r"output_1 should be int8 \(1, 9, 9, 5\), the file has int8 \(1, 16, 16, 5\)",
        ),
    ],
)
def test_refused_jobs(made: Made, tmp_path: Path, change: Callable[[Job, Path], Job], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        ethosu.convert(change(replace(made.job, out=tmp_path), tmp_path), silent)


# The engine


def test_a_host_without_the_npu_is_told_so(made: Made) -> None:
    if runtimes.host().startswith("linux-aarch64"):
        pytest.skip("this host may have the NPU")
    with pytest.raises(EngineError, match=r"runs on linux-aarch64, this host is .*unit='reference' shows here"):
        open_session("ethosu", made.job.out, made.graph, SessionOptions())


def test_a_board_without_the_delegate_is_told_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"libethosu_delegate\.so cannot be loaded .*EDGEKIT_ETHOSU_DELEGATE"):
        engine.ENGINE.open_session(made.job.out, made.graph, SessionOptions(device="npu"))
    monkeypatch.setenv("EDGEKIT_ETHOSU_DELEGATE", "/nowhere/lib.so")
    with pytest.raises(EngineError, match=r"delegate /nowhere/lib\.so cannot be loaded"):
        engine.ENGINE.open_session(made.job.out, made.graph, SessionOptions(device="npu"))


def test_strict_refuses_operators_on_the_boards_cpu(made: Made) -> None:
    """The file before Vela, as a board sees one of which Vela left everything to the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(made.job.out / "model.tflite"))
    placement = engine._placement(interpreter, made.graph, SessionOptions(device="npu"))
    assert placement.operators["cpu CONV_2D"] == 4
    with pytest.raises(EngineError, match=r"strict: not everything runs on 'npu'.*cpu CONV_2D"):
        engine._placement(interpreter, made.graph, SessionOptions(device="npu", strict=True))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(name="output_7", shape=(1, 16, 16, 5)), "has no tensor 'output_7', only output_0, output_1"),
        (Tensor(name="output_0", shape=(1, 8, 8, 5), dtype="int8"), r"is int8 \(1, 16, 16, 5\) with scale .*\(1, 8, 8"),
    ],
)
def test_a_file_that_does_not_fit_its_manifest_is_refused(made: Made, tensor: Tensor, message: str) -> None:
    graph = msgspec.structs.replace(made.graph, outputs=(tensor,))
    with pytest.raises(EngineError, match=message):
        open_session("ethosu", made.job.out, graph, REFERENCE)


def test_a_damaged_file_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes((made.job.out / "model.tflite").read_bytes()[:999])
    with pytest.raises(EngineError, match="LiteRT cannot open it"):
        open_session("ethosu", tmp_path, made.graph, REFERENCE)


def test_wrong_inputs_are_refused(made: Made) -> None:
    session = open_session("ethosu", made.job.out, made.graph, REFERENCE)
    with pytest.raises(EngineError, match=r"takes float32 \(1, 3, 32, 32\), not float32 \(1, 32, 32, 3\)"):
        session.run([np.zeros((1, SIZE, SIZE, 3), np.float32)])


def test_a_failing_engine_is_an_engine_error(made: Made) -> None:
    session: Any = open_session("ethosu", made.job.out, made.graph, REFERENCE)
    held = session._interpreter.tensor(0)()  # an array of the engine's own, which it does not run beside
    with pytest.raises(EngineError, match=r"model\.tflite: LiteRT failed: There is at least 1 reference"):
        session.run([np.zeros((1, 3, SIZE, SIZE), np.float32)])
    assert held.shape


# Real detectors


@pytest.mark.convert
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["target_bundles", "fastestdet_bundles"])
def test_a_detector_runs_on_the_npu_alone(name: str, request: pytest.FixtureRequest) -> None:
    bundles: Converted = request.getfixturevalue(name)
    report = open_bundle(bundles.bundle("ethosu", "int8")["path"]).manifest.graphs[0].report
    assert report["placement"] == "100 % on the NPU"
    assert int(report["macs"]) > 100e6
