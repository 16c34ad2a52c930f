"""The shapes of a ``.tflite`` graph for another batch and input size, and the constants that depend on them.

Each operator's rule is that of LiteRT's kernel. The file with all its signatures is opened afterwards, and LiteRT has
to come to the same shapes (`edgekit.converters.litert.signatures`).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ConversionError

Shape = tuple[int, ...]

_OTHERWISE = "give one --batch and one --size, and a bundle for each"


@dataclass(frozen=True)
class Operator:
    """An operator as its rule sees it: shapes of what it reads and writes in the file, and at the wanted input.

    Attributes:
        kind: TFLite name.
        options: TFLite's, None where it has none.
        old, new: shapes of its inputs; of one that is left out ().
        out: shapes of its outputs in the file.
        constants: values of the inputs that are constant.
        label: its name, for messages.
        batch: how many times as many images, 0 where that does not change.
        scales: of height and width of the input.
    """

    kind: str
    options: Any
    old: tuple[Shape, ...]
    new: tuple[Shape, ...]
    out: tuple[Shape, ...]
    constants: Mapping[int, NDArray[Any]]
    label: str
    batch: int
    scales: tuple[Fraction, Fraction]

    def values(self, place: int) -> list[int]:
        """A constant input of integers.

        Raises:
            ConversionError: it is computed.
        """
        if place not in self.constants:
            raise self.refused("computes its own shape")
        return [int(one) for one in self.constants[place].reshape(-1)]

    def refused(self, why: str) -> ConversionError:
        """The error about it."""
        return ConversionError(
            f"this network does not take several batches or sizes in LiteRT: {self.kind} {self.label!r} {why}; "
            f"{_OTHERWISE}"
        )


@dataclass
class Written:
    """The result of a rule: the shapes of the outputs, inputs that become other constants, other options."""

    shapes: Sequence[Shape]
    constants: dict[int, Sequence[int]] = field(default_factory=dict)
    options: Any = None


@dataclass(frozen=True)
class Reshaped:
    """A graph at another input: shapes by tensor, and by operator the parts to write again."""

    shapes: dict[int, Shape]
    constants: dict[int, dict[int, NDArray[np.int32]]] = field(default_factory=dict)
    options: dict[int, Any] = field(default_factory=dict)


def reshape(model: Any, graph: Any, shape: Shape) -> Reshaped:
    """The shapes of all tensors of a graph for another input.

    Args:
        model: ``ModelT`` of TFLite's schema.
        graph: its subgraph of one input, with all shapes known.
        shape: of that input, NCHW.

    Raises:
        ConversionError: an operator holds the batch or the size in a way that is not known here; names it.
    """
    found = Reshaped({place: tuple(map(int, tensor.shape)) for place, tensor in enumerate(graph.tensors)})
    (entry,) = map(int, graph.inputs)
    # One after the other: what changes in a dimension is then either the batch or the size.
    for wanted in ((shape[0], *found.shapes[entry][1:]), shape):
        if wanted != found.shapes[entry]:
            found = _changed(model, graph, found, entry, wanted)
    return found


def _changed(model: Any, graph: Any, before: Reshaped, entry: int, shape: Shape) -> Reshaped:
    """Another batch, or another size."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    old, scale = before.shapes, tuple(Fraction(one, two) for one, two in zip(shape, before.shapes[entry], strict=True))
    found = Reshaped(
        {**old, entry: shape}, {place: dict(one) for place, one in before.constants.items()}, dict(before.options)
    )
    for place, op in enumerate(graph.operators):
        read = [int(one) for one in op.inputs]
        if all(one < 0 or found.shapes[one] == old[one] for one in read):
            continue
        code = model.operatorCodes[op.opcodeIndex]
        seen = Operator(
            kinds[max(code.builtinCode, code.deprecatedBuiltinCode)],
            before.options.get(place, op.builtinOptions),
            tuple(old[one] if one >= 0 else () for one in read),
            tuple(found.shapes[one] if one >= 0 else () for one in read),
            tuple(old[int(one)] for one in op.outputs),
            {**_constants(model, graph, read), **before.constants.get(place, {})},
            _label(graph, op),
            int(scale[0]) if scale[0] != 1 else 0,
            (scale[2], scale[3]),
        )
        written = _RULES.get(seen.kind, _elementwise)(seen)
        for one, after in zip(op.outputs, written.shapes, strict=True):
            found.shapes[int(one)] = after
        if written.constants:
            new = {number: np.array(one, np.int32) for number, one in written.constants.items()}
            found.constants.setdefault(place, {}).update(new)
        if written.options is not None:
            found.options[place] = written.options
    return found


