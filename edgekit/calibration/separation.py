"""Separate channels of different size: split a convolution and the depthwise one behind it into groups of channels.

Each group has tensors, and so scales, of its own, up to the activation behind the depthwise convolution, where channels
are of like size again. Engines compute that activation together with the convolution: a concatenation between the two
would be one more rounding, of values that it has not bounded yet. On YOLOX-Nano that rounding took .015 of the mAP on
the imx500 target. It is exact in float and takes not one product more. Equalization through SiLU does not do as well in
8 bits: what a convolution writes has to reach from -6 in every channel, and that is -600 in one that is scaled 100
times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.calibration.program_layers import constant

if TYPE_CHECKING:
    import torch
    from torch import fx

WITHIN = 4.0
"""Channels of one group differ by at most this ratio, but for those of the last one. On imx500, whose scales are powers
of two, YOLOX-Nano has an mAP of .504 with up to three groups within 16 and .519 with up to five within 4 (float .533).
"""

MOST_GROUPS = 5


@dataclass(frozen=True)
class Chain:
    """A dense convolution, its SiLU, the depthwise convolution that alone reads that, the activation behind it (itself
    where there is none), and the dense convolutions that alone read its channels."""

    producer: fx.Node
    activation: fx.Node
    depthwise: fx.Node
    output: fx.Node
    readers: tuple[fx.Node, ...]


def groups_of(sizes: torch.Tensor) -> list[list[int]]:
    """Channels by size, the largest first, in groups within `WITHIN`; inside a group they keep their order."""
    order = sizes.argsort(descending=True, stable=True).tolist()
    found = [[order[0]]]
    for channel in order[1:]:
        if len(found) < MOST_GROUPS and float(sizes[channel]) * WITHIN < float(sizes[found[-1][0]]):
            found.append([channel])
        else:
            found[-1].append(channel)
    return [sorted(group) for group in found]


def separate(module: fx.GraphModule, chain: Chain, groups: Sequence[Sequence[int]]) -> list[fx.Node]:
    """Split a chain in place; returns the convolutions that take the producer's place, one for each group.

    Args:
        module: a network of aten operators.
        chain: what to split; no weight of it is shared with others.
        groups: all channels of the producer, each once.
    """
    import torch

    depthwise, activation = chain.depthwise, chain.activation
    multiplier = _values(module, depthwise.args[1]).shape[0] // sum(map(len, groups))
    behind = [[multiplier * one + place for one in group for place in range(multiplier)] for group in groups]
    made, pieces = [], []
    with module.graph.inserting_before(depthwise):
        for group, outputs in zip(groups, behind, strict=True):
            first = _part(module, chain.producer, chain.producer.args[0], group, 1)
            made.append(first)
            activated = module.graph.node_copy(activation, {chain.producer: first}.__getitem__)
            activated.meta = first.meta
            piece = _part(module, depthwise, activated, outputs, len(group))
            if chain.output is not depthwise:
                before, piece = piece, module.graph.node_copy(chain.output, {depthwise: piece}.__getitem__)
                piece.meta = before.meta
            pieces.append(piece)
        joined = module.graph.call_function(torch.ops.aten.cat.default, (pieces, 1))
    joined.meta = dict(depthwise.meta)
    chain.output.replace_all_uses_with(joined)
    for node in dict.fromkeys((chain.output, depthwise, activation, chain.producer)):
        module.graph.erase_node(node)
    order = [channel for outputs in behind for channel in outputs]
    with torch.no_grad():
        for reader in chain.readers:
            weight = _values(module, reader.args[1])
            weight.copy_(weight[:, order].clone())
    return made


def _part(module: fx.GraphModule, layer: fx.Node, given: Any, outputs: Sequence[int], groups: int) -> fx.Node:
    """A convolution with some of another's output channels."""
    arguments: list[Any] = [given, None, None, [1, 1], [0, 0], [1, 1], 1]
    arguments[3 : len(layer.args)] = layer.args[3:]
    arguments[6] = groups
    for place, old in enumerate(layer.args[1:3], 1):
        if old is not None:
            name = f"{layer.name}_{'weight' if place == 1 else 'bias'}_from_{outputs[0]}"
            module.register_buffer(name, _values(module, old).detach()[list(outputs)].clone())
            arguments[place] = module.graph.get_attr(name)
    operator: Any = layer.target
    new = module.graph.call_function(operator, tuple(arguments))
    new.meta = {"val": layer.meta["val"][:, : len(outputs)]}
    return new


def _values(module: fx.GraphModule, node: Any) -> torch.Tensor:
    return constant(module, str(node.target))
