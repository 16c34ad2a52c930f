"""The 8-bit grid of weights: symmetric, with steps of max|w| / 127 for each output channel.

The largest weight of a channel stays as it is, 127 steps, so whoever computes the step from the rounded weights gets
the same step and the same integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEVELS = 127


def step_of(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Size of one step of each output channel, of the weights' shape but for 1 along all other axes.

    It is max|w| / 127, or 0 for a channel that has no grid: only zeros, values too small for float32, infinite ones.
    """
    import torch

    largest = _largest(weight, axis)
    usable = torch.isfinite(largest) & (largest / LEVELS >= torch.finfo(weight.dtype).tiny)
    return torch.where(usable, largest / LEVELS, 0.0)


def from_steps(steps: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Weights from whole numbers of steps (-127..127), on the grid of ``weight``; channels without one stay.

    127 steps are the largest weight itself: 127 * step may be one bit off, and with it the next step.
    """
    import torch

    step = step_of(weight, axis)
    values = torch.where(steps.abs() >= LEVELS, steps.sign() * _largest(weight, axis), steps * step)
    return torch.where(step > 0, values, weight)


def on_grid(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Weights rounded to the nearest step of their channel, detached."""
    import torch

    weight = weight.detach()
    step = step_of(weight, axis)
    return from_steps(torch.round(weight / torch.where(step > 0, step, 1.0)), weight, axis)


def _largest(weight: torch.Tensor, axis: int) -> torch.Tensor:
    return weight.abs().amax([other for other in range(weight.ndim) if other != axis], keepdim=True)
