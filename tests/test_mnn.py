"""The MNN target and engine, with the real tools of its wheel and the real MNN, against torch."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.converters import Job
from edgekit.errors import ConversionError, EngineError
from edgekit.runtimes.bundle.manifest import Graph, ImageRule
from edgekit.runtimes.engines import SessionOptions, open_session
from edgekit.runtimes.engines.mnn import flatbuffer as mnn_file
from edgekit.runtimes.engines.mnn.flatbuffer import CONVOLUTIONS, read_operators

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
pytest.importorskip("_tools", reason="needs MNN: pip install edgekit[convert]")

from jobs import make_job

from edgekit.converters import mnn as converter
from edgekit.converters.mnn import tool
from edgekit.runtimes.engines import mnn as runtime

nn = torch.nn
SIZE = 64
OUTPUTS = ("boxes", "classes")
PRECISIONS = ("fp32", "fp16", "int8")


class SmallDetector(nn.Module):  # type: ignore[misc]
    """What mobile detectors are made of: depthwise, SiLU, halves, an addition with ReLU, pooling, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU(), nn.Conv2d(16, 24, 1)
        )
        self.halved = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.SiLU(), nn.Conv2d(12, 12, 1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(24, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 32, 1))
        self.residual = nn.Conv2d(32, 32, 3, 1, 1)
        self.merge = nn.Sequential(nn.Conv2d(56, 24, 1), nn.SiLU())
        self.boxes, self.classes = nn.Conv2d(24, 4, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Any) -> Any:
        x = nn.functional.silu(self.stem(x))
        first, second = x.chunk(2, 1)
        x = torch.cat((first, self.halved(second)), 1)
        low = self.down(x)
        low = torch.relu(low + self.residual(low)) + torch.max_pool2d(low, 5, 1, 2)
        high = nn.functional.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.boxes(self.merge(torch.cat((x, high), 1))), self.classes(low)


def pictures(count: int, seed: int = 5) -> Any:
    """Smooth random images, uint8 (count, SIZE, SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return np.kron(coarse, np.ones((1, SIZE // 8, SIZE // 8, 1))).astype(np.uint8)


def quiet(text: str, share: float) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(3)
    return SmallDetector().eval()


@pytest.fixture(scope="module")
def jobs(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    folder = tmp_path_factory.mktemp("mnn")
    example = torch.rand(1, 3, SIZE, SIZE)
    return {
        precision: make_job(detector, example, OUTPUTS, folder, precision, pictures(24)) for precision in PRECISIONS
    }


@pytest.fixture(scope="module")
def graphs(jobs: dict[str, Job]) -> dict[str, Graph]:
    return {precision: converter.convert(job, quiet) for precision, job in jobs.items()}


@pytest.fixture(scope="module")
def image(jobs: dict[str, Job]) -> Any:
    return next(iter(jobs["int8"].calibration()))


def expected(module: Any, image: Any) -> list[Any]:
    with torch.no_grad():
        outputs = module(torch.from_numpy(image))
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def noise(found: Any, wanted: Any) -> float:
    """Root mean squared error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def dump(path: Path, folder: Path) -> Any:
    """A file as MNN's own converter tells it."""
    given = ["-f", "MNN", "--modelFile", str(path), "--JsonFile", str(folder / "model.json")]
    subprocess.run([sys.executable, "-c", tool._RUN, "mnnconvert", *given], cwd=folder, check=True, capture_output=True)
    return msgspec.json.decode((folder / "model.json").read_bytes())


def opened(job: Job, graph: Graph, **options: Any) -> Any:
    return open_session("mnn", job.out, graph, SessionOptions(**options))


# --- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "low", "high"), [("fp32", 0.0, 1e-5), ("fp16", 1e-5, 3e-3), ("int8", 1e-3, 0.1)])
def test_every_precision_computes_what_torch_does(
    precision: str, low: float, high: float, detector: Any, jobs: Any, graphs: Any, image: Any
) -> None:
    session = opened(jobs[precision], graphs[precision], threads=1)
    for values in (image, np.ascontiguousarray(image[..., ::-1])):
        for found, wanted in zip(session.run([values]), expected(detector, values), strict=True):
            assert found.shape == wanted.shape
            assert found.dtype == np.float32
            # The lower bound is the negative control: an int8 file that computes in float would be too good.
            assert low <= noise(found, wanted) <= high


