"""Roundings to 16 bits, written out in the file that the proof computes.

Sony's exporter leaves roundings to more than 8 bits out of that file, because torch's own operator stops at 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def write_out(model: nn.Module) -> int:
    """Put plain operators in place of a quantised model's roundings to more than 8 bits, in place.

    Returns:
        How many there are.
    """
    found = {
        name: holder.activation_holder_quantizer
        for name, holder in model.named_modules()
        if getattr(getattr(holder, "activation_holder_quantizer", None), "num_bits", 0) > 8
    }
    for name, quantiser in found.items():
        above, _, own = name.rpartition(".")
        threshold = float(quantiser.threshold_np)
        setattr(model.get_submodule(above), own, rounding(threshold, quantiser.num_bits, signed=quantiser.signed))
    return len(found)


def rounding(threshold: float, bits: int, *, signed: bool) -> nn.Module:
    """A layer that rounds to ``bits`` bits and clips at ``threshold``, a power of two."""
    import torch

    highest = 2 ** (bits - signed) - 1
    lowest = -highest - 1 if signed else 0
    step = threshold / (highest + 1)

    class Rounding(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.round(x * (1 / step)).clamp(lowest, highest) * step

    return Rounding()
