"""Fine-tuning without labels: it helps where INT8 hurts, keeps nothing that does not, keeps to its time and grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from edgekit.calibration import finetuning
from edgekit.calibration.grid import on_grid
from edgekit.calibration.program_layers import constant, program_layers, watch
from edgekit.calibration.samples import Samples
from edgekit.errors import ConversionError, UsageError
from edgekit.runtimes.bundle.manifest import ImageRule

nn = torch.nn
SIZE = 16


class Net(nn.Module):  # type: ignore[misc]
    """Convolutions of every kind, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 1),
            nn.SiLU(),
        )
        self.head = nn.Conv2d(16, 4, 3, 1, 1)
        self.line = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = self.body(x)
        return self.head(x), self.line(x.mean((2, 3)))


def images(count: int, seed: int = 1) -> list[Any]:
    """Blots of colour: (1, 3, 16, 16) float32."""
    draw = np.random.default_rng(seed).random((count, 1, 3, 4, 4), np.float32)
    return [np.kron(image, np.ones((4, 4), np.float32)) for image in draw]


class Clock:
    """Goes on by a hundredth of a second whenever it is read: how far training gets does not hang on the machine."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 0.01
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(finetuning, "time", made)
    return made


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """Of a network trained to find what is bright and what is red, so that its weights mean something.

    Large weights on a channel that is always 0 make the grid of the 1x1 convolution coarse: INT8 hurts, and there is
    something to gain.
    """
    torch.manual_seed(4)
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    batch = torch.from_numpy(np.concatenate(images(64)))
    small = nn.functional.avg_pool2d(batch, 2)
    wanted = torch.cat((small, small.amax(1, keepdim=True) ** 2), 1), batch.amax((2, 3))
    for _ in range(150):
        loss = sum(nn.functional.mse_loss(*pair) for pair in zip(net(batch), wanted, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05
    made = net.state_dict()
    for name in ("body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"):
        made[name][0] = 0
    made["body.4.weight"][:, 0] = 20 * made["body.4.weight"].abs().amax((1, 2, 3))[:, None, None]
    return made


@pytest.fixture
def module(weights: dict[str, Any]) -> Any:
    return exported(weights)


def exported(weights: dict[str, Any]) -> Any:
    net = Net()
    net.load_state_dict(weights)
    return torch.export.export(net.eval(), (torch.zeros(1, 3, SIZE, SIZE),)).module()


def names(module: Any) -> list[str]:
    return [layer.node.name for layer in program_layers(module)]


def seen(module: Any) -> dict[str, tuple[float, float]]:
    """Ranges of what layers read."""
    found: dict[str, tuple[float, float]] = {}

    def see(layer: Any, x: Any, _: Any) -> None:
        low, high = found.get(layer.source.name, (0.0, 0.0))
        found[layer.source.name] = min(low, float(x.min())), max(high, float(x.max()))

    watch(module, program_layers(module), images(24), see)
    return found


def tuned(module: Any, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "minutes": 0.1,
        "ranges": {},
        "floats": (),
        "seed": 0,
        "progress": lambda *_: None,
        "threads": 1,
    }
    given = {"samples": images(24), "holdout": images(24, 7), **options, **changes}
    return finetuning.finetune(module, given.pop("samples"), given.pop("holdout"), **given)


def state(module: Any) -> list[Any]:
    return [constant(module, node.target).detach().clone() for node in module.graph.nodes if node.op == "get_attr"]


def own_int8_error(module: Any, ranges: dict[str, tuple[float, float]], wanted: Any) -> float:
    """Squared error in INT8 by own arithmetic in float64: everything rounded as an engine does, forward only."""
    layers = {layer.node: layer for layer in program_layers(module)}

    class Engine(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            if n not in layers:
                return super().run_node(n)
            low, high = ranges[layers[n].source.name]
            step = (high - low) / 255
            steps = np.clip(np.rint(self.env[layers[n].source].numpy() / step) + round(-low / step), 0, 255)
            x = torch.from_numpy((steps - round(-low / step)) * step)
            arguments = [
                constant(module, one.target).detach().double() if getattr(one, "op", "") == "get_attr" else one
                for one in n.args
            ]
            return n.target(x.double(), on_grid(arguments[1], 0), *arguments[2:]).float()

    total = 0.0
    with torch.no_grad():
        for image, outputs in zip(images(16, 9), wanted, strict=True):
            found = Engine(module).run(torch.from_numpy(image))
            total += sum(float((one - other).square().mean()) for one, other in zip(found, outputs, strict=True))
    return total


@pytest.mark.nightly
def test_the_loss_on_holdout_images_falls_and_so_does_the_error_of_int8(module: Any, weights: dict[str, Any]) -> None:
    ranges, original = seen(module), state(module)
    with torch.no_grad():
        wanted = [module(torch.from_numpy(image)) for image in images(16, 9)]
    before = own_int8_error(module, ranges, wanted)
    result = tuned(module, ranges=ranges, minutes=0.2)
    assert result.kept
    assert result.steps > 10
    assert result.after < 0.8 * result.before
    assert own_int8_error(module, ranges, wanted) < 0.9 * before
    for layer in program_layers(module):
        weight = constant(module, layer.weight)
        torch.testing.assert_close(on_grid(weight, layer.axis), weight, rtol=0, atol=0)
        largest = [one.detach().abs().flatten(1).amax(1) for one in (weight, reference(weights, layer))]
        assert torch.equal(*largest)  # the grid is that of the source
    assert any(not torch.equal(*pair) for pair in zip(state(module), original, strict=True))


def reference(weights: dict[str, Any], layer: Any) -> Any:
    return constant(exported(weights), layer.weight)


def test_the_reference_says_what_is_wanted(module: Any, weights: dict[str, Any]) -> None:
    """A bias spoilt before fine-tuning is repaired only where the float network is given."""
    float_module = exported(weights)
    for made in (module, float_module):
        assert len(names(made)) == 5
    bias = constant(module, program_layers(module)[3].node.args[2].target)
    with torch.no_grad():
        bias += 0.002
    without = tuned(module, floats=names(module))
    assert not without.kept
    result = tuned(module, floats=names(module), reference=float_module)
    assert result.kept
    assert result.after < 0.5 * result.before


def test_without_ranges_and_with_all_layers_in_float_there_is_nothing_to_gain(module: Any) -> None:
    original = state(module)
    result = tuned(module, floats=names(module))
    assert (result.before, result.after, result.kept) == (0.0, 0.0, False)
    for found, wanted in zip(state(module), original, strict=True):
        assert torch.equal(found, wanted)


def test_what_makes_it_worse_is_not_kept(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "BIAS_RATE", 10.0)
    monkeypatch.setattr(finetuning, "WEIGHT_RATE", 100.0)
    original = state(module)
    result = tuned(module, ranges=seen(module), minutes=0.03)
    assert result.steps > 0
    assert not result.kept
    assert result.after == result.before
    for found, wanted in zip(state(module), original, strict=True):
        assert torch.equal(found, wanted)


def test_layers_in_float_keep_their_weights(module: Any) -> None:
    first = names(module)[0]
    original = constant(module, program_layers(module)[0].weight).detach().clone()
    result = tuned(module, ranges=seen(module), floats=(first,), minutes=0.1)
    assert result.kept
    assert torch.equal(constant(module, program_layers(module)[0].weight), original)


@pytest.mark.parametrize("minutes", [0.02, 0.05, 0.1])
def test_it_ends_in_time_and_says_how_far_it_is(module: Any, clock: Clock, minutes: float) -> None:
    told: list[tuple[str, float]] = []
    result = tuned(module, ranges=seen(module), minutes=minutes, progress=lambda *one: told.append(one))
    assert 0.8 * minutes < clock.now / 60 < minutes + 0.001  # a few readings more
    assert result.minutes == pytest.approx(clock.now / 60, abs=1e-3)
    assert told
    assert all(0 <= share <= 1 for _, share in told)
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert "at the start" in told[-1][0]


def test_a_time_too_short_for_a_step_changes_nothing(module: Any) -> None:
    original = state(module)
    result = tuned(module, ranges=seen(module), minutes=1e-6)
    assert (result.steps, result.kept, result.after) == (0, False, result.before)
    for found, wanted in zip(state(module), original, strict=True):
        assert torch.equal(found, wanted)


def test_images_are_read_from_a_file_and_threads_are_given_back(module: Any, tmp_path: Path) -> None:
    stack = np.stack([(image[0].transpose(1, 2, 0) * 255).astype(np.uint8) for image in images(24)])
    np.save(tmp_path / "images.npy", stack)
    samples = Samples(tmp_path / "images.npy", ImageRule(size=(SIZE, SIZE)))
    before, during = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        result = tuned(
            module,
            samples=samples,
            holdout=samples,
            ranges=seen(module),
            progress=lambda *_: during.add(torch.get_num_threads()),
        )
        assert result.kept
        assert (during, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_a_loss_that_falls_by_chance_is_no_better() -> None:
    start = [1.0, 1.0, 1.0, 1.0]
    assert finetuning._better([0.9, 0.95, 0.9, 0.85], start)
    assert not finetuning._better([0.1, 1.2, 1.2, 1.2], start)  # a lower mean, by one image
    assert not finetuning._better(start, start)
    assert finetuning._better([0.9], [1.0])


class Broken(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 2, 1)

    def forward(self, x: Any) -> Any:
        return torch.log(-self.only(x).abs())


def test_what_is_refused(module: Any) -> None:
    with pytest.raises(UsageError, match=r"finetune minutes=0: the time must be positive"):
        tuned(module, minutes=0)
    with pytest.raises(UsageError, match=r"not 24 and 0; give more calibration images"):
        tuned(module, holdout=[])
    broken = torch.export.export(Broken().eval(), (torch.zeros(1, 3, SIZE, SIZE),)).module()
    with pytest.raises(ConversionError, match="the float network gives NaN or infinity"):
        tuned(broken)
