"""The layers of a BLIP-2 as LiteRT has them: one row, of any number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.converters._xnnpack_integers import blocks, channels
from edgekit.converters.litert.writer import LiteRTWriter
from edgekit.errors import SourceError, choices
from edgekit.graph.blip2.forms import Blocks, Float16, Float32, Form, form_of
from edgekit.graph.blip2.hosted_layers import HostedLayers
from edgekit.runtimes.language.host_cache import HIDDEN

_ACTIVATIONS = {
    "gelu": False,
    "gelu_new": True,
    "gelu_pytorch_tanh": True,
    "quick_gelu": None,
    "relu": None,
    "silu": None,
    "swish": None,
}
"""Names, and for GELU whether it is the approximate one."""


class LiteRTLayers(HostedLayers[LiteRTWriter]):
    """`edgekit.graph.blip2.layers.Layers` of a LiteRT file."""

    def linear(self, x: str, prefix: str, form: Form | None = None) -> str:
        """One product, with the bias in it.

        Integers are symmetric: a scale for each block of 4 bits where blocks fill the inputs, else 8 bits with a scale
        for each output. LiteRT brings the input into 8 bits then, anew each time.
        """
        name = f"{prefix}.weight"
        weight = self._weight(self.checkpoint[name], form_of(form or self.form, name))
        name = f"{prefix}.bias"
        bias = [self.writer.constant(self.checkpoint[name])] if name in self.checkpoint else []
        options = {"keepNumDims": True}
        return self.writer.operator("FULLY_CONNECTED", [x, weight, *bias], options, table="FullyConnected")

    def _weight(self, weight: Floats, form: Form) -> str:
        if isinstance(form, Float16 | Float32):
            return self._kept(weight)
        if isinstance(form, Blocks) and form.bits == 4 and not weight.shape[1] % form.size:
            integers, scales = blocks(weight, form.size)
            return self.writer.blocks(_packed(integers), weight.shape, scales.astype(np.float16), form.size)
        return self.writer.channels(*channels(weight))

    def normalisation(self, x: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; without weights where the checkpoint has none."""
        mean = self._mean(x, -1)
        centred = self._two("SUB", x, mean, "Sub")
        made = self._root_mean_square(centred, epsilon)
        if f"{prefix}.weight" not in self.checkpoint:
            return made
        gain, shift = (self._kept(self.checkpoint[f"{prefix}.{what}"]) for what in ("weight", "bias"))
        return self.add(self.multiply(made, gain), shift)

    def root_mean_square(self, x: str, name: str, epsilon: float) -> str:
        """Division by the root of the mean square over the last axis."""
        return self.multiply(self._root_mean_square(x, epsilon), self._kept(self.checkpoint[name]))

    def _root_mean_square(self, x: str, epsilon: float) -> str:
        square = self.add(self._mean(self.multiply(x, x), -1), self.writer.constant(epsilon))
        return self.multiply(x, self.writer.operator("RSQRT", [square]))

    def activation(self, x: str, name: str) -> str:
        """One of the activations of the field.

        Raises:
            SourceError: another one.
        """
        if name not in _ACTIVATIONS:
            raise SourceError(f"activation {choices(name, _ACTIVATIONS)}")
        if name == "relu":
            return self.writer.operator("RELU", [x])
        if (approximate := _ACTIVATIONS[name]) is not None:
            return self.writer.operator("GELU", [x], {"approximate": approximate}, table="Gelu")
        inner = self.scaled(x, 1.702) if name == "quick_gelu" else x
        return self.multiply(x, self.writer.operator("LOGISTIC", [inner]))

    def add(self, x: str, y: str) -> str:
        """The sum of two tensors."""
        return self._two("ADD", x, y, "Add")

    def multiply(self, x: str, y: str) -> str:
        """The product of two tensors, element by element."""
        return self._two("MUL", x, y, "Mul")

    def scaled(self, x: str, factor: float) -> str:
        """All elements times a number."""
        return self.multiply(x, self.writer.constant(factor))

    def split(self, x: str, heads: int, size: int) -> str:
        """(rows, tokens, heads x size) to (rows, heads, tokens, size)."""
        return self._turned(self._reshaped(x, 1, -1, heads, size), 0, 2, 1, 3)

    def join(self, x: str, width: int) -> str:
        """The inverse of `split`."""
        return self._reshaped(self._turned(x, 0, 2, 1, 3), 1, -1, width)

    def thirds(self, x: str, names: Sequence[str]) -> Sequence[str]:
        """The first, middle and last third of the width."""
        axis = self.writer.constant(2, np.int32)
        self.writer.operator("SPLIT", [axis, x], {"numSplits": 3}, table="Split", outputs=names)
        return names

    def attention(self, query: str, key: str, value: str, scale: float, bias: str = "") -> str:
        """Products of batches, softmax."""
        scores = self._product(query if scale == 1 else self.scaled(query, scale), key, turned=True)
        if bias:
            scores = self.add(scores, bias)
        return self._product(self.writer.operator("SOFTMAX", [scores], {"beta": 1.0}, table="Softmax"), value)

    def biases(self, name: str, table: Floats, away: str) -> str:
        """Rows of the table."""
        reach = len(table) // 2
        near = self.writer.operator("MINIMUM", [away, self.writer.constant(reach, np.int32)], dtype="int32")
        near = self.writer.operator("MAXIMUM", [near, self.writer.constant(-reach, np.int32)], dtype="int32")
        rows = self._moved(near, reach)
        turned = self._turned(self._gathered(table, rows), 2, 0, 1)
        return self.writer.operator("EXPAND_DIMS", [turned, self.writer.constant(0, np.int32)])

    def hiding(self, mask: str, shown: int = 0) -> str:
        """The mask as a bias."""
        seen = self.writer.operator("CAST", [mask], table="Cast")
        if shown:
            seen = self._concatenated(self.writer.constant(np.ones((1, shown), np.float32)), seen, 1)
        hidden = self.scaled(self.add(seen, self.writer.constant(-1.0)), -float(HIDDEN))
        return self._reshaped(hidden, 1, 1, 1, -1)

    def patches(self, pixels: str, prefix: str, size: int, name: str, positions: Floats) -> str:
        """Squares of pixels through a convolution, behind a place of zeros."""
        kernel, bias = (self.checkpoint[f"{prefix}.{what}"] for what in ("weight", "bias"))
        image = self._turned(pixels, 0, 2, 3, 1)
        inputs = [image, self._kept(kernel.transpose(0, 2, 3, 1)), self.writer.constant(bias)]
        options = {"padding": 1, "strideW": size, "strideH": size}
        patches = self._reshaped(self.writer.operator("CONV_2D", inputs, options, table="Conv2D"), 1, -1, len(kernel))
        around = self.writer.constant([[0, 0], [1, 0], [0, 0]], np.int32)
        return self.add(self.writer.operator("PAD", [patches, around], table="Pad"), self._kept(positions))

    def repeated(self, name: str, like: str) -> str:
        """The weight: there is one row."""
        return self._kept(self.checkpoint[name])

    def looked_up(self, name: str, ids: str, offset: int = 0) -> str:
        """Rows of a table."""
        return self._gathered(self.checkpoint[name], self._moved(ids, offset) if offset else ids)

    def begun(self, name: str, like: str) -> str:
        """Rows 0, 1, 2 ... of the table: ones for each token, summed up to it."""
        ones = self.add(self.scaled(self._sliced(like, 2, 0, 1), 0.0), self.writer.constant(1.0))
        axis = self.writer.constant(1, np.int32)
        places = self.writer.operator("CUMSUM", [ones, axis], {"exclusive": True}, table="Cumsum")
        rows = self.writer.operator("CAST", [self._reshaped(places, 1, -1)], table="Cast", dtype="int32")
        return self._gathered(self.checkpoint[name], rows)

    def tokens(self, x: str, start: int, end: int) -> str:
        """Those from ``start`` to before ``end``."""
        return self._sliced(x, 1, start, end)

    def token(self, x: str, place: int) -> str:
        """One of them, (rows, width)."""
        return self._reshaped(self.tokens(x, place, place + 1), 1, -1)

    def joined(self, x: str, y: str) -> str:
        """The tokens of both, one behind the other."""
        return self._concatenated(x, y, 1)

    def appended(self, x: str, y: str) -> str:
        """The tokens of both, split over heads."""
        return self._concatenated(x, y, 2)

    def picked(self, pick: str, x: str) -> str:
        """The token at which ``pick`` is 1, (rows, width)."""
        return self._reshaped(self._product(pick, x), 1, -1)

    def mean(self, x: str) -> str:
        """Over the tokens, (rows, width)."""
        return self._mean(x, 1, kept=False)

    def unit(self, x: str) -> str:
        """Divided by the length of each token's vector."""
        return self.writer.operator("L2_NORMALIZATION", [x], table="L2Norm")

    def _kept(self, values: Floats) -> str:
        """A constant: in half precision where the graph is, widened when the file is opened."""
        if not isinstance(self.form, Float16):
            return self.writer.constant(values)
        largest = np.finfo(np.float16).max
        half = self.writer.constant(np.clip(values, -largest, largest), np.float16)
        return self.writer.operator("DEQUANTIZE", [half], table="Dequantize")

    def _two(self, kind: str, x: str, y: str, table: str) -> str:
        return self.writer.operator(kind, [x, y], table=table)

    def _mean(self, x: str, axis: int, *, kept: bool = True) -> str:
        along = self.writer.constant([axis], np.int32)
        return self.writer.operator("MEAN", [x, along], {"keepDims": kept}, table="Reducer")

    def _reshaped(self, x: str, *shape: int) -> str:
        return self.writer.operator("RESHAPE", [x, self.writer.constant(shape, np.int32)], table="Reshape")

    def _turned(self, x: str, *order: int) -> str:
        return self.writer.operator("TRANSPOSE", [x, self.writer.constant(order, np.int32)], table="Transpose")

    def _product(self, x: str, y: str, *, turned: bool = False) -> str:
        return self.writer.operator("BATCH_MATMUL", [x, y], {"adjY": turned}, table="BatchMatMul")

    def _concatenated(self, x: str, y: str, axis: int) -> str:
        return self.writer.operator("CONCATENATION", [x, y], {"axis": axis}, table="Concatenation")

    def _sliced(self, x: str, axis: int, start: int, end: int) -> str:
        """Places ``start`` to before ``end`` of an axis of three."""
        bounds = [[place if one == axis else 0 for one in range(3)] for place in (start, min(end, 2**31 - 1))]
        inputs = [x, *(self.writer.constant(one, np.int32) for one in (*bounds, [1, 1, 1]))]
        others = 0b111 ^ (1 << axis)
        return self.writer.operator(
            "STRIDED_SLICE", inputs, {"beginMask": others, "endMask": others}, table="StridedSlice"
        )

    def _moved(self, ids: str, offset: int) -> str:
        return self.writer.operator("ADD", [ids, self.writer.constant(offset, np.int32)], table="Add", dtype="int32")

    def _gathered(self, table: Floats, rows: str) -> str:
        return self.writer.operator("GATHER", [self._kept(table), rows], {"axis": 0}, table="Gather")


def _packed(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Integers of 4 bits, two in a byte, the first in its low half."""
    nibbles = integers.view(np.uint8) & np.uint8(15)
    packed: NDArray[np.uint8] = nibbles[:, 0::2] | (nibbles[:, 1::2] << np.uint8(4))
    return packed
