"""Fine-tuning without labels: the quantised network learns the outputs of the float one.

Layers see their inputs on 8-bit grids of fixed ranges and have weights on the grid of `edgekit.calibration.grid`. What
is trained are the numbers of steps of the weights, and biases, through rounding as if it were not there (straight-
through estimator, Bengio et al., arXiv 1308.3432). The target is not a label but what the float network says about the
same calibration image (distillation, Hinton et al., arXiv 1503.02531; as a way to accurate INT8: Nagel et al., arXiv
2106.08295, section 4). The steps themselves do not change, so neither do the ranges that a quantiser finds for weights.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration import Progress
from edgekit.calibration.plan import Tuning
from edgekit.calibration.program_layers import program_layers
from edgekit.calibration.samples import Samples
from edgekit.calibration.student import grid_between, student, trained_biases, trained_weights
from edgekit.errors import ConversionError, UsageError
from edgekit.runtimes.inputs.images import Preprocessor

if TYPE_CHECKING:
    import torch
    from torch import fx

Images = Samples | Sequence[Floats]
"""Calibration tensors (1, 3, H, W) float32, in any order."""

BATCH = 4
"""Images for each change of the weights. They are run one by one: exported graphs have batch 1, and a CPU gains little
from more."""

WEIGHT_RATE = 0.02
"""Largest change of a weight at once, in steps of its grid."""

BIAS_RATE = 0.0001
"""Largest change of a bias at once, in standard deviations of the layer's output."""

HOLDOUT = 32
"""Most hold-out images that the best state is chosen by."""

CHECKS = 6
"""Number of checks on the hold-out images."""

RESERVE = 1.5
"""Time kept for the last check, in multiples of the longest step and a check together."""

CHECK_SHARE = 0.25
"""Share of the time for checks: a slow network is checked on fewer hold-out images."""

OUTSTANDING = 3.0
"""Standard deviations from which on a value weighs no more."""

TINY = 1e-12
"""Losses below it are nothing."""

STATISTICS = 8
"""Images by which outputs are weighted."""


def finetune(
    module: fx.GraphModule,
    samples: Images,
    holdout: Images,
    *,
    minutes: float,
    ranges: Mapping[str, tuple[float, float]],
    floats: Sequence[str],
    seed: int,
    progress: Progress,
    threads: int,
    reference: fx.GraphModule | None = None,
) -> Tuning:
    """Train the weights and biases of a network for INT8, in place, on the CPU.

    The state with the least loss on ``holdout`` is kept, with its weights on the grid; the module is left bit by bit
    as it was if none is better than the start (weights rounded to nearest) by more than chance makes of so few images.
    Layers in ``floats`` keep their weights; their biases are trained.

    Args:
        module: a float network of aten operators with one input, as `torch.export` gives it; rounded already or not.
        samples: calibration images to train on.
        holdout: others, to choose by; the first `HOLDOUT` are used.
        minutes: wall-clock time after which it ends, everything included, give or take one run of the network. About
            20 runs to begin with cannot be done without, however short the time.
        ranges: ends (low, high) of the affine 8-bit grids of layers' inputs, by the name of the node that gives the
            input; an input that is not named is not rounded.
        floats: names of the layers (nodes) that stay in float.
        seed: of the order of the images.
        progress: called with what is being done.
        threads: for PyTorch.
        reference: gives the wanted outputs; the module as it is when this is called, if None.

    Raises:
        UsageError: no time or no images.
        ConversionError: the float network gives NaN or infinity.
    """
    if not minutes > 0:
        raise UsageError(f"finetune minutes={minutes}: the time must be positive")
    if not len(samples) or not len(holdout):
        raise UsageError(
            f"fine-tuning needs images to train on and others to choose by, not {len(samples)} and {len(holdout)}; "
            "give more calibration images"
        )
    start = time.monotonic()
    with _threads(threads):
        trainer = _Trainer(module, reference or module, samples, ranges, frozenset(floats))
        kept_out = trainer.hold_out(holdout, CHECK_SHARE / CHECKS * minutes * 60)
        clock = _Clock(start, minutes * 60)
        steps, before, after = _train(trainer, kept_out, clock, np.random.default_rng(seed), progress)
        kept = after < before
        if kept:
            trainer.write()
    return Tuning(minutes=round((time.monotonic() - start) / 60, 3), steps=steps, before=before, after=after, kept=kept)


