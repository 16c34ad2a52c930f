"""Read a float ``.tflite`` file as operators, tensors and weights, to prepare static INT8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arrays import Floats
from edgekit.converters import CONVOLUTIONS

CONVOLUTION_KINDS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})
"""Operators that may have constant weights, and are the layers of a plan then."""

MOVES = frozenset({"TRANSPOSE", "RESHAPE", "PAD", "PADV2", "SLICE", "STRIDED_SLICE"})
"""Operators that compute nothing: what comes out was in what went in, or is 0."""


@dataclass(frozen=True)
class LiteRTOperator:
    """An operator by its TFLite name, with the indices of its tensors (-1 for one left out)."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class LiteRTNetwork:
    """The one subgraph of a float ``.tflite`` file."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
        kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        (graph,) = self._model.subgraphs
        self._tensors = graph.tensors
        self.operators = [
            LiteRTOperator(
                kinds[self._model.operatorCodes[op.opcodeIndex].builtinCode], tuple(op.inputs), tuple(op.outputs)
            )
            for op in graph.operators
        ]
        self._outputs = {int(index) for index in graph.outputs}
        self._maker = {index: op for op in self.operators for index in op.outputs}
        self._readers: dict[int, list[LiteRTOperator]] = defaultdict(list)
        for op in self.operators:
            for index in op.inputs:
                self._readers[index].append(op)
        computed = (*(int(index) for index in graph.inputs), *self._maker)
        self.activations = [index for index in computed if self._tensors[index].type == schema.TensorType.FLOAT32]

    def arithmetic(self) -> dict[str, str | int | float]:
        """Count the file's convolutions: those in integers, and those that only store their weights so.

        Weights that are computed with in float are read through an operator of their own, DEQUANTIZE.
        """
        from ai_edge_litert import schema_py_generated as schema

        convolutions = [op for op in self.operators if op.kind in CONVOLUTION_KINDS]
        integers = sum(self._tensors[self.read(op)].type == schema.TensorType.INT8 for op in convolutions)
        makers = [self._maker.get(op.inputs[1]) for op in convolutions]
        stored = sum(maker is not None and maker.kind == "DEQUANTIZE" for maker in makers)
        told: dict[str, str | int | float] = {CONVOLUTIONS: f"{integers} of {len(convolutions)}"}
        if stored:
            told["weights in int8"] = f"{stored} of {len(convolutions)} convolutions"
        return told

    def name(self, index: int) -> str:
        """Name of a tensor."""
        name: str = self._tensors[index].name.decode()
        return name

    def rank(self, index: int) -> int:
        """Number of dimensions of a tensor."""
        return len(self._tensors[index].shape)

    def weights(self, op: LiteRTOperator) -> Floats | None:
        """The constant weights of an operator; None where it has none."""
        if op.kind not in WEIGHTED:
            return None
        tensor = self._tensors[op.inputs[1]]
        data = self._model.buffers[tensor.buffer].data
        return None if data is None else data.view(np.float32).reshape(tensor.shape)

    def read(self, op: LiteRTOperator) -> int:
        """The tensor that a layer computes from."""
        return op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0]  # which has the shape of the result in front

    def source(self, index: int) -> int:
        """The tensor that a tensor's values come from, before operators that only move them."""
        op = self._maker.get(index)
        return index if op is None or op.kind not in MOVES else self.source(op.inputs[0])

    def behind(self, index: int) -> list[LiteRTOperator]:
        """Operators that make a tensor, up to and with the nearest layers."""
        op = self._maker.get(index)
        if op is None:
            return []
        if self.weights(op) is not None:
            return [op]
        return [op, *(found for before in op.inputs for found in self.behind(before))]

    def readers(self, index: int) -> list[LiteRTOperator]:
        """The operators that read a tensor."""
        return self._readers[index]

    def moves(self, op: LiteRTOperator) -> list[LiteRTOperator]:
        """Operators that pass on the results of an operator and compute nothing."""
        found = []
        for reader in (reader for index in op.outputs for reader in self._readers[index] if reader.kind in MOVES):
            found += [reader, *self.moves(reader)]
        return found

    def gives_output(self, op: LiteRTOperator) -> bool:
        """Whether an output of the network is what this operator makes, as it is or moved."""
        return any(index in self._outputs for one in (op, *self.moves(op)) for index in one.outputs)

    def float_operators(self, layers: Iterable[tuple[LiteRTOperator, bool]]) -> list[LiteRTOperator]:
        """The operators to leave in float so that layers are float.

        Every tensor has one grid for all that read it, so a layer whose input does not bear a grid takes all that makes
        this input with it.

        Args:
            layers: operators with weights, and whether their inputs are to be float as well.
        """
        found: list[LiteRTOperator] = []
        for op, inputs_too in layers:
            found += [op, *self.moves(op), *(self.behind(self.read(op)) if inputs_too else ())]
        return list(dict.fromkeys(found))
