"""QuantizeLinear and DequantizeLinear in an ONNX graph: the pairs, their constants, and names for both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.calibration.ranges import STEPS

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LEAST = 1e-30
"""Least width of a range: engines divide by its scale, which float32 has to hold."""

INTEGERS = (np.dtype(np.int8), np.dtype(np.int32))
"""Types of constants that are quantised already: they get no QuantizeLinear."""


def affine(low: float, high: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and zero point of a uint8 grid over a range that contains 0, as scalars."""
    scale = np.array(max(high - low, LEAST) / STEPS, np.float32)
    return scale, np.array(np.clip(np.rint(-low / scale), 0, STEPS), np.uint8)


class QdqGraph:
    """A model that pairs are put into, with its constants by name."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._taken = {*self._constants, *(name for node in model.graph.node for name in node.output)}

    def is_constant(self, name: str) -> bool:
        """Whether this is a constant."""
        return name in self._constants

    def values(self, name: str) -> NDArray[Any]:
        """The values of a constant."""
        from onnx import numpy_helper

        values: NDArray[Any] = numpy_helper.to_array(self._constants[name])
        return values

    def constant(self, wanted: str, values: Any) -> str:
        """Add a constant; returns its name, which is another one if the wanted name is taken."""
        from onnx import numpy_helper

        name = self.free(wanted)
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def free(self, name: str) -> str:
        """The name, or one like it where the network has one of its own."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def pair(
        self, tensor: str, scale: Any, zero: Any, axis: int | None, nodes: list[NodeProto], result: str = ""
    ) -> str:
        """Append Q (left out for a constant of integers) and DQ of a tensor; returns the name of what they give.

        Args:
            tensor: the tensor, or a constant.
            scale, zero: scalars, or one value for each index of ``axis``.
            axis: None for one scale.
            nodes: where the two go.
            result: name of what they give. [default: one made of the tensor's]
        """
        from onnx import helper

        given = [self.constant(f"{tensor}_scale", scale), self.constant(f"{tensor}_zero_point", zero)]
        options = {} if axis is None else {"axis": axis}
        source, result = tensor, result or self.free(f"{tensor}_dequantized")
        if tensor not in self._constants or self.values(tensor).dtype not in INTEGERS:
            source = self.free(f"{tensor}_quantized")
            nodes.append(helper.make_node("QuantizeLinear", [tensor, *given], [source], f"{tensor}_Q", **options))
        nodes.append(helper.make_node("DequantizeLinear", [source, *given], [result], f"{tensor}_DQ", **options))
        return result

    def finished(self, nodes: list[NodeProto]) -> ModelProto:
        """The model with these nodes, and no constant that nothing reads."""
        graph = self._model.graph
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
        constants = [tensor for name, tensor in self._constants.items() if name in read]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        return self._model
