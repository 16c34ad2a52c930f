"""A plan from a small network whose channels are far apart, and the file that it is kept in."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install edgekit[convert]")

from edgekit.calibration import plan as files
from edgekit.calibration.explicit import quantise
from edgekit.calibration.layers import sites
from edgekit.calibration.observation import watched
from edgekit.calibration.originals import restore
from edgekit.calibration.plan import (
    INTEGER,
    MIXED,
    ROUNDED,
    Methods,
    Plan,
    check_place,
    read_plan,
    write_plan,
)
from edgekit.calibration.planning import PlanRequest, Streams, make_plan
from edgekit.calibration.samples import Samples
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.graph.exchange import Exchange, write_exchange
from edgekit.runtimes.bundle.manifest import ImageRule

nn = torch.nn
SIZE = 24
EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)
OUTPUTS = ("boxes", "classes")
SIZES = torch.tensor([2.0, 1.0, 0.3, 0.002, 0.002, 0.01, 0.02, 0.05])
OFF = Methods(cross_layer_equalization=False, ranges="min-max", bias_correction=False, float_fallback=False)


class Net(nn.Module):  # type: ignore[misc]
    """Two depthwise convolutions whose input channels differ 1000 times, one behind ReLU and one behind SiLU."""

    def __init__(self, costly: bool = True) -> None:
        super().__init__()
        self.stem = nn.ModuleList(nn.Conv2d(3 if not index else 8, 8, 3, 1, 1) for index in range(3))
        self.before = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))
        self.depthwise = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1, groups=8) for _ in range(2))
        self.mix = nn.Conv2d(8, 8, 1)
        self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            for layer in (*self.stem, *self.before, self.mix):
                layer.weight.mul_(2.5)
            for before, behind in list(zip(self.before, self.depthwise, strict=True))[: 2 if costly else 1]:
                before.weight.mul_(SIZES.reshape(-1, 1, 1, 1))
                before.bias.mul_(SIZES)
                behind.weight.div_(SIZES.reshape(-1, 1, 1, 1))

    def forward(self, x: Any) -> Any:
        for layer in self.stem:
            x = torch.relu(layer(x))
        x = self.depthwise[0](torch.relu(self.before[0](x)))
        x = self.depthwise[1](nn.functional.silu(self.before[1](x)))
        x = torch.relu(self.mix(x))
        return self.boxes(x), self.classes(x)


@dataclass(frozen=True)
class Made:
    """A plan and where it lies."""

    plan: Plan
    folder: Path


class Workshop:
    """Makes plans of one network."""

    def __init__(self, folder: Path, costly: bool = True) -> None:
        torch.manual_seed(2)
        self.folder = folder
        (folder / "exchange").mkdir(parents=True)
        self.exchange: Exchange = write_exchange(Net(costly).eval(), EXAMPLE, OUTPUTS, folder / "exchange")
        self.told: list[str] = []

    def samples(self, count: int = 8, seed: int = 1) -> Samples:
        coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
        path = self.folder / f"samples-{count}-{seed}.npy"
        np.save(path, np.repeat(np.repeat(coarse, SIZE // 6, 1), SIZE // 6, 2))
        return Samples(path, ImageRule(size=(SIZE, SIZE), resize="stretch"))

    def make(self, name: str, request: PlanRequest, streams: Streams | None = None) -> Made:
        folder = self.folder / name
        folder.mkdir()

        def write(module: Any, place: Path) -> None:
            write_exchange(module, EXAMPLE, OUTPUTS, place)

        program, graph = self.exchange.program, self.exchange.onnx
        given = streams or Streams(self.samples())
        plan = make_plan(program, graph, given, folder, request, write, lambda text, share: self.told.append(text))
        return Made(plan, folder)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("costly"))


@pytest.fixture(scope="module")
def made(workshop: Workshop) -> Made:
    return workshop.make("plan", PlanRequest(threads=1))


@pytest.fixture(scope="module")
def off(workshop: Workshop) -> Made:
    return workshop.make("off", PlanRequest(methods=OFF, threads=1))


def outputs(path: Any, workshop: Workshop) -> list[Any]:
    session = watched(onnx.load(path) if isinstance(path, Path) else path, (), 1)
    images = workshop.samples(4, seed=9)
    rows = [session.run(list(OUTPUTS), {"images": sample}) for sample in images]
    return [np.stack(column) for column in zip(*rows, strict=True)]


def noise(found: list[Any], wanted: list[Any]) -> float:
    return max(float(np.sqrt(np.mean((a - b) ** 2)) / b.std()) for a, b in zip(found, wanted, strict=True))


# ---- what a plan says ----


def test_a_plan_names_its_model_and_its_images(made: Made, workshop: Workshop) -> None:
    plan = made.plan
    assert plan.model == hashlib.sha256(workshop.exchange.onnx.read_bytes()).hexdigest()
    assert (plan.images, plan.images_sha256) == (8, workshop.samples().sha256())
    assert plan.methods == Methods()
    assert plan.corrected >= 5
    assert plan.advice is not None
    assert {"equalizing channels", "rounding weights", "exporting", "observing", "choosing ranges"} <= set(plan.seconds)
    assert {*plan.seconds} <= {*workshop.told}
    assert any("observing, image 8 of 8" in text for text in workshop.told)


def test_every_layer_says_why_it_stays_in_float(made: Made) -> None:
    stays = {layer.name: layer.float_reason for layer in made.plan.mixed.layers}
    assert stays == {
        "conv2d": "stem",
        "conv2d_1": "stem",
        "conv2d_2": "stem",
        "conv2d_3": "",
        "conv2d_4": "",
        "conv2d_5": "",
        "conv2d_6": "channels",
        "conv2d_7": "",
        "boxes": "head",
        "classes": "head",
    }
    assert made.plan.mixed.float_layers == ("conv2d", "conv2d_1", "conv2d_2", "conv2d_6", "boxes", "classes")
    layers = {layer.name: layer for layer in made.plan.mixed.layers}
    assert {name for name, layer in layers.items() if layer.depthwise} == {"conv2d_4", "conv2d_6"}
    assert layers["conv2d_4"].channel_ratio < 8
    assert layers["conv2d_6"].channel_ratio > 300
    assert layers["conv2d_6"].noise_to_signal > 0.1 > layers["conv2d_7"].noise_to_signal
    assert {layer.input for layer in layers.values()} <= set(made.plan.mixed.tensors)


def test_what_costs_nothing_is_equalised_and_the_rest_kept_apart_only_for_integers(made: Made) -> None:
    (free,) = [site for site in made.plan.mixed.equalized if site.before > 300]
    assert (free.layer, free.readers, free.through, free.gate) == ("conv2d_3", ("conv2d_4",), "relu", "")
    assert free.before > 300
    assert free.after < 1.01
    assert made.plan.integer is not None
    costly, same = [site for site in made.plan.integer.equalized if site.before > 300]
    assert same.through == "relu"
    # Its channels are kept apart instead, so that exporting numbers the others anew.
    assert (costly.layer, costly.gate, costly.through, costly.groups) == ("conv2d_5", "", "silu", 4)
    names = [layer.name for layer in made.plan.integer.layers]
    assert {costly.layer, *costly.readers} <= {*names}
    assert len(names) == len(made.plan.mixed.layers) + 6  # a convolution and a depthwise one for each group
    spread = {layer.input: layer.channel_ratio for layer in made.plan.integer.layers if layer.depthwise}
    assert max(spread.values()) < 16


def off_grid(weights: np.ndarray) -> float:
    """How far weights are from the steps of their 8-bit grids, in steps."""
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    steps = rows / np.abs(rows).max(1, keepdims=True) * 127
    return float(np.abs(steps - np.rint(steps)).max())


@pytest.mark.parametrize("graph", [ROUNDED, MIXED, INTEGER])
def test_weights_lie_on_their_grid_and_the_function_stays(graph: str, made: Made, workshop: Workshop) -> None:
    path = made.folder / graph / "graph.onnx"
    model = onnx.load(path)
    for site in sites(model):
        own = graph == MIXED and site.name in made.plan.mixed.float_layers
        assert (off_grid(site.weights) < 1e-4) is not own, site.name
    assert 0 < noise(outputs(path, workshop), outputs(workshop.exchange.onnx, workshop)) < 0.06
    part = made.plan.integer if graph == INTEGER else made.plan.mixed
    assert part is not None
    assert [layer.name for layer in part.layers] == [site.name for site in sites(model)]
    assert (made.folder / graph / "graph.pt2").is_file()


def test_layers_in_float_have_the_weights_they_came_with(off: Made, workshop: Workshop, tmp_path: Path) -> None:
    """In both forms of the graph, and biases too; without equalisation they are the source's own."""
    names = [layer.name for layer in off.plan.mixed.layers]
    chosen = [names[1], names[5], "classes"]
    assert restore(off.folder / ROUNDED, chosen, tmp_path) == len(chosen)
    wanted, found = (
        {site.name: site for site in sites(onnx.load(path))}
        for path in (workshop.exchange.onnx, tmp_path / "graph.onnx")
    )
    for name in names:
        assert np.array_equal(found[name].weights, wanted[name].weights) is (name in chosen), name
    by_torch = torch.export.load(tmp_path / "graph.pt2").module()
    for sample in list(workshop.samples())[:2]:
        with torch.no_grad():
            raw = [output.numpy() for output in by_torch(torch.from_numpy(np.ascontiguousarray(sample)))]
        session = watched(onnx.load(tmp_path / "graph.onnx"), [], 1)
        for one, other in zip(raw, session.run(list(OUTPUTS), {"images": sample}), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def test_what_no_layer_is_called_is_left_alone(made: Made, tmp_path: Path) -> None:
    assert restore(made.folder / ROUNDED, ["nothing"], tmp_path) == 0
    assert (tmp_path / "graph.onnx").read_bytes() == (made.folder / ROUNDED / "graph.onnx").read_bytes()
    (tmp_path / "bare").mkdir()
    for name in ("graph.onnx", "graph.pt2"):
        (tmp_path / "bare" / name).write_bytes((made.folder / ROUNDED / name).read_bytes())
    assert restore(tmp_path / "bare", ["classes"], tmp_path) == 0, "nothing was kept beside it"


def test_the_layer_in_front_of_keypoints_stays_in_float(workshop: Workshop) -> None:
    plan = workshop.make("places", PlanRequest(threads=1, integer=False, coordinate_outputs=frozenset({"boxes"}))).plan
    reasons = {layer.name: layer.float_reason for layer in plan.mixed.layers}
    mix = next(layer.name for layer in reversed(plan.mixed.layers) if layer.name not in OUTPUTS)
    assert (reasons["boxes"], reasons["classes"], reasons[mix]) == ("places", "head", "head")


def test_what_was_done_is_worth_it(made: Made, off: Made, workshop: Workshop) -> None:
    """The same network in INT8 with the plan, and with everything switched off."""
    wanted = outputs(workshop.exchange.onnx, workshop)
    results = []
    for one in (made, off):
        model = quantise(onnx.load(one.folder / MIXED / "graph.onnx"), one.plan.mixed, symmetric=False)
        results.append(noise(outputs(model, workshop), wanted))
    assert results[0] < 0.08
    assert results[1] > 5 * results[0]


# ---- methods ----


def test_methods_that_are_off_are_off(off: Made, workshop: Workshop) -> None:
    plan = off.plan
    assert plan.methods == OFF
    assert plan.mixed.equalized == ()
    assert plan.integer is None
    assert plan.corrected == 0
    assert plan.mixed.float_layers == ()
    assert {one.method for one in plan.mixed.tensors.values()} == {"min-max"}
    assert {one.symmetric_method for one in plan.mixed.tensors.values()} == {"min-max"}
    assert "equalizing channels" not in plan.seconds
    before = {tensor.name: tensor for tensor in onnx.load(workshop.exchange.onnx).graph.initializer}
    after = {tensor.name: tensor for tensor in onnx.load(off.folder / MIXED / "graph.onnx").graph.initializer}
    biases = [name for name in before if name.endswith("bias")]
    assert len(biases) == 10
    for name in biases:
        assert after[name].raw_data == before[name].raw_data


def test_without_costly_sites_one_graph_is_enough(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "cheap", costly=False)
    plan = workshop.make("plan", PlanRequest(threads=1)).plan
    assert "relu" in {site.through for site in plan.mixed.equalized}
    assert plan.integer is None
    assert not (tmp_path / "cheap" / "plan" / INTEGER).exists()


def test_the_same_images_give_the_same_plan(made: Made, workshop: Workshop) -> None:
    again = workshop.make("again", PlanRequest(threads=1, integer=False))
    alike = msgspec.structs.replace(again.plan, seconds={}, corrected=0)
    assert alike == msgspec.structs.replace(made.plan, seconds={}, corrected=0, integer=None)
    assert not (again.folder / INTEGER).exists()
    first, second = ((one.folder / MIXED / "graph.onnx").read_bytes() for one in (made, again))
    assert first == second


def test_no_images_are_refused(workshop: Workshop) -> None:
    with pytest.raises(EdgekitError, match=r"no calibration images|needs calibration images"):
        workshop.make("nothing", PlanRequest(threads=1), Streams(workshop.samples(0)))


# ---- the file ----


def test_a_plan_is_a_readable_file(made: Made) -> None:
    assert read_plan(made.folder) == made.plan
    text = (made.folder / files.FILE).read_text()
    assert text.startswith('{\n  "schema": 1,\n')
    assert text.endswith("}\n")


def test_layers_go_back_to_float_without_losing_their_own_reasons(made: Made) -> None:
    changed = made.plan.mixed.keep_float({"conv2d_4", "conv2d"}, "budget")
    stays = {layer.name: layer.float_reason for layer in changed.layers}
    assert (stays["conv2d_4"], stays["conv2d"], stays["conv2d_3"]) == ("budget", "stem", "")
    assert made.plan.mixed.keep_float((), "budget") == made.plan.mixed


def test_what_is_no_plan_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan.json: No such file or directory; make a plan with: edgekit calibrate"):
        read_plan(tmp_path)
    (tmp_path / files.FILE).write_text("not JSON")
    with pytest.raises(InputError, match=r"plan.json: not a plan \(JSON is malformed.*make it again with edgekit cal"):
        read_plan(tmp_path)
    (tmp_path / files.FILE).write_text("{}")
    with pytest.raises(InputError, match=r"not a plan .*missing required field"):
        read_plan(tmp_path)
    write_plan(msgspec.structs.replace(made.plan, schema=99), tmp_path)
    with pytest.raises(InputError, match="plan schema 99, this edgekit reads 1; make it again"):
        read_plan(tmp_path)


def test_a_plan_goes_into_a_place_of_its_own(tmp_path: Path) -> None:
    check_place(tmp_path / "new")
    check_place(tmp_path)
    (tmp_path / "photograph.png").write_bytes(b"")
    for place in (tmp_path, tmp_path / "photograph.png"):
        with pytest.raises(UsageError, match="holds something that is not a plan; choose another folder for the plan"):
            check_place(place)
    (tmp_path / files.FILE).write_text("an older plan")
    check_place(tmp_path)


def test_a_plan_from_before_there_were_two_graphs_still_builds(tmp_path: Path) -> None:
    from edgekit.conversion import build
    from edgekit.conversion.workspace import Workspace

    plan = Workspace(tmp_path).plan
    (plan / MIXED).mkdir(parents=True)
    assert build._rounded(Workspace(tmp_path)) == plan / MIXED
    (plan / ROUNDED).mkdir()
    assert build._rounded(Workspace(tmp_path)) == plan / ROUNDED


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            Methods(ranges="kl"),
            "ranges 'kl': this method was removed, because it was no better than the others; choose one of auto, ",
        ),
        (Methods(ranges="moving average"), "choose one of auto, min-max, percentile, squared"),
        (Methods(rounding="adaptive"), "rounding 'adaptive': it was removed, because it was no better than 'nearest'"),
    ],
)
def test_methods_of_older_plans_make_no_new_one(workshop: Workshop, methods: Methods, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        workshop.make(f"old {methods.ranges} {methods.rounding}", PlanRequest(methods=methods, threads=1))


def test_a_plan_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Its keys, methods that are gone, and what its advisor compared."""
    layer = {"name": "c", "kind": "Conv", "input": "x", "depthwise": False, "weights": 9, "products": 81}
    layer |= {"spread": 120.0, "noise": 0.2, "stays": "channels", "damage": 0.01}
    ends = {
        "lowest": -1,
        "highest": 1,
        "low": -1,
        "high": 1,
        "limit": 1,
        "method": "kl",
        "symmetric_method": "absolute",
    }
    site = {"layer": "c", "readers": ["d"], "through": "relu", "before": 9, "after": 1}
    document = {
        "schema": 1,
        "edgekit": "0.0.9",
        "model": "ab",
        "images": 1,
        "images_sha256": "cd",
        "methods": {"equalisation": False, "ranges": "moving average", "rounding": "adaptive", "islands": False},
        "mixed": {"tensors": {"x": ends}, "layers": [layer], "equalised": [site]},
        "half": [{"node": "n", "tensor": "t", "reason": "overflow", "largest": 7e4}],
        "advice": {"unlike": 0.4},
    }
    (tmp_path / "plan.json").write_text(json.dumps(document))
    plan = read_plan(tmp_path)
    assert not plan.methods.float_fallback
    assert not plan.methods.cross_layer_equalization
    (only,) = plan.mixed.layers
    assert (only.channel_ratio, only.noise_to_signal, only.sensitivity, only.macs) == (120, 0.2, 0.01, 81)
    assert plan.mixed.float_layers == ("c",)
    assert plan.mixed.equalized[0].before == 9
    assert plan.fp16_issues[0].tensor == "t"
    again = json.loads(msgspec.json.encode(plan))
    assert all(again["mixed"]["layers"][0][key] == value for key, value in layer.items())
    assert again["methods"].items() >= document["methods"].items()
