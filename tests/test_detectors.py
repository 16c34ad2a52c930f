"""The trained detectors of other families, and the models made hard: what they find, and that nothing else changed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")
pytest.importorskip("pycocotools", reason="needs pycocotools, which measures mAP")

from detectors import hard, leaky, relu, scores
from detectors.contract import INPUT_SIZE, with_weights

from edgekit.errors import SourceError
from edgekit.evaluation.coco import Metrics
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.shapes import FIRST_TRAINING_SEED, scene, trained
from edgekit.sources import SourceRequest, load

nn = torch.nn
ROOT = Path(__file__).parents[1]
LARGEST_FILE = 600_000
SCENES = 120
EASY = {"relu": relu.detector, "leaky": leaky.detector, "silu": trained.detector}
HARD = {"relu": hard.detector, "leaky": hard.leaky_detector, "silu": hard.silu_detector}
FAMILIES = pytest.mark.parametrize("family", EASY)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def annotations(shared_folder: Path) -> Path:
    return scores.held_out(shared_folder, SCENES)


@pytest.fixture(scope="module")
def exact(annotations: Path) -> Callable[[str], Metrics]:
    """mAP of an easy model, measured once."""
    return functools.lru_cache(lambda family: scores.score_network(EASY[family](), annotations))


def inputs(network: Any, count: int = 12) -> list[Any]:
    """Scenes that no training saw, as the network takes them."""
    preprocess = Preprocessor(network.contract.image)
    return [torch.from_numpy(preprocess(scene(scores.FIRST_SEED + seed).image)[0]) for seed in range(count)]


def run(network: Any, images: list[Any]) -> list[Any]:
    """Every output over all images, one after another."""
    with torch.no_grad():
        return [torch.cat(outputs) for outputs in zip(*(network(image) for image in images), strict=True)]


# ------------------------------------------------------------------------------------------------ trained detectors


@pytest.mark.parametrize(("family", "least"), [("relu", 0.78), ("leaky", 0.82)])
def test_it_finds_the_shapes_of_scenes_it_never_saw(family: str, least: float, exact: Any) -> None:
    measured = exact(family)
    assert measured.images == SCENES
    assert measured.objects > 400
    assert measured.map > least
    assert min(measured.per_class.values()) > least - 0.1


def test_the_scored_scenes_are_none_that_training_draws() -> None:
    assert scores.FIRST_SEED + scores.COUNT <= FIRST_TRAINING_SEED


@pytest.mark.parametrize("family", ["relu", "leaky"])
def test_the_weights_are_small_and_the_network_has_float32(family: str) -> None:
    weights = {"relu": relu.WEIGHTS, "leaky": leaky.WEIGHTS}[family]
    assert weights.stat().st_size <= LARGEST_FILE
    assert {value.dtype for value in EASY[family]().parameters()} == {torch.float32}


def test_the_families_are_what_they_say() -> None:
    found = {family: {type(layer) for layer in EASY[family]().modules()} for family in EASY}
    activations = {nn.ReLU, nn.LeakyReLU, nn.SiLU}
    assert found["relu"] & activations == {nn.ReLU}
    assert found["leaky"] & activations == {nn.LeakyReLU}
    assert found["silu"] & activations == {nn.SiLU}
    plain = [layer for layer in leaky.network().modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.groups == 1 for layer in plain)
    assert any(layer.groups == layer.in_channels > 1 for layer in relu.network().modules() if hasattr(layer, "groups"))


@pytest.mark.parametrize("made", [*EASY.values(), *HARD.values()])
def test_a_factory_gives_the_same_network_every_time(made: Callable[[], Any]) -> None:
    first, second = made(), made()
    assert not first.training
    assert isinstance(first.contract, Contract)
    one, two = first.state_dict(), second.state_dict()
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_factories_are_sources_from_the_root_of_the_repository() -> None:
    names = ["relu:detector", "leaky:detector", "hard:detector", "hard:leaky_detector", "hard:silu_detector"]
    code = (
        "import sys; from edgekit.sources import SourceRequest, load\n"
        "for spec in sys.argv[1:]: assert load(SourceRequest(spec)).contract, spec"
    )
    specs = [f"tests.detectors.{name}" for name in names]
    subprocess.run([sys.executable, "-c", code, *specs], cwd=ROOT, check=True)


@pytest.mark.parametrize("spec", ["relu:detector", "leaky:detector", "hard:silu_detector"])
def test_it_exports_with_the_outputs_of_its_contract(spec: str) -> None:
    from edgekit.graph.exchange import flatten

    model = load(SourceRequest(f"detectors.{spec}"))
    assert model.contract is not None
    image = torch.rand(model.example.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, exported = model.module(image), flatten(model.module, model.example)(image)
    side, classes = model.contract.image.size[0], len(model.contract.classes)
    grids = [side // stride for stride in (8, 16, 32)]
    assert [tuple(one.shape[1:]) for one in exported] == [(depth, n, n) for n in grids for depth in (64, classes)]
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(expected, exported, strict=True))


def test_missing_or_unfitting_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "gone.safetensors"
    with pytest.raises(SourceError, match=r"gone\.safetensors is missing: train it with python -m"):
        with_weights(relu.network(), path)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(SourceError, match="does not fit the network"):
        with_weights(relu.network(), path)


@pytest.mark.nightly
@pytest.mark.train
def test_training_is_one_command_and_repeats_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.detectors.train", "leaky", "--cache", str(tmp_path)]
    command += ["--scenes", "24", "--steps", "4", "--batch", "8", "--held-out", "2"]
    written = []
    for name in ("first", "second"):
        out = tmp_path / f"{name}.safetensors"
        subprocess.run([*command, "--out", str(out)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        written.append(out.read_bytes())
    assert written[0] == written[1]


# ------------------------------------------------------------------------------------------------ models made hard


@FAMILIES
def test_a_hard_model_is_the_same_function(family: str) -> None:
    easy, made_hard = EASY[family](), HARD[family]()
    images = inputs(easy)
    for before, after in zip(run(easy, images), run(made_hard, images), strict=True):
        assert before.abs().max() > 1
        assert (before - after).abs().max() < 1e-3


@pytest.mark.nightly
@FAMILIES
def test_a_hard_model_scores_the_same(family: str, annotations: Path, exact: Any) -> None:
    made_hard = scores.score_network(HARD[family](), annotations)
    assert abs(exact(family).map - made_hard.map) < 1e-3


def largest(network: Any, names: list[str], images: list[Any]) -> dict[str, Any]:
    """Largest absolute value of each channel of what the named modules give, over all images."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            size = output.abs().amax((0, 2, 3))
            found[name] = torch.maximum(found[name], size) if name in found else size

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    run(network, images)
    for handle in handles:
        handle.remove()
    return found


