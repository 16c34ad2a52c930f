"""Weight formats of linear layers: floats, blocks of 8 or 4 bits, or static INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.graph.blip2.writer import BLOCKED, MICROSOFT, GraphWriter

PlainForm = TypeVar("PlainForm")

INT8_COMPUTE = 4
"""ONNX Runtime's ``accuracy_level`` that lets it compute products with activations of 8 bits, found anew each time."""

ROWS = 1024
"""Outputs of a layer that are brought into blocks at a time."""


@dataclass(frozen=True)
class Normalised:
    """A normalisation, ``gain`` and ``shift`` (inputs,), and the layer behind it, ``weight`` (outputs, inputs)."""

    gain: Floats
    shift: Floats
    weight: Floats


class Form(Protocol):
    """A way of writing the weight of a linear layer."""

    def behind(self, name: str, normalised: Normalised) -> tuple[Form, Normalised]:
        """How to write a layer that is the only reader of a normalisation, so that both can be scaled together."""
        ...

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """Add ``x @ weight.T`` for a weight (outputs, inputs); returns the name of the result."""
        ...


class _Plain:
    def behind(self: PlainForm, name: str, normalised: Normalised) -> tuple[PlainForm, Normalised]:
        """Nothing is moved."""
        return self, normalised


@dataclass(frozen=True)
class Float32(_Plain):
    """As it is."""

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product with the transposed weight."""
        return writer.node("MatMul", x, writer.weight(name, weight.T))


@dataclass(frozen=True)
class Float16(_Plain):
    """Half the bytes; engines that compute in float32 widen it when they load it."""

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product with the widened weight."""
        return writer.node("MatMul", x, float16(writer, name, weight.T))


def float16(writer: GraphWriter, name: str, array: Floats) -> str:
    """A constant stored in float16 and read as float32; overflows are clipped."""
    from onnx import TensorProto

    return writer.node("Cast", writer.weight(name, _clipped(array)), to=TensorProto.FLOAT)


def _clipped(array: Floats) -> NDArray[np.float16]:
    largest = np.finfo(np.float16).max
    return np.clip(array, -largest, largest).astype(np.float16)


@dataclass(frozen=True)
class Blocks(_Plain):
    """Integers of ``bits`` with a scale for every ``size`` inputs of an output (ONNX Runtime's MatMulNBits).

    The value of largest magnitude in a block lies on the lowest integer, which has no counterpart above: round to
    nearest with that scale, without data.
    """

    bits: int
    size: int = 32

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product with integers, which the engine widens block by block."""
        integers, scales = blocks(weight, self.bits, self.size)
        return writer.node(
            "MatMulNBits",
            x,
            writer.weight(name, integers),
            writer.weight(f"{name}.scales", scales),
            domain=MICROSOFT,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=self.bits,
            block_size=self.size,
            accuracy_level=INT8_COMPUTE,
        )


def blocks(weight: Floats, bits: int, size: int) -> tuple[NDArray[np.uint8], Floats]:
    """Integers (outputs, blocks, bytes) with an offset of ``2 ** (bits - 1)``, and scales (outputs, blocks).

    Two integers of 4 bits share a byte, the first in its low half. Inputs are filled up with zeros to whole blocks.
    """
    outputs, inputs = weight.shape
    count = -(-inputs // size)
    integers = np.empty((outputs, count, size * bits // 8), np.uint8)
    scales = np.empty((outputs, count), np.float32)
    # Some outputs at a time: what rounding needs in between is several times as large as the weight.
    for first in range(0, outputs, ROWS):
        some = slice(first, first + ROWS)
        integers[some], scales[some] = _blocks(weight[some], bits, size)
    return integers, scales


def _blocks(weight: Floats, bits: int, size: int) -> tuple[NDArray[np.uint8], Floats]:
    outputs, inputs = weight.shape
    count = -(-inputs // size)
    padded = np.pad(weight, ((0, 0), (0, count * size - inputs))).reshape(outputs, count, size)
    largest = np.take_along_axis(padded, np.abs(padded).argmax(-1, keepdims=True), -1)
    half = 1 << (bits - 1)
    scales = largest / np.float32(-half)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    integers = np.clip(np.rint(padded * inverse) + half, 0, 2 * half - 1).astype(np.uint8)
    if bits == 4:
        integers = integers[..., 0::2] | (integers[..., 1::2] << 4)
    return integers, scales[..., 0]


OVERFLOWING = (".DenseReluDense.wo.weight",)
"""Layers, by how their weights' names end, whose results float16 does not hold: T5's, as transformers keeps them."""


@dataclass(frozen=True)
class HalfProducts(_Plain):
    """Products in float16, and float32 between them, for engines that compute in the types of the file."""

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product of both sides in float16."""
        if name.endswith(OVERFLOWING):
            return Float16().product(writer, x, name, weight)
        return _half_product(writer, x, writer.weight(name, _clipped(weight.T)))