def _constants(model: Any, graph: Any, read: Sequence[int]) -> dict[int, NDArray[Any]]:
    """The inputs of an operator that are constant integers."""
    from ai_edge_litert import schema_py_generated as schema

    types = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
    found: dict[int, NDArray[Any]] = {}
    for number, one in enumerate(read):
        data = model.buffers[graph.tensors[one].buffer].data if one >= 0 else None
        if data is not None and len(data) and graph.tensors[one].type in types:
            found[number] = np.frombuffer(bytes(data), types[graph.tensors[one].type])
    return found


def _label(graph: Any, op: Any) -> str:
    name = graph.tensors[int(op.outputs[0])].name
    return (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).split(";")[0]


def _elementwise(op: Operator) -> Written:
    """Every operator that gives one number for one: known by what its shapes are in the file."""
    full = [place for place, one in enumerate(op.old) if one]
    try:
        before = np.broadcast_shapes(*(op.old[place] for place in full))
        after = np.broadcast_shapes(*(op.new[place] for place in full))
    except ValueError:
        raise op.refused("has a constant of the size that it was made for") from None
    if any(one != before for one in op.out):
        raise op.refused("is not known to take another shape")
    return Written([after] * len(op.out))


def _slid(length: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    """Places of a window along an axis; ``padding`` is TFLite's: 0 same, 1 valid."""
    reach = 1 if padding == 0 else (kernel - 1) * dilation + 1
    return -(-(length - reach + 1) // stride)


def _convolution(op: Operator) -> Written:
    options, (_, rows, columns, _) = op.options, op.old[1]
    batch, height, width, _ = op.new[0]
    height = _slid(height, rows, options.strideH, options.dilationHFactor, options.padding)
    width = _slid(width, columns, options.strideW, options.dilationWFactor, options.padding)
    return Written([(batch, height, width, op.out[0][3])])


def _pool(op: Operator) -> Written:
    options, (batch, height, width, channels) = op.options, op.new[0]
    changed = None
    if (options.filterHeight, options.filterWidth) == op.old[0][1:3] and op.out[0][1:3] == (1, 1):
        changed = copy.copy(options)  # of the whole map
        changed.filterHeight, changed.filterWidth = height, width
        options = changed
    height = _slid(height, options.filterHeight, options.strideH, 1, options.padding)
    width = _slid(width, options.filterWidth, options.strideW, 1, options.padding)
    return Written([(batch, height, width, channels)], options=changed)


def _transposed_convolution(op: Operator) -> Written:
    """Strides away from the shape in the file; the kernel's share stays."""
    (_, *old, _), (batch, *new, _), (_, *out, channels) = op.old[2], op.new[2], op.out[0]
    strides = (op.options.strideH, op.options.strideW)
    size = [one + stride * (after - before) for one, stride, before, after in zip(out, strides, old, new, strict=True)]
    shape = (batch, *size, channels)
    return Written([shape], {0: shape})


def _resize(op: Operator) -> Written:
    (_, *old, _), (batch, *new, channels), (_, *out, _) = op.old[0], op.new[0], op.out[0]
    if any(one * after % before for one, before, after in zip(out, old, new, strict=True)):
        raise op.refused(f"enlarges {old} to {out}, which is no whole number for {new}")
    size = [one * after // before for one, before, after in zip(out, old, new, strict=True)]
    return Written([(batch, *size, channels)], {1: size})


def _concatenation(op: Operator) -> Written:
    axis = op.options.axis % len(op.new[0])
    for place in range(len(op.new[0])):
        if place != axis and len({one[place] for one in op.new}) > 1:
            raise op.refused(f"would join {' and '.join(map(str, op.new))}, which do not fit")
    first = list(op.new[0])
    first[axis] = sum(one[axis] for one in op.new)
    return Written([tuple(first)])


def _split(op: Operator) -> Written:
    (axis,), shape = op.values(0), list(op.new[1])
    if shape[axis] % len(op.out):
        raise op.refused(f"cannot cut {shape[axis]} into {len(op.out)}")
    shape[axis] //= len(op.out)
    return Written([tuple(shape)] * len(op.out))


def _split_sizes(op: Operator) -> Written:
    sizes, (axis,) = op.values(1), op.values(2)
    if op.new[0][axis] != op.old[0][axis]:
        raise op.refused("cuts the input's rows or columns at fixed places")
    return Written([tuple(one if n == axis % len(op.new[0]) else m for n, m in enumerate(op.new[0])) for one in sizes])


def _transpose(op: Operator) -> Written:
    return Written([tuple(op.new[0][place] for place in op.values(1))])


def _pad(op: Operator) -> Written:
    margins = op.values(1)
    return Written([tuple(one + sum(margins[2 * n : 2 * n + 2]) for n, one in enumerate(op.new[0]))])


def _reduction(op: Operator) -> Written:
    rank = len(op.new[0])
    axes = {one % rank for one in op.values(1)}
    kept = op.options.keepDims
    return Written([tuple(1 if n in axes else one for n, one in enumerate(op.new[0]) if kept or n not in axes)])


def _index_of_extreme(op: Operator) -> Written:
    (axis,) = op.values(1)
    return Written([tuple(one for n, one in enumerate(op.new[0]) if n != axis % len(op.new[0]))])


def _slice(op: Operator) -> Written:
    begin, size = op.values(1), op.values(2)
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        if length == -1 or start + length == op.old[0][axis]:
            size[axis] = op.new[0][axis] - start
    return Written([tuple(size)], {2: size})


def _strided_slice(op: Operator) -> Written:
    options, rank = op.options, len(op.new[0])
    begin, end, strides = (op.values(place) for place in (1, 2, 3))
    if options.ellipsisMask or options.newAxisMask or len(begin) != rank:
        raise op.refused("is not known to take another shape")
    shape = []
    for axis in range(rank):
        length = op.new[0][axis]
        if strides[axis] > 0 and end[axis] >= op.old[0][axis]:
            end[axis] = length
        start = None if options.beginMask >> axis & 1 else begin[axis]
        stop = None if options.endMask >> axis & 1 else end[axis]
        if not options.shrinkAxisMask >> axis & 1:
            shape.append(len(range(length)[slice(start, stop, strides[axis])]))
    return Written([tuple(shape)], {2: end})


def _broadcast(op: Operator) -> Written:
    shape = list(op.out[0])
    for back in range(1, len(op.new[0]) + 1):
        if op.old[0][-back] == shape[-back]:
            shape[-back] = op.new[0][-back]
    return Written([tuple(shape)], {1: shape})


def _fully_connected(op: Operator) -> Written:
    out, taken = op.old[1]
    rows = math.prod(op.new[0]) // taken
    return Written([(*op.new[0][:-1], out) if op.options.keepNumDims else (rows, out)])


def _products(op: Operator) -> Written:
    left, right = op.new[0], op.new[1]
    rows = left[-1] if op.options.adjX else left[-2]
    columns = right[-2] if op.options.adjY else right[-1]
    return Written([(*np.broadcast_shapes(left[:-2], right[:-2]), rows, columns)])


def _gather(op: Operator) -> Written:
    axis = op.options.axis % len(op.new[0])
    if op.new[0][axis] != op.old[0][axis] or op.options.batchDims:
        raise op.refused("picks fixed places of the input's rows or columns")
    return Written([(*op.new[0][:axis], *op.new[1], *op.new[0][axis + 1 :])])


def _pack(op: Operator) -> Written:
    shape = list(op.new[0])
    shape.insert(op.options.axis % (len(shape) + 1), len(op.new))
    return Written([tuple(shape)])


def _unpack(op: Operator) -> Written:
    axis = op.options.axis % len(op.new[0])
    if op.new[0][axis] != op.old[0][axis]:
        raise op.refused("takes the input's rows or columns apart")
    return Written([(*op.new[0][:axis], *op.new[0][axis + 1 :])] * len(op.out))


def _expand(op: Operator) -> Written:
    (axis,), shape = op.values(1), list(op.new[0])
    shape.insert(axis % (len(shape) + 1), 1)
    return Written([tuple(shape)])


def _squeeze(op: Operator) -> Written:
    given = op.options.squeezeDims
    rank = len(op.new[0])
    places = {int(one) % rank for one in (given if given is not None else ())} or {
        place for place, one in enumerate(op.old[0]) if one == 1
    }
    if any(op.new[0][place] != 1 for place in places):
        raise op.refused("drops the dimension of the batch")
    return Written([tuple(one for place, one in enumerate(op.new[0]) if place not in places)])


def _depth_to_space(op: Operator) -> Written:
    batch, height, width, channels = op.new[0]
    block = op.options.blockSize
    return Written([(batch, height * block, width * block, channels // block**2)])


def _space_to_depth(op: Operator) -> Written:
    batch, height, width, channels = op.new[0]
    block = op.options.blockSize
    if height % block or width % block:
        raise op.refused(f"takes multiples of {block}, not {height}x{width}")
    return Written([(batch, height // block, width // block, channels * block**2)])


def _tile(op: Operator) -> Written:
    return Written([tuple(one * times for one, times in zip(op.new[0], op.values(1), strict=True))])


def _best(op: Operator) -> Written:
    return Written([(*op.new[0][:-1], op.out[0][-1])] * len(op.out))


def _reshape(op: Operator) -> Written:
    """Each run of dimensions that becomes one of as many numbers changes with it; a run of several has to say which of
    them holds what changed."""
    shape: list[int] = []
    for before, after, now in _runs(op.old[0], op.out[0], op.new[0]):
        numbers = math.prod(now)
        if math.prod(before) == numbers:
            shape += after
        elif len(after) == 1:
            shape.append(numbers)
        else:
            shape += _shared_out(op, after, numbers)
    options = copy.copy(op.options)
    if options is not None:
        options.newShape = shape
    return Written([tuple(shape)], {1: shape} if len(op.old) > 1 else {}, options)


def _runs(old: Shape, out: Shape, new: Shape) -> list[tuple[Shape, Shape, Shape]]:
    """The shortest runs of two shapes that hold as many numbers each, and the lengths of the first in a third shape.

    Ones beside one another are one run, so that what was one and is another stays apart from what follows.
    """
    found = []
    left = right = 0
    while left < len(old) or right < len(out):
        begin, start = left, right
        ones = _ones(old, left), _ones(out, right)
        step = ones if all(ones) else (1, 1)
        left, right = min(left + step[0], len(old)), min(right + step[1], len(out))
        while (have := math.prod(old[begin:left])) != (want := math.prod(out[start:right])):
            if have < want:
                left += 1
            else:
                right += 1
        found.append((old[begin:left], out[start:right], new[begin:left]))
    return found


def _ones(shape: Shape, start: int) -> int:
    """How many dimensions of 1 there are from a place on."""
    return len(list(itertools.takewhile(lambda length: length == 1, shape[start:])))


def _shared_out(op: Operator, after: Shape, numbers: int) -> list[int]:
    """The dimensions that a changed run becomes: the batch is outermost, the size in the one that can hold it.

    Raises:
        ConversionError: several could hold what changed.
    """
    if op.batch:
        return [after[0] * op.batch, *after[1:]]
    places = [place for place, one in enumerate(after) if one > 1]
    scales = op.scales if len(places) == 2 else (Fraction(numbers, math.prod(after)),)
    found = [Fraction(one) for one in after]
    for place, scale in zip(places, scales, strict=False):
        found[place] *= scale
    whole = [int(one) for one in found]
    if len(places) > 2 or whole != found or math.prod(whole) != numbers:
        raise op.refused(f"has the input's size in several of {list(after)}")
    return whole


_RULES: dict[str, Callable[[Operator], Written]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"), _pool),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"), _reduction),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), _index_of_extreme),
    "RESHAPE": _reshape,
    "TRANSPOSE_CONV": _transposed_convolution,
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    "SPLIT_V": _split_sizes,
    "TRANSPOSE": _transpose,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "BROADCAST_TO": _broadcast,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _products,
    "GATHER": _gather,
    "PACK": _pack,
    "UNPACK": _unpack,
    "EXPAND_DIMS": _expand,
    "SQUEEZE": _squeeze,
    "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_DEPTH": _space_to_depth,
    "TILE": _tile,
    "TOPK_V2": _best,
}
