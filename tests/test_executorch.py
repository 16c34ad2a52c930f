"""The ExecuTorch target and engine: its own runtime, and the Core ML interpreter for what only Apple's devices run."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import converters
from edgekit.converters import Job
from edgekit.errors import ConversionError, EngineError, UsageError
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Graph, Tensor
from edgekit.runtimes.engines import SessionOptions, engine, open_session

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
pytest.importorskip("executorch", reason="needs executorch: pip install edgekit[convert]")
pytest.importorskip("torchao", reason="needs torchao: pip install edgekit[convert]")

from jobs import make_job
from tiny_conversions import SOURCE, edgekit, write_pictures

from edgekit.converters import executorch as converter
from edgekit.converters.executorch import (
    ExecutorchOptions,
    int8,
)
from edgekit.emulators import emulator, proof_device
from edgekit.emulators.executorch.coreml import write_files

nn = torch.nn
SIZE = 32
OUTPUTS = ("boxes", "classes")


class SmallDetector(nn.Module):  # type: ignore[misc]
    """Three convolutions of a stem, then what XNNPACK has trouble with: a concatenation of two scales, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.SiLU(), nn.Conv2d(8, 16, 1)
        )
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.mix = nn.Conv2d(32, 16, 3, padding=1)
        self.boxes, self.classes = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1)
        with torch.no_grad():
            self.right.weight.mul_(5)

    def forward(self, x: Any) -> Any:
        x = nn.functional.silu(self.stem(x))
        right = nn.functional.interpolate(torch.relu(self.right(x)), scale_factor=2.0, mode="nearest")
        z = nn.functional.silu(self.mix(torch.cat((torch.relu(self.left(x)), right), 1)))
        return self.boxes(z), self.classes(z)


