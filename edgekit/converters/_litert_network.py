"""A float ``.tflite`` file as operators, tensors and weights: what static INT8 has to know of it beforehand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
MOVES = frozenset({"TRANSPOSE", "RESHAPE", "PAD", "PADV2", "SLICE", "STRIDED_SLICE"})
"""Operators that compute nothing."""

SPREAD = 40.0
"""Ratio of the channels of a depthwise input that one scale cannot hold any more; see `Network.unholdable`."""


@dataclass(frozen=True)
class Operator:
    """An operator by its TFLite name, with the indices of its tensors (-1 for one left out)."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """The last axis of a tensor over all calibration samples: largest absolute value and mean of each channel."""

    largest: Floats
    mean: Floats


class Network:
    """The one subgraph of a float ``.tflite`` file.

    ``data`` is the file itself and may be changed through `correct_biases`; the weights are views of it.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.data = bytearray(path.read_bytes())
        self._model = schema.ModelT.InitFromPackedBuf(self.data, 0)
        kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        (graph,) = self._model.subgraphs
        self._tensors = graph.tensors
        self.operators = [
            Operator(kinds[self._model.operatorCodes[op.opcodeIndex].builtinCode], tuple(op.inputs), tuple(op.outputs))
            for op in graph.operators
        ]
        self.outputs = tuple(int(index) for index in graph.outputs)
        self._maker = {index: op for op in self.operators for index in op.outputs}
        self._readers: dict[int, list[Operator]] = defaultdict(list)
        for op in self.operators:
            for index in op.inputs:
                self._readers[index].append(op)
        computed = (*(int(index) for index in graph.inputs), *self._maker)
        self.activations = [index for index in computed if self._tensors[index].type == schema.TensorType.FLOAT32]

    def name(self, index: int) -> str:
        """Name of a tensor."""
        name: str = self._tensors[index].name.decode()
        return name

    def rank(self, index: int) -> int:
        """Number of dimensions of a tensor."""
        return len(self._tensors[index].shape)

    def feeds_silu(self, index: int) -> bool:
        """Whether a tensor x is read only by the LOGISTIC and the MUL that make x * sigmoid(x) of it."""
        readers = self._readers[index]
        if sorted(op.kind for op in readers) != ["LOGISTIC", "MUL"]:
            return False
        logistic, product = sorted(readers, key=lambda op: op.kind)
        return logistic.outputs[0] in product.inputs

    def feeds_only(self, index: int, kind: str) -> bool:
        """Whether a tensor is read by operators of one kind alone."""
        readers = self._readers[index]
        return bool(readers) and all(op.kind == kind for op in readers)

    def head(self) -> list[Operator]:
        """The convolutions whose results are outputs, and what only moves those results."""
        return [op for index in self.outputs for op in self._back_to_convolution(index, MOVES)]

    def unholdable(self, channels: Mapping[int, Channels]) -> list[Operator]:
        """Depthwise convolutions whose input no single scale can hold, with all that makes this input.

        The input of a depthwise convolution has no mixing of channels behind it that would drown the error of the
        small ones, and its weights often make up for their size. On one real detector a spread of 320x in one such
        tensor cost nearly all of the accuracy, one of 32x did no harm.
        """
        found = []
        for op in self.operators:
            if op.kind == "DEPTHWISE_CONV_2D" and self._spread(op, channels[op.inputs[0]].largest) > SPREAD:
                found += [op, *self._back_to_convolution(op.inputs[0])]
        return found

    def _spread(self, op: Operator, largest: Floats) -> float:
        """How much the channels of a depthwise input differ in size, as far as it matters behind the weights.

        The error of one scale for all, amplified by the largest weights, over the mean of what the channels really
        reach: 1 for equal channels, the ratio of sizes where weights make up for it, small for channels that stay
        small or are not listened to.
        """
        weights = np.abs(self._weights(op)).sum(axis=(0, 1, 2)).reshape(len(largest), -1).max(1)
        reach = float((weights * largest).mean())
        return float(weights.max() * largest.max()) / reach if reach > 0 else 1.0

    def _back_to_convolution(self, index: int, passing: frozenset[str] | None = None) -> list[Operator]:
        """Operators that make a tensor, up to and with the nearest convolutions.

        With ``passing`` only operators of these kinds are passed; a branch that meets another kind adds nothing.
        """
        op = self._maker.get(index)
        if op is None:
            return []
        if op.kind in CONVOLUTIONS:
            return [op]
        if passing is not None and op.kind not in passing:
            return []
        behind = [found for before in op.inputs for found in self._back_to_convolution(before, passing)]
        return [op, *behind] if behind or passing is None else []

    def correct_biases(self, channels: Mapping[int, Channels], spared: Iterable[Operator]) -> None:
        """Set the bias of each convolution so that rounding its weights to 8 bits leaves its channel means alone.

        The change is - sum((rounded - weights) * mean input), for the weights' error only: correcting for the error
        of the activations before it as well has made detectors worse (Nagel et al., arXiv 1906.04721, is the idea).
        ``spared`` operators stay in float and keep their biases.
        """
        kept = {op.outputs for op in spared}
        for op in self.operators:
            if op.kind not in CONVOLUTIONS or op.outputs in kept or not self._has_own_bias(op):
                continue
            weights = self._weights(op)
            axes = (1, 2, 3) if op.kind == "CONV_2D" else (0, 1, 2)  # one scale per output channel
            scale = np.abs(weights).max(axis=axes, keepdims=True) / 127
            scale[scale == 0] = 1
            error = np.round(weights / scale) * scale - weights
            mean = channels[op.inputs[0]].mean
            if op.kind == "CONV_2D":
                groups = len(mean) // error.shape[3]
                per_group = error.sum((1, 2)).reshape(groups, -1, error.shape[3])
                shift = np.einsum("gok,gk->go", per_group, mean.reshape(groups, -1)).reshape(-1)
            else:
                shift = error.sum((0, 1, 2)) * np.repeat(mean, error.shape[3] // len(mean))
            self._constant(op.inputs[2])[...] -= shift

    def _has_own_bias(self, op: Operator) -> bool:
        """Whether there is a bias that no other operator shares, as equal constants are stored once."""
        if len(op.inputs) < 3 or op.inputs[2] < 0:
            return False
        buffer = self._tensors[op.inputs[2]].buffer
        sharers = [index for index, tensor in enumerate(self._tensors) if tensor.buffer == buffer]
        return len(sharers) == 1 and len(self._readers[op.inputs[2]]) == 1

    def _weights(self, op: Operator) -> Floats:
        return self._constant(op.inputs[1])

    def _constant(self, index: int) -> Floats:
        tensor = self._tensors[index]
        values: Floats = self._model.buffers[tensor.buffer].data.view(np.float32).reshape(tensor.shape)
        return values
