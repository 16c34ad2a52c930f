"""The Core ML target and engine: real conversions by coremltools, interpreted, against torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit import converters
from edgekit.converters import Job
from edgekit.errors import BundleError, ConversionError, EngineError, UsageError
from edgekit.evaluation.agreement import DriftTally
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import Graph, Manifest, Origin, Tensor
from edgekit.runtimes.engines import SessionOptions, engine, open_session

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
coremltools = pytest.importorskip("coremltools", reason="needs the coreml toolchain: pip install edgekit[convert]")

from jobs import make_job

from edgekit.converters import coreml
from edgekit.converters.coreml import CoremlOptions
from edgekit.converters.coreml import ranges as coreml_ranges
from edgekit.emulators.coreml.package import read_program

nn = torch.nn

SIZE = 64
PRECISIONS = ("fp32", "fp16", "int8", "w8a8")
OUTPUTS = ("b", "c", "a")
INTERPRETER = SessionOptions(device="interpreter")


class Net(nn.Module):  # type: ignore[misc]
    """What small detectors are made of; the three heads have one shape, only their values tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.SiLU(), nn.Conv2d(16, 32, 1), nn.ReLU()
        )
        self.expand = nn.Sequential(nn.Conv2d(32, 64, 1), nn.Hardswish(), nn.Conv2d(64, 32, 3, 1, 1, groups=4))
        self.down = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU6())
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = nn.Sequential(nn.Conv2d(96, 32, 1), nn.SiLU())
        self.heads = nn.ModuleList(nn.Conv2d(32, 4, 1) for _ in range(3))
        for layer in self.modules():  # as if trained: what comes out depends on the image more than on biases
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.normal_(layer.bias, 0, 0.05)

    def forward(self, x: Any) -> Any:
        x = self.depthwise(self.stem(x))
        x = x + self.expand(x)
        low = self.down(x)
        low = torch.cat((low, self.pool(low)), 1)
        up = nn.functional.interpolate(low, scale_factor=2.0, mode="nearest")
        x = self.merge(torch.cat((x, up), 1))
        return tuple(head(x) for head in self.heads)


