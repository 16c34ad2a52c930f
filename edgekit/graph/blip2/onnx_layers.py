"""The layers of a BLIP-2 as operators of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import SourceError, choices
from edgekit.graph.blip2.cache import CacheKind, HostCache, distances, host_prompt
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Float16, Form, Normalised, float16
from edgekit.graph.blip2.layers import MASKED, Cache, Heads
from edgekit.graph.blip2.writer import GraphWriter


@dataclass(frozen=True)
class OnnxLayers:
    """`Layers` of an ONNX graph. ``form`` is that of the linear layers' weights, ``kind`` the decoder's cache."""

    writer: GraphWriter
    checkpoint: Checkpoint
    form: Form
    kind: CacheKind

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declare an input; -1 is any size."""
        return self.writer.input(name, shape, dtype)

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        self.writer.output(name, value, shape)

    def cache(self, heads: Heads) -> Cache:
        """Declare the inputs of a cache."""
        return self.kind(self, heads)

    def prompt(self, x: str) -> tuple[str, str]:
        """The mask int64 (rows, tokens), or what the host makes of it."""
        if self.kind is HostCache:
            return host_prompt(self)
        hidden = self.hiding(self.input("attention_mask", (-1, -1), "int64"))
        size = self.writer.node("Gather", self.writer.node("Shape", x), self.writer.constant(1, np.int64))
        return hidden, distances(self.writer, x, size)

    def constant(self, name: str) -> str:
        """A tensor of the checkpoint that is no linear layer's weight: in half precision where the graph is."""
        return self.kept(name, self.checkpoint[name])

    def kept(self, name: str, values: Floats) -> str:
        """Values as a constant: in half precision where the graph is."""
        return (
            float16(self.writer, name, values) if isinstance(self.form, Float16) else self.writer.weight(name, values)
        )

    def linear(self, x: str, prefix: str, form: Form | None = None) -> str:
        """``x @ weight.T + bias``; the bias only where the checkpoint has one."""
        name = f"{prefix}.weight"
        made = (form or self.form).product(self.writer, x, name, self.checkpoint[name])
        if f"{prefix}.bias" not in self.checkpoint:
            return made
        return self.writer.node("Add", made, self.constant(f"{prefix}.bias"))

    def normalisation(self, x: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; without weights where the checkpoint has none (some OPT)."""
        if f"{prefix}.weight" in self.checkpoint:
            gain, shift = self.constant(f"{prefix}.weight"), self.constant(f"{prefix}.bias")
            return self.writer.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=epsilon)
        mean = self.writer.node("ReduceMean", x, self.writer.constant([-1], np.int64), keepdims=1)
        centred = self.writer.node("Sub", x, mean)
        return self.root_mean_square(centred, None, epsilon)

    def root_mean_square(self, x: str, name: str | None, epsilon: float) -> str:
        """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""
        node, constant = self.writer.node, self.writer.constant
        square = node("ReduceMean", node("Mul", x, x), constant([-1], np.int64), keepdims=1)
        made = node("Div", x, node("Sqrt", node("Add", square, constant(epsilon, np.float32))))
        return made if name is None else node("Mul", made, self.constant(name))

    def normalised_linear(self, x: str, normalisation: str, linear: str, epsilon: float) -> str:
        """A layer normalisation and the one linear layer that reads it."""
        name, tensor = f"{linear}.weight", self.checkpoint
        given = Normalised(tensor[f"{normalisation}.weight"], tensor[f"{normalisation}.bias"], tensor[name])
        form, moved = self.form.behind(name, given)
        gain, shift = self.kept(f"{normalisation}.weight", moved.gain), self.kept(f"{normalisation}.bias", moved.shift)
        normal = self.writer.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=epsilon)
        made = form.product(self.writer, normal, name, moved.weight)
        bias = f"{linear}.bias"
        return self.writer.node("Add", made, self.constant(bias)) if bias in tensor else made

    def activation(self, x: str, name: str) -> str:
        """One of the activations of the field, by the name that transformers gives it.

        Raises:
            SourceError: another one.
        """
        node = self.writer.node
        if name not in _ACTIVATIONS:
            raise SourceError(f"activation {choices(name, _ACTIVATIONS)}")
        if name in ("silu", "swish"):
            return node("Mul", x, node("Sigmoid", x))
        if name == "quick_gelu":
            return node("Mul", x, node("Sigmoid", node("Mul", x, self.writer.constant(1.702, np.float32))))
        return node("Gelu", x, approximate=_ACTIVATIONS[name]) if "gelu" in name else node(_ACTIVATIONS[name], x)

    def add(self, x: str, y: str) -> str:
        """The sum of two tensors."""
        return self.writer.node("Add", x, y)

    def multiply(self, x: str, y: str) -> str:
        """The product of two tensors."""
        return self.writer.node("Mul", x, y)

    def scaled(self, x: str, factor: float) -> str:
        """All elements times a number."""
        return self.writer.node("Mul", x, self.writer.constant(factor, np.float32))

    def split(self, x: str, heads: int, size: int) -> str:
        """(rows, tokens, heads x size) to (rows, heads, tokens, size)."""
        apart = self.writer.node("Reshape", x, self.writer.constant([0, 0, heads, size], np.int64))
        return self.writer.node("Transpose", apart, perm=[0, 2, 1, 3])

    def join(self, x: str, width: int) -> str:
        """The inverse of `split`."""
        turned = self.writer.node("Transpose", x, perm=[0, 2, 1, 3])
        return self.writer.node("Reshape", turned, self.writer.constant([0, 0, width], np.int64))

    def thirds(self, x: str, names: Sequence[str]) -> Sequence[str]:
        """The first, middle and last third of the width."""
        self.writer.node("Split", x, outputs=names, axis=-1, num_outputs=3)
        return names

    def attention(self, query: str, key: str, value: str, scale: float, bias: str = "") -> str:
        """``softmax(query key' scale + bias) value`` over split heads (Vaswani et al. 2017, arXiv:1706.03762)."""
        node = self.writer.node
        scaled = query if scale == 1 else node("Mul", query, self.writer.constant(scale, np.float32))
        scores = node("MatMul", scaled, node("Transpose", key, perm=[0, 1, 3, 2]))
        if bias:
            scores = node("Add", scores, bias)
        return node("MatMul", node("Softmax", scores, axis=-1), value)

    def biases(self, name: str, table: Floats, away: str) -> str:
        """Rows of the table."""
        node, reach = self.writer.node, len(table) // 2
        near = node("Clip", away, self.writer.constant(-reach, np.int64), self.writer.constant(reach, np.int64))
        rows = node("Add", near, self.writer.constant(reach, np.int64))
        turned = node("Transpose", node("Gather", self.kept(name, table), rows), perm=[2, 0, 1])
        return node("Unsqueeze", turned, self.writer.constant([0], np.int64))

    def hiding(self, mask: str, shown: int = 0) -> str:
        """An int64 mask (rows, keys), 1 where there is a token, as a bias of scores (rows, 1, 1, keys)."""
        node, constant = self.writer.node, self.writer.constant
        wide = node("Unsqueeze", mask, constant([1, 2], np.int64))
        visible = node("Greater", wide, constant(0, np.int64))
        bias = node("Where", visible, constant(0, np.float32), constant(MASKED, np.float32))
        if not shown:
            return bias
        # The floats are filled up and not the mask: Hexagon has no Pad of integers.
        return node("Pad", bias, constant([0, 0, 0, shown, 0, 0, 0, 0], np.int64))

    def patches(self, pixels: str, prefix: str, size: int, name: str, positions: Floats) -> str:
        """Squares of pixels through a convolution. The first place is filled up, not joined.

        One (1, 1, width) tensor cannot be concatenated to rows of any number.
        """
        node, constant = self.writer.node, self.writer.constant
        _, tokens, width = positions.shape
        kernel, bias = (self.constant(f"{prefix}.{what}") for what in ("weight", "bias"))
        patches = node("Conv", pixels, kernel, bias, strides=[size] * 2, kernel_shape=[size] * 2)
        flat = node("Reshape", patches, constant([0, width, tokens - 1], np.int64))
        patches = node("Transpose", flat, perm=[0, 2, 1])
        room = node("Pad", patches, constant([0, 1, 0, 0, 0, 0], np.int64))
        return node("Add", room, self.kept(name, positions))

    def repeated(self, name: str, like: str) -> str:
        """A weight (1, tokens, width) for each row of ``like``."""
        node, constant = self.writer.node, self.writer.constant
        rows = node("Slice", node("Shape", like), constant([0], np.int64), constant([1], np.int64))
        shape = node("Concat", rows, constant([1, 1], np.int64), axis=0)
        return node("Expand", self.constant(name), shape)

    def looked_up(self, name: str, ids: str, offset: int = 0) -> str:
        """Rows of a table."""
        table = self.constant(name)
        places = self.writer.node("Add", ids, self.writer.constant(offset, np.int64)) if offset else ids
        return self.writer.node("Gather", table, places)

    def begun(self, name: str, like: str) -> str:
        """The first rows of a table, as many as there are tokens."""
        node, constant = self.writer.node, self.writer.constant
        length = node("Slice", node("Shape", like), constant([1], np.int64), constant([2], np.int64))
        return node("Slice", self.constant(name), constant([0], np.int64), length, constant([0], np.int64))

    def tokens(self, x: str, start: int, end: int) -> str:
        """Those from ``start`` to before ``end``."""
        constant = self.writer.constant
        bounds = (constant([start], np.int64), constant([end], np.int64), constant([1], np.int64))
        return self.writer.node("Slice", x, *bounds)

    def token(self, x: str, place: int) -> str:
        """One of them, (rows, width)."""
        return self.writer.node("Gather", x, self.writer.constant(place, np.int64), axis=1)

    def joined(self, x: str, y: str) -> str:
        """The tokens of both, one behind the other."""
        return self.writer.node("Concat", x, y, axis=1)

    def appended(self, x: str, y: str) -> str:
        """The tokens of both, split over heads."""
        return self.writer.node("Concat", x, y, axis=2)

    def picked(self, pick: str, x: str) -> str:
        """The token at which ``pick`` (rows, 1, tokens) is 1, (rows, width)."""
        made = self.writer.node("MatMul", pick, x)
        return self.writer.node("Squeeze", made, self.writer.constant([1], np.int64))

    def mean(self, x: str) -> str:
        """Over the tokens, (rows, width)."""
        return self.writer.node("ReduceMean", x, self.writer.constant([1], np.int64), keepdims=0)

    def unit(self, x: str) -> str:
        """Divided by the length of each token's vector."""
        return self.writer.node("LpNormalization", x, axis=-1, p=2)


_ACTIVATIONS = {
    "gelu": "none",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "quick_gelu": "",
    "relu": "Relu",
    "silu": "",
    "swish": "",
}