@FAMILIES
def test_the_channels_of_a_hard_model_differ_a_hundred_times_more(family: str) -> None:
    easy, made_hard = EASY[family](), HARD[family]()
    done = hard.harden(EASY[family](), ("nothing", "relu", "silu"))
    images = inputs(easy)
    before, after = (largest(network, list(done), images) for network in (easy, made_hard))
    assert len(done) >= 10
    spreads = []
    for name, scale in done.items():
        assert scale.max() / scale.min() == pytest.approx(100)
        alive = before[name] > 1e-4 * before[name].max()
        assert torch.allclose(after[name][alive] / before[name][alive], scale[alive].float(), rtol=1e-2)
        spreads.append(float(after[name][alive].max() / after[name][alive].min()))
    assert min(spreads) >= 100


def test_the_demo_detector_has_no_pair_without_silu() -> None:
    assert {pair.through for pair in hard.pairs(trained.detector())} == {"silu"}


def rounded_to_8_bits(network: Any, names: list[str], images: list[Any]) -> Any:
    """The network with the named tensors rounded to 256 steps between their extremes, one scale for each tensor."""
    extremes: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            low, high = extremes.get(name, (0.0, 0.0))
            extremes[name] = min(low, float(output.min())), max(high, float(output.max()))

        return hook

    def quantise(name: str) -> Any:
        low, high = extremes[name]
        step = (high - low) / 255
        return lambda _module, _inputs, output: ((output - low) / step).round().clamp(0, 255) * step + low

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    run(network, images)
    for handle in handles:
        handle.remove()
    for name in names:
        network.get_submodule(name).register_forward_hook(quantise(name))
    return network


