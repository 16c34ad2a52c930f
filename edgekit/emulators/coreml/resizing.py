"""MIL operators that resize and resample images, on torch tensors.

Grid points as Apple defines them for each sampling mode (coremltools converters/mil/mil/ops/defs/iOS15/
image_resizing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.emulators.coreml.call import Kernel, MilCall, operator

if TYPE_CHECKING:
    from torch import Tensor

Grid = Callable[[int, int], NDArray[np.floating[Any]]]
"""Source positions of each output position, from the sizes of source and output."""


def _aligned(source: int, target: int) -> NDArray[np.floating[Any]]:
    return np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)


def _aligned_or_centred(source: int, target: int) -> NDArray[np.floating[Any]]:
    return _aligned(source, target) if target > 1 else np.full(1, (source - 1) / 2)


def _from_the_corner(source: int, target: int) -> NDArray[np.floating[Any]]:
    return np.arange(target) * (source / target)


def _offset(source: int, target: int) -> NDArray[np.floating[Any]]:
    return (np.arange(target) + 0.5) * (max(1, source - 1) / target)


def _half_pixel(source: int, target: int) -> NDArray[np.floating[Any]]:
    return (np.arange(target) + 0.5) * (source / target) - 0.5


GRIDS: dict[str, Grid] = {
    "STRICT_ALIGN_CORNERS": _aligned,
    "ALIGN_CORNERS": _aligned_or_centred,
    "DEFAULT": _from_the_corner,
    "OFFSET_CORNERS": _offset,
    "UNALIGN_CORNERS": _half_pixel,
}


def _linear(x: Tensor, axis: int, size: int, grid: Grid) -> Tensor:
    """Linear interpolation along one axis."""
    import torch

    source = x.shape[axis]
    points = np.clip(grid(source, size), 0, source - 1)
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    share = torch.from_numpy((points - low).astype(np.float32))
    share = share.reshape([-1 if one == axis % x.dim() else 1 for one in range(x.dim())])
    first, second = (x.index_select(axis, torch.from_numpy(places)) for places in (low, high))
    return first * (1 - share) + second * share


def _nearest(x: Tensor, axis: int, size: int) -> Tensor:
    """The value at floor(position * source / target)."""
    import torch

    source = x.shape[axis]
    return x.index_select(axis, torch.arange(size) * source // size)


def _bilinear(x: Tensor, height: int, width: int, grid: Grid) -> Tensor:
    return _linear(_linear(x, -2, height, grid), -1, width, grid)


@operator("upsample_nearest_neighbor", "x")
def _upsample_nearest(call: MilCall) -> Kernel:
    from torch.nn import functional

    tall, wide = call.number("scale_factor_height", 1.0), call.number("scale_factor_width", 1.0)
    whole = tall.is_integer() and wide.is_integer()

    def run(x: Tensor) -> Tensor:
        if whole and x.dim() == 4:
            return functional.interpolate(x, scale_factor=(tall, wide), mode="nearest")
        return _nearest(_nearest(x, -2, int(x.shape[-2] * tall)), -1, int(x.shape[-1] * wide))

    return run


@operator("upsample_bilinear", "x")
def _upsample_bilinear(call: MilCall) -> Kernel:
    tall, wide = call.number("scale_factor_height", 1.0), call.number("scale_factor_width", 1.0)
    aligned = call.flag("align_corners", True)
    half = call.flag("half_pixel_centers", not aligned)
    grid = _aligned if aligned else _half_pixel if half else _from_the_corner
    return lambda x: _bilinear(x, int(x.shape[-2] * tall), int(x.shape[-1] * wide), grid)


@operator("resize_nearest_neighbor", "x")
def _resize_nearest(call: MilCall) -> Kernel:
    height, width = call.integer("target_size_height"), call.integer("target_size_width")
    return lambda x: _nearest(_nearest(x, -2, height), -1, width)


@operator("resize_bilinear", "x")
def _resize_bilinear(call: MilCall) -> Kernel:
    height, width = call.integer("target_size_height", 1), call.integer("target_size_width", 1)
    grid = _grid(call)
    return lambda x: _bilinear(x, height, width, grid)


@operator("resize", "x")
def _resize(call: MilCall) -> Kernel:
    """The last ``resized_dims`` axes get the last sizes of ``shape``; a size of 0 leaves an axis as it is."""
    count, mode = call.integer("resized_dims"), call.text("interpolation_mode", "LINEAR")
    sizes = call.integers("shape")[-count:]
    grid = _grid(call)
    if mode == "NEAREST_NEIGHBOR" and call.text("sampling_mode", "DEFAULT") != "DEFAULT":
        raise call.refuse("nearest neighbours are only interpreted with the DEFAULT sampling")

    def run(x: Tensor) -> Tensor:
        for axis, size in enumerate(sizes, -count):
            wanted = size or x.shape[axis]
            x = _nearest(x, axis, wanted) if mode == "NEAREST_NEIGHBOR" else _linear(x, axis, wanted, grid)
        return x

    return run


def _grid(call: MilCall) -> Grid:
    mode = call.text("sampling_mode", "DEFAULT")
    if mode not in GRIDS:
        raise call.refuse(f"unknown sampling_mode {mode!r}")
    return GRIDS[mode]


@operator("resample", "x", "coordinates")
def _resample(call: MilCall) -> Kernel:
    """Values of (N, C, H, W) at coordinates (N, h, w, 2), x before y, in -1..1."""
    from torch.nn import functional

    if call.text("coordinates_mode") != "normalized_minus_one_to_one" or call.number("padding_value") != 0:
        raise call.refuse("is only interpreted with coordinates in -1..1 and zeros outside")
    paddings = {"constant": "zeros", "border": "border", "reflection": "reflection"}
    outside = call.text("padding_mode")
    if outside not in paddings:
        raise call.refuse(f"unknown padding_mode {outside!r}")
    mode, padding, aligned = call.text("sampling_mode"), paddings[outside], call.flag("align_corners")
    return lambda x, coordinates: functional.grid_sample(x, coordinates, mode, padding, aligned)
