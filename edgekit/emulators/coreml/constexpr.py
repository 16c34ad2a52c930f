"""Weights that Core ML stores compressed: the ``constexpr_`` operations, computed once when a package is opened.

The formulas are those of Apple's operation definitions (coremltools converters/mil/mil/ops/defs/iOS16 and iOS18). They
are computed in float32 and rounded to the type the file declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.emulators.coreml.package import NUMPY, Operation, unpack
from edgekit.errors import EngineError

Array = NDArray[Any]
Constants = Mapping[str, Any]


def decompress(operation: Operation, values: Constants) -> Array:
    """The constant that a ``constexpr_`` operation stands for, in the type it declares.

    Raises:
        EngineError: an unknown operation, or shapes that do not fit together.
    """
    known = CONSTEXPR.get(operation.kind)
    if known is None:
        raise EngineError(f"the compressed weight {operation.name!r} is a {operation.kind}, which is not interpreted")
    try:
        found = known(values)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise EngineError(f"the compressed weight {operation.name!r} ({operation.kind}) is damaged: {error}") from error
    dtype = operation.outputs[0].dtype
    return found.astype(NUMPY[dtype], copy=False) if dtype in NUMPY else found


def _affine(values: Constants) -> Array:
    data = np.asarray(values["quantized_data"])
    axis = int(values["axis"])
    scale, zero = (_along(values[key], axis, data.ndim) for key in ("scale", "zero_point"))
    return (data.astype(np.float32) - zero) * scale


def _along(values: Any, axis: int, rank: int) -> Array:
    """A vector laid along one axis; a scalar as it is."""
    vector = np.asarray(values).astype(np.float32)
    if vector.ndim == 0:
        return vector
    shape = [1] * rank
    shape[axis] = vector.size
    return vector.reshape(shape)


def _blockwise(values: Constants) -> Array:
    data = np.asarray(values["data"])
    return _shift_scale(data, values)


def _shift_scale(data: Array, values: Constants) -> Array:
    scale = _spread(np.asarray(values["scale"]).astype(np.float32), data.shape)
    offset = values.get("offset")
    shifted = data.astype(np.float32)
    if offset is not None:
        shifted = shifted - _spread(np.asarray(offset).astype(np.float32), data.shape)
    return shifted * scale


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Each value repeated over its block, so that the leading axes get the sizes of ``shape``."""
    for axis, size in enumerate(shape):
        if values.shape[axis] != size:
            if size % values.shape[axis]:
                raise ValueError(f"{values.shape[axis]} blocks do not divide {size}")
            values = np.repeat(values, size // values.shape[axis], axis)
    return values


def _palette(values: Constants) -> Array:
    lut = np.asarray(values["lut"])
    if "shape" in values:  # iOS 16: one palette, its indices packed
        shape = tuple(int(size) for size in np.asarray(values["shape"]))
        bits = int(lut.size).bit_length() - 1
        indices = unpack(np.asarray(values["indices"]).reshape(-1), bits, int(np.prod(shape)))
        found: Array = lut.reshape(-1)[indices].reshape(shape)
        return found
    return _lookup(np.asarray(values["indices"]), lut, values.get("vector_axis"))


def _lookup(indices: Array, lut: Array, vector_axis: Any) -> Array:
    """Palettes by block, of scalars or of vectors that are laid along ``vector_axis`` (iOS 18).

    ``lut`` is (blocks of each axis..., entries, vector size).
    """
    blocks = []
    for axis, count in enumerate(indices.shape):
        if count % lut.shape[axis]:
            raise ValueError(f"{lut.shape[axis]} blocks do not divide {count}")
        place = np.arange(count) // (count // lut.shape[axis])
        blocks.append(place.reshape([-1 if other == axis else 1 for other in range(indices.ndim)]))
    chosen: Array = lut[(*blocks, indices.astype(np.int64))]
    size = lut.shape[-1]
    if size == 1:
        return chosen[..., 0]
    axis = int(vector_axis) % indices.ndim
    laid = np.moveaxis(chosen, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= size
    return laid.reshape(shape)


def _sparse(values: Constants) -> Array:
    data = np.asarray(values["nonzero_data"]).reshape(-1)
    if "shape" in values:  # iOS 16: the mask packed
        shape = tuple(int(size) for size in np.asarray(values["shape"]))
        mask = unpack(np.asarray(values["mask"]).reshape(-1), 1, int(np.prod(shape))).reshape(shape)
    else:
        mask = np.asarray(values["mask"])
    return _filled(mask, data)


def _filled(mask: Array, data: Array) -> Array:
    dense = np.zeros(mask.shape, data.dtype)
    dense[mask != 0] = data
    return dense


def _cast(values: Constants) -> Array:
    return np.asarray(values["source_val"]).astype(NUMPY[str(values["output_dtype"])])


CONSTEXPR: Mapping[str, Callable[[Constants], Array]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_lut_to_dense": _palette,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_cast": _cast,
}
