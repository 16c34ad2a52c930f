"""MIL operators that move, pick and lay out values, on torch tensors.

Semantics after Apple's definitions in coremltools (converters/mil/mil/ops/defs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.emulators.coreml.call import Kernel, MilCall, operator
from edgekit.emulators.coreml.elementwise import CASTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@operator("reshape", "x")
def _reshape(call: MilCall) -> Kernel:
    """A size of -1 is what remains, one of 0 that of the input at this place."""
    shape = call.integers("shape")
    if 0 not in shape:
        return lambda x: x.reshape(shape)
    return lambda x: x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


@operator("transpose", "x")
def _transpose(call: MilCall) -> Kernel:
    axes = call.integers("perm")
    return lambda x: x.permute(axes)


@operator("squeeze", "x")
def _squeeze(call: MilCall) -> Kernel:
    if not call.given("axes"):
        return lambda x: x.squeeze()
    axes = tuple(call.integers("axes"))
    return lambda x: x.squeeze(axes)


@operator("expand_dims", "x")
def _expand_dims(call: MilCall) -> Kernel:
    """The axes count in the result."""
    axes = call.integers("axes")

    def run(x: Tensor) -> Tensor:
        for axis in sorted(one % (x.dim() + len(axes)) for one in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("flatten2d", "x")
def _flatten2d(call: MilCall) -> Kernel:
    axis = call.integer("axis", 1)
    return lambda x: x.reshape(x.shape[:axis].numel(), -1)


@operator("concat", "values")
def _concat(call: MilCall) -> Kernel:
    import torch

    axis = call.integer("axis")
    if not call.flag("interleave"):
        return lambda values: torch.cat(values, axis)
    return lambda values: torch.stack(values, axis % values[0].dim() + 1).flatten(
        axis % values[0].dim(), axis % values[0].dim() + 1
    )


@operator("stack", "values")
def _stack(call: MilCall) -> Kernel:
    import torch

    axis = call.integer("axis")
    return lambda values: torch.stack(values, axis)


@operator("split", "x")
def _split(call: MilCall) -> Kernel:
    axis = call.integer("axis")
    if call.given("split_sizes"):
        sizes = call.integers("split_sizes")
        return lambda x: x.split(sizes, axis)
    count = call.integer("num_splits")
    return lambda x: x.split(x.shape[axis] // count, axis)


@operator("tile", "x")
def _tile(call: MilCall) -> Kernel:
    repeats = call.integers("reps")
    return lambda x: x.tile(repeats)


@operator("reverse", "x")
def _reverse(call: MilCall) -> Kernel:
    axes = call.integers("axes") if call.given("axes") else None
    return lambda x: x.flip(list(range(x.dim())) if axes is None else axes)


@operator("slice_by_index", "x")
def _slice_by_index(call: MilCall) -> Kernel:
    """As numpy slices with begin, end and stride; a squeezed axis takes just ``begin``."""
    begin, end = call.integers("begin"), call.integers("end")
    squeezed = [axis for axis, drop in enumerate(call.flags("squeeze_mask", len(begin))) if drop]
    cuts = _cuts(call, begin, end)

    def run(x: Tensor) -> Tensor:
        found = _cut(x, cuts)
        return found.squeeze(squeezed) if squeezed else found

    return run


@operator("slice_update", "x", "update")
def _slice_update(call: MilCall) -> Kernel:
    """A copy of x with a slice of it replaced."""
    begin, end = call.integers("begin"), call.integers("end")
    cuts = _cuts(call, begin, end)
    if any(cut.step < 0 for cut in cuts):
        raise call.refuse("has a negative stride")
    squeezed = call.flags("squeeze_mask", len(begin))
    places = tuple(cut.start or 0 if drop else cut for cut, drop in zip(cuts, squeezed, strict=True))

    def run(x: Tensor, update: Tensor) -> Tensor:
        found = x.clone()
        found[places] = update
        return found

    return run


def _cuts(call: MilCall, begin: list[int], end: list[int]) -> list[slice]:
    count = len(begin)
    strides = call.integers_or("stride", [1] * count)
    free_begin, free_end = call.flags("begin_mask", count), call.flags("end_mask", count)
    squeeze = call.flags("squeeze_mask", count)
    cuts = []
    for axis in range(count):
        first = None if free_begin[axis] else begin[axis]
        if squeeze[axis]:
            first = first or 0
            cuts.append(slice(first, first + 1 if first != -1 else None, 1))
        else:
            cuts.append(slice(first, None if free_end[axis] else end[axis], strides[axis]))
    return cuts


def _cut(x: Tensor, cuts: Sequence[slice]) -> Tensor:
    """numpy slicing; torch has no negative strides."""
    import torch

    found = x[tuple(slice(None) if cut.step < 0 else cut for cut in cuts)]
    for axis, cut in enumerate(cuts):
        if cut.step < 0:
            found = found.index_select(axis, torch.tensor(range(*cut.indices(x.shape[axis])), dtype=torch.int64))
    return found


@operator("slice_by_size", "x")
def _slice_by_size(call: MilCall) -> Kernel:
    """A size of -1 takes everything from ``begin`` on."""
    begin, size = call.integers("begin"), call.integers("size")
    cuts = tuple(slice(first, None if count == -1 else first + count) for first, count in zip(begin, size, strict=True))
    return lambda x: x[cuts]


def _places(indices: Tensor, size: int) -> Tensor:
    """Indices as torch takes them; negative ones count from the end (up to iOS 16; from iOS 17 on there are none)."""
    found = indices.long()
    return found.where(found >= 0, found + size)


@operator("gather", "x", "indices")
def _gather(call: MilCall) -> Kernel:
    """Shape of the result: x[:axis], indices[batch:], x[axis + 1:]."""
    import torch

    axis, batch = call.integer("axis", 0), call.integer("batch_dims", 0)

    def pick(x: Tensor, indices: Tensor, along: int) -> Tensor:
        chosen = x.index_select(along, _places(indices.reshape(-1), x.shape[along]))
        return chosen.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])

    def run(x: Tensor, indices: Tensor) -> Tensor:
        along = axis % x.dim()
        if not batch:
            return pick(x, indices, along)
        lead = x.shape[:batch]
        pairs = zip(x.flatten(0, batch - 1), indices.flatten(0, batch - 1), strict=True)
        found = torch.stack([pick(one, places, along - batch) for one, places in pairs])
        return found.reshape(*lead, *found.shape[1:])

    return run


@operator("gather_along_axis", "x", "indices")
def _gather_along_axis(call: MilCall) -> Kernel:
    axis = call.integer("axis", 0)
    return lambda x, indices: x.gather(axis, _places(indices, x.shape[axis]))


@operator("gather_nd", "x", "indices")
def _gather_nd(call: MilCall) -> Kernel:
    if call.integer("batch_dims", 0):
        raise call.refuse("has batch_dims")
    return lambda x, indices: x[tuple(_places(one, x.shape[axis]) for axis, one in enumerate(indices.unbind(-1)))]


@operator("pad", "x")
def _pad(call: MilCall) -> Kernel:
    """(before, after) of the last axes."""
    from torch.nn import functional

    pads, mode = call.integers("pad"), call.text("mode", "constant")
    order = [value for axis in reversed(range(len(pads) // 2)) for value in pads[2 * axis : 2 * axis + 2]]
    if mode == "constant":
        value = call.number("constant_val", 0.0)
        return lambda x: functional.pad(x, order, value=value)
    if mode not in ("reflect", "replicate"):
        raise call.refuse(f"unknown mode {mode!r}")
    while order[-2:] == [0, 0] and len(order) > 2:  # torch does not reflect axes that it need not
        order = order[:-2]

    def run(x: Tensor) -> Tensor:
        lead = x.dim() - len(order) // 2  # torch wants just one or two axes before those that it pads
        flat = x.reshape(1, x.shape[:lead].numel(), *x.shape[lead:])
        found = functional.pad(flat, order, mode=mode)
        return found.reshape(*x.shape[:lead], *found.shape[2:])

    return run


@operator("crop", "x")
def _crop(call: MilCall) -> Kernel:
    """How many rows and columns go, (first, last) of each."""
    (top, bottom), (left, right) = call.integers("crop_height"), call.integers("crop_width")
    return lambda x: x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator("scatter_nd", "data", "indices", "updates")
def _scatter_nd(call: MilCall) -> Kernel:
    mode = call.text("mode", "add")
    if mode not in ("add", "update"):
        raise call.refuse(f"mode {mode!r} is not interpreted")

    def run(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = tuple(_places(one, data.shape[axis]) for axis, one in enumerate(indices.unbind(-1)))
        return data.index_put(places, updates, accumulate=mode == "add")

    return run


def _held(call: MilCall) -> torch.dtype:
    """The torch type in which the operation's first output is held."""
    import torch

    dtype: torch.dtype = getattr(torch, CASTS[call.outputs[0].dtype])
    return dtype


