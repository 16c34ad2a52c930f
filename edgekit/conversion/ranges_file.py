"""Ranges of activations on disk, between the stage that observes them and those that use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekit.graph.blip2.forms import Range

RANGES = "ranges.npz"


def write_ranges(folder: Path, ranges: Mapping[str, Range]) -> None:
    """Store what each layer's input reached."""
    arrays = {f"{name}.{end}": getattr(one, end) for name, one in ranges.items() for end in ("low", "high")}
    np.savez(folder / RANGES, **arrays)


def read_ranges(folder: Path) -> dict[str, Range] | None:
    """What was stored, None where nothing was observed."""
    path = folder / RANGES
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        names = [name.removesuffix(".low") for name in arrays.files if name.endswith(".low")]
        return {name: Range(arrays[f"{name}.low"], arrays[f"{name}.high"]) for name in names}
