"""The layers of a BLIP-2 as operations of an ML Program, for one row, with all sizes known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.converters.coreml.mil import MilFunction, MilPackage, Parameter
from edgekit.errors import SourceError, choices
from edgekit.graph.blip2.cache import HostCache, past
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Blocks, Float16, Form, Static, form_of
from edgekit.graph.blip2.hosted_layers import CommonLayers
from edgekit.graph.blip2.layers import Cache, Heads, Layers
from edgekit.runtimes.bundle.manifest import Tensor
from edgekit.runtimes.language.host_cache import HIDDEN

LEAST = {"fp16": 2.0**-24, "fp32": 0.0}
"""The smallest number of a type: an epsilon below it would be 0."""

ROWS = 1024
"""Outputs of a layer that are brought into integers at a time."""

_END = 2**31 - 1


@dataclass
class MilLayers(CommonLayers):
    """`edgekit.graph.blip2.layers.Layers` of a function of a Core ML package.

    Attributes:
        form: that of the linear layers' weights. What the function computes in is its own affair.
        open_sizes: what the open axes of an input are, by the name up to its first dot.
        states: whether a decoder's cache is one of states; else it lies in buffers of the host.
        inputs, outputs: what is declared.
    """

    package: MilPackage
    function: MilFunction
    checkpoint: Checkpoint
    form: Form
    open_sizes: Mapping[str, Sequence[int]]
    states: bool
    inputs: list[Tensor]
    outputs: list[Tensor]

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declare an input. Integers have 32 bits in Core ML."""
        sizes = iter(self.open_sizes.get(name.partition(".")[0], ()))
        known = tuple(next(sizes) if size < 0 else size for size in shape)
        floats = dtype == "float32"
        self.inputs.append(Tensor(name=name, shape=known, dtype=dtype if floats else "int32"))
        return self.function.input(name, known, "fp32" if floats else "int32")

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        self.outputs.append(Tensor(name=name, shape=self.function.output(name, value)))

    def cache(self, heads: Heads) -> Cache:
        """In states, or in buffers of the host."""
        return StateCache(self, heads) if self.states else HostCache(self, heads)

    def kept(self, name: str, values: Floats) -> str:
        """Values that are no linear layer's weight, in the type that the function computes in, or in half of it."""
        function = self.function
        stored = "fp16" if isinstance(self.form, Float16) else function.dtype
        if name not in self.package:
            self.package.store(name, values, stored)
        return function.constant(name) if stored == function.dtype else function.widened(name)

    def constant(self, name: str) -> str:
        """The same, of the checkpoint."""
        return self.kept(name, self.checkpoint[name])

    def linear(self, x: str, prefix: str, form: Form | None = None) -> str:
        """One operation, with the bias in it."""
        tensors = {"x": x, "weight": self._weight(f"{prefix}.weight", form or self.form)}
        if f"{prefix}.bias" in self.checkpoint:
            tensors["bias"] = self.constant(f"{prefix}.bias")
        outputs, _ = self.checkpoint.shape(f"{prefix}.weight")
        return self.function.node("linear", tensors, (*self.function.shape(x)[:-1], outputs))

    def _weight(self, name: str, form: Form) -> str:
        """A weight (outputs, inputs): floats, or integers and scales."""
        form = form_of(form, name)
        if not isinstance(form, (Blocks, Static)):
            return self.kept(name, self.checkpoint[name])
        bits, block = (form.bits, form.size) if isinstance(form, Blocks) and form.bits < 8 else (8, 0)
        scales = f"{name}.scales"
        if name not in self.package:
            integers, values = symmetric(self.checkpoint[name], bits, block)
            self.package.store(name, integers, f"int{bits}")
            self.package.store(scales, values, self.function.dtype)
        return self.function.scaled(name, scales)

    def normalisation(self, x: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; without weights where the checkpoint has none (some OPT)."""
        tensors = {"x": x}
        if f"{prefix}.weight" in self.checkpoint:
            tensors |= {"gamma": self.constant(f"{prefix}.weight"), "beta": self.constant(f"{prefix}.bias")}
        parameters: dict[str, Parameter] = {"axes": [-1], "epsilon": self._epsilon(epsilon)}
        return self.function.node("layer_norm", tensors, self.function.shape(x), parameters)

    def root_mean_square(self, x: str, name: str, epsilon: float) -> str:
        """Division by the root of the mean square over the last axis."""
        function, shape = self.function, self.function.shape(x)
        square = function.node("mul", {"x": x, "y": x}, shape)
        mean = function.node("reduce_mean", {"x": square}, (*shape[:-1], 1), {"axes": [-1], "keep_dims": True})
        inverse = function.node("rsqrt", {"x": mean}, (*shape[:-1], 1), {"epsilon": self._epsilon(epsilon)})
        return self.multiply(self.multiply(x, inverse), self.constant(name))

    def _epsilon(self, given: float) -> float:
        return max(given, LEAST[self.function.dtype])

    def activation(self, x: str, name: str) -> str:
        """One of the activations of the field.

        Raises:
            SourceError: another one.
        """
        if name not in _ACTIVATIONS:
            raise SourceError(f"activation {choices(name, _ACTIVATIONS)}")
        kind, parameters = _ACTIVATIONS[name]
        return self.function.node(kind, {"x": x}, self.function.shape(x), parameters)

    def add(self, x: str, y: str) -> str:
        """The sum of two tensors."""
        return self._both("add", x, y)

    def multiply(self, x: str, y: str) -> str:
        """The product of two tensors, element by element."""
        return self._both("mul", x, y)

    def _both(self, kind: str, x: str, y: str) -> str:
        shape = np.broadcast_shapes(self.function.shape(x), self.function.shape(y))
        return self.function.node(kind, {"x": x, "y": y}, shape)

    def scaled(self, x: str, factor: float) -> str:
        """All elements times a number."""
        return self.function.node("mul", {"x": x}, self.function.shape(x), {"y": factor})

    def split(self, x: str, heads: int, size: int) -> str:
        """(rows, tokens, heads x size) to (rows, heads, tokens, size)."""
        tokens = self.function.shape(x)[1]
        return self._transposed(self._reshaped(x, (1, tokens, heads, size)), (0, 2, 1, 3))

    def join(self, x: str, width: int) -> str:
        """The inverse of `split`."""
        return self._reshaped(self._transposed(x, (0, 2, 1, 3)), (1, self.function.shape(x)[2], width))

    def _reshaped(self, x: str, shape: tuple[int, ...]) -> str:
        return self.function.node("reshape", {"x": x}, shape, {"shape": shape})

    def _transposed(self, x: str, order: Sequence[int]) -> str:
        shape = self.function.shape(x)
        return self.function.node("transpose", {"x": x}, [shape[axis] for axis in order], {"perm": order})

    def thirds(self, x: str, names: Sequence[str]) -> Sequence[str]:
        """The first, middle and last third of the width."""
        parts = self.function.split(x, len(self.function.shape(x)) - 1, 3)
        return [self.function.named(name, part) for name, part in zip(names, parts, strict=True)]

    def attention(self, query: str, key: str, value: str, scale: float, bias: str = "") -> str:
        """Core ML's own operation, whose scale is 1 / sqrt(size); T5 has another."""
        function, shape = self.function, self.function.shape(query)
        if not np.isclose(scale, shape[-1] ** -0.5):
            return self._attention(query, key, value, scale, bias)
        tensors = {"query": query, "key": key, "value": value, **({"attn_mask": bias} if bias else {})}
        return function.node("scaled_dot_product_attention", tensors, shape)

    def _attention(self, query: str, key: str, value: str, scale: float, bias: str) -> str:
        function, (*lead, keys, _) = self.function, self.function.shape(key)
        shape = self.function.shape(query)
        scores = (*lead, shape[-2], keys)
        scaled = query if scale == 1 else self.scaled(query, scale)
        made = function.node("matmul", {"x": scaled, "y": key}, scores, {"transpose_x": False, "transpose_y": True})
        if bias:
            made = self.add(made, bias)
        made = function.node("softmax", {"x": made}, scores, {"axis": -1})
        return self._product(made, value)

    def _product(self, x: str, y: str) -> str:
        shape = (*self.function.shape(x)[:-1], self.function.shape(y)[-1])
        return self.function.node("matmul", {"x": x, "y": y}, shape, {"transpose_x": False, "transpose_y": False})

    def biases(self, name: str, table: Floats, away: str) -> str:
        """Rows of the table; see `Layers.biases`."""
        function, reach, shape = self.function, len(table) // 2, self.function.shape(away)
        near = function.node("maximum", {"x": away}, shape, {"y": -reach}, "int32")
        near = function.node("minimum", {"x": near}, shape, {"y": reach}, "int32")
        places = function.node("add", {"x": near}, shape, {"y": reach}, "int32")
        rows = self._gathered(self.kept(name, table), places)
        return self._widened(self._transposed(rows, (2, 0, 1)), [0])

    def _gathered(self, table: str, places: str) -> str:
        shape = (*self.function.shape(places), *self.function.shape(table)[1:])
        parameters: dict[str, Parameter] = {"axis": 0, "batch_dims": 0, "validate_indices": False}
        return self.function.node("gather", {"x": table, "indices": places}, shape, parameters)

    def _widened(self, x: str, axes: Sequence[int]) -> str:
        shape = list(self.function.shape(x))
        for axis in axes:
            shape.insert(axis, 1)
        return self.function.node("expand_dims", {"x": x}, shape, {"axes": axes})

    def hiding(self, mask: str, shown: int = 0) -> str:
        """A mask int32 (1, keys), 1 where there is a token, as a bias of scores (1, 1, 1, keys)."""
        function, shape = self.function, self.function.shape(mask)
        seen = function.node("cast", {"x": mask}, shape, {"dtype": function.dtype})
        below = function.node("add", {"x": seen}, shape, {"y": -1.0})
        bias = self._widened(self.scaled(below, -float(HIDDEN)), [1, 2])
        if not shown:
            return bias
        return self.joined(self.kept(f"shown_{shown}", np.zeros((1, 1, 1, shown), np.float32)), bias, 3)

    def patches(self, pixels: str, prefix: str, size: int, name: str, positions: Floats) -> str:
        """Squares of pixels through a convolution, behind a place of zeros; see `Layers.patches`."""
        function, (_, tokens, width) = self.function, positions.shape
        side = self.function.shape(pixels)[2] // size
        tensors = {key: self.constant(f"{prefix}.{key}") for key in ("weight", "bias")}
        parameters: dict[str, Parameter] = {
            "strides": [size] * 2, "pad_type": "valid", "pad": [0] * 4, "dilations": [1, 1], "groups": 1,
        }  # fmt: skip
        made = function.node("conv", {"x": pixels, **tensors}, (1, width, side, side), parameters)
        made = self._transposed(self._reshaped(made, (1, width, tokens - 1)), (0, 2, 1))
        room: dict[str, Parameter] = {"pad": [0, 0, 1, 0, 0, 0], "mode": "constant", "constant_val": 0.0}
        return self.add(function.node("pad", {"x": made}, (1, tokens, width), room), self.kept(name, positions))

    def repeated(self, name: str, like: str) -> str:
        """There is one row."""
        return self.constant(name)

    def looked_up(self, name: str, ids: str, offset: int = 0) -> str:
        """Rows of a table."""
        if offset:
            ids = self.function.node("add", {"x": ids}, self.function.shape(ids), {"y": offset}, "int32")
        return self._gathered(self.constant(name), ids)

    def begun(self, name: str, like: str) -> str:
        """The first rows of a table, as many as there are tokens; (1, tokens, width)."""
        tokens = self.function.shape(like)[1]
        return self.kept(f"{name}.begun", self.checkpoint[name][None, :tokens])

    def tokens(self, x: str, start: int, end: int) -> str:
        """Those from ``start`` to before ``end``."""
        _, tokens, width = self.function.shape(x)
        end = min(end, tokens)
        return self._cut(x, start, end, (1, end - start, width), squeeze=False)

    def token(self, x: str, place: int) -> str:
        """One of them, (rows, width)."""
        _, _, width = self.function.shape(x)
        return self._cut(x, place, place + 1, (1, width), squeeze=True)

    def _cut(self, x: str, start: int, end: int, shape: tuple[int, ...], *, squeeze: bool) -> str:
        """Of axis 1. An end of 0 would be the beginning: the masks say that the other axes are whole."""
        parameters: dict[str, Parameter] = {
            "begin": [0, start, 0], "end": [0, end, 0], "stride": [1, 1, 1], "begin_mask": [True, False, True],
            "end_mask": [True, False, True], "squeeze_mask": [False, squeeze, False],
        }  # fmt: skip
        return self.function.node("slice_by_index", {"x": x}, shape, parameters)

    def joined(self, x: str, y: str, axis: int = 1) -> str:
        """The tokens of both, one behind the other."""
        shape = list(self.function.shape(x))
        shape[axis] += self.function.shape(y)[axis]
        return self.function.node("concat", {"values": [x, y]}, shape, {"axis": axis, "interleave": False})

    def appended(self, x: str, y: str) -> str:
        """The tokens of both, split over heads."""
        return self.joined(x, y, 2)

    def picked(self, pick: str, x: str) -> str:
        """The token at which ``pick`` (rows, 1, tokens) is 1, (rows, width)."""
        made = self._product(pick, x)
        return self.function.node("squeeze", {"x": made}, (1, self.function.shape(x)[-1]), {"axes": [1]})

    def mean(self, x: str) -> str:
        """Over the tokens, (rows, width)."""
        shape = (1, self.function.shape(x)[-1])
        return self.function.node("reduce_mean", {"x": x}, shape, {"axes": [1], "keep_dims": False})

    def unit(self, x: str) -> str:
        """Divided by the length of each token's vector."""
        shape = self.function.shape(x)
        length = self.function.node("reduce_l2_norm", {"x": x}, (*shape[:-1], 1), {"axes": [-1], "keep_dims": True})
        return self.function.node("real_div", {"x": x, "y": length}, shape)


class StateCache(HostCache):
    """A cache in states of Core ML, [1, heads, capacity, size] each, into which the new tokens are written in place.

    ``start`` int32 [1] is the first place that is free; a piece of the prompt may not pass the end. ``mask`` float32
    [1, 1, tokens, capacity] is added to the scores, ``pick`` float32 [1, 1, tokens] is 1 at the last token.
    """

    def __init__(self, layers: MilLayers, heads: Heads) -> None:
        self._layers, self._heads, self._seen, self._function = layers, heads, "mask", layers.function
        layers.input("mask", (-1, 1, -1, -1))
        layers.input("pick", (-1, 1, -1))
        layers.input("start", (1,), "int32")
        _, self._capacity = layers.open_sizes["past"]
        self._places: tuple[str, str] | None = None

    def attend(self, layers: Layers, number: int, query: str, key: str, value: str, bias: str = "") -> str:
        """Each new key and value is written to its place, and all places are looked at."""
        heads = self._heads
        query, key, value = (layers.split(one, heads.count, heads.size) for one in (query, key, value))
        key, value = (self._written(past(number, what), new) for what, new in (("key", key), ("value", value)))
        seen = layers.add(bias, "mask") if bias else "mask"
        return layers.join(layers.attention(query, key, value, heads.scale, seen), heads.width)

    def _written(self, name: str, new: str) -> str:
        """The whole state, with what is new in its place."""
        function, shape = self._function, (1, self._heads.count, self._capacity, self._heads.size)
        state = function.state(name, shape)
        begin, end = self._bounds(function.shape(new)[2])
        free = [True, True, False, True]
        parameters: dict[str, Parameter] = {
            "stride": [1] * 4, "begin_mask": free, "end_mask": free, "squeeze_mask": [False] * 4
        }  # fmt: skip
        before = function.node("read_state", {"input": state}, shape)
        tensors = {"x": before, "update": new, "begin": begin, "end": end}
        function.write(state, function.node("slice_update", tensors, shape, parameters))
        return function.node("read_state", {"input": state}, shape)

    def _bounds(self, tokens: int) -> tuple[str, str]:
        """Where a slice begins and ends, (4,) each: only the third axis counts."""
        if self._places is None:
            function = self._function
            end = function.node("add", {"x": "start"}, (1,), {"y": [tokens]}, "int32")
            self._places = self._laid("start"), self._laid(end)
        return self._places

    def _laid(self, place: str) -> str:
        function = self._function
        zeros = function.node("sub", {"x": place, "y": place}, (1,), {}, "int32")
        values = {"values": [zeros, zeros, place, zeros]}
        return function.node("concat", values, (4,), {"axis": 0, "interleave": False}, "int32")


def symmetric(weight: Floats, bits: int, block: int) -> tuple[NDArray[np.int8], Floats]:
    """Integers (outputs, inputs) around 0, and scales (outputs, blocks), one for each ``block`` inputs of an output.

    Blocks have to divide the inputs: they are the largest that do and are not larger. 0 is one for all inputs.
    """
    outputs, inputs = weight.shape
    size = next(size for size in range(min(block or inputs, inputs), 0, -1) if inputs % size == 0)
    top = (1 << (bits - 1)) - 1
    integers, scales = np.empty((outputs, inputs), np.int8), np.empty((outputs, inputs // size), np.float32)
    # Some outputs at a time: what rounding needs in between is several times as large as the weight.
    for first in range(0, outputs, ROWS):
        some = slice(first, first + ROWS)
        apart = weight[some].reshape(-1, inputs // size, size)
        largest = np.abs(apart).max(2) / top
        scales[some] = np.where(largest > 0, largest, 1).astype(np.float16)  # as the file has them
        rounded = np.rint(apart / np.maximum(scales[some], 2.0**-24)[..., None])
        integers[some] = np.clip(rounded, -top, top).reshape(-1, inputs)
    return integers, scales


_ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "gelu": ("gelu", {"mode": "EXACT"}),
    "gelu_new": ("gelu", {"mode": "TANH_APPROXIMATION"}),
    "gelu_pytorch_tanh": ("gelu", {"mode": "TANH_APPROXIMATION"}),
    "quick_gelu": ("gelu", {"mode": "SIGMOID_APPROXIMATION"}),
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "swish": ("silu", {}),
}