@operator("fill")
def _fill(call: MilCall) -> Kernel:
    import torch

    shape, value, dtype = call.integers("shape"), call.number("value", 0.0), _held(call)
    return lambda: torch.full(shape, value, dtype=dtype)


@operator("fill_like", "ref_tensor")
def _fill_like(call: MilCall) -> Kernel:
    import torch

    value, dtype = call.number("value", 0.0), _held(call)
    return lambda reference: torch.full(reference.shape, value, dtype=dtype)


@operator("range_1d")
def _range(call: MilCall) -> Kernel:
    import torch

    start, end, step, dtype = call.number("start"), call.number("end"), call.number("step"), _held(call)
    return lambda: torch.arange(start, end, step, dtype=torch.float64).to(dtype)


@operator("shape", "x")
def _shape(call: MilCall) -> Kernel:
    import torch

    return lambda x: torch.tensor(x.shape, dtype=torch.int32)


@operator("topk", "x")
def _topk(call: MilCall) -> Kernel:
    count, axis, smallest = call.integer("k", 1), call.integer("axis", -1), call.flag("ascending")
    both = len(call.outputs) == 2

    def run(x: Tensor) -> tuple[Tensor, ...]:
        found = x.topk(x.shape[axis] if count == -1 else count, axis, not smallest, True)
        return (found.values, found.indices) if both else (found.values,)

    return run


