"""Activation ranges of parts that are written tensor by tensor: observed on images, stored in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats
from edgekit.conversion.source_texts import IMAGES, batches
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.forms import ChannelRanges
from edgekit.sources.blip2.reference import load_model


def observe(source: Blip2, samples: Iterable[Floats]) -> dict[str, ChannelRanges]:
    """Per-channel ranges of the inputs of all linear layers of the vision tower, over calibration images.

    The source's own tower runs, in float32; some images at a time, as a large one reads its weights for every run.

    Args:
        source: the model.
        samples: float32 (1, 3, height, width) each.
    """
    import torch
    from torch import nn

    found: dict[str, ChannelRanges] = {}
    tower = load_model(source).vision_model

    def look_at(name: str, module: nn.Module) -> None:
        def look(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            low, high = given[0].flatten(0, -2).aminmax(dim=0)
            seen = ChannelRanges(low.numpy(), high.numpy())
            found[name] = seen.joined(found[name]) if name in found else seen

        module.register_forward_pre_hook(look)

    for name, module in tower.named_modules():
        if isinstance(module, nn.Linear):
            look_at(f"vision_model.{name}.weight", module)
    with torch.no_grad():
        for _, pixels in batches(samples, IMAGES):
            tower(pixels)
    return found


def write_ranges(path: Path, ranges: Mapping[str, ChannelRanges]) -> None:
    """Write the ranges of each layer's input."""
    arrays = {f"{name}.{end}": getattr(one, end) for name, one in ranges.items() for end in ("low", "high")}
    np.savez(path, **arrays)


def read_ranges(path: Path) -> dict[str, ChannelRanges] | None:
    """Read the ranges; None if there are none."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        names = [name.removesuffix(".low") for name in arrays.files if name.endswith(".low")]
        return {name: ChannelRanges(arrays[f"{name}.low"], arrays[f"{name}.high"]) for name in names}
