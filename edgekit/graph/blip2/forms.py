"""Weight formats of linear layers: floats, blocks of 8 or 4 bits, or static INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.graph.blip2.writer import MICROSOFT, GraphWriter

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

    largest = np.finfo(np.float16).max
    kept = writer.weight(name, np.clip(array, -largest, largest).astype(np.float16))
    return writer.node("Cast", kept, to=TensorProto.FLOAT)


@dataclass(frozen=True)
class Blocks(_Plain):
    """Integers of ``bits`` with a scale for every ``size`` inputs of an output (ONNX Runtime's MatMulNBits).

    The weights named in ``wide`` have 8 bits. The value of largest magnitude in a block lies on the lowest integer,
    which has no counterpart above: round to nearest with that scale, without data.
    """

    bits: int
    size: int = 32
    wide: frozenset[str] = frozenset()

    def of(self, name: str) -> Blocks:
        """The form of one weight."""
        return Blocks(8, self.size) if name in self.wide else self

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product with integers, which the engine widens block by block."""
        bits = self.of(name).bits
        integers, scales = blocks(weight, bits, self.size)
        return writer.node(
            "MatMulNBits",
            x,
            writer.weight(name, integers),
            writer.weight(f"{name}.scales", scales),
            domain=MICROSOFT,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=bits,
            block_size=self.size,
            accuracy_level=INT8_COMPUTE,
        )


def form_of(form: Form, name: str) -> Form:
    """The form of one weight of a graph."""
    return form.of(name) if isinstance(form, Blocks) else form


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
    """Weights INT8 per output, inputs UINT8 with a range known beforehand.

    Where a normalisation stands in front, large channels are scaled down there and up in the weight, by the geometric
    mean of both magnitudes (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438, with alpha .5): transformers have a few
    channels that are tens of times as large as the others.
    """

    ranges: Mapping[str, ChannelRanges]

    def behind(self, name: str, normalised: Normalised) -> tuple[Form, Normalised]:
        """Scale large channels of the input down in the normalisation, and up in the weight."""
        seen, weight = self.ranges[name], normalised.weight
        activations, weights = np.maximum(np.abs(seen.low), np.abs(seen.high)), np.abs(weight).max(0)
        usable = (activations > 0) & (weights > 0)
        scales: Floats = np.where(usable, np.sqrt(activations / np.where(usable, weights, 1)), 1).astype(np.float32)
        smoothed = ChannelRanges(seen.low / scales, seen.high / scales)
        moved = Normalised(normalised.gain / scales, normalised.shift / scales, weight * scales)
        return Static({**self.ranges, name: smoothed}), moved

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product of integers, with the scales of both sides behind it."""
        seen = self.ranges[name]
        low, high = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)
        scale = np.float32((high - low) / 255 or 1.0)
        zero = np.uint8(np.clip(round(-low / float(scale)), 0, 255))
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
