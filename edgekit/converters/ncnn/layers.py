"""The layers of a BLIP-2 as ncnn has them.

A blob is one row: (tokens, width) with the width innermost, or (heads, tokens, size). Layout and parameters of each
layer: ``load_param`` and ``load_model`` in ncnn's source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.converters.ncnn.model import TAG_FLOAT16, TAG_FLOAT32, Weight
from edgekit.converters.ncnn.writer import NcnnWriter
from edgekit.errors import SourceError, choices
from edgekit.graph.blip2.forms import Blocks, Float16, Form, Static, form_of
from edgekit.graph.blip2.hosted_layers import HostedLayers
from edgekit.runtimes.language.host_cache import HIDDEN

ADD, SUBTRACT, MULTIPLY, DIVIDE = range(4)
"""Operations of a BinaryOp."""

MEAN, LENGTH = 3, 8
"""Operations of a Reduction."""

_BLOCK_SIZES = {32: 0, 64: 1, 128: 2}
"""How a Gemm names the size of its blocks."""

_ROWS = 1024
"""Outputs of a layer that are brought into blocks at a time."""

_END = 2**31 - 1

_ACTIVATIONS: dict[str, tuple[str, dict[int, int]]] = {
    "gelu": ("GELU", {0: 0}),
    "gelu_new": ("GELU", {0: 1}),
    "gelu_pytorch_tanh": ("GELU", {0: 1}),
    "quick_gelu": ("", {}),
    "relu": ("ReLU", {}),
    "silu": ("Swish", {}),
    "swish": ("Swish", {}),
}


class NcnnLayers(HostedLayers[NcnnWriter]):
    """`edgekit.graph.blip2.layers.Layers` of an ncnn graph."""

    def linear(self, x: str, prefix: str, form: Form | None = None) -> str:
        """One product, with the bias in it."""
        name = f"{prefix}.bias"
        biases = [self.checkpoint[name]] if name in self.checkpoint else []
        name = f"{prefix}.weight"
        return self._product(x, self.checkpoint[name], biases, form_of(form or self.form, name))

    def normalisation(self, x: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; without weights where the checkpoint has none."""
        if f"{prefix}.weight" not in self.checkpoint:
            raise SourceError(f"{prefix} has no weights, and ncnn no such normalisation; choose another target")
        gain, shift = (self.checkpoint[f"{prefix}.{what}"] for what in ("weight", "bias"))
        return self._normalisation(x, gain, shift, epsilon)

    def _normalisation(self, x: str, gain: Floats, shift: Floats, epsilon: float) -> str:
        return self.writer.layer("LayerNorm", [x], {0: gain.size, 1: epsilon, 2: 1}, [Weight(gain), Weight(shift)])

    def root_mean_square(self, x: str, name: str, epsilon: float) -> str:
        """Division by the root of the mean square over the last axis."""
        gain = self.checkpoint[name]
        return self.writer.layer("RMSNorm", [x], {0: gain.size, 1: epsilon, 2: 1}, [Weight(gain)])

    def activation(self, x: str, name: str) -> str:
        """One of the activations of the field.

        Raises:
            SourceError: another one.
        """
        if name not in _ACTIVATIONS:
            raise SourceError(f"activation {choices(name, _ACTIVATIONS)}")
        if name == "quick_gelu":
            return self.multiply(x, self.writer.layer("Sigmoid", [self.scaled(x, 1.702)]))
        kind, params = _ACTIVATIONS[name]
        return self.writer.layer(kind, [x], params)

    def add(self, x: str, y: str) -> str:
        """The sum of two blobs."""
        return self.writer.layer("BinaryOp", [x, y], {0: ADD})

    def multiply(self, x: str, y: str) -> str:
        """The product of two blobs, element by element."""
        return self.writer.layer("BinaryOp", [x, y], {0: MULTIPLY})

    def scaled(self, x: str, factor: float) -> str:
        """All elements times a number."""
        return self._with_number(MULTIPLY, x, factor)

    def split(self, x: str, heads: int, size: int) -> str:
        """(tokens, heads x size) to (heads, tokens, size)."""
        apart = self.writer.layer("Reshape", [x], {0: size, 1: heads, 2: -1})
        return self.writer.layer("Permute", [apart], {0: 2})

    def join(self, x: str, width: int) -> str:
        """The inverse of `split`."""
        turned = self.writer.layer("Permute", [x], {0: 2})
        return self.writer.layer("Reshape", [turned], {0: width, 1: -1})

    def thirds(self, x: str, names: Sequence[str]) -> Sequence[str]:
        """The first, middle and last third of the width."""
        self.writer.layer("Slice", [x], {0: [-233] * 3, 1: 1}, outputs=names)
        return names

    def attention(self, query: str, key: str, value: str, scale: float, bias: str = "") -> str:
        """One layer. The bias has a line for every query."""
        inputs = [query, key, value, *([bias] if bias else [])]
        return self.writer.layer("SDPA", inputs, {5: int(bool(bias)), 6: float(scale)})

    def biases(self, name: str, table: Floats, away: str) -> str:
        """A sum of steps: at each distance at which the table changes, the biases change by so much.

        It takes no integers, which ncnn could not bring into the table's range.
        """
        self.writer.retype(away, "float32")
        steps = np.flatnonzero((table[1:] != table[:-1]).any(1)) + 1
        begins = (steps - len(table) // 2 - 1).astype(np.float32)
        wide = self.writer.layer("ExpandDims", [away], {3: [0]})
        beyond = self.writer.layer("BinaryOp", [wide, self._constant(begins[:, None, None])], {0: SUBTRACT})
        reached = self.writer.layer("Clip", [beyond], {0: 0.0, 1: 1.0})
        changes = np.ascontiguousarray((table[steps] - table[steps - 1]).T)
        return self._convolution(reached, changes[:, :, None, None], table[0])

    def hiding(self, mask: str, shown: int = 0) -> str:
        """The mask as a bias, repeated for every query, of which there are as many as keys."""
        self.writer.retype(mask, "float32")
        if shown:
            mask = self.writer.layer("Concat", [self._constant(np.ones(shown, np.float32)), mask], {0: 0})
        row = self.writer.layer("Reshape", [mask], {0: -1, 1: 1})
        hidden = self.scaled(self._with_number(SUBTRACT, row, 1.0), -float(HIDDEN))
        ones = self._with_number(ADD, self.scaled(row, 0.0), 1.0)
        return self.writer.layer("Gemm", [ones, hidden], {2: 1, 3: 0})

    def patches(self, pixels: str, prefix: str, size: int, name: str, positions: Floats) -> str:
        """Squares of pixels through a convolution, behind a place of zeros."""
        kernel, bias = (self.checkpoint[f"{prefix}.{what}"] for what in ("weight", "bias"))
        patches = self._convolution(pixels, kernel, bias, size)
        turned = self.writer.layer(
            "Permute", [self.writer.layer("Reshape", [patches], {0: -1, 1: len(kernel)})], {0: 1}
        )
        room = self.writer.layer("Padding", [turned], {0: 1})
        return self.add(room, self._constant(positions[0]))

    def repeated(self, name: str, like: str) -> str:
        """The weight: there is one row."""
        return self._constant(self.checkpoint[name][0])

    def looked_up(self, name: str, ids: str, offset: int = 0) -> str:
        """Rows of a table, which begins at the offset."""
        table = self.checkpoint[name][offset:]
        rows, width = table.shape
        return self.writer.layer("Embed", [ids], {0: width, 1: rows, 2: 0, 3: table.size}, [self._kept(table)])

    def begun(self, name: str, like: str) -> str:
        """The table, cut to the size of another blob."""
        return self.writer.layer("Crop", [self._constant(self.checkpoint[name]), like])

    def tokens(self, x: str, start: int, end: int) -> str:
        """Those from ``start`` to before ``end``."""
        return self.writer.layer("Crop", [x], {9: [start], 10: [min(end, _END)], 11: [0]})

    def token(self, x: str, place: int) -> str:
        """One of them."""
        return self.tokens(x, place, place + 1)

    def joined(self, x: str, y: str) -> str:
        """The tokens of both, one behind the other."""
        return self.writer.layer("Concat", [x, y], {0: 0})

    def appended(self, x: str, y: str) -> str:
        """The tokens of both, split over heads."""
        return self.writer.layer("Concat", [x, y], {0: 1})

    def picked(self, pick: str, x: str) -> str:
        """The token at which ``pick`` is 1."""
        return self.writer.layer("Gemm", [pick, x], {2: 0, 3: 0})

    def mean(self, x: str) -> str:
        """Over the tokens."""
        return self._reduced(MEAN, x, 0)

    def unit(self, x: str) -> str:
        """Divided by the length of each token's vector."""
        return self.writer.layer("BinaryOp", [x, self._reduced(LENGTH, x, 1)], {0: DIVIDE})

    def _reduced(self, operation: int, x: str, axis: int) -> str:
        return self.writer.layer("Reduction", [x], {0: operation, 1: 0, 3: [axis], 4: 1, 5: 1})

    def _with_number(self, operation: int, x: str, number: float) -> str:
        return self.writer.layer("BinaryOp", [x], {0: operation, 1: 1, 2: float(number)})

    def _constant(self, values: Floats) -> str:
        """A blob of the file, its sizes innermost first."""
        sizes: dict[int, int] = dict(zip((0, 1, 2), reversed(values.shape), strict=False))
        return self.writer.layer("MemoryData", [], {**sizes, 21: 0}, [self._kept(values)])

    def _kept(self, values: Floats) -> Weight:
        """Numbers behind their tag: in half precision where the graph is."""
        return _half(values) if isinstance(self.form, Float16) else Weight(values, TAG_FLOAT32)

    def _convolution(self, x: str, kernel: Floats, bias: Floats, stride: int = 1) -> str:
        outputs, _, side, _ = kernel.shape
        params = {0: outputs, 1: side, 3: stride, 5: 1, 6: kernel.size}
        return self.writer.layer("Convolution", [x], params, [self._kept(kernel), Weight(bias)])

    def _product(self, x: str, weight: Floats, biases: Sequence[Floats], form: Form) -> str:
        """``x @ weight.T + bias``. Static INT8 is written as blocks, whose input ncnn rounds by itself."""
        outputs, inputs = weight.shape
        params = {2: 0, 3: 1, 4: 0, 5: 1, 6: 1, 7: 0, 8: outputs, 9: inputs, 10: 4 if biases else -1}
        added = [Weight(bias, TAG_FLOAT32) for bias in biases]
        if isinstance(form, Static):
            form = Blocks(8)
        if not isinstance(form, Blocks):
            kept = _half(weight) if isinstance(form, Float16) else Weight(weight, TAG_FLOAT32)
            return self.writer.layer("Gemm", [x], params, [kept, *added])
        params[18] = 100 * form.bits + _BLOCK_SIZES[form.size]
        inverse: list[Floats] = []
        integers = Weight(_packed(_blocks(weight, form, inverse), outputs, inputs, form.bits))
        return self.writer.layer("Gemm", [x], params, [integers, *added, Weight(np.concatenate(inverse))])


def _half(values: Floats) -> Weight:
    """Overflows are clipped."""
    largest = np.finfo(np.float16).max
    return Weight(np.clip(values, -largest, largest).astype(np.float16), TAG_FLOAT16)


def _blocks(weight: Floats, form: Blocks, inverse: list[Floats]) -> Iterator[NDArray[np.int8]]:
    """Integers (outputs, inputs), some outputs at a time; ``inverse`` takes their steps per unit (outputs, blocks).

    ncnn's integers are symmetric: -7 to 7 in 4 bits, by the largest magnitude of a block.
    """
    inputs, top = weight.shape[1], (1 << (form.bits - 1)) - 1
    count = -(-inputs // form.size)
    for first in range(0, len(weight), _ROWS):
        some = weight[first : first + _ROWS]
        padded = np.pad(some, ((0, 0), (0, count * form.size - inputs))).reshape(len(some), count, form.size)
        largest = np.abs(padded).max(-1)
        steps = np.divide(top, largest, out=np.ones_like(largest), where=largest > 0)
        inverse.append(steps)
        integers = np.clip(np.rint(padded * steps[..., None]), -top, top).astype(np.int8)
        yield integers.reshape(len(some), -1)[:, :inputs]


def _packed(parts: Iterator[NDArray[np.int8]], outputs: int, inputs: int, bits: int) -> NDArray[np.uint8]:
    """Rows of whole bytes; of two integers in a byte the first lies in its low half."""
    if bits == 8:
        return np.concatenate(list(parts)).view(np.uint8)
    packed = np.zeros((outputs, (inputs + 1) // 2), np.uint8)
    first = 0
    for part in parts:
        nibbles = part.view(np.uint8) & 15
        rows = packed[first : first + len(part)]
        rows[:] = nibbles[:, 0::2]
        rows[:, : inputs // 2] |= nibbles[:, 1::2] << 4
        first += len(part)
    return packed
