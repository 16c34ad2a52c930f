"""Hard swish in place of SiLU: what the fit keeps of a network, and when an INT8 bundle of it is taken."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")

from test_recipes import trial

from edgekit.calibration import hard_swish
from edgekit.calibration.hard_swish import with_hard_swish
from edgekit.calibration.program_layers import constant, operator_of, program_layers
from edgekit.calibration.samples import Samples
from edgekit.conversion.convert import check_bounds
from edgekit.conversion.replace_silu import choose
from edgekit.conversion.request import Request, source_of, validate
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.manifest import ImageRule, Speed

nn = torch.nn
SOURCE = "tiny_models:detector"


class Small(nn.Module):  # type: ignore[misc]
    """Depthwise, strided and plain convolutions between SiLUs, a linear layer, and two that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, padding="same", groups=12)
        self.mix, self.shared = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        act = nn.functional.silu
        x = act(self.mix(act(self.depthwise(act(self.stem(x))))))
        x = act(self.shared(act(self.shared(x))))
        return self.last(x.flatten(2).transpose(1, 2))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Smooth pictures, as photographs are."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (6, 8, 8, 3)).astype(np.float32)
    pictures = np.repeat(np.repeat(coarse, 8, 1), 8, 2) + random.normal(0, 8, (6, 64, 64, 3))
    path = tmp_path_factory.mktemp("samples") / "calibration.npy"
    np.save(path, np.clip(pictures, 0, 255).astype(np.uint8))
    return Samples(path, ImageRule(size=(64, 64)))


def exported(module: Any) -> Any:
    return torch.export.export(module.eval(), (torch.zeros(1, 3, 64, 64),)).module()


def told(text: str, share: float) -> None:
    assert 0 <= share <= 1


def test_the_fit_keeps_far_more_than_the_replacement_alone(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_swish, "VIEWS", 12)
    torch.manual_seed(0)
    module = Small()
    for layer in (module.stem, module.depthwise, module.mix, module.shared):
        layer.weight.data *= 3  # so that the activations are not almost linear
    graph = exported(module)
    before = {layer.weight: constant(graph, layer.weight).clone() for layer in program_layers(graph)}
    fitted, done = with_hard_swish(graph, samples, minutes=1, progress=told)
    plain, _ = with_hard_swish(graph, samples, minutes=0, progress=told)
    assert (done.silus, done.layers, done.views) == (5, 4, 12), "what two layers share stays as it is"
    assert not any(operator_of(node) == "silu" for node in fitted.graph.nodes)

    with torch.no_grad():
        x = torch.from_numpy(next(iter(samples))).flip(3).contiguous()
        wanted = graph(x)
        errors = [float((other(x) - wanted).square().mean() / wanted.var()) for other in (fitted, plain)]
    assert errors[0] < 0.2 * errors[1]
    for layer in program_layers(graph):
        assert torch.equal(constant(graph, layer.weight), before[layer.weight]), "the source is not touched"


def test_a_network_without_silu_is_refused(samples: Samples) -> None:
    with pytest.raises(UsageError, match=r"--replace-silu: this network has no SiLU; leave the option out"):
        with_hard_swish(exported(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), samples, minutes=1, progress=told)


FITTED: Any = SimpleNamespace(silus=61, layers=70, views=48, seconds=25.0)


def speed(ratio: float, spread: float = 0.02) -> Speed:
    return Speed(
        ratio=ratio, low=ratio - spread, high=ratio + spread, of="int8", rounds=9, threads=1, instructions="avx2",
        engine="litert 2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("other", "timed", "taken", "why"),
    [
        ((0.99, 0.01, 0.95), speed(0.7), True, "61 replaced by hard swish (quality "),
        ((0.99, 0.01, 0.95), None, True, "not timed here"),
        ((0.99, 0.01, 0.95), speed(0.99), False, "kept: hard swish is not faster (quality"),
        ((0.99, 0.01, 0.95), speed(0.7, 0.2), False, "kept: the machine is too busy to tell"),
        ((0.99, 0.01, 0.90), speed(0.5), False, "kept: hard swish loses 0.0495 (quality 0.8910, with SiLU 0.9405"),
        ((0.60, 0.01, 0.95), speed(0.5), False, "kept: hard swish is outside the gate: matched 0.600"),
    ],
)
def test_hard_swish_stays_where_it_loses_nothing_and_is_faster(
    other: tuple[float, ...], timed: Speed | None, taken: bool, why: str
) -> None:
    choice = choose(trial(0.99, 0.01, 0.95), trial(*other), timed, FITTED, 20)
    assert choice.hard_swish == taken
    assert why in choice.why
    assert "on 20 hold-out views" in choice.why


def refused(**given: Any) -> str:
    request = Request(source=SOURCE, targets=("onnx",), replace_silu=True, **given)
    with pytest.raises(UsageError) as error:
        validate(request, source_of(request))
    return str(error.value)


def test_what_it_needs(tmp_path: Path) -> None:
    photos = str(tmp_path)
    assert "--replace-silu goes with a precision that is quantised on images" in refused(data=photos)
    assert "int8 needs calibration images" in refused(precisions=("int8",))
    assert "a plan is of the network as it is; leave one of them out" in refused(
        precisions=("int8",), data=photos, plan=str(tmp_path / "plan")
    )
    prepared: Any = SimpleNamespace(holdout_views=0, calibration=SimpleNamespace(count=7))
    with pytest.raises(UsageError, match=r"--replace-silu needs more images in --data than 7: from ten calibration"):
        check_bounds(Request(source=SOURCE, replace_silu=True), prepared)


@pytest.mark.nightly
@pytest.mark.convert
def test_a_bundle_says_what_became_of_its_silu(tmp_path: Path) -> None:
    """The demo detector: whatever is taken, it is inside its gate, and the report has the figures."""
    from tiny_conversions import edgekit as command

    from edgekit.shapes import write_coco

    write_coco(tmp_path / "scenes", range(5000, 5040))
    given = ("--target", "ncnn", "--precision", "int8", "--data", tmp_path / "scenes" / "*.png", "--replace-silu")
    done = command("convert", "edgekit.shapes.trained:detector", *given, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    (bundle,) = json.loads(done.stdout)["bundles"]
    assert bundle["ok"]
    manifest = json.loads((Path(bundle["path"]) / "manifest.json").read_text())
    said = manifest["graphs"][0]["report"]["SiLU"]
    assert "layers fitted on 48 views" in said
    assert f"SiLU {said}" in done.stderr


@pytest.mark.nightly
@pytest.mark.convert
def test_a_network_without_silu_ends_the_command(tmp_path: Path) -> None:
    from tiny_conversions import edgekit as command
    from tiny_conversions import write_pictures

    photos = write_pictures(tmp_path / "photos", 20)
    given = ("--target", "onnx", "--precision", "int8", "--data", photos, "--replace-silu", "-o", tmp_path / "out")
    done = command("convert", SOURCE, *given)
    assert done.returncode == 2
    assert "--replace-silu: this network has no SiLU; leave the option out" in done.stderr
