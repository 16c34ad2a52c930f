"""Adaptive rounding: for every weight the step that gives the least error of the layer's output, on a fixed grid.

The squared error of an output channel is d H d', where d is what rounding changes in its weights, in steps, and H the
second moment of the layer's input columns over the images (their covariance where the bias takes the mean). Weights are
rounded one after another, each with the error of those before it spread over those behind (GPTQ, Frantar et al., arXiv
2210.17323), and then changed one by one as long as that lowers the error. A channel for which all this finds nothing
better stays rounded to nearest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edgekit.arrays import Floats
from edgekit.calibration import Progress
from edgekit.calibration.grid import LEVELS, from_steps, on_grid, step_of
from edgekit.calibration.program_layers import CONVOLUTIONS, ProgramLayer, constant, storage, watch
from edgekit.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import fx

MOST_SAMPLES = 32

POSITIONS = 1024
"""Positions of one image that are looked at, evenly chosen."""

LARGEST = 4608
"""Columns (inputs of one output) up to which a layer is searched: 512 channels with a 3x3 kernel. Time grows with the
square, and 4 bytes of memory do."""

MEMORY = 1 << 27
"""Numbers of all second moments that are held at once; more of them take another walk through the network."""

DAMPING = 0.01
"""Share of the mean diagonal that is added to H, for inputs that the images hardly woke."""

SWEEPS = 3
"""Rounds of single changes."""


def search(
    module: fx.GraphModule,
    layers: list[ProgramLayer],
    samples: Iterable[Floats],
    *,
    centred: bool,
    progress: Progress,
) -> dict[int, torch.Tensor]:
    """Rounded weights of all layers, by `storage`; those of more than `LARGEST` columns are rounded to nearest.

    Args:
        module: the float network; it is not changed.
        layers: of the module.
        samples: calibration tensors; the first `MOST_SAMPLES` are read, more than once where memory demands it.
        centred: whether the bias will take the mean of the error.
        progress: called with what is being done.

    Raises:
        UsageError: no samples.
    """
    found, done = {}, 0
    owners = {storage(module, layer): layer for layer in layers}
    for part in _parts(module, owners):
        chosen = [layer for layer in layers if storage(module, layer) in part]
        moments = _moments(module, chosen, samples, centred)
        for place, layer in part.items():
            progress(f"rounding {layer.node.name}", done / len(owners))
            done += 1
            weight = constant(module, layer.weight).detach()
            if place not in moments:
                found[place] = on_grid(weight, layer.axis)
                continue
            step = step_of(weight, layer.axis)
            ratio = rows(layer, weight / step.where(step > 0, step.new_ones(())))
            best = _best(ratio, moments.pop(place))
            found[place] = from_steps(_unrows(layer, best, weight), weight, layer.axis)
    return found


def columns(layer: ProgramLayer, x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The inputs of every output position, (groups, inputs per output, positions); ``shape`` is that of the weights."""
    from torch.nn import functional

    slid = CONVOLUTIONS.get(layer.operator)
    if slid is None:
        return x.reshape(-1, x.shape[-1]).T[None]
    kernel = shape[2:]
    stride, padding, dilation = _geometry(layer, kernel)
    x = x.reshape(-1, *x.shape[-1 - slid :])
    if layer.operator == "conv_transpose2d":
        # The same as an ordinary convolution, with its kernel flipped, over an input with zeros in between.
        spread = x.new_zeros(
            *x.shape[:2], *((size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True))
        )
        spread[:, :, :: stride[0], :: stride[1]] = x
        x, stride = spread, [1] * slid
    x = functional.pad(x, [amount for pair in reversed(padding) for amount in pair])
    if slid == 1:
        x, kernel, stride, dilation = x[:, :, None], (1, *kernel), [1, *stride], [1, *dilation]
    if all(size == 1 for size in kernel):
        unfolded = x[:, :, :: stride[0], :: stride[1]].flatten(2)
    else:
        unfolded = functional.unfold(x, tuple(kernel), dilation=tuple(dilation), stride=tuple(stride))
    groups = _groups(layer)
    return unfolded.movedim(1, 0).reshape(groups, unfolded.shape[1] // groups, -1)


def rows(layer: ProgramLayer, weight: torch.Tensor) -> torch.Tensor:
    """Weights as (groups, outputs per group, inputs per output): ``rows @ columns`` are the outputs."""
    groups = _groups(layer)
    if layer.operator == "conv_transpose2d":
        split = weight.flip(2, 3).reshape(groups, -1, *weight.shape[1:])
        return split.transpose(1, 2).flatten(2)
    if layer.axis == 1:
        return weight.T.unsqueeze(0)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _unrows(layer: ProgramLayer, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    import torch

    order = rows(layer, torch.arange(like.numel()).reshape(like.shape))
    result = torch.empty(like.numel())
    result[order.flatten()] = values.flatten()
    return result.reshape(like.shape)


def _groups(layer: ProgramLayer) -> int:
    place = {"conv1d": 6, "conv2d": 6, "conv_transpose2d": 6}.get(layer.operator)
    return int(layer.option(place, 1)) if place else 1


def _geometry(layer: ProgramLayer, kernel: tuple[int, ...]) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Stride, padding before and after for each axis, and dilation."""
    slid = len(kernel)

    def numbers(place: int, default: int) -> list[int]:
        given = layer.option(place, [default])
        values = [given] if isinstance(given, int) else list(given)
        return [int(value) for value in (values * slid if len(values) == 1 else values)]

    stride = numbers(3, 1)
    if layer.operator == "conv_transpose2d":
        dilation = numbers(7, 1)
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        before = [far - less for far, less in zip(reach, numbers(4, 0), strict=True)]
        return stride, [(less, less + more) for less, more in zip(before, numbers(5, 0), strict=True)], dilation
    dilation = numbers(5, 1)
    reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    given = layer.option(4, 0)
    if given == "valid":
        return stride, [(0, 0)] * slid, dilation
    if given == "same":
        return stride, [(far // 2, far - far // 2) for far in reach], dilation
    return stride, [(amount, amount) for amount in numbers(4, 0)], dilation


def _parts(module: fx.GraphModule, owners: dict[int, ProgramLayer]) -> Iterator[dict[int, ProgramLayer]]:
    """Weights in portions whose second moments fit into `MEMORY`."""
    part: dict[int, ProgramLayer] = {}
    total = 0
    for place, layer in owners.items():
        groups, _, inputs = rows(layer, constant(module, layer.weight).detach()).shape
        size = groups * inputs**2 if inputs <= LARGEST else 0
        if part and total + size > MEMORY:
            yield part
            part, total = {}, 0
        part[place] = layer
        total += size
    if part:
        yield part


def _moments(
    module: fx.GraphModule, layers: list[ProgramLayer], samples: Iterable[Floats], centred: bool
) -> dict[int, torch.Tensor]:
    """H of every weight, (groups, inputs, inputs)."""
    import torch

    sums: dict[int, torch.Tensor] = {}
    means: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = {}

    def add(layer: ProgramLayer, x: torch.Tensor, _: torch.Tensor) -> None:
        place = storage(module, layer)
        seen = columns(layer, x, tuple(constant(module, layer.weight).shape))
        if seen.shape[1] > LARGEST:
            return
        seen = seen[:, :, :: 1 + seen.shape[2] // (POSITIONS + 1)].contiguous()
        square = seen @ seen.transpose(1, 2)
        sums[place] = sums[place] + square if place in sums else square
        means[place] = means.get(place, torch.zeros(())) + seen.sum(2)
        counts[place] = counts.get(place, 0) + seen.shape[2]

    if layers and not watch(module, layers, itertools.islice(samples, MOST_SAMPLES), add):
        raise UsageError("no calibration images for adaptive rounding; give some, or round to nearest")
    uncorrected = {storage(module, layer) for layer in layers if not centred or layer.bias < 0}
    for place, total in sums.items():
        total /= counts[place]
        if place not in uncorrected:
            mean = means[place] / counts[place]
            total -= mean[:, :, None] * mean[:, None, :]
        diagonal = total.diagonal(dim1=1, dim2=2)
        diagonal += DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
    return sums


def _best(ratio: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Whole steps for weights in steps, ``ratio`` (groups, outputs, inputs)."""
    import torch

    nearest = torch.round(ratio)
    # The largest weight of a channel has to keep its 127 steps: the grid hangs on it.
    fixed = ratio.abs() > LEVELS - 1e-3
    steps = _descend(_spread(ratio, fixed, moment), ratio, fixed, moment)
    errors = [(change @ moment * change).sum(2, keepdim=True) for change in (steps - ratio, nearest - ratio)]
    return torch.where(errors[0] < errors[1], steps, nearest)


def _spread(ratio: torch.Tensor, fixed: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Round one input after another and spread each error over those behind it (GPTQ)."""
    import torch

    factor, failed = torch.linalg.cholesky_ex(moment)
    if failed.any():
        return torch.round(ratio)
    factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    if failed.any():
        return torch.round(ratio)
    left, steps = ratio.clone(), torch.round(ratio)
    for i in range(ratio.shape[2]):
        steps[:, :, i] = torch.where(fixed[:, :, i], steps[:, :, i], torch.round(left[:, :, i]).clamp(-LEVELS, LEVELS))
        error = (left[:, :, i] - steps[:, :, i]) / factor[:, None, i, i]
        left[:, :, i:] -= error[:, :, None] * factor[:, i, None, i:]
    return steps


def _descend(steps: torch.Tensor, ratio: torch.Tensor, fixed: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Change one input after another to the number of steps with the least error, as long as that lowers it."""
    import torch

    change = steps - ratio
    for _ in range(SWEEPS):
        moved = 0
        for i in range(ratio.shape[2]):
            own = moment[:, None, i, i]
            slope = (change @ moment[:, :, i, None])[:, :, 0]
            step = torch.round(change[:, :, i] + ratio[:, :, i] - slope / own).clamp(-LEVELS, LEVELS)
            step = step - torch.round(change[:, :, i] + ratio[:, :, i])
            better = (step * (2 * slope + step * own) < 0) & ~fixed[:, :, i]
            change[:, :, i] += torch.where(better, step, 0.0)
            moved += int(better.sum())
        if not moved:
            break
    return torch.round(change + ratio)
