"""Scales of a cache in 8 bits, found on calibration data: what 1 stands for in each channel of keys and values."""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.cache import past
from edgekit.graph.blip2.fitted import LayerInputs
from edgekit.graph.blip2.opt import PREFIX as OPT
from edgekit.graph.blip2.t5 import PREFIX as T5

LARGEST = 127
ROOM = 1.25
"""Times the largest observed magnitude: what later texts have beyond it is cut off, which costs more than wider
steps do."""


def cache_scales(source: Blip2, inputs: LayerInputs) -> dict[str, Floats]:
    """Scales (1, heads, 1, size) by the names of the cache's inputs: `ROOM` times the largest magnitude lies on 127.

    Args:
        source: with the weights that are written.
        inputs: what the layers that give keys and values read.

    Raises:
        ConversionError: those layers were not observed.
    """
    heads, found = source.language.heads, {}
    for number in range(heads.layers):
        for what, prefix in zip(("key", "value"), _givers(source, number), strict=True):
            name, bias = f"{prefix}.weight", f"{prefix}.bias"
            if name not in inputs:
                raise ConversionError(f"a cache in int8: {name} was not observed on the calibration images")
            values = inputs[name] @ source.checkpoint[name].T
            if bias in source.checkpoint:
                values += source.checkpoint[bias]
            largest = np.abs(values).max(0)
            scales = np.where(largest > 0, np.float32(ROOM / LARGEST) * largest, np.float32(1))
            found[past(number, what)] = scales.reshape(1, heads.count, 1, heads.size).astype(np.float32)
    return found


def _givers(source: Blip2, number: int) -> tuple[str, str]:
    """The layers that give the keys and the values that a layer of the decoder keeps."""
    if source.family == "t5":
        prefix = f"{T5}decoder.block.{number}.layer.0.SelfAttention."
        return f"{prefix}k", f"{prefix}v"
    prefix = f"{OPT}layers.{number}.self_attn."
    return f"{prefix}k_proj", f"{prefix}v_proj"