class Vit(nn.Module):  # type: ignore[misc]
    """A vision transformer of two blocks: patches, a class token, positions, attention, GELU, LayerNorm."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
                "second": nn.LayerNorm(width),
                "mlp": nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
            }) for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.positions
        for block in self.blocks:
            y = block["norm"](x)
            q, k, v = block["qkv"](y).reshape(*y.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block["out"](y)
            x = x + block["mlp"](block["second"](x))
        return self.head(x[:, 0])


@dataclass(frozen=True)
class Converted:
    """A module in some precisions."""

    module: Any
    jobs: dict[str, Job]
    graphs: dict[str, Graph]
    reports: list[tuple[str, float]]

    def outputs(self, precision: str, image: Any) -> list[Any]:
        return interpreted(self.jobs[precision].out, self.graphs[precision], image)

    def expected(self, image: Any) -> list[Any]:
        with torch.no_grad():
            outputs = self.module(torch.from_numpy(image))
        return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


def interpreted(folder: Path, graph: Graph, image: Any) -> list[Any]:
    return [array.copy() for array in open_session("coreml", folder, graph, INTERPRETER).run([image])]


def pictures(count: int, seed: int) -> Any:
    """Smooth random images, uint8 (count, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.repeat(np.repeat(coarse, SIZE // 8, 1), SIZE // 8, 2).astype(np.uint8)


def tensor_of(image: Any) -> Any:
    """What the contract of `make_job` makes of a BGR image."""
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


IMAGE = tensor_of(pictures(1, seed=9)[0])


def noise(actual: Any, expected: Any) -> float:
    """Root mean squared error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / expected.std())


def convert_all(module: Any, names: tuple[str, ...], folder: Path, precisions: tuple[str, ...]) -> Converted:
    made = {
        precision: make_job(module.eval(), torch.rand(1, 3, SIZE, SIZE), names, folder, precision, pictures(12, seed=1))
        for precision in ("fp32", "w8a8")
    }
    jobs, graphs, reports = {}, {}, []
    for precision in precisions:
        source = made["w8a8" if precision == "w8a8" else "fp32"]
        jobs[precision] = replace(source, precision=precision, out=folder / precision, options=CoremlOptions())
        jobs[precision].out.mkdir(exist_ok=True)
        graphs[precision] = coreml.convert(jobs[precision], lambda text, share: reports.append((text, share)))
    return Converted(module, jobs, graphs, reports)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(3)
    return convert_all(Net(), OUTPUTS, tmp_path_factory.mktemp("net"), PRECISIONS)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(4)
    return convert_all(Vit(), ("class scores",), tmp_path_factory.mktemp("vit"), ("fp32", "fp16", "int8", "w8a8"))


def again(converted: Converted, precision: str, out: Path, **changes: Any) -> tuple[Job, Graph]:
    job = replace(converted.jobs[precision], out=out, **changes)
    out.mkdir(exist_ok=True)
    return job, coreml.convert(job, lambda text, share: None)


def kinds(job: Job) -> dict[str, int]:
    found: dict[str, int] = {}
    for operation in read_program(job.out / coreml.PACKAGE).operations:
        found[operation.kind] = found.get(operation.kind, 0) + 1
    return found


def test_target_says_what_it_is() -> None:
    assert coreml.TARGET.precisions == PRECISIONS
    assert coreml.TARGET.calibrated == ("w8a8",)
    assert not coreml.TARGET.missing


def test_a_host_without_core_ml_refuses_unless_the_interpreter_is_asked_for(net: Converted) -> None:
    if engine("coreml").here:
        pytest.skip("this host has Core ML")
    with pytest.raises(EngineError, match=r"runs on darwin.*unit='interpreter' shows here what the file computes"):
        open_session("coreml", net.jobs["fp32"].out, net.graphs["fp32"], SessionOptions())
    assert coreml.TARGET.proof == "interpreted"
    session = open_session("coreml", net.jobs["fp32"].out, net.graphs["fp32"], INTERPRETER)
    assert session.placement.word == "interpreted"
    assert session.placement.device == "interpreter"


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 4e-3), ("int8", 0.03), ("w8a8", 0.06)])
def test_every_precision_gives_torchs_outputs_in_the_contracts_order(
    net: Converted, precision: str, most: float
) -> None:
    outputs, expected = net.outputs(precision, IMAGE), net.expected(IMAGE)
    assert [output.shape for output in outputs] == [wanted.shape for wanted in expected]
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == np.float32
        assert noise(output, wanted) < most
    for left in range(3):  # any other order would be far off, or this proves nothing
        for right in range(3):
            assert left == right or noise(outputs[left], expected[right]) > 0.5


@pytest.mark.nightly
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.05), ("w8a8", 0.1)])
def test_a_vision_transformer_too(vit: Converted, precision: str, most: float) -> None:
    (output,), (wanted,) = vit.outputs(precision, IMAGE), vit.expected(IMAGE)
    assert noise(output, wanted) < most
    assert {"layer_norm", "linear", "softmax", "gelu"} <= set(kinds(vit.jobs[precision]))


def test_precisions_are_what_they_say(net: Converted) -> None:
    found = {precision: kinds(net.jobs[precision]) for precision in PRECISIONS}
    assert "cast" not in found["fp32"]
    assert found["fp16"]["cast"] == 4, "float32 goes in and out"
    assert found["int8"]["constexpr_affine_dequantize"] == 4, "those of 512 values and more"
    assert "quantize" not in found["int8"]
    assert found["w8a8"]["quantize"] >= 5
    sizes = {
        precision: sum(path.stat().st_size for path in net.jobs[precision].out.rglob("weight.bin"))
        for precision in PRECISIONS
    }
    assert sizes["fp32"] > 1.7 * sizes["fp16"] > 1.7 * sizes["int8"]
    reported = net.graphs["w8a8"].report
    assert reported["conv"] == found["w8a8"]["conv"]
    assert reported["opset"] == "CoreML7"
    assert net.graphs["fp16"].report["opset"] == "CoreML5", "the oldest that has the operators"


def test_entry_names_every_file_of_the_package(net: Converted) -> None:
    graph, job = net.graphs["int8"], net.jobs["int8"]
    files = {path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if path.is_file()}
    assert set(graph.files) == files
    assert graph.files[0] == "model.mlpackage/Manifest.json"
    assert [tensor.name for tensor in graph.outputs] == ["b", "c", "a"]
    assert [tensor.shape for tensor in graph.outputs] == [(1, 4, 16, 16)] * 3
    assert graph.inputs[0].shape == (1, 3, SIZE, SIZE)
    assert len(files) == 3, "what coremltools writes beside the package for debugging is gone"


def test_names_that_mil_cannot_have_become_numbers(vit: Converted) -> None:
    assert [tensor.name for tensor in vit.graphs["fp32"].outputs] == ["output_0"]


def test_the_same_source_gives_the_same_bytes(net: Converted, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    job, graph = again(net, "int8", tmp_path / "out", work=work)
    for name in graph.files:
        assert (job.out / name).read_bytes() == (net.jobs["int8"].out / name).read_bytes(), name


def test_coremltools_itself_opens_the_package(net: Converted) -> None:
    for job in net.jobs.values():
        model = coremltools.models.MLModel(str(job.out / coreml.PACKAGE), skip_model_load=True)
        description = model.get_spec().description
        assert [output.name for output in description.output] == ["b", "c", "a"]
        floats = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
        ports = (*description.input, *description.output)
        assert {port.type.multiArrayType.dataType for port in ports} == {floats}


def test_float_packages_are_made_once_and_progress_goes_forward(net: Converted) -> None:
    texts = [text for text, _ in net.reports]
    assert texts.count("converting with coremltools") == 3  # float32, float16, and float16 of the plan's graph
    assert "calibrating, image 12 of 12" in texts, "for a part of the hard swish that the plan does not know"
    assert all(0 <= share <= 1 for _, share in net.reports)


def test_converting_prints_nothing(net: Converted, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    again(net, "w8a8", tmp_path / "out")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("deployment", "opset", "weights"),
    [
        ("auto", "CoreML6", "constexpr_affine_dequantize"),  # the first with INT8 weights
        ("iOS17", "CoreML7", "constexpr_affine_dequantize"),
        ("iOS18", "CoreML8", "constexpr_blockwise_shift_scale"),
    ],
)
def test_older_and_newer_systems(net: Converted, deployment: str, opset: str, weights: str, tmp_path: Path) -> None:
    job, graph = again(net, "int8", tmp_path / "out", options=CoremlOptions(deployment=deployment))
    assert graph.report["opset"] == opset
    assert kinds(job)[weights] == 4
    for output, wanted in zip(interpreted(job.out, graph, IMAGE), net.expected(IMAGE), strict=True):
        assert noise(output, wanted) < 0.03


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(UsageError, match=r"option of target coreml.*iOS12"):
        converters.read_options(coreml.TARGET, {"deployment": "iOS12"})


def planned_package(net: Converted) -> Path:
    return net.jobs["w8a8"].work / "fp16-iOS17.mlpackage"


def test_int8_activations_stop_where_the_plan_says(net: Converted) -> None:
    source, plan = planned_package(net), net.jobs["w8a8"].planned()
    program = read_program(source)
    convolutions = [operation.name for operation in program.operations if operation.kind == "conv"]
    islands = coreml_ranges.float_operations(source, plan, OUTPUTS)
    assert set(islands) == {*convolutions[:3], *convolutions[-3:]}
    made = {port.name: one for one in read_program(net.jobs["w8a8"].out / coreml.PACKAGE).operations
            for port in one.outputs}  # fmt: skip
    fed = {name: made[name].arguments["x"].name for name in convolutions}
    quantised = [name for name, source in fed.items() if source in made and made[source].kind == "dequantize"]
    assert quantised == convolutions[3:-3]
    # Whatever the reason of the plan, and none where it has none.
    middle = plan.layers[4]
    layers = tuple(
        msgspec.structs.replace(layer, float_reason="budget" if layer is middle else "") for layer in plan.layers
    )
    (only,) = coreml_ranges.float_operations(source, msgspec.structs.replace(plan, layers=layers), OUTPUTS)
    assert only == f"{middle.name}_cast_fp16"


def test_the_package_has_the_plans_ranges(net: Converted) -> None:
    plan = net.jobs["w8a8"].planned()
    program = read_program(planned_package(net))
    names = coreml_ranges.planned_names(program, OUTPUTS)
    assert {names[name] for name in program.outputs} == set(OUTPUTS)
    assert names[program.inputs[0].name] == "images"
    ranges = coreml_ranges.activation_ranges(planned_package(net), plan, OUTPUTS, [], 1, lambda count: None)
    assert {name for name in ranges if names[name] not in plan.tensors} == {"thresholded_relu_0_cast_fp16"}
    assert len(ranges) > 10
    for name, ends in ranges.items():
        if one := plan.tensors.get(names[name]):
            assert (ends["rmin"], ends["rmax"]) == (min(one.low, -1e-4), max(one.high, 1e-4))


def test_what_the_plan_does_not_know_is_observed(net: Converted, tmp_path: Path) -> None:
    job = net.jobs["w8a8"]
    plan = job.planned()
    few = {name: ends for number, (name, ends) in enumerate(plan.tensors.items()) if number % 2}
    changed = replace(job, out=tmp_path, plan=msgspec.structs.replace(plan, tensors=few))
    graph = coreml.convert(changed, lambda text, share: None)
    for output, wanted in zip(interpreted(tmp_path, graph, IMAGE), net.expected(IMAGE), strict=True):
        assert noise(output, wanted) < 0.08


def test_w8a8_planned_on_the_wrong_images_shows(net: Converted, tmp_path: Path) -> None:
    dark = make_job(net.module, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, tmp_path, "w8a8", pictures(4, seed=2) // 64)
    job = replace(dark, options=CoremlOptions())
    graph = coreml.convert(job, lambda text, share: None)
    expected = net.expected(IMAGE)
    worse = [noise(a, b) for a, b in zip(interpreted(job.out, graph, IMAGE), expected, strict=True)]
    good = [noise(a, b) for a, b in zip(net.outputs("w8a8", IMAGE), expected, strict=True)]
    assert np.mean(worse) > 2 * np.mean(good)


def test_coremltools_own_function_is_put_back(net: Converted) -> None:
    from coremltools.optimize.coreml import _post_training_quantization as inside

    assert inside._get_activation_calibration_stats.__module__.startswith("coremltools.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": None}, "w8a8 needs calibration images"),
        ({"plan": None}, "w8a8 needs a quantisation plan"),
        ({"options": CoremlOptions(deployment="iOS15")}, "w8a8 needs iOS17"),
        ({"options": CoremlOptions(deployment="iOS16")}, "w8a8 needs iOS17"),
        ({"options": converters.NoTargetOptions()}, "the job holds NoTargetOptions, the converter takes CoremlOptions"),
    ],
)
def test_w8a8_refuses_what_it_cannot_use(net: Converted, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message):
        again(net, "w8a8", tmp_path / "out", **change)


def test_w8a8_without_a_single_image_is_refused(net: Converted, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, SIZE, SIZE, 3), np.uint8))
    samples = net.jobs["w8a8"].samples
    assert samples is not None
    with pytest.raises(ConversionError, match="there are none: give --data"):
        again(net, "w8a8", tmp_path / "out", samples=replace(samples, path=tmp_path / "none.npy"))


def test_another_coremltools_is_refused(net: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml, "COREMLTOOLS", "8.3")
    with pytest.raises(ConversionError, match=r"pip install coremltools==8\.3"):
        again(net, "w8a8", tmp_path / "out")


def test_an_output_of_another_shape_is_refused(net: Converted, tmp_path: Path) -> None:
    shapes = {**net.jobs["fp32"].shapes, "c": (1, 4, 8, 8)}
    with pytest.raises(ConversionError, match=r"'c' should have shape \(1, 4, 8, 8\), the file has \(1, 4, 16, 16\)"):
        again(net, "fp32", tmp_path / "out", shapes=shapes)


def test_what_the_target_refuses_coremltools_refuses(tmp_path: Path) -> None:
    """One of the list, so that an entry which a newer coremltools makes wrong has a place to show."""

    class Odd(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return nn.functional.celu(nn.functional.avg_pool2d(x, 2), 0.5)

    assert set(coreml.TARGET.refuses) == {"Celu", "Det", "DFT", "LSTM"}
    job = make_job(Odd(), torch.rand(1, 3, SIZE, SIZE), ("y",), tmp_path, "fp32")
    with pytest.raises(ConversionError, match="Core ML fp32: NotImplementedError: Unsupported fx node celu"):
        coreml.convert(replace(job, options=CoremlOptions()), lambda text, share: None)


def test_what_coremltools_refuses_is_one_line(net: Converted, tmp_path: Path) -> None:
    (tmp_path / "graph.pt2").write_bytes(b"no program")
    (tmp_path / "work").mkdir()
    with pytest.raises(ConversionError, match=r"^Core ML fp32: \w+: [^\n]+$"):
        again(net, "fp32", tmp_path / "out", program=tmp_path / "graph.pt2", work=tmp_path / "work")
    assert not list((tmp_path / "work").iterdir()), "nothing half done is left"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: {"files": ("model.onnx",)}, "not in an .mlpackage folder"),
        (lambda graph: {"inputs": (Tensor(name="x", shape=(1, 3, SIZE, SIZE)),)}, "has no input 'x', only images"),
        (
            lambda graph: {"outputs": (*graph.outputs[:2], Tensor(name="d", shape=(1,)))},
            "has no output 'd', only b, c, a",
        ),
    ],
)
def test_a_file_that_is_not_the_manifests_is_refused(
    net: Converted, change: Callable[[Graph], dict[str, Any]], message: str
) -> None:
    graph = msgspec.structs.replace(net.graphs["fp32"], **change(net.graphs["fp32"]))
    with pytest.raises(EngineError, match=message):
        open_session("coreml", net.jobs["fp32"].out, graph, INTERPRETER)


def test_inputs_of_another_shape_are_refused(net: Converted) -> None:
    session = open_session("coreml", net.jobs["fp32"].out, net.graphs["fp32"], INTERPRETER)
    with pytest.raises(EngineError, match="takes float32"):
        session.run([IMAGE[:, :, :32]])


def test_half_precision_is_told_and_results_stay_after_the_next_run(net: Converted) -> None:
    session = open_session("coreml", net.jobs["fp16"].out, net.graphs["fp16"], INTERPRETER)
    assert session.placement.arithmetic == "float16 rounding, float32 sums"
    first = session.run([IMAGE])
    kept = [array.copy() for array in first]
    session.run([1 - IMAGE])
    for array, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.fixture
def sealed(net: Converted, tmp_path: Path) -> Path:
    """The fp16 package as a bundle."""
    job, graph = net.jobs["fp16"], net.graphs["fp16"]
    with bundle.stage(tmp_path / "net-coreml-fp16") as staging:
        for name in graph.files:
            (staging.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (staging.folder / name).write_bytes((job.out / name).read_bytes())
        staging.seal(
            Manifest(
                edgekit="0", name="net", target="coreml", precision="fp16", engine="coreml", graphs=(graph,),
                contract=job.contract, origin=Origin(kind="test", name="net", sha256=""), toolchain={},
            )
        )  # fmt: skip
        staging.commit()
    return tmp_path / "net-coreml-fp16"


def test_a_flipped_byte_of_the_weights_is_noticed_twice(net: Converted, sealed: Path) -> None:
    """By the bundle's hashes; and without them by what the interpreter computes."""
    path = sealed / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert bundle.open_bundle(sealed)
    whole = path.read_bytes()
    expected = net.expected(IMAGE)

    def cosine() -> float:
        worst = 1.0
        for output, wanted in zip(interpreted(sealed, net.graphs["fp16"], IMAGE), expected, strict=True):
            tally = DriftTally("output")
            tally.add(wanted, output)
            worst = min(worst, tally.drift().cosine)
        return worst

    assert cosine() > 0.9999
    data = bytearray(whole)
    place = 64 + 64 + 1  # the first blob's first value: a weight or bias of the stem, its exponent
    data[place] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(BundleError, match="its content is not what was written"):
        bundle.open_bundle(sealed)
    assert not cosine() > 0.999, "the gate of fp16"


def test_every_file_of_the_package_is_guarded(sealed: Path) -> None:
    for name in ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel"):
        path = sealed / "model.mlpackage" / name
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(BundleError):
            bundle.open_bundle(sealed)
        path.write_bytes(data)
    assert json.loads((sealed / "model.mlpackage/Manifest.json").read_bytes())["fileFormatVersion"]


def test_zero_points_of_wide_ranges_are_not_worked_out_in_float16() -> None:
    """127 times 719 is infinite in float16; coremltools then takes the end of the range for its zero."""
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import _utils

    from edgekit.converters.coreml import _zero_points_in_float32

    def zero_point() -> int:
        ends = np.array([-719.0, 112.3], np.float16)
        with np.errstate(over="ignore"):
            _, scale, zero = _utils.quantize_weight_by_dtype(ends, 0, types.int8, "LINEAR")
        assert scale.dtype == np.float16
        assert float(np.ravel(scale)[0]) == pytest.approx(3.26, abs=0.01)
        return int(np.ravel(zero)[0])

    assert zero_point() == 127  # negative control: where this fails, coremltools has been repaired
    with _zero_points_in_float32():
        assert zero_point() == 93
    assert zero_point() == 127


def test_what_a_gate_multiplies_stays_in_float(net: Converted) -> None:
    """The hard swish is ``x * gate(x)`` in Core ML: the x that is multiplied is not the one that was quantised."""
    program = read_program(next(net.jobs["w8a8"].out.glob("*.mlpackage")))
    makers = {port.name: one for one in program.operations for port in one.outputs}
    factors = [
        makers[argument.name].kind
        for one in program.operations
        if one.kind == "mul"
        for argument in (one.arguments["x"], one.arguments["y"])
        if getattr(argument, "name", "") in makers
    ]
    assert factors
    assert "dequantize" not in factors
