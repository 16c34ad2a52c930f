"""Replace the ranges in a file of MNN's quantiser by those of the quantisation plan, in place.

The quantiser takes no ranges. But with its method EMA the file tells the scale and the zero point of every tensor, and
tells them again beside each convolution; weights and biases do not depend on them.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.calibration.plan import TensorRange
from edgekit.calibration.ranges import LEVELS
from edgekit.runtimes.engines.mnn.flatbuffer import CONVERT, CONVOLUTIONS, FlatbufferTable, MnnOperator, read_operators

if TYPE_CHECKING:
    from onnx import ModelProto

_LEAST = 1e-4
"""Width of a range that has none."""


@dataclass(frozen=True)
class _Grid:
    """Integers are ``round(value / scale) + zero``, from -127 to 127."""

    scale: float
    zero: int

    @classmethod
    def of(cls, ends: TensorRange, even: bool) -> _Grid:
        if even:
            return cls(max(ends.high, -ends.low, _LEAST) / LEVELS, 0)
        scale = max(ends.high - ends.low, _LEAST) / (2 * LEVELS)
        return cls(scale, round(-LEVELS - ends.low / scale))


def set_ranges(path: Path, source: Path, network: ModelProto, tensors: Mapping[str, TensorRange]) -> int:
    """Write ranges into a quantised ``.mnn`` file; returns the number of tensors that keep the quantiser's own.

    An activation that MNN has fused into an addition computes max(integer, 0), which is right only where zero is the
    integer 0 (MNN 3.6.1): such tensors become symmetric. So does one for which the quantiser wrote no zero point,
    because it was 0: there is no place for another.

    Args:
        path: quantised by EMA.
        source: the float ``.mnn`` file that it was made of.
        network: the ONNX graph that it comes from.
        tensors: ranges by the names of that graph.
    """
    data = bytearray(path.read_bytes())
    net = FlatbufferTable.root(data)
    operators = read_operators(path)
    planned = _Planned(operators, read_operators(source), network, tensors)
    names = net.texts(7)
    grids: dict[str, _Grid] = {}
    left = 0
    for place in net.offsets(1):
        described = FlatbufferTable(data, place)
        name, told = names[described.number(1, "i")], FlatbufferTable(data, described.target(4))
        ends = planned.ends(name)
        if ends is None:
            left += 1
            continue
        zero = told.place(1)
        grids[name] = grid = _Grid.of(ends, name in planned.added or not zero)
        struct.pack_into("<f", data, told.place(0), grid.scale)
        if zero:
            struct.pack_into("<f", data, zero, grid.zero)
    for place, operator in zip(net.offsets(3), operators, strict=True):
        if operator.kind in CONVOLUTIONS:
            convolution = FlatbufferTable(data, FlatbufferTable(data, place).target(2))
            _tell(convolution, grids.get(operator.inputs[0]), 5, 6)
            _tell(convolution, grids.get(operator.outputs[0]), 6, 7)
    path.write_bytes(data)
    return left


def _tell(convolution: FlatbufferTable, grid: _Grid | None, scale: int, zero: int) -> None:
    """Write a grid beside a convolution, into the given fields of its two tables, where they are there."""
    if grid is None:
        return
    if place := FlatbufferTable(convolution.data, convolution.target(3)).place(scale):
        struct.pack_into("<f", convolution.data, place, grid.scale)
    if place := FlatbufferTable(convolution.data, convolution.target(4)).place(zero):
        struct.pack_into("<b", convolution.data, place, grid.zero)


class _Planned:
    """Ranges by the names of a quantised ``.mnn`` file.

    Tensors are named as in ONNX, with exceptions: some convolutions are renamed (their order is that of the float file,
    where they have the names of their layers), layouts are changed by operators of its own, and an activation that is
    fused into the operator before it leaves that one's name to the result.
    """

    def __init__(
        self,
        operators: list[MnnOperator],
        source: list[MnnOperator],
        network: ModelProto,
        tensors: Mapping[str, TensorRange],
    ) -> None:
        self._tensors = tensors
        # The first of a name: the last operator of some outputs is another layout of the same name.
        self._makers = {name: operator for operator in reversed(operators) for name in operator.outputs}
        originals = [operator.name for operator in source if operator.kind in CONVOLUTIONS]
        convolutions = [operator.outputs[0] for operator in operators if operator.kind in CONVOLUTIONS]
        alike = len(convolutions) == len(originals)
        self._originals = dict(zip(convolutions, originals, strict=True)) if alike else {}
        self._fused = _only_activations(network, {*self._makers})
        self.added = {
            name
            for name, operator in self._makers.items()
            if self._original(name) in self._fused and operator.kind not in CONVOLUTIONS
        }
        """Results of other operators than convolutions with an activation fused into them."""

    def _original(self, name: str) -> str:
        return self._originals.get(name, name)

    def ends(self, name: str) -> TensorRange | None:
        """The range of a tensor, or of the tensor it is converted from; None if the plan has neither."""
        while True:
            original = self._original(name)
            found = self._tensors.get(self._fused.get(original, original))
            maker = self._makers.get(name)
            if found is not None or maker is None or maker.kind != CONVERT:
                return found
            (name,) = maker.inputs


def _only_activations(network: ModelProto, present: set[str]) -> dict[str, str]:
    """Results of the ReLUs that alone read a tensor and are not ``present``, by that tensor."""
    readers = defaultdict(list)
    for node in network.graph.node:
        for name in node.input:
            readers[name].append(node)
    found = {}
    for name, (node, *others) in readers.items():
        if not others and node.op_type in ("Relu", "Clip") and node.output[0] not in present:
            found[name] = str(node.output[0])
    return found
