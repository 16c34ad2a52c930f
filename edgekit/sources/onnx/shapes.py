"""ONNX operators that move elements about as torch functions: shapes, slices, constants.

Semantics follow the ONNX operator specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgekit.sources.onnx.step import Operand, Step, axis_of, bounded


def concat(step: Step) -> Any:
    parts = [step.operand(index) for index in range(len(step.inputs))]
    return step.emit(torch.cat, parts, axis_of(step, step.attribute("axis", 0), len(parts[0].shape)))


def split(step: Step) -> Any:
    x, count = step.operand(0), len(step.outputs)
    axis = axis_of(step, step.attribute("axis", 0), len(x.shape))
    sizes = step.attribute("split", None) or (step.integers(1) if step.has(1) else None)
    if sizes is None:
        size = -(-x.shape[axis] // count)
        sizes = [min(size, x.shape[axis] - index * size) for index in range(count)]
    return list(step.emit(torch.split, x, list(sizes), axis))


def slice_(step: Step) -> Any:
    x = step.operand(0)
    starts, ends = step.integers(1), step.integers(2)
    axes = step.integers(3) if step.has(3) else list(range(len(starts)))
    steps = step.integers(4) if step.has(4) else [1] * len(starts)
    index = [slice(None)] * len(x.shape)
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        number = axis_of(step, axis, len(x.shape))
        positions = range(*slice(start, end, stride).indices(x.shape[number]))
        if stride > 0:
            index[number] = slice(positions.start, max(positions.stop, positions.start), stride)
        else:  # torch has no negative steps; Python's slice agrees with ONNX on ends below -size
            x = step.emit(torch.index_select, x, number, torch.tensor(list(positions), dtype=torch.int64))
    if all(
        part == slice(None) or (part.start, part.stop, part.step) == (0, size, 1) for part, size in _pairs(index, x)
    ):
        return x
    return step.emit(operator.getitem, x, tuple(index))


def _pairs(index: list[slice], x: Operand) -> zip[tuple[slice, int]]:
    return zip(index, x.shape, strict=True)


def gather(step: Step) -> Any:
    x, indices = step.operand(0), step.constant(1)
    axis = axis_of(step, step.attribute("axis", 0), len(x.shape))
    size = x.shape[axis]
    if indices.numel() and (int(indices.min()) < -size or int(indices.max()) >= size):
        raise step.refusal(f"has an index outside -{size}..{size - 1}")
    positive = torch.remainder(indices.to(torch.int64), size)
    if positive.ndim == 0:
        return step.emit(torch.select, x, axis, int(positive))
    picked = step.emit(torch.index_select, x, axis, positive.flatten())
    if positive.ndim == 1:
        return picked
    return step.emit(torch.reshape, picked, [*x.shape[:axis], *positive.shape, *x.shape[axis + 1 :]])


def gather_elements(step: Step) -> Any:
    """Indices that depend on the image come from TopK and ArgMax, which give none below 0."""
    x, indices = step.operand(0), step.operand(1)
    axis = axis_of(step, step.attribute("axis", 0), len(x.shape))
    if isinstance(indices, torch.Tensor):
        indices = torch.remainder(indices, x.shape[axis])
    return step.emit(torch.gather, x, axis, indices)


def reshape(step: Step) -> Any:
    x, wanted = step.operand(0), step.integers(1)
    if not step.attribute("allowzero", 0):
        wanted = [x.shape[index] if size == 0 else size for index, size in enumerate(wanted)]
    return _reshape(step, x, wanted)


def flatten(step: Step) -> Any:
    x = step.operand(0)
    axis = step.attribute("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return _reshape(step, x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def squeeze(step: Step) -> Any:
    x = step.operand(0)
    axes = step.attribute("axes", None) or (step.integers(1) if step.has(1) else None)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    dropped = {axis_of(step, axis, len(x.shape)) for axis in axes}
    return _reshape(step, x, [size for axis, size in enumerate(x.shape) if axis not in dropped])


def unsqueeze(step: Step) -> Any:
    x = step.operand(0)
    axes = step.attribute("axes", None) or step.integers(1)
    rank = len(x.shape) + len(axes)
    added = {axis_of(step, axis, rank) for axis in axes}
    sizes = iter(x.shape)
    return _reshape(step, x, [1 if axis in added else next(sizes) for axis in range(rank)])


def _reshape(step: Step, x: Operand, shape: list[int]) -> Any:
    return x if list(x.shape) == shape else step.emit(torch.reshape, x, shape)


def transpose(step: Step) -> Any:
    x = step.operand(0)
    return step.emit(torch.permute, x, step.attribute("perm", None) or list(reversed(range(len(x.shape)))))


def expand(step: Step) -> Any:
    x = step.operand(0)
    shape = list(np.broadcast_shapes(tuple(x.shape), tuple(step.integers(1))))
    return x if list(x.shape) == shape else step.emit(torch.broadcast_to, x, shape)


def tile(step: Step) -> Any:
    return step.emit(torch.tile, step.operand(0), step.integers(1))


def shape(step: Step) -> Any:
    sizes = step.operand(0).shape
    if step.operator == "Size":
        return torch.tensor(math.prod(sizes))
    return torch.tensor(list(sizes[step.attribute("start", 0) : step.attribute("end", None)]), dtype=torch.int64)


def constant(step: Step) -> Any:
    for name, value in step.attributes.items():
        if name == "value":
            return value
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
    raise step.refusal("has no numbers; sparse and text constants are not supported")


def constant_of_shape(step: Step) -> Any:
    value = step.attribute("value", torch.zeros(1))
    bounded(step.integers(0))
    return torch.full(step.integers(0), value.item(), dtype=value.dtype)


def range_(step: Step) -> Any:
    start, limit, delta = (step.constant(index) for index in range(3))
    bounded([float((limit - start) / delta)])
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def depth_to_space(step: Step) -> Any:
    x, block = step.operand(0), int(step.attribute("blocksize", 1))
    if step.operator == "DepthToSpace" and step.require("mode", ("DCR", "CRD"), "DCR") == "CRD":
        return step.emit(torch.pixel_shuffle, x, block)
    batch, channels, height, width = x.shape
    if step.operator == "DepthToSpace":
        before, order = [batch, block, block, channels // block**2, height, width], [0, 3, 4, 1, 5, 2]
        after = [batch, channels // block**2, height * block, width * block]
    else:
        before, order = [batch, channels, height // block, block, width // block, block], [0, 3, 5, 1, 2, 4]
        after = [batch, channels * block**2, height // block, width // block]
    return step.emit(torch.reshape, step.emit(torch.permute, step.emit(torch.reshape, x, before), order), after)


OPERATORS: dict[str, Callable[[Step], Any]] = {
    **dict.fromkeys(("Shape", "Size"), shape),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), depth_to_space),
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Range": range_,
    "Reshape": reshape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
