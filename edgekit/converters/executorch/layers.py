"""The layers of a BLIP-2 as operators of PyTorch that XNNPACK takes: one row, of any number of tokens.

A tensor is (tokens, width), or (heads, tokens, size).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from edgekit.arrays import Floats
from edgekit.converters._xnnpack_integers import blocks, channels
from edgekit.converters.executorch.writer import TorchWriter
from edgekit.errors import SourceError, choices
from edgekit.graph.blip2.forms import Blocks, Float16, Float32, Form, form_of
from edgekit.graph.blip2.hosted_layers import HostedLayers
from edgekit.runtimes.language.host_cache import HIDDEN

_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish")


class ExecutorchLayers(HostedLayers[TorchWriter]):
    """`edgekit.graph.blip2.layers.Layers` of a torch.fx graph."""

    integers: ClassVar[str] = "int64"

    def linear(self, x: str, prefix: str, form: Form | None = None) -> str:
        """One product, with the bias in it.

        Integers are symmetric: a scale for each block of 4 bits where blocks fill the inputs, else 8 bits with a scale
        for each output. XNNPACK brings the input into 8 bits then, each token anew.
        """
        name = f"{prefix}.weight"
        weight, form, inputs = self.checkpoint[name], form_of(form or self.form, name), x
        if isinstance(form, Float16 | Float32):
            kept = self.writer.weight(weight)
            self.writer.products["float32"] += 1
        else:
            inputs = self._rounded(x)
            kept = self._integers(weight, form)
        biases = [self.writer.weight(self.checkpoint[name])] if (name := f"{prefix}.bias") in self.checkpoint else []
        return self._call("linear", inputs, kept, *biases)

    def _rounded(self, x: str) -> str:
        """In 8 bits, by the range of each token."""
        import torch

        decomposed, kind = torch.ops.quantized_decomposed, torch.int8
        chosen = self.writer.call(decomposed.choose_qparams_per_token_asymmetric.default, x, kind)
        scale, zero = (self._item(chosen, place) for place in (0, 1))
        limits = (-128, 127, kind)
        small = self.writer.call(decomposed.quantize_per_token.default, x, scale, zero, *limits)
        return self.writer.call(decomposed.dequantize_per_token.default, small, scale, zero, *limits, torch.float32)

    def _integers(self, weight: Floats, form: Form) -> str:
        import torch

        writer, decomposed, kind = self.writer, torch.ops.quantized_decomposed, torch.int8
        if isinstance(form, Blocks) and form.bits == 4 and not weight.shape[1] % form.size:
            writer.products["int4"] += 1
            integers, scales = blocks(weight, form.size)
            zeros = np.zeros(scales.shape, np.int32)
            tensors = [writer.weight(one) for one in (integers, scales, zeros)]
            limits = (-8, 7, kind, form.size, torch.float32)
            return writer.call(decomposed.dequantize_per_channel_group.default, *tensors, *limits)
        writer.products["int8"] += 1
        integers, scales = channels(weight)
        tensors = [writer.weight(one) for one in (integers, scales, np.zeros(len(scales), np.int64))]
        return writer.call(decomposed.dequantize_per_channel.default, *tensors, 0, -127, 127, kind)

    def normalisation(self, x: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; without weights where the checkpoint has none."""
        if f"{prefix}.weight" not in self.checkpoint:
            centred = self._call("sub.Tensor", x, self._mean(x))
            return self._root_mean_square(centred, epsilon)
        gain, shift = (self.checkpoint[f"{prefix}.{what}"] for what in ("weight", "bias"))
        kept = [self.writer.weight(one) for one in (gain, shift)]
        return self._call("layer_norm", x, [gain.size], *kept, epsilon)

    def root_mean_square(self, x: str, name: str, epsilon: float) -> str:
        """Division by the root of the mean square over the last axis."""
        return self.multiply(self._root_mean_square(x, epsilon), self.writer.weight(self.checkpoint[name]))

    def _root_mean_square(self, x: str, epsilon: float) -> str:
        square = self._plus(self._mean(self.multiply(x, x)), epsilon)
        return self.multiply(x, self._call("rsqrt", square))

    def _mean(self, x: str) -> str:
        return self._call("mean.dim", x, [-1], True)

    def activation(self, x: str, name: str) -> str:
        """One of the activations of the field.

        Raises:
            SourceError: another one.
        """
        if name not in _ACTIVATIONS:
            raise SourceError(f"activation {choices(name, _ACTIVATIONS)}")
        if name in ("gelu", "relu"):
            return self._call(name, x)
        if "gelu_" in name:
            return self._approximate_gelu(x)
        inner = self.scaled(x, 1.702) if name == "quick_gelu" else x
        return self.multiply(x, self._call("sigmoid", inner))

    def _approximate_gelu(self, x: str) -> str:
        """By a hyperbolic tangent (arXiv:1606.08415), in steps: XNNPACK's one operator computes the exact function."""
        cube = self.scaled(self.multiply(self.multiply(x, x), x), 0.044715)
        bent = self._call("tanh", self.scaled(self.add(x, cube), (2 / np.pi) ** 0.5))
        return self.multiply(self.scaled(x, 0.5), self._plus(bent, 1.0))

    def add(self, x: str, y: str) -> str:
        """The sum of two tensors."""
        return self._call("add.Tensor", x, y)

    def multiply(self, x: str, y: str) -> str:
        """The product of two tensors, element by element."""
        return self._call("mul.Tensor", x, y)

    def scaled(self, x: str, factor: float) -> str:
        """All elements times a number."""
        return self.multiply(x, self._number(factor))

    def _plus(self, x: str, number: float) -> str:
        return self.add(x, self._number(number))

    def _number(self, value: float) -> str:
        """As a tensor: XNNPACK takes no operator with a bare number."""
        return self.writer.weight(np.array([value], np.float32))

    def split(self, x: str, heads: int, size: int) -> str:
        """(tokens, heads x size) to (heads, tokens, size)."""
        return self._call("permute", self._call("view", x, [-1, heads, size]), [1, 0, 2])

    def join(self, x: str, width: int) -> str:
        """The inverse of `split`."""
        return self._call("view", self._call("contiguous", self._call("permute", x, [1, 0, 2])), [-1, width])

    def thirds(self, x: str, names: Sequence[str]) -> Sequence[str]:
        """The first, middle and last third of the width."""
        parts = self._call("chunk", x, 3, -1)
        return [self._item(parts, place) for place in range(3)]

    def attention(self, query: str, key: str, value: str, scale: float, bias: str = "") -> str:
        """Products of batches, softmax."""
        scores = self._call(
            "bmm", query if scale == 1 else self.scaled(query, scale), self._call("permute", key, [0, 2, 1])
        )
        if bias:
            scores = self.add(scores, bias)
        return self._call("bmm", self._call("softmax.int", scores, -1), value)

    def biases(self, name: str, table: Floats, away: str) -> str:
        """Rows of the table: (heads, queries, keys)."""
        reach = len(table) // 2
        rows = self._call("add.Scalar", self._call("clamp", away, -reach, reach), reach)
        return self._call("permute", self._call("embedding", self.writer.weight(table), rows), [2, 0, 1])

    def hiding(self, mask: str, shown: int = 0) -> str:
        """The mask as a bias (1, 1, keys)."""
        import torch

        seen = self._plus(self._call("to.dtype", mask, torch.float32), -1.0)
        hidden = self.scaled(seen, -float(HIDDEN))
        if shown:
            hidden = self._call("constant_pad_nd", hidden, [shown, 0], 0.0)
        return self._call("view", hidden, [1, 1, -1])

    def patches(self, pixels: str, prefix: str, size: int, name: str, positions: Floats) -> str:
        """Squares of pixels through a convolution, behind a place of zeros."""
        kernel, bias = (self.checkpoint[f"{prefix}.{what}"] for what in ("weight", "bias"))
        kept = [self.writer.weight(one) for one in (kernel, bias)]
        patches = self._call("conv2d", self._call("unsqueeze", pixels, 0), *kept, [size, size])
        turned = self._call("permute", self._call("view", patches, [len(kernel), -1]), [1, 0])
        room = self._call("constant_pad_nd", turned, [0, 0, 1, 0], 0.0)
        return self.add(room, self.writer.weight(positions[0]))

    def repeated(self, name: str, like: str) -> str:
        """The weight: there is one row."""
        return self.writer.weight(self.checkpoint[name][0])

    def looked_up(self, name: str, ids: str, offset: int = 0) -> str:
        """Rows of a table, which begins at the offset."""
        return self._call("embedding", self.writer.weight(self.checkpoint[name][offset:]), ids)

    def begun(self, name: str, like: str) -> str:
        """The first rows of a table."""
        return self._call(
            "slice.Tensor", self.writer.weight(self.checkpoint[name]), 0, 0, self._call("sym_size.int", like, 0)
        )

    def tokens(self, x: str, start: int, end: int) -> str:
        """Those from ``start`` to before ``end``."""
        return self._call("slice.Tensor", x, 0, start, end)

    def token(self, x: str, place: int) -> str:
        """One of them, (1, width)."""
        return self.tokens(x, place, place + 1)

    def joined(self, x: str, y: str) -> str:
        """The tokens of both, one behind the other."""
        return self._call("cat", [x, y], 0)

    def appended(self, x: str, y: str) -> str:
        """The tokens of both, split over heads."""
        return self._call("cat", [x, y], 1)

    def picked(self, pick: str, x: str) -> str:
        """The token at which ``pick`` is 1, (1, width)."""
        return self._call("mm", pick, x)

    def mean(self, x: str) -> str:
        """Over the tokens, (1, width)."""
        return self._call("mean.dim", x, [0], True)

    def unit(self, x: str) -> str:
        """Divided by the length of each token's vector."""
        length = self._call("sqrt", self._call("sum.dim_IntList", self.multiply(x, x), [-1], True))
        return self._call("div.Tensor", x, length)

    def _item(self, values: str, place: int) -> str:
        import operator

        return self.writer.call(operator.getitem, values, place)

    def _call(self, name: str, *given: Any) -> str:
        """An operator of ATen by its name, with its overload where that is not the default one."""
        import torch

        operator, _, overload = name.partition(".")
        return self.writer.call(getattr(getattr(torch.ops.aten, operator), overload or "default"), *given)
