"""Weights as TensorRT takes them: symmetric integers behind a DequantizeLinear that gives the arithmetic's type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.graph.blip2.forms import ROWS, ChannelRanges, Form, Normalised, Static
from edgekit.graph.blip2.writer import GraphWriter

_TINY = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class DequantisedBlocks:
    """Integers of ``bits`` with a scale for every ``size`` inputs of an output, in ONNX's own operator (opset 21).

    The weights named in ``wide`` have 8 bits. Where ``size`` does not divide the inputs, blocks are as large as the
    largest number that divides both. With ``half`` the product is in float16.
    """

    bits: int
    size: int
    half: bool
    wide: frozenset[str] = frozenset()

    def behind(self, name: str, normalised: Normalised) -> tuple[Form, Normalised]:
        """Nothing is moved."""
        return self, normalised

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product with weights that the engine widens block by block."""
        block = math.gcd(weight.shape[1], self.size)
        bits = 8 if name in self.wide else self.bits
        integers, scales = _blocks(weight, bits, block)
        stored = writer.weight(name, integers) if bits == 8 else writer.nibbles(name, integers)
        kept = writer.weight(f"{name}.scales", _scales(scales, self.half))
        return writer.node("MatMul", x, writer.node("DequantizeLinear", stored, kept, axis=0, block_size=block))


def _blocks(weight: Floats, bits: int, block: int) -> tuple[NDArray[np.int8], Floats]:
    """Integers (inputs, outputs) and scales (inputs / block, outputs): the largest magnitude is the top integer."""
    outputs, inputs = weight.shape
    top = (1 << (bits - 1)) - 1
    integers = np.empty((inputs, outputs), np.int8)
    scales = np.empty((inputs // block, outputs), np.float32)
    for first in range(0, outputs, ROWS):
        some = slice(first, first + ROWS)
        apart = weight[some].T.reshape(inputs // block, block, -1)
        found = np.maximum(np.abs(apart).max(1) / np.float32(top), _TINY)
        scales[:, some] = found
        integers[:, some] = np.clip(np.rint(apart / found[:, None]), -top, top).reshape(inputs, -1)
    return integers, scales


@dataclass(frozen=True)
class SymmetricStatic(Static):
    """Weights INT8 per output, inputs INT8 without a zero point: TensorRT has no other."""

    half: bool = False

    def behind(self, name: str, normalised: Normalised) -> tuple[Form, Normalised]:
        """As `Static` does it."""
        form, moved = super().behind(name, normalised)
        ranges: Mapping[str, ChannelRanges] = form.ranges if isinstance(form, Static) else self.ranges
        return SymmetricStatic(ranges, self.half), moved

    def product(self, writer: GraphWriter, x: str, name: str, weight: Floats) -> str:
        """A product of integers, with the scales of both sides behind it."""
        seen = self.ranges[name]
        largest = max(float(np.abs(seen.low).max()), float(np.abs(seen.high).max()))
        scale = writer.constant(_scales(np.array(largest / 127 or 1.0, np.float32), self.half))
        zero = writer.constant(0, np.int8)
        widened = writer.node("DequantizeLinear", writer.node("QuantizeLinear", x, scale, zero), scale, zero)
        tops = np.abs(weight).max(1)
        scales = np.where(tops > 0, tops / 127, 1).astype(np.float32)
        integers = np.clip(np.rint(weight / scales[:, None]), -127, 127).astype(np.int8)
        stored, kept = writer.weight(name, integers.T), writer.weight(f"{name}.scales", _scales(scales, self.half))
        return writer.node("MatMul", widened, writer.node("DequantizeLinear", stored, kept, axis=1))


def _scales(values: Floats, half: bool) -> NDArray[np.floating]:
    return np.maximum(values, _TINY).astype(np.float16) if half else values
