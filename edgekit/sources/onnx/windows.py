"""ONNX operators over spatial windows as torch functions: convolution, pooling, padding, resizing.

Semantics follow the ONNX operator specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from edgekit.sources.onnx.step import Operand, Step, axis_of

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOLS: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Window:
    """A sliding window: sizes per spatial axis, and the padding before and after each."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]

    @property
    def symmetric(self) -> bool:
        """Whether torch's one number per axis can say it."""
        return self.begin == self.end and min(self.begin) >= 0


def _window(step: Step, x: Operand, kernel: Sequence[int]) -> Window:
    rank = len(x.shape) - 2
    if rank not in CONVOLUTIONS:
        raise step.refusal(f"has an input of shape {tuple(x.shape)}; 1 to 3 spatial axes are supported")
    strides = list(step.attribute("strides", [1] * rank))
    dilations = list(step.attribute("dilations", [1] * rank))
    pads = list(step.attribute("pads", [0] * 2 * rank))
    mode = step.require("auto_pad", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), "NOTSET")
    begin, end = pads[:rank], pads[rank:]
    if mode == "VALID":
        begin, end = [0] * rank, [0] * rank
    if mode.startswith("SAME"):
        sizes = zip(x.shape[2:], kernel, strides, dilations, strict=True)
        totals = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(list(kernel), strides, dilations, begin, end)


def _padded(step: Step, x: Operand, begin: list[int], end: list[int], value: float) -> Any:
    """Pad the spatial axes; torch lists them from the last."""
    pairs = [number for pair in zip(reversed(begin), reversed(end), strict=True) for number in pair]
    return step.emit(F.pad, x, pairs, value=value) if any(pairs) else x


def conv(step: Step) -> Any:
    x, weight = step.operand(0), step.operand(1)
    window = _window(step, x, weight.shape[2:])
    padding = window.begin if window.symmetric else [0] * len(window.begin)
    if not window.symmetric:
        x = _padded(step, x, window.begin, window.end, 0.0)
    bias = step.operand(2) if step.has(2) else None
    group = step.attribute("group", 1)
    function = CONVOLUTIONS[len(window.kernel)]
    return step.emit(function, x, weight, bias, window.strides, padding, window.dilations, group)


def conv_transpose(step: Step) -> Any:
    x, weight = step.operand(0), step.operand(1)
    step.require("auto_pad", ("NOTSET", "VALID"), "NOTSET")
    if step.attribute("output_shape", None):
        raise step.refusal("has an output_shape, which is not supported; export it with explicit pads")
    window = _window(step, x, weight.shape[2:])
    rank = len(window.kernel)
    extra = list(step.attribute("output_padding", [0] * rank))
    fits = window.symmetric and all(
        e < max(s, d) for e, s, d in zip(extra, window.strides, window.dilations, strict=True)
    )
    padding = window.begin if fits else [0] * rank
    bias, group = (step.operand(2) if step.has(2) else None), step.attribute("group", 1)
    result = step.emit(
        TRANSPOSED[rank],
        x,
        weight,
        bias,
        window.strides,
        padding,
        extra if fits else [0] * rank,
        group,
        window.dilations,
    )
    if fits:
        return result
    if any(extra):
        raise step.refusal(f"has output_padding={extra} with pads={window.begin + window.end}, which is not supported")
    for axis, (before, after) in enumerate(zip(window.begin, window.end, strict=True), start=2):
        result = step.emit(torch.narrow, result, axis, before, result.shape[axis] - before - after)
    return result


def max_pool(step: Step) -> Any:
    if len(step.outputs) > 1:
        raise step.refusal("returns indices, which are not supported")
    x = step.operand(0)
    window = _window(step, x, step.attribute("kernel_shape", ()))
    ceil = _ceil_mode(step, window)
    padding = window.begin if _torch_pads(window) else [0] * len(window.begin)
    if not _torch_pads(window):
        x = _padded(step, x, window.begin, window.end, -math.inf)
    function = MAX_POOLS[len(window.kernel)]
    return step.emit(function, x, window.kernel, window.strides, padding, window.dilations, ceil)