@dataclass(frozen=True)
class DequantizedBlocks(_Plain):
    """Integers of ``bits`` with a scale for every ``size`` inputs of an output, symmetric, in ONNX's own operators.

    They are widened to float16, and so is the product: `HalfProducts`. Where blocks do not divide the inputs, there is
    one scale for each output, and the integers have 8 bits.
    """

    bits: int
    size: int = 32

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product with what DequantizeLinear makes of the integers."""
        outputs, inputs = weight.shape
        whole = inputs % self.size == 0
        bits, size = (self.bits, self.size) if whole else (8, inputs)
        top = (1 << (bits - 1)) - 1
        apart = weight.T.reshape(inputs // size, size, outputs)
        largest = np.abs(apart).max(1)
        scales = np.where(largest > 0, largest / top, 1).astype(np.float16 if _in_half(name) else np.float32)
        # By the scales as they are stored. One that float16 holds as zero stands for weights that are next to nothing.
        given = np.where(scales > 0, scales, 1).astype(np.float32)[:, None]
        integers = np.clip(np.rint(apart / given), -top, top).astype(np.int8).reshape(inputs, outputs)
        writer.opset = BLOCKED
        kept = writer.weight4(name, integers) if bits == 4 else writer.weight(name, integers)
        blocks = {"axis": 0, "block_size": size} if whole else {"axis": 1}
        scale = writer.weight(f"{name}.scales", scales if whole else scales[0])
        wide = writer.node("DequantizeLinear", kept, scale, **blocks)
        return _half_product(writer, x, wide) if _in_half(name) else writer.node("MatMul", x, wide)


def _in_half(name: str) -> bool:
    return not name.endswith(OVERFLOWING)


def _half_product(writer: GraphWriter, x: str, weight: str) -> str:
    """The product of a float32 input and a float16 weight, computed in float16."""
    from onnx import TensorProto

    made = writer.node("MatMul", writer.node("Cast", x, to=TensorProto.FLOAT16), weight)
    return writer.node("Cast", made, to=TensorProto.FLOAT)


@dataclass(frozen=True)
class ChannelRanges:
    """Per-channel range of a layer's input over the calibration images."""

    low: Floats
    high: Floats

    def joined(self, other: ChannelRanges) -> ChannelRanges:
        """The range over the images of both."""
        return ChannelRanges(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass(frozen=True)
class Static:
    """Weights INT8 per output, inputs UINT8 (``symmetric``: INT8) with a range known beforehand.

    Where a normalisation stands in front, large channels are scaled down there and up in the weight, by the geometric
    mean of both magnitudes (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438, with alpha .5): transformers have a few
    channels that are tens of times as large as the others.
    """

    ranges: Mapping[str, ChannelRanges]
    symmetric: bool = False

    def behind(self, name: str, normalised: Normalised) -> tuple[Form, Normalised]:
        """Scale large channels of the input down in the normalisation, and up in the weight."""
        seen, weight = self.ranges[name], normalised.weight
        activations, weights = np.maximum(np.abs(seen.low), np.abs(seen.high)), np.abs(weight).max(0)
        usable = (activations > 0) & (weights > 0)
        scales: Floats = np.where(usable, np.sqrt(activations / np.where(usable, weights, 1)), 1).astype(np.float32)
        smoothed = ChannelRanges(seen.low / scales, seen.high / scales)
        moved = Normalised(normalised.gain / scales, normalised.shift / scales, weight * scales)
        return replace(self, ranges={**self.ranges, name: smoothed}), moved

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product of integers, with the scales of both sides behind it."""
        seen = self.ranges[name]
        low, high = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)
        scale = np.float32((max(high, -low) / 127 if self.symmetric else (high - low) / 255) or 1.0)
        zero = np.int8(0) if self.symmetric else np.uint8(np.clip(round(-low / float(scale)), 0, 255))
        scale_name, zero_name = writer.constant(scale), writer.constant(zero)
        quantised = writer.node("QuantizeLinear", x, scale_name, zero_name)
        widened = writer.node("DequantizeLinear", quantised, scale_name, zero_name)
        largest = np.abs(weight).max(1)
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        integers = np.clip(np.rint(weight / scales[:, None]), -127, 127).astype(np.int8)
        kept = writer.node(
            "DequantizeLinear", writer.weight(name, integers.T), writer.weight(f"{name}.scales", scales), axis=1
        )
        return writer.node("MatMul", widened, kept)
