"""INT8 for Rockchip's NPUs by the toolkit's hybrid quantisation: the plan's ranges, its float layers in float16.

What is decided goes into the file in which the toolkit lays down the range and the type of every tensor.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.calibration.plan import TensorRange
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
        raise ConversionError("int8 needs calibration images, and there are none: give --data with photographs")
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
    with float fallback .962 / .068; on the demo detector matched at 0.9: .978 and .995. These are small samples,
    and all INT8 keeps the gates too.

    Raises:
        ConversionError: the file is not what this version of the toolkit writes.
    """
    text = ranges.read_text(encoding="utf-8")
    if UNTOUCHED not in text:
        raise ConversionError("the quantisation file of RKNN-Toolkit2 has another form; install the pinned toolchain")
    names = [name for name in _kept_float(model, floats) if f"\n    {name}:\n" in text]
    if names:
        entries = "".join(f"    {name}: float16\n" for name in names)
        ranges.write_text(text.replace(UNTOUCHED, f"custom_quantize_layers:\n{entries}", 1), encoding="utf-8")
    return tuple(names)


_ENTRY = re.compile(r"^    (\S+):\n((?:        .*\n)+)", re.MULTILINE)
"""A tensor in the quantisation file, and what is said of it."""

_LEAST = 1e-4
"""Width of a range that has none."""


def set_ranges(ranges: Path, tensors: Mapping[str, TensorRange]) -> int:
    """Write the plan's ranges into the quantisation file; returns the number of tensors that were given one.

    The toolkit has some tensors share a range: what an operator makes with the activation behind it that it is fused
    with, and what only moves values with the values. They stay together: each such group gets the smallest range that
    holds those of its members whose own range it was.
    """
    text = ranges.read_text(encoding="utf-8")
    groups: dict[tuple[str, str], list[TensorRange]] = defaultdict(list)
    for name, entry in _ENTRY.findall(text):
        found = _number(entry, "min"), _number(entry, "max")
        if name in tensors and found == (_number(entry, "ori_min"), _number(entry, "ori_max")):
            groups[found].append(tensors[name])
    count = 0

    def rewritten(found: re.Match[str]) -> str:
        nonlocal count
        entry = found[2]
        members = groups.get((_number(entry, "min"), _number(entry, "max")))
        if not members or "dtype: int8\n" not in entry:
            return found[0]
        count += 1
        low, high = min(one.low for one in members), max(one.high for one in members)
        # Scale and zero point follow from them; to write those the toolkit forbids.
        for key, value in (("min", low), ("max", max(high, low + _LEAST))):
            entry = re.sub(rf"(?m)(^        {key}:\n        - +)\S+", rf"\g<1>{_yaml(value)}", entry, count=1)
        return f"    {found[1]}:\n{entry}"

    ranges.write_text(_ENTRY.sub(rewritten, text), encoding="utf-8")
    return count


def _yaml(value: float) -> str:
    """A number as YAML 1.1 reads it: 1e-05 would be a text."""
    text = repr(float(value))
    return text if "." in text else text.replace("e", ".0e")


def _number(entry: str, key: str) -> str:
    """The number under a key of a tensor's entry, as it stands there."""
    found = re.search(rf"^        {key}:\n        - +(\S+)", entry, re.MULTILINE)
    return found[1] if found else ""


def _kept_float(model: ModelProto, floats: Sequence[str]) -> list[str]:
    """Tensors that float layers write, and those of the activation behind each, which the toolkit fuses with them."""
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