def average_pool(step: Step) -> Any:
    """Where torch cannot say the padding: sum over the padded input, divided by the count of real pixels."""
    x = step.operand(0)
    window = _window(step, x, step.attribute("kernel_shape", ()))
    if any(dilation != 1 for dilation in window.dilations):
        raise step.refusal(f"has dilations={window.dilations}, which torch's average pooling does not have")
    ceil, include = _ceil_mode(step, window), bool(step.attribute("count_include_pad", 0))
    if ceil and include and any(window.begin):
        raise step.refusal("has ceil_mode=1 with count_include_pad=1 and padding, on which implementations disagree")
    function = AVERAGE_POOLS[len(window.kernel)]
    if _torch_pads(window):
        return step.emit(function, x, window.kernel, window.strides, window.begin, ceil, include)
    pooled = step.emit(
        function, _padded(step, x, window.begin, window.end, 0.0), window.kernel, window.strides, 0, False, True
    )
    if include:
        return pooled
    real = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    share = step.emit(
        function, _padded(step, real, window.begin, window.end, 0.0), window.kernel, window.strides, 0, False, True
    )
    return step.emit(torch.div, pooled, share)


def _ceil_mode(step: Step, window: Window) -> bool:
    ceil = bool(step.attribute("ceil_mode", 0))
    if ceil and not _torch_pads(window):
        raise step.refusal(f"has ceil_mode=1 with pads={window.begin + window.end}, which torch cannot express")
    return ceil


def _torch_pads(window: Window) -> bool:
    """Whether torch's pooling takes this padding: symmetric, at most half a kernel."""
    return window.symmetric and all(2 * pad <= size for pad, size in zip(window.begin, window.kernel, strict=True))


def global_pool(step: Step) -> Any:
    x = step.operand(0)
    function = torch.mean if step.operator == "GlobalAveragePool" else torch.amax
    return step.emit(function, x, dim=list(range(2, len(x.shape))), keepdim=True)


def pad(step: Step) -> Any:
    x, amounts = step.operand(0), step.integers(1)
    rank = len(x.shape)
    axes = [axis_of(step, axis, rank) for axis in step.integers(3)] if step.has(3) else list(range(rank))
    begin, end = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        begin[axis], end[axis] = amounts[index], amounts[index + len(axes)]
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = step.require("mode", tuple(modes), "constant")
    if mode == "constant":
        return _padded(step, x, begin, end, float(step.constant(2)) if step.has(2) else 0.0)
    if rank < 3 or any(begin[:2]) or any(end[:2]) or min(begin + end) < 0:
        raise step.refusal(f"has mode={mode} with pads={begin + end}; only spatial axes can be padded so")
    pairs = [number for pair in zip(reversed(begin[2:]), reversed(end[2:]), strict=True) for number in pair]
    return step.emit(F.pad, x, pairs, mode=modes[mode])


# --- resizing ---


@dataclass(frozen=True)
class Scaling:
    """How a Resize changes each axis: new sizes, and the scales its coordinates are computed with."""

    sizes: list[int]
    scales: list[float]
    exact: bool
    """Whether the new sizes are the old ones times the scales, without rounding."""


def resize(step: Step) -> Any:
    """Resize with the modes torch has; nearest in every mode, by picking rows and columns."""
    x = step.operand(0)
    step.require("antialias", (0,), 0)
    step.require("keep_aspect_ratio_policy", ("stretch",), "stretch")
    scaling = _scaling(step, x)
    if tuple(scaling.sizes) == tuple(x.shape):
        return x
    mode = step.require("mode", ("nearest", "linear", "cubic"), "nearest")
    if mode == "nearest":
        return _nearest(step, x, scaling)
    spatial = len(x.shape) - 2
    if scaling.sizes[:2] != list(x.shape[:2]) or spatial not in LINEAR or (mode == "cubic" and spatial != 2):
        raise step.refusal(f"resizes {tuple(x.shape)} to {tuple(scaling.sizes)} with mode={mode}, which torch cannot")
    coordinates = step.require(
        "coordinate_transformation_mode", ("half_pixel", "pytorch_half_pixel", "align_corners"), "half_pixel"
    )
    if coordinates == "pytorch_half_pixel" and 1 in scaling.sizes[2:]:
        raise step.refusal("has coordinate_transformation_mode=pytorch_half_pixel to a size of 1, which torch lacks")
    if mode == "cubic":
        step.require("cubic_coeff_a", (-0.75,), -0.75)
        step.require("exclude_outside", (0,), 0)
    name = "bicubic" if mode == "cubic" else LINEAR[spatial]
    aligned = coordinates == "align_corners"
    if aligned or scaling.exact:
        return step.emit(F.interpolate, x, size=scaling.sizes[2:], mode=name, align_corners=aligned)
    scales = scaling.scales[2:]
    return step.emit(
        F.interpolate, x, scale_factor=scales, mode=name, align_corners=False, recompute_scale_factor=False
    )