def pictures(count: int, seed: int = 5) -> Any:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.kron(coarse, np.ones((1, SIZE // 8, SIZE // 8, 1))).astype(np.uint8)


def quiet(text: str, share: float) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(3)
    return SmallDetector().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("executorch")


@pytest.fixture(scope="module")
def float_job(detector: Any, folder: Path) -> Job:
    job = make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, folder, "fp32", pictures(12))
    return dataclasses.replace(job, options=ExecutorchOptions())


def with_delegate(job: Job, delegate: str, precision: str = "fp32") -> Job:
    out = job.out.with_name(f"{delegate}-{precision}")
    out.mkdir(exist_ok=True)
    options = converters.read_options(converter.TARGET, {"delegate": delegate})
    return dataclasses.replace(job, options=options, out=out, precision=precision)


@pytest.fixture(scope="module")
def fp32(float_job: Job) -> tuple[Job, Graph]:
    return float_job, converter.convert(float_job, quiet)


@pytest.fixture(scope="module")
def int8_job(detector: Any, folder: Path) -> Job:
    job = make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, folder, "int8", pictures(12))
    return dataclasses.replace(job, options=ExecutorchOptions())


@pytest.fixture(scope="module")
def quantised(int8_job: Job) -> tuple[Job, Graph]:
    return int8_job, converter.convert(int8_job, quiet)


@pytest.fixture(scope="module")
def coreml(float_job: Job) -> tuple[Job, Graph]:
    pytest.importorskip("coremltools", reason="needs coremltools: pip install edgekit[convert]")
    job = with_delegate(float_job, "coreml")
    return job, converter.convert(job, quiet)


@pytest.fixture(scope="module")
def vulkan(float_job: Job) -> tuple[Job, Graph]:
    job = with_delegate(float_job, "vulkan")
    return job, converter.convert(job, quiet)


@pytest.fixture(scope="module")
def image(float_job: Job) -> Any:
    return next(iter(float_job.calibration()))


def expected(module: Any, image: Any) -> list[Any]:
    with torch.no_grad():
        return [output.numpy() for output in module(torch.from_numpy(image))]


def noise(found: Any, wanted: Any) -> float:
    """Root mean squared error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def opened(made: tuple[Job, Graph], **options: Any) -> Any:
    return open_session("executorch", made[0].out, made[1], SessionOptions(**options))


# --- XNNPACK ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "low", "high"), [("fp32", 0.0, 1e-5), ("quantised", 1e-3, 0.08)])
def test_xnnpack_computes_what_torch_does(
    made: str, low: float, high: float, detector: Any, image: Any, request: pytest.FixtureRequest
) -> None:
    session = opened(request.getfixturevalue(made), threads=1)
    for values in (image, 1 - image):
        for found, wanted in zip(session.run([values]), expected(detector, values), strict=True):
            assert found.shape == wanted.shape
            assert found.dtype == np.float32
            # The lower bound is the negative control: an int8 file that computes in float would be too good.
            assert low <= noise(found, wanted) <= high


def test_read_only_memory_is_taken(fp32: tuple[Job, Graph], image: Any, recwarn: pytest.WarningsRecorder) -> None:
    fixed = image.copy()
    fixed.flags.writeable = False
    session = opened(fp32)
    np.testing.assert_array_equal(session.run([fixed])[0], session.run([image])[0])
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_placement_counts_what_is_left_on_the_portable_kernels(
    fp32: tuple[Job, Graph], quantised: tuple[Job, Graph]
) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    placement = opened(fp32).placement
    assert (placement.device, placement.word, placement.arithmetic) == ("cpu", "executed", "float32")
    assert placement.operators["portable"] == 1  # the nearest-neighbour upsampling
    assert placement.operators["xnnpack"] >= 8
    onnx = pytest.importorskip("onnx", reason="needs the extra 'convert'")
    job, graph = quantised
    integers = sum(not layer.float_reason for layer in job.planned().layers)
    assert graph.report["convolutions in integers"] == f"{integers} of {len(job.planned().layers)}"
    # The delegate has no sigmoid in integers, so that every SiLU is computed in float.
    sigmoids = sum(node.op_type == "Sigmoid" for node in onnx.load(job.onnx).graph.node)
    assert f"sigmoid {sigmoids} of {sigmoids}" in graph.report["in float32"]
    assert "relu" not in graph.report["in float32"], "fused into convolutions"
    assert opened(quantised).placement.arithmetic.startswith("int8 in convolutions")
    for job, graph in (fp32, quantised):
        program = deserialize_pte_binary((job.out / "model.pte").read_bytes()).program
        kinds = [type(one.instr_args).__name__ for one in program.execution_plan[0].chains[0].instructions]
        assert kinds.count("KernelCall") == graph.report["portable_operators"]
    opened(fp32, strict=True)  # device "cpu" is any kernel
    with pytest.raises(EngineError, match=r"strict: not everything runs on 'xnnpack': .*'portable': 1"):
        opened(fp32, strict=True, device="xnnpack")


def scales(program: Any) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each quantised activation by the name of what was rounded."""
    return {
        node.args[0].name: (node.args[1], node.args[2])
        for node in program.graph.nodes
        if "quantize_per_tensor" in str(node.target) and "dequantize" not in str(node.target)
    }


def test_int8_is_small_and_only_where_it_should_be(fp32: tuple[Job, Graph], quantised: tuple[Job, Graph]) -> None:
    sizes = [(job.out / "model.pte").stat().st_size for job, _ in (fp32, quantised)]
    assert sizes[1] < sizes[0]
    job = quantised[0]
    layers = [layer.name for layer in job.planned().layers]
    assert [layer.float_reason for layer in job.planned().layers] == [*["stem"] * 3, "", "", "", "head", "head"]
    nodes = int8.quantised(torch.export.load(job.program), job, quiet, converter.quiet).graph.nodes
    kinds = [str(node.args[0].target) for node in nodes if node.target == torch.ops.aten.conv2d.default]
    assert ["dequantize" in kind for kind in kinds] == [name not in job.planned().float_layers for name in layers]
    per_channel = [node for node in nodes if "dequantize_per_channel" in str(node.target)]
    assert len(per_channel) == len(layers) - len(job.planned().float_layers)


def test_a_layer_that_the_budget_takes_back_stays_in_float(int8_job: Job) -> None:
    plan = int8_job.planned()
    layers = [
        msgspec.structs.replace(one, float_reason=one.float_reason or "budget" * (place == 4))
        for place, one in enumerate(plan.layers)
    ]
    job = dataclasses.replace(int8_job, plan=msgspec.structs.replace(plan, layers=tuple(layers)))
    nodes = int8.quantised(torch.export.load(job.program), job, quiet, converter.quiet).graph.nodes
    kinds = [str(node.args[0].target) for node in nodes if node.target == torch.ops.aten.conv2d.default]
    assert ["dequantize" in kind for kind in kinds] == [not layer.float_reason for layer in layers]


def test_int8_has_the_plans_ranges_and_no_calibration_pass(int8_job: Job) -> None:
    told: list[str] = []
    program = int8.quantised(
        torch.export.load(int8_job.program), int8_job, lambda text, share: told.append(text), converter.quiet
    )
    assert [text for text in told if "calibrating" in text] == ["calibrating, image 1 of 1"]  # for the weights
    tensors = int8_job.planned().tensors
    found = scales(program)
    known = {name: found[name] for name in ("silu_2", "silu_3") if name in found}
    assert known
    for name, (scale, zero) in known.items():
        low, high = tensors[name].narrow
        assert scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert zero == round(-128 - low / scale)
    # What goes into a concatenation has the grid of what comes out, which holds all of it.
    together = {found[name] for name in found if name.startswith(("relu", "cat", "upsample"))}
    assert len(together) == 1
    assert next(iter(together))[0] * 255 >= (tensors["cat"].high - tensors["cat"].low) * (1 - 1e-5)


@pytest.mark.nightly
def test_torchaos_own_ranges_are_the_other_recipe(int8_job: Job, detector: Any, image: Any, tmp_path: Path) -> None:
    assert converter.TARGET.recipes == ("plan", "torchao")
    told: list[str] = []
    job = dataclasses.replace(int8_job, recipe="torchao", out=tmp_path)
    made = job, converter.convert(job, lambda text, share: told.append(text))
    assert "calibrating, image 12 of 12" in told
    assert (tmp_path / "model.pte").read_bytes() != (int8_job.out / "model.pte").read_bytes()
    for found, wanted in zip(opened(made).run([image]), expected(detector, image), strict=True):
        assert noise(found, wanted) < 0.08


def test_ranges_are_those_from_before_they_reached_flat_ends(int8_job: Job) -> None:
    plan = int8_job.planned()
    wide = msgspec.structs.replace(plan.tensors["silu_2"], low=-100.0, fitted=(-0.5, 3.0))
    job = dataclasses.replace(int8_job, plan=msgspec.structs.replace(plan, tensors={**plan.tensors, "silu_2": wide}))
    program = int8.quantised(torch.export.load(job.program), job, lambda text, share: None, converter.quiet)
    assert scales(program)["silu_2"][0] == pytest.approx(3.5 / 255, rel=1e-5)


def test_tensors_that_the_plan_does_not_know_are_observed(int8_job: Job) -> None:
    plan = int8_job.planned()
    few = {name: ends for name, ends in plan.tensors.items() if name != "silu_2"}
    job = dataclasses.replace(int8_job, plan=msgspec.structs.replace(plan, tensors=few))
    told: list[str] = []
    program = int8.quantised(
        torch.export.load(job.program), job, lambda text, share: told.append(text), converter.quiet
    )
    assert "calibrating, image 12 of 12" in told
    one = plan.tensors["silu_2"]
    assert scales(program)["silu_2"][0] == pytest.approx((one.highest - one.lowest) / 255, rel=0.3)


@pytest.mark.nightly
def test_int8_planned_on_the_wrong_images_shows(
    quantised: tuple[Job, Graph], detector: Any, image: Any, tmp_path: Path
) -> None:
    dark = make_job(detector, torch.rand(1, 3, SIZE, SIZE), OUTPUTS, tmp_path, "int8", pictures(3) // 64)
    bad = dataclasses.replace(dark, options=ExecutorchOptions())
    worse = opened((bad, converter.convert(bad, quiet))).run([image])
    for found, wanted, good in zip(worse, expected(detector, image), opened(quantised).run([image]), strict=True):
        assert noise(found, wanted) > 2 * noise(good, wanted)


def test_nothing_is_written_to_the_terminal(fp32: tuple[Job, Graph], capfd: pytest.CaptureFixture[str]) -> None:
    opened(fp32, threads=1)
    assert capfd.readouterr() == ("", "")


# --- delegates that do not run here ----------------------------------------------------------------------------------


def test_the_core_ml_program_inside_is_interpreted(coreml: tuple[Job, Graph], detector: Any, image: Any) -> None:
    session = opened(coreml, device="interpreter")
    assert session.placement.word == "interpreted"
    assert session.placement.arithmetic == "float32"
    assert coreml[1].report["portable_operators"] == 0
    for found, wanted in zip(session.run([image]), expected(detector, image), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_flipped_weight_inside_shows(coreml: tuple[Job, Graph], detector: Any, image: Any, tmp_path: Path) -> None:
    data = bytearray((coreml[0].out / "model.pte").read_bytes())
    weights = detector.left.weight.detach().numpy().tobytes()
    place = bytes(data).index(weights)
    data[place + 3] ^= 0x80  # the sign of one float
    (tmp_path / "model.pte").write_bytes(data)
    session = open_session("executorch", tmp_path, coreml[1], SessionOptions(device="interpreter"))
    assert noise(session.run([image])[0], expected(detector, image)[0]) > 1e-4


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has Core ML")
def test_core_ml_is_not_run_silently_elsewhere(coreml: tuple[Job, Graph]) -> None:
    with pytest.raises(EngineError, match=r"needs the delegate coreml, .*unit='interpreter' shows here"):
        opened(coreml)


@pytest.mark.nightly
def test_vulkan_is_compiled_and_nothing_more_is_said(vulkan: tuple[Job, Graph], image: Any) -> None:
    session = opened(vulkan, device="interpreter")
    assert session.placement.word == "compiled"
    assert session.placement.operators["vulkan"] > 8
    with pytest.raises(EngineError, match=r"was compiled for vulkan, which this host cannot run"):
        session.run([image])
    with pytest.raises(EngineError, match=r"needs the delegate vulkan, which this host cannot run$"):
        opened(vulkan)


def test_a_file_is_proven_by_what_can_compute_it(
    fp32: tuple[Job, Graph], coreml: tuple[Job, Graph], vulkan: tuple[Job, Graph]
) -> None:
    assert [proof_device("executorch", made[1]) for made in (fp32, coreml, vulkan)] == [
        "cpu",
        "interpreter",
        "interpreter",
    ]
    with pytest.raises(EngineError, match=r"unit 'interpreter' is for Core ML files; this one is for xnnpack"):
        opened(fp32, device="interpreter")


def test_portable_kernels_run_everything(float_job: Job, detector: Any, image: Any) -> None:
    job = with_delegate(float_job, "portable")
    made = job, converter.convert(job, quiet)
    session = opened(made)
    assert set(session.placement.operators) == {"portable"}
    for found, wanted in zip(session.run([image]), expected(detector, image), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delegate", "more"), [("coreml", "; for Core ML in INT8 choose --target coreml"), ("vulkan", ""), ("portable", "")]
)
def test_a_precision_that_a_delegate_has_not_is_refused(delegate: str, more: str, float_job: Job) -> None:
    with pytest.raises(ConversionError) as error:
        converter.convert(with_delegate(float_job, delegate, "int8"), quiet)
    assert str(error.value) == f"executorch has no int8 for the delegate {delegate}, only for xnnpack{more}"


def test_an_unknown_delegate_is_refused() -> None:
    with pytest.raises(UsageError, match=r"option of target executorch: Invalid enum value 'metal'"):
        converters.read_options(converter.TARGET, {"delegate": "metal"})


def test_int8_without_images_is_refused(int8_job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="int8 needs calibration images: give --data"):
        converter.convert(dataclasses.replace(int8_job, samples=None), quiet)
    with pytest.raises(ConversionError, match="int8 needs a quantisation plan: give --data"):
        converter.convert(dataclasses.replace(int8_job, plan=None), quiet)
    np.save(tmp_path / "none.npy", pictures(0))
    empty = dataclasses.replace(int8_job.calibration(), path=tmp_path / "none.npy")
    with pytest.raises(ConversionError, match="int8 needs calibration images and there are none"):
        converter.convert(dataclasses.replace(int8_job, samples=empty), quiet)


def test_what_the_delegate_takes_nothing_of_is_refused(tmp_path: Path) -> None:
    class Sorted(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.sort(x, dim=1)[0]

    job = make_job(Sorted(), torch.rand(1, 3, 8, 8), ("y",), tmp_path, "fp32")
    with pytest.raises(ConversionError, match=r"the delegate xnnpack takes no operator .* try delegate=portable"):
        converter.convert(dataclasses.replace(job, options=ExecutorchOptions()), quiet)


def test_a_program_that_cannot_be_read_is_told(float_job: Job, tmp_path: Path) -> None:
    (tmp_path / "graph.pt2").write_bytes(b"not a program")
    with pytest.raises(ConversionError, match=r"^ExecuTorch fp32 for xnnpack: \w+: "):
        converter.convert(dataclasses.replace(float_job, program=tmp_path / "graph.pt2", out=tmp_path), quiet)


def test_broken_files_are_refused(fp32: tuple[Job, Graph], coreml: tuple[Job, Graph], tmp_path: Path) -> None:
    graph = fp32[1]
    with pytest.raises(EngineError, match=r"model.pte: missing; convert again"):
        open_session("executorch", tmp_path, graph, SessionOptions())
    whole = (fp32[0].out / "model.pte").read_bytes()
    for data in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "model.pte").write_bytes(data)
        with pytest.raises(EngineError, match=r"ExecuTorch cannot load it: "):
            open_session("executorch", tmp_path, graph, SessionOptions())
        with pytest.raises(EngineError, match=r"not a whole ExecuTorch file"):
            open_session("executorch", tmp_path, coreml[1], SessionOptions(device="interpreter"))
    (tmp_path / "model.pte").write_bytes(whole)
    with pytest.raises(EngineError, match=r"\d+ operators are outside Core ML's \d+ part"):
        open_session("executorch", tmp_path, coreml[1], SessionOptions(device="interpreter"))


def test_a_manifest_that_says_other_shapes_is_refused(fp32: tuple[Job, Graph], coreml: tuple[Job, Graph]) -> None:
    def changed(graph: Graph, outputs: tuple[Tensor, ...]) -> Graph:
        return msgspec.structs.replace(graph, outputs=outputs)

    swapped = changed(fp32[1], fp32[1].outputs[::-1])
    with pytest.raises(EngineError, match=r"has outputs \[\(1, 4, .*the manifest says \[\(1, 3, .*convert again"):
        open_session("executorch", fp32[0].out, swapped, SessionOptions())
    fewer = changed(coreml[1], coreml[1].outputs[:1])
    with pytest.raises(EngineError, match=r"has 1 inputs and 2 outputs, the manifest says 1 and 1"):
        open_session("executorch", coreml[0].out, fewer, SessionOptions(device="interpreter"))


def test_wrong_inputs_are_refused(fp32: tuple[Job, Graph]) -> None:
    with pytest.raises(EngineError, match=r"input 'images' takes float32"):
        opened(fp32).run([np.zeros((1, 3, SIZE, SIZE + 1), np.float32)])


# --- the payload -----------------------------------------------------------------------------------------------------


def payload(nodes: list[dict[str, Any]], data: bytes) -> bytes:
    return data + json.dumps({"nodes": nodes}).encode()[::-1]


def leaf(name: str, offset: int, size: int) -> dict[str, Any]:
    return {"name": name, "kind": 0, "dataRegion": {"offset": offset, "size": size}, "children": {}}


def branch(name: str, children: dict[str, int]) -> dict[str, Any]:
    return {"name": name, "kind": 1, "dataRegion": {"offset": 0, "size": 0}, "children": children}


def test_a_tree_of_files_is_unpacked(tmp_path: Path) -> None:
    nodes = [leaf("a", 0, 3), leaf("b", 3, 2), branch("in", {"b": 1}), branch("root", {"a": 0, "in": 2})]
    write_files(payload(nodes, b"abcde"), tmp_path / "root")
    assert (tmp_path / "root/a").read_bytes() == b"abc"
    assert (tmp_path / "root/in/b").read_bytes() == b"de"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([leaf("a", 0, 1 << 30), branch("root", {"a": 0})], "a lies outside it"),
        ([leaf("a", -1, 1), branch("root", {"a": 0})], "a lies outside it"),
        ([leaf("a", 0, 1), branch("root", {"../a": 0})], "'../a' is not the name of a file"),
        ([leaf("a", 0, 1), branch("root", {"/etc/a": 0})], "'/etc/a' is not the name of a file"),
        ([leaf("a", 0, 1), branch("root", {"..": 0})], "'..' is not the name of a file"),
        ([branch("root", {"a": 7})], "list index out of range"),
        ([], "list index out of range"),
    ],
)
def test_a_tree_that_leads_elsewhere_is_refused(nodes: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"not a Core ML payload of ExecuTorch .*{message}.*convert again"):
        write_files(payload(nodes, b"abc"), tmp_path / "root")


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_crash_the_unpacking(data: bytes) -> None:
    with pytest.raises(EngineError, match="not a Core ML payload"):
        write_files(data, Path(os.devnull) / "nowhere")


def test_the_declarations() -> None:
    assert converter.TARGET.missing == ""
    assert converter.TARGET.proof == "executed"
    spec = engine("executorch")
    assert spec.devices == ("cpu", "xnnpack")
    other = emulator("executorch")
    assert other is not None
    assert other.word == "interpreted"


# ---- through the whole conversion ----


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("photos"), 12)