@operator("argsort", "x")
def _argsort(call: MilCall) -> Kernel:
    axis, ascending = call.integer("axis", -1), call.flag("ascending")
    return lambda x: x.argsort(dim=axis, descending=not ascending, stable=True)


@operator("one_hot", "indices")
def _one_hot(call: MilCall) -> Kernel:
    import torch
    from torch.nn import functional

    count, axis, dtype = call.integer("one_hot_vector_size"), call.integer("axis", -1), _held(call)
    on, off = (torch.tensor(call.number(key, value), dtype=dtype) for key, value in (("on_value", 1), ("off_value", 0)))
    return lambda indices: torch.where(functional.one_hot(indices.long(), count).bool().movedim(-1, axis), on, off)


@operator("band_part", "x")
def _band_part(call: MilCall) -> Kernel:
    """Values up to ``lower`` below and ``upper`` above the diagonal of the last two axes; -1 keeps all."""
    lower, upper = call.integer("lower", -1), call.integer("upper", -1)

    def run(x: Tensor) -> Tensor:
        found = x if lower < 0 else x.triu(-lower)
        return found if upper < 0 else found.tril(upper)

    return run


@operator("pixel_shuffle", "x")
def _pixel_shuffle(call: MilCall) -> Kernel:
    from torch.nn import functional

    factor = call.integer("upscale_factor")
    return lambda x: functional.pixel_shuffle(x, factor)


@operator("pixel_unshuffle", "x")
def _pixel_unshuffle(call: MilCall) -> Kernel:
    from torch.nn import functional

    factor = call.integer("downscale_factor")
    return lambda x: functional.pixel_unshuffle(x, factor)


@operator("depth_to_space space_to_depth", "x")
def _depth(call: MilCall) -> Kernel:
    """As TensorFlow's: the place within a block is the slowest part of the channel."""
    size = call.integer("block_size")

    def to_space(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, size, size, c // size**2, h, w)
        return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // size**2, h * size, w * size)

    def to_depth(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // size, size, w // size, size)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * size**2, h // size, w // size)

    return to_space if call.kind == "depth_to_space" else to_depth