@pytest.mark.nightly
@pytest.mark.parametrize("family", ["relu", "leaky"])
def test_one_scale_per_tensor_holds_the_easy_model_and_not_the_hard_one(
    family: str, annotations: Path, exact: Any
) -> None:
    names = [pair.name for pair in hard.pairs(EASY[family]())]
    images = inputs(EASY[family](), 32)
    easy, made_hard = (
        scores.score_network(rounded_to_8_bits(made[family](), names, images), annotations).map for made in (EASY, HARD)
    )
    assert exact(family).map - easy < 0.04
    assert exact(family).map - made_hard > 0.05


class Varied(nn.Module):  # type: ignore[misc]
    """Every kind of reader: plain, grouped, with a multiplier, behind pooling and upsampling, two at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.1), nn.MaxPool2d(2))
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.wide = nn.Conv2d(8, 16, 3, groups=8)
        self.bare = nn.Conv2d(12, 16, 1)
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.activation = nn.ReLU()
        self.summed = nn.Conv2d(16, 16, 1)
        self.twice = nn.Conv2d(16, 16, 1)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        x = self.activation(self.bare(self.grouped(x)) + self.wide(x))
        x = x + self.summed(self.up(x))[:, :, : x.shape[2], : x.shape[3]]
        return self.twice(self.twice(x))


def test_every_kind_of_reader_is_scaled_and_nothing_else() -> None:
    torch.manual_seed(0)
    network = Varied().eval()
    for value in network.first[1].parameters():
        nn.init.uniform_(value)
    network.first[1].running_var.uniform_(0.5, 2)
    found = {pair.name: pair.readers for pair in hard.pairs(network)}
    assert found == {"first.2": ("grouped", "wide"), "grouped": ("bare",)}
    image = torch.rand(2, 3, 20, 20)
    before = network(image)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    assert set(hard.harden(network, ("nothing", "relu"))) == set(found)
    assert torch.allclose(before, network(image), atol=1e-5)
    changed = {
        name.rpartition(".")[0] for name, value in network.state_dict().items() if (value != weights[name]).any()
    }
    assert changed == {"first.1", "grouped", "wide", "bare"}


def test_only_the_named_activations_are_scaled() -> None:
    assert hard.harden(trained.detector(), ("nothing", "relu")) == {}


@pytest.mark.parametrize("channels", [2, 3, 160])
def test_scales_have_both_ends_and_come_from_the_seed(channels: int) -> None:
    first, second, other = (hard.scales(channels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert float(first.min()) == pytest.approx(0.1)
    assert float(first.max()) == pytest.approx(10)
    assert torch.equal(first, second)
    assert channels < 3 or not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------ scoring


def test_scenes_are_rendered_once(tmp_path: Path) -> None:
    first = scores.held_out(tmp_path, 3)
    stamp = first.stat().st_mtime_ns
    assert scores.held_out(tmp_path, 3) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["held-out-3"]


def test_a_source_by_name_scores_as_its_network(annotations: Path, exact: Any) -> None:
    assert scores.score_source("detectors.leaky:detector", annotations) == exact("leaky")
    assert leaky.detector().contract.image.size == (INPUT_SIZE, INPUT_SIZE)