class _Scale:
    """Weights of squared errors, from a few float outputs: (1 + z * z) / 2 over the variance.

    z is a value's distance from the mean of its channel in standard deviations of the output. Almost all of an image is
    background; what stands out from it is what becomes a detection, and its error must not drown in the mean. Beyond
    `OUTSTANDING` all count the same: a few values would else decide for the whole image.
    """

    def __init__(self, outputs: list[list[torch.Tensor]]) -> None:
        import torch

        self._means, self._variances = [], []
        for several in zip(*outputs, strict=True):
            stack = torch.cat(several)
            if not bool(torch.isfinite(stack).all()):
                raise ConversionError("the float network gives NaN or infinity; it cannot be fine-tuned to match that")
            axes = [axis for axis in range(stack.ndim) if axis != 1] if stack.ndim > 3 else list(range(stack.ndim))
            mean = stack.mean(axes, keepdim=True)
            variance = float((stack - mean).square().mean())
            self._means.append(mean)
            self._variances.append(max(variance, 1e-6 * float(stack.square().mean()), 1e-12))

    def loss(self, found: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
        """Mean over the outputs."""
        import torch

        losses = []
        for one, other, mean, variance in zip(found, wanted, self._means, self._variances, strict=True):
            relevance = ((other - mean).square() / variance).clamp(max=OUTSTANDING**2)
            weight = (1 + relevance) / (2 * variance)
            losses.append(((one - other).square() * weight).mean())
        return torch.stack(losses).mean()


class _Clock:
    """Wall-clock time of which a share is gone."""

    def __init__(self, start: float, seconds: float) -> None:
        self._start, self._seconds = start, seconds

    @property
    def share(self) -> float:
        """Of the time that is gone, 0 to 1 and beyond."""
        return (time.monotonic() - self._start) / self._seconds

    def left(self) -> float:
        """Seconds to go."""
        return self._seconds - (time.monotonic() - self._start)


def _train(
    trainer: _Trainer, holdout: _Holdout, clock: _Clock, random: np.random.Generator, progress: Progress
) -> tuple[int, float, float]:
    """Steps, and the loss on hold-out images at the start and of the best state, which the trainer remembers."""
    start = trainer.losses(holdout)
    before = best = float(np.mean(start))
    steps, longest, next_check = 0, 0.0, 1 / CHECKS
    order = _endless(len(trainer.samples), random)
    while clock.left() > 0:
        last = clock.left() < RESERVE * (longest + holdout.seconds)
        if (last and steps) or clock.share >= next_check:
            if losses := trainer.losses(holdout, clock):
                found = float(np.mean(losses))
                if found < best and _better(losses, start):
                    best = found
                    trainer.remember()
                progress(f"fine-tuning: loss {found:.3g}, {before:.3g} at the start", min(clock.share, 1.0))
            next_check = clock.share + 1 / CHECKS
        if last:
            break
        begun = clock.left()
        decay = (1 + math.cos(math.pi * min(clock.share, 1.0))) / 2
        steps += trainer.step(list(itertools.islice(order, BATCH)), decay, clock)
        longest = max(longest, begun - clock.left())
    return steps, before, best


def _better(losses: list[float], start: list[float]) -> bool:
    """Whether the losses of the hold-out images fell, in proportion, by more than the standard error of that: a state
    that is best for one of them alone was chosen by chance."""
    gains = np.log(np.maximum(start, TINY)) - np.log(np.maximum(losses, TINY))
    return bool(gains.mean() > (gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0))


def _endless(count: int, random: np.random.Generator) -> Iterator[int]:
    while True:
        yield from random.permutation(count).tolist()


@dataclass
class _Holdout:
    """Hold-out images with the float outputs, and how long one pass over them takes."""

    inputs: list[torch.Tensor]
    wanted: list[list[torch.Tensor]]
    seconds: float


class _Trainer:
    """Trains the quantised network."""

    def __init__(
        self,
        module: fx.GraphModule,
        reference: fx.GraphModule,
        samples: Images,
        ranges: Mapping[str, tuple[float, float]],
        floats: frozenset[str],
    ) -> None:
        import torch

        self.samples = samples
        self._module, self._reference = module, reference
        layers = program_layers(module)
        self._quantised = {layer.node: layer for layer in layers if layer.node.name not in floats}
        self._grids = {
            layer.source: grid
            for layer in self._quantised.values()
            if (grid := grid_between(ranges.get(layer.source.name))) is not None
        }
        self._scale = _Scale([self._outputs(index) for index in _spread(len(samples), STATISTICS)])
        few = [_input(samples, index).numpy() for index in _spread(len(samples), STATISTICS)]
        weights, biases = trained_weights(module, self._quantised.values()), trained_biases(module, layers, few)
        self._trained = [*weights.values(), *biases.values()]
        self._leaves = {place: one.leaf for place, one in (weights | biases).items()}
        groups = [(weights, WEIGHT_RATE), (biases, BIAS_RATE)]
        self._optimiser = torch.optim.Adam(
            [{"params": [one.latent for one in some.values()], "lr": rate, "rate": rate} for some, rate in groups]
        )

    def hold_out(self, holdout: Images, seconds: float) -> _Holdout:
        """Float outputs of as many hold-out images as can be run in some seconds, at least 2."""
        import torch

        result = _Holdout([], [], 0.0)
        for index in range(min(len(holdout), HOLDOUT)):
            begun = time.monotonic()
            result.inputs.append(_input(holdout, index))
            result.wanted.append(self._wanted(result.inputs[-1]))
            with torch.no_grad():
                self._run(result.inputs[-1])
            result.seconds += time.monotonic() - begun
            if len(result.inputs) >= 2 and result.seconds > seconds:
                break
        return result

    def losses(self, holdout: _Holdout, clock: _Clock | None = None) -> list[float]:
        """The loss of each hold-out image; nothing if the time ends before they are known."""
        import torch

        begun, found = time.monotonic(), []
        with torch.no_grad():
            for x, wanted in zip(holdout.inputs, holdout.wanted, strict=True):
                if clock is not None and clock.left() <= 0:
                    return []
                found.append(float(self._scale.loss(self._run(x), wanted)))
        holdout.seconds = time.monotonic() - begun
        return found

    def step(self, chosen: list[int], decay: float, clock: _Clock) -> bool:
        """Change weights and biases by some images, at this share of the learning rate; not if the time ends first."""
        for index in chosen:
            if clock.left() <= 0:
                return False
            x = _input(self.samples, index)
            self._scale.loss(self._run(x), self._wanted(x)).backward()  # type: ignore[no-untyped-call]
        for one in self._trained:
            one.take_gradient(len(chosen))
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * decay
        self._optimiser.step()
        for one in self._trained:
            one.renew()
        return True

    def remember(self) -> None:
        """Keep the present state as the best one."""
        for one in self._trained:
            one.best.copy_(one.leaf.data)

    def write(self) -> None:
        """Put the best state into the module."""
        import torch

        with torch.no_grad():
            for one in self._trained:
                one.original.copy_(one.best)

    def _run(self, x: torch.Tensor) -> list[torch.Tensor]:
        return _tensors(student(self._module, self._quantised, self._grids, self._leaves).run(x))

    def _wanted(self, x: torch.Tensor) -> list[torch.Tensor]:
        import torch

        with torch.no_grad():
            return _tensors(self._reference(x))

    def _outputs(self, index: int) -> list[torch.Tensor]:
        return self._wanted(_input(self.samples, index))


def _tensors(outputs: Any) -> list[torch.Tensor]:
    """Float tensors among what a network returns."""
    import torch
    from torch.utils import _pytree

    return [one for one in _pytree.tree_leaves(outputs) if isinstance(one, torch.Tensor) and one.is_floating_point()]


def _input(images: Images, index: int) -> torch.Tensor:
    import torch

    if isinstance(images, Samples):
        image = np.ascontiguousarray(images.images[index])
        return torch.from_numpy(Preprocessor(images.rule).normalise(image).copy())
    return torch.from_numpy(np.ascontiguousarray(images[index]))


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` indices, evenly spaced."""
    places: list[int] = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    return places


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
