"""Activation ranges of parts that are written tensor by tensor: observed on images, stored in a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats
from edgekit.graph.blip2.blip2 import Blip2, Forms
from edgekit.graph.blip2.cache import SharedCache
from edgekit.graph.blip2.forms import ChannelRanges, Float32, ObservedFloat32


def observe(source: Blip2, samples: Iterable[Floats], folder: Path) -> dict[str, ChannelRanges]:
    """Per-channel ranges of the inputs of all linear layers of the vision tower, over calibration images.

    The tower is written in float32 for it, with these figures as further outputs, and run by ONNX Runtime.

    Args:
        source: the model.
        samples: float32 (1, 3, height, width) each.
        folder: for the tower; it must not exist, and is removed at the end.
    """
    import onnxruntime

    folder.mkdir()
    graph = source.write("vision", folder, Forms(ObservedFloat32(), Float32()), SharedCache)
    session = onnxruntime.InferenceSession(str(folder / graph.files[0]))
    names = [tensor.name for tensor in graph.outputs if tensor.name.endswith((".low", ".high"))]
    found: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for tensor in samples:
        for name, reached in zip(names, session.run(names, {"pixel_values": tensor}), strict=True):
            further = np.minimum if name.endswith(".low") else np.maximum
            found[name] = further(found[name], reached) if name in found else reached
    shutil.rmtree(folder)
    layers = [name.removesuffix(".low") for name in names if name.endswith(".low")]
    return {name: ChannelRanges(found[f"{name}.low"], found[f"{name}.high"]) for name in layers}


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