def converted(delegate: str, photos: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    option = ("--option", f"executorch.delegate={delegate}", "--data", photos, "-o", out, "--json", *more)
    done = edgekit("convert", SOURCE, "--target", "executorch", *option)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.convert
@pytest.mark.nightly
def test_what_was_only_compiled_is_not_written(photos: Path, tmp_path: Path) -> None:
    code, report = converted("vulkan", photos, tmp_path)
    assert code == 1
    (failed,) = report["failed"]
    assert failed["error"] == (
        "outside its gate, not written: compiled, and nothing here can run it: verify it on the device "
        "(--no-gate writes it anyway)"
    )
    assert not list(tmp_path.glob("detector-*"))


@pytest.mark.nightly
@pytest.mark.convert
def test_what_was_only_compiled_is_unproven_even_when_asked_for(photos: Path, tmp_path: Path) -> None:
    code, report = converted("vulkan", photos, tmp_path, "--no-gate")
    assert code == 1
    (bundle,) = report["bundles"]
    evidence = bundle["evidence"]
    assert (evidence["word"], evidence["compared"], evidence["decoded"], evidence["passed"]) == (
        "compiled",
        "nothing",
        None,
        False,
    )
    manifest = open_bundle(bundle["path"]).manifest
    assert not manifest.proven
    assert manifest.options == {"delegate": "vulkan"}
    said = edgekit("info", bundle["path"]).stdout
    assert "compiled for executorch: not compared" in said
    assert said.rstrip().endswith("UNPROVEN")


@pytest.mark.nightly
@pytest.mark.convert
def test_the_core_ml_delegate_is_proven_by_the_interpreter(photos: Path, tmp_path: Path) -> None:
    code, report = converted("coreml", photos, tmp_path)
    assert code == 0, report
    (bundle,) = report["bundles"]
    assert (bundle["evidence"]["word"], bundle["evidence"]["decoded"]["matched"]) == ("interpreted", 1.0)