def test_one_file_is_written_and_the_small_ones_are_small(jobs: Any, graphs: Any) -> None:
    sizes = {}
    for precision, job in jobs.items():
        assert [path.name for path in job.out.iterdir()] == list(graphs[precision].files) == ["model.mnn"]
        sizes[precision] = (job.out / "model.mnn").stat().st_size
    assert sizes["int8"] < sizes["fp16"] < 0.7 * sizes["fp32"]


def test_what_the_file_says_of_its_convolutions(jobs: Any, graphs: Any) -> None:
    """The oracle is the ONNX file's number of convolutions."""
    stored = {
        precision: [one.stored for one in read_operators(job.out / "model.mnn") if one.kind in CONVOLUTIONS]
        for precision, job in jobs.items()
    }
    count = sum(node.op_type == "Conv" for node in onnx.load(jobs["fp32"].onnx).graph.node)
    assert stored["fp32"] == ["float32"] * count
    assert stored["fp16"] == ["float16"] * count
    assert stored["int8"] == ["int8"] * count  # the quantiser's EMA knows no exceptions
    assert graphs["int8"].report["convolutions in integers"] == f"{count} of {count}"


def test_placement_tells_the_arithmetic(jobs: Any, graphs: Any) -> None:
    told = {name: opened(jobs[name], graphs[name], strict=True).placement for name in PRECISIONS}
    for placement in told.values():
        assert (placement.device, placement.word) == ("cpu", "executed")
        assert placement.operators["cpu"] > 20
    assert told["fp32"].arithmetic == "float32"
    assert told["fp16"].arithmetic == "float32, weights stored as float16"
    assert re.fullmatch(r"int8 in \d+ of \d+ convolutions, .*", told["int8"].arithmetic)