def _scaling(step: Step, x: Operand) -> Scaling:
    rank = len(x.shape)
    axes = [axis_of(step, axis, rank) for axis in step.attribute("axes", None) or range(rank)]
    sizes, scales, exact = list(x.shape), [1.0] * rank, True
    if step.has(3) and step.constant(3).numel():
        for axis, size in zip(axes, step.integers(3), strict=True):
            sizes[axis], scales[axis] = size, size / x.shape[axis]
    else:
        for axis, scale in zip(axes, step.constant(2).tolist(), strict=True):
            sizes[axis], scales[axis] = math.floor(x.shape[axis] * scale), scale
            exact = exact and sizes[axis] == x.shape[axis] * scale
    return Scaling(sizes, scales, exact)


def _nearest(step: Step, x: Operand, scaling: Scaling) -> Any:
    """torch's own nearest modes where they pick the same pixels, which is what converters know; else by index."""
    picks = {
        axis: _nearest_indices(step, x.shape[axis], scaling.sizes[axis], scaling.scales[axis])
        for axis in range(len(x.shape))
        if scaling.sizes[axis] != x.shape[axis]
    }
    spatial = len(x.shape) - 2
    if spatial in LINEAR and not picks.keys() & {0, 1}:
        for mode in ("nearest", "nearest-exact"):
            if all(_picks(mode, x.shape[axis], scaling.sizes[axis]) == pick for axis, pick in picks.items()):
                return step.emit(F.interpolate, x, size=scaling.sizes[2:], mode=mode)
    for axis, pick in picks.items():
        x = step.emit(torch.index_select, x, axis, torch.tensor(pick, dtype=torch.int64))
    return x


def _picks(mode: str, before: int, after: int) -> list[int]:
    """Which pixels torch picks along one axis."""
    positions = torch.arange(before, dtype=torch.float32).reshape(1, 1, before)
    return [int(value) for value in F.interpolate(positions, size=after, mode=mode).flatten().tolist()]


def _nearest_indices(step: Step, before: int, after: int, scale: float) -> list[int]:
    """Which pixels ONNX picks along one axis, in float32 and with the order of operations of ONNX Runtime.

    Both decide what happens at ties, which whole and half ratios are full of.
    """
    modes = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    mode = step.require("coordinate_transformation_mode", modes, "half_pixel")
    x: NDArray[np.float32] = np.arange(after, dtype=np.float32)
    factor, half = np.float32(scale), np.float32(0.5)
    if mode == "asymmetric":
        original = x * np.float32(1 / scale)
    elif mode == "align_corners":
        original = x * np.float32(before - 1) / np.float32(max(after - 1, 1))
    elif mode == "pytorch_half_pixel" and after == 1:
        original = x * np.float32(0)
    else:
        original = (x + half) / factor - half
    rounded = {
        "round_prefer_floor": np.ceil(original - half),
        "round_prefer_ceil": np.floor(original + half),
        "floor": np.floor(original),
        "ceil": np.ceil(original),
    }[step.require("nearest_mode", ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"), "round_prefer_floor")]
    return [int(value) for value in np.clip(rounded, 0, before - 1)]


OPERATORS: dict[str, Callable[[Step], Any]] = {
    "AveragePool": average_pool,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "MaxPool": max_pool,
    "Pad": pad,
    "Resize": resize,
}
