"""INT8 for Rockchip's NPUs by the toolkit's hybrid quantisation: the stem and the heads in float16, on the NPU too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.calibration.samples import Samples
from edgekit.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MOST = 100
"""Calibration images that the toolkit is given; it keeps them all in files and in memory."""

UNTOUCHED = "custom_quantize_layers: {}\n"
"""How the toolkit says that every tensor is INT8."""


def write_dataset(samples: Samples, folder: Path) -> Path:
    """The list file of the toolkit: one ``.npy`` of (1, 3, height, width) float32 a line, as the graph takes it.

    Raises:
        ConversionError: no images.
    """
    chosen = set(np.linspace(0, len(samples) - 1, min(MOST, len(samples))).round().astype(int).tolist())
    if not len(samples):
        raise ConversionError("int8 needs calibration images, and the given set has none: give --data with photographs")
    lines = []
    for index, tensor in enumerate(samples):
        if index in chosen:
            path = folder / f"{index}.npy"
            np.save(path, tensor)
            lines.append(f"{path}\n")
    listing = folder / "dataset.txt"
    listing.write_text("".join(lines), encoding="utf-8")
    return listing


def keep_float(ranges: Path, model: ModelProto, floats: Sequence[str]) -> tuple[str, ...]:
    """Write into the quantisation file of the toolkit what stays in float16, and return those tensors.

    They are the layers that the plan leaves in float (``floats``) and the activations behind them. Measured on
    FastestDet (211 detections on 6 photographs, each mirrored too), matched at IoU 0.5 / extra: all INT8 .957 / .096,
    with islands .962 / .068; on the demo detector matched at 0.9: .978 and .995. These are small samples, and all INT8
    keeps the gates too. Of the toolkit's algorithms, ``kl_divergence`` lost scores on the demo detector (mean drift
    .058, ``normal`` .011); ``mmse`` takes seven times as long and was better at IoU 0.75 and worse at 0.5.

    Raises:
        ConversionError: the file is not what this version of the toolkit writes.
    """
    text = ranges.read_text(encoding="utf-8")
    if UNTOUCHED not in text:
        raise ConversionError("the quantisation file of RKNN-Toolkit2 has another form; install the pinned toolchain")
    names = [name for name in _islands(model, floats) if f"\n    {name}:\n" in text]
    if names:
        entries = "".join(f"    {name}: float16\n" for name in names)
        ranges.write_text(text.replace(UNTOUCHED, f"custom_quantize_layers:\n{entries}", 1), encoding="utf-8")
    return tuple(names)


def _islands(model: ModelProto, floats: Sequence[str]) -> list[str]:
    """Tensors that the islands write, and those of the activation behind each, with which the toolkit fuses them."""
    readers = defaultdict(list)
    for node in model.graph.node:
        for tensor in node.input:
            readers[tensor].append(node)
    makers = {output: node for node in model.graph.node for output in node.output}
    found: list[str] = []
    for name in floats:
        found += [output for node in (makers[name], *_activations(makers[name], readers)) for output in node.output]
    return list(dict.fromkeys(found))


def _activations(node: NodeProto, readers: dict[str, list[NodeProto]]) -> list[NodeProto]:
    """The ReLU behind a convolution, or the sigmoid and the product of a SiLU."""
    behind = [reader for reader in readers[node.output[0]] if reader.op_type in _ACTIVATIONS]
    kinds = {reader.op_type for reader in behind}
    return behind if "Mul" not in kinds or "Sigmoid" in kinds else [r for r in behind if r.op_type != "Mul"]


_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "Sigmoid", "Mul"})