def test_conversions_are_reproducible_and_leave_nothing_behind(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    for precision, job in jobs.items():
        converter.convert(dataclasses.replace(job, out=tmp_path), quiet)
        assert (tmp_path / "model.mnn").read_bytes() == (job.out / "model.mnn").read_bytes(), precision
    assert [path.name for path in jobs["int8"].work.iterdir()] == ["float.mnn"]


class Added(nn.Module):  # type: ignore[misc]
    """A ReLU right after an addition, which MNN fuses and then computes wrongly with asymmetric activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(3 if not index else 8, 8, 3, 1, 1) for index in range(4)))
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.mix, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        return self.head(self.mix(torch.relu(self.left(x) + self.right(torch.relu(x)))))


def made_by(job: Job, folder: Path, recipe: str) -> tuple[Job, Graph]:
    job = dataclasses.replace(job, recipe=recipe, out=folder / f"by-{recipe}")
    job.out.mkdir()
    return job, converter.convert(job, quiet)


def test_the_plans_ranges_are_in_the_file(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    """As MNN's own dump tells them, of every tensor that it names as ONNX does, and beside the convolutions."""
    job = jobs["int8"]
    told = dump(job.out / "model.mnn", tmp_path)
    grids = {told["tensorName"][one["index"]]: one["quantInfo"] for one in told["extraTensorDescribe"]}
    tensors = job.planned().tensors
    known = [name for name in grids if name in tensors and name != "conv2d_4"]  # a ReLU is fused into it
    assert len(known) > 15
    for name in (*known, "conv2d_4"):
        wanted, grid = tensors["relu" if name == "conv2d_4" else name], grids[name]
        scale = (wanted.high - wanted.low) / 254
        assert grid["scale"] == pytest.approx(scale, abs=1e-6)  # the dump has six decimals
        assert -127 - grid["zero"] == pytest.approx(wanted.low / scale, abs=0.51)
    for operator in told["oplists"]:
        if operator["type"].startswith("Convolution"):
            read, made = (grids[told["tensorName"][operator[key][0]]] for key in ("inputIndexes", "outputIndexes"))
            beside = operator["main"]
            assert beside["quanParameter"]["scaleIn"] == read["scale"]
            assert beside["quanParameter"]["scaleOut"] == made["scale"]
            assert beside["symmetricQuan"]["zeroPoint"] == read.get("zero", 0)
            assert beside["symmetricQuan"]["outputZeroPoint"] == made.get("zero", 0)


def test_a_relu_fused_into_an_addition_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNN computes it wrongly with the quantiser's own asymmetric ranges, which are the negative control."""
    torch.manual_seed(4)
    module = Added().eval()
    job = make_job(module, torch.rand(1, 3, SIZE, SIZE), ("y",), tmp_path, "int8", pictures(24))
    image = next(iter(job.calibration()))
    planned = made_by(job, tmp_path, "plan")
    assert noise(opened(*planned).run([image])[0], expected(module, image)[0]) < 0.02
    told = dump(planned[0].out / "model.mnn", tmp_path)
    (grid,) = (one for one in told["extraTensorDescribe"] if told["tensorName"][one["index"]] == "add")
    assert grid["quantInfo"].get("zero", 0) == 0
    assert grid["quantInfo"]["scale"] == pytest.approx(job.planned().tensors["relu_1"].high / 127, abs=1e-6)
    monkeypatch.setattr(converter, "set_ranges", lambda *given: 0)
    (tmp_path / "own").mkdir()
    own = made_by(job, tmp_path / "own", "plan")
    assert noise(opened(*own).run([image])[0], expected(module, image)[0]) > 0.1


def test_kl_leaves_in_float_what_the_plan_does(jobs: Any, detector: Any, image: Any, tmp_path: Path) -> None:
    job, graph = made_by(jobs["int8"], tmp_path, "kl")
    convolutions = [one for one in read_operators(job.work / "float.mnn") if one.kind in CONVOLUTIONS]
    stored = [one.stored for one in read_operators(job.out / "model.mnn") if one.kind in CONVOLUTIONS]
    floats = {one.name for one, kind in zip(convolutions, stored, strict=True) if kind == "float32"}
    assert floats == set(job.planned().float_layers)
    assert len(floats) == 6
    assert len(stored) > len(floats)
    for found, wanted in zip(opened(job, graph).run([image]), expected(detector, image), strict=True):
        assert noise(found, wanted) < 0.15


def test_weights_are_stored_on_the_plans_grid_and_computed_in_float(jobs: Any, image: Any, tmp_path: Path) -> None:
    """The oracle is ONNX Runtime on the plan's graph, whose weights lie on that grid already."""
    import onnxruntime

    job, graph = made_by(jobs["int8"], tmp_path, "weights")
    operators = [one for one in read_operators(job.out / "model.mnn") if one.kind in CONVOLUTIONS]
    kept = {one.name for one in operators if one.stored == "float32"}
    assert kept == set(job.planned().float_layers)
    assert graph.report["convolutions in integers"] == f"0 of {len(operators)}"
    assert graph.report["weights in int8"] == f"{len(operators) - len(kept)} of {len(operators)} convolutions"
    assert graph.speed is not None
    assert 0.2 < graph.speed.ratio < 5
    session = opened(job, graph, threads=1)
    assert session.placement.arithmetic.startswith(f"float32, weights of {len(operators) - len(kept)} of")
    reference = onnxruntime.InferenceSession(str(job.onnx))
    for found, wanted in zip(session.run([image]), reference.run(None, {"images": image}), strict=True):
        assert noise(found, wanted) < 1e-4
    assert (job.out / "model.mnn").stat().st_size < 0.7 * (job.work / "float.mnn").stat().st_size


def test_layers_with_too_fine_a_channel_keep_float_weights(
    jobs: Any, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YOLOX-Nano has such a channel, which a depthwise convolution multiplies later. MNN's converter stores it as
    zeros, which is the negative control."""
    import onnxruntime

    model = onnx.load(jobs["int8"].onnx)
    arrays = {one.name: one for one in model.graph.initializer}
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][:2]
    for node, inputs, factor in ((first, (1, 2), 1e-5), (second, (1,), 1e6)):
        for name in (node.input[index] for index in inputs):
            values = onnx.numpy_helper.to_array(arrays[name]).copy()
            values[3] *= factor
            arrays[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "fine.onnx")
    job = dataclasses.replace(
        jobs["int8"], onnx=tmp_path / "fine.onnx", plan=all_int8(jobs["int8"].planned()), work=tmp_path
    )
    (wanted, *_) = onnxruntime.InferenceSession(str(job.onnx)).run(None, {"images": image})
    whole = made_by(job, tmp_path, "weights")
    stored = [one.stored for one in read_operators(whole[0].out / "model.mnn") if one.kind in CONVOLUTIONS]
    assert stored[0] == "float32"
    assert set(stored[1:]) == {"int8 weights"}
    exact = noise(opened(*whole).run([image])[0], wanted)
    assert exact < 1e-3
    monkeypatch.setattr(converter, "LEAST_STEP", 0)
    (tmp_path / "zeros").mkdir()
    assert noise(opened(*made_by(job, tmp_path / "zeros", "weights")).run([image])[0], wanted) > 3 * exact


def all_int8(plan: Any) -> Any:
    return msgspec.structs.replace(
        plan, layers=tuple(msgspec.structs.replace(layer, float_reason="") for layer in plan.layers)
    )


def test_weights_of_a_network_that_is_all_float_are_refused(jobs: Any, tmp_path: Path) -> None:
    job = jobs["int8"]
    names = [layer.name for layer in job.planned().layers]
    job = dataclasses.replace(job, plan=job.planned().keep_float(names, "head"), recipe="weights", out=tmp_path)
    with pytest.raises(ConversionError, match=r"recipe weights: the plan leaves all layers .* --recipe plan"):
        converter.convert(job, quiet)


def test_one_image_is_enough_to_calibrate(jobs: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", pictures(1))
    samples = dataclasses.replace(jobs["int8"].calibration(), path=tmp_path / "one.npy")
    for recipe in converter.TARGET.recipes:
        job, _ = made_by(dataclasses.replace(jobs["int8"], samples=samples), tmp_path, recipe)
        assert (job.out / "model.mnn").is_file()


def test_int8_gives_the_same_whatever_ran_before(jobs: Any, graphs: Any, image: Any) -> None:
    """Files in which float and int8 tensors mixed in other ways than MNN's own quantiser's did not."""
    other = 1 - image
    first = opened(jobs["int8"], graphs["int8"], threads=1)
    wanted = [output.copy() for output in first.run([image])]
    first.run([other])
    second = opened(jobs["int8"], graphs["int8"], threads=1)
    second.run([other])
    for found, want in zip(second.run([image]), wanted, strict=True):
        np.testing.assert_array_equal(found, want)


def test_calibration_normalises_by_the_contract(jobs: Any, detector: Any, image: Any, tmp_path: Path) -> None:
    """Through every key of the rule, judged by what the network computes; the wrong rule is the negative control."""
    rule = ImageRule(size=(SIZE, SIZE), resize="stretch", color="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    errors = []
    for number, used in enumerate((rule, msgspec.structs.replace(rule, std=(9.0, 9.0, 9.0)))):
        samples = dataclasses.replace(jobs["int8"].calibration(), rule=used)
        (tmp_path / str(number)).mkdir()
        session = opened(*made_by(dataclasses.replace(jobs["int8"], samples=samples), tmp_path / str(number), "kl"))
        values = next(iter(dataclasses.replace(samples, rule=rule)))
        pairs = zip(session.run([values]), expected(detector, values), strict=True)
        errors.append(max(noise(found, wanted) for found, wanted in pairs))
    assert errors[0] < 0.15
    assert errors[1] > 3 * errors[0]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_the_quantiser_is_told_of_colours_as_the_contract_has_them(
    color: Any, jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges of all colours together hardly tell one order from the other."""
    import cv2

    monkeypatch.setattr(converter, "_kept", lambda source, plan: [])
    rule = ImageRule(size=(SIZE, SIZE), resize="stretch", color=color, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    samples = dataclasses.replace(jobs["int8"].calibration(), rule=rule)
    converter._write_images(samples, tmp_path / "images", 1)
    told: Any = converter._configuration(samples, tmp_path / "images", tmp_path, jobs["int8"])
    pixels = cv2.imread(f"{told['path']}000000.png")[..., :: 1 if told["format"] == "BGR" else -1]
    found = (pixels - np.array(told["mean"])) * np.array(told["normal"])
    np.testing.assert_allclose(found.transpose(2, 0, 1)[None], next(iter(samples)), atol=1e-5)


def test_int8_without_images_is_refused(jobs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="int8 needs calibration images: give --data"):
        converter.convert(dataclasses.replace(jobs["int8"], samples=None, out=tmp_path), quiet)
    np.save(tmp_path / "none.npy", pictures(0))
    empty = dataclasses.replace(jobs["int8"].calibration(), path=tmp_path / "none.npy")
    with pytest.raises(ConversionError, match="int8 needs calibration images and there are none"):
        converter.convert(dataclasses.replace(jobs["int8"], samples=empty, out=tmp_path), quiet)


@pytest.mark.parametrize("kind", sorted(converter.TARGET.refuses))
def test_operators_that_are_refused_are_those_mnn_refuses(kind: str, jobs: Any, tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, ["images"], ["y"])],
        "one",
        [info("images", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("y", onnx.TensorProto.FLOAT, None)],
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "graph.onnx")
    job = dataclasses.replace(jobs["fp32"], onnx=tmp_path / "graph.onnx", out=tmp_path)
    with pytest.raises(ConversionError, match=rf"mnnconvert failed \(exit code 0\): .*Not Support: ONNX::{kind}"):
        converter.convert(job, quiet)


def test_a_tool_that_crashes_is_told(jobs: Any, tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"not a model")
    job = dataclasses.replace(jobs["fp32"], onnx=tmp_path / "graph.onnx", out=tmp_path)
    with pytest.raises(ConversionError, match=r"mnnconvert failed \(exit code -?\d+\): \S+"):
        converter.convert(job, quiet)
    assert not (tmp_path / "model.mnn").exists()


def test_images_that_cannot_be_written_are_told(jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.setattr(cv2, "imwrite", lambda *given: False)  # what it does when the disk is full
    with pytest.raises(ConversionError, match="calibration images cannot be written; is the disk full"):
        converter.convert(dataclasses.replace(jobs["int8"], out=tmp_path), quiet)


@pytest.mark.parametrize("module", [converter, runtime, mnn_file])
def test_the_tools_that_install_packages_are_named_nowhere(module: Any) -> None:
    code = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {alias.name for node in ast.walk(code) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(code) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.startswith("MNN.")]
    assert not [text for text in texts if "import MNN" in text or "-m MNN" in text]


# --- the engine ------------------------------------------------------------------------------------------------------


def test_nothing_is_printed_where_results_go(jobs: Any, graphs: Any) -> None:
    code = (
        "import pathlib, sys, msgspec, numpy as np\n"
        "from edgekit.runtimes.bundle.manifest import Graph\n"
        "from edgekit.runtimes.engines import SessionOptions, open_session\n"
        "graph = msgspec.json.decode(sys.argv[2], type=Graph)\n"
        "session = open_session('mnn', pathlib.Path(sys.argv[1]), graph, SessionOptions())\n"
        f"session.run([np.zeros((1, 3, {SIZE}, {SIZE}), np.float32)])\nprint('result')"
    )
    given = [str(jobs["fp32"].out), msgspec.json.encode(graphs["fp32"]).decode()]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("result\n", "")
    # The negative control: MNN does print there.
    said = subprocess.run([sys.executable, "-c", "import MNN"], capture_output=True, text=True, check=True).stdout
    assert said


def test_results_outlive_the_session(jobs: Any, graphs: Any, detector: Any, image: Any) -> None:
    found = opened(jobs["fp32"], graphs["fp32"]).run([image])
    gc.collect()
    rubbish = [np.full(output.shape, np.nan, np.float32) for output in found for _ in range(4)]
    for output, wanted in zip(found, expected(detector, image), strict=True):
        np.testing.assert_allclose(output, wanted, atol=1e-4)
    del rubbish


def test_broken_files_are_refused(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    whole = (jobs["fp32"].out / "model.mnn").read_bytes()
    with pytest.raises(EngineError, match=r"model.mnn: missing; convert again"):
        open_session("mnn", tmp_path, graphs["fp32"], SessionOptions())
    for data, message in (
        (b"", "not a whole MNN model"),
        (whole[: len(whole) // 2], "not a whole MNN model"),
        (bytes(64), "holds no operators"),
    ):
        (tmp_path / "model.mnn").write_bytes(data)
        with pytest.raises(EngineError, match=rf"model.mnn: {message}.*convert again"):
            open_session("mnn", tmp_path, graphs["fp32"], SessionOptions())


def test_weights_beside_the_file_belong_to_it(
    jobs: Any, graphs: Any, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the converter leaves them where a network is large; weights that the manifest does not name are refused."""
    whole = tool.convert_onnx
    monkeypatch.setattr(converter, "convert_onnx", lambda *given: whole(*given, "--saveExternalData", "1"))
    job = dataclasses.replace(jobs["fp32"], out=tmp_path)
    graph = converter.convert(job, quiet)
    assert graph.files == ("model.mnn", "model.mnn.weight")
    assert (tmp_path / "model.mnn").stat().st_size < (tmp_path / "model.mnn.weight").stat().st_size
    wanted = open_session("mnn", jobs["fp32"].out, graphs["fp32"], SessionOptions()).run([image])
    found = open_session("mnn", tmp_path, graph, SessionOptions()).run([image])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(EngineError, match="weight: weights that the manifest does not list"):
        open_session("mnn", tmp_path, msgspec.structs.replace(graph, files=graph.files[:1]), SessionOptions())


def test_a_manifest_that_says_something_else_is_refused(jobs: Any, graphs: Any) -> None:
    graph, folder = graphs["fp32"], jobs["fp32"].out
    renamed = tuple(msgspec.structs.replace(tensor, name="other") for tensor in graph.outputs[:1])
    with pytest.raises(EngineError, match=r"has no tensor 'other', which the manifest names; convert again"):
        open_session("mnn", folder, msgspec.structs.replace(graph, outputs=renamed), SessionOptions())
    longer = tuple(msgspec.structs.replace(tensor, shape=(1, 9, 9, 9)) for tensor in graph.outputs[:1])
    with pytest.raises(EngineError, match=r"'boxes' has shape \[1, 4, .*the manifest says \[1, 9, 9, 9\]; convert"):
        open_session("mnn", folder, msgspec.structs.replace(graph, outputs=longer), SessionOptions())


def test_wrong_inputs_are_refused_and_threads_change_nothing(jobs: Any, graphs: Any, image: Any) -> None:
    one, two = (opened(jobs["fp32"], graphs["fp32"], threads=threads) for threads in (1, 2))
    for first, second in zip(one.run([image]), two.run([image]), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    with pytest.raises(EngineError, match=r"input 'images' takes float32"):
        one.run([image[..., 1:]])


# --- reading the file ------------------------------------------------------------------------------------------------


def test_operators_and_tensors_are_those_of_mnns_own_dump(jobs: Any, graphs: Any, tmp_path: Path) -> None:
    """The oracle is MNN's converter, which can write a model as JSON."""
    told = dump(jobs["int8"].out / "model.mnn", tmp_path)
    names = told["tensorName"]
    operators = read_operators(jobs["int8"].out / "model.mnn")
    assert len(operators) == len(told["oplists"])
    for operator, wanted in zip(operators, told["oplists"], strict=True):
        assert operator.name == wanted["name"]
        assert list(operator.inputs) == [names[index] for index in wanted.get("inputIndexes", [])]
        assert list(operator.outputs) == [names[index] for index in wanted["outputIndexes"]]
        assert (operator.kind in CONVOLUTIONS) == wanted["type"].startswith("Convolution")
        assert (operator.kind == mnn_file.CONVERT) == (wanted["type"] == "ConvertTensor")
        assert (operator.kind == mnn_file.INPUT) == (wanted["type"] == "Input")
        assert (operator.stored == "int8") == ("symmetricQuan" in wanted.get("main", {}))


@given(data=st.data())
@settings(deadline=None)
def test_no_bytes_crash_the_reader(data: st.DataObject, jobs: Any, graphs: Any, tmp_path_factory: Any) -> None:
    whole = bytearray((jobs["int8"].out / "model.mnn").read_bytes())
    places = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=20)):
        whole[place] = value
    path = tmp_path_factory.getbasetemp() / f"changed-{os.getpid()}.mnn"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(ValueError):
        read_operators(path)
