"""Store activations unsigned that go only a little below zero, and undo that where they are read.

The chip's scales are symmetric and powers of two: a signed tensor spends half of its 256 steps below zero, where SiLU
only has values down to -.28. So a constant is added to SiLU's output, and what the convolutions behind it make of that
constant is taken from their biases. That is exact in float. The constant passes through concatenations, sums, poolings
and slices of channels, so that these are unsigned too. The vendor's toolkit does the same, but only where one
convolution alone reads the activation.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.converters.imx500.observation import (
    Batches,
    Extremes,
    extremes,
    is_one,
    layer_of,
    power_of_two,
    whole_steps,
)

if TYPE_CHECKING:
    from torch import fx

ACTIVATIONS = frozenset({"SiLU", "Hardswish", "GELU"})
"""Those that are bounded below, by little."""

Counts = NDArray[np.int64]
"""How many times the constant is in each channel of a tensor."""


def store_unsigned(network: fx.GraphModule, batches: Batches) -> int:
    """Let every activation be stored unsigned that only convolutions read, if through other operators; in place.

    Args:
        network: of `edgekit.converters.imx500.network.rebuild`.
        batches: calibration images.

    Returns:
        How many there are.
    """
    found = _Search(network, extremes(network, batches)).found()
    for node, (counts, constant) in found.items():
        for reader in [user for user in node.users if is_one(network, user, "Conv2d")]:
            undo(network, reader, constant * counts.astype(np.float64))
    raised = [(node, constant) for node, (_, constant) in found.items() if is_one(network, node, *ACTIVATIONS)]
    for node, constant in raised:
        _raise(network, node, constant)
    network.recompile()
    return len(raised)


def _raise(network: fx.GraphModule, node: fx.Node, constant: float) -> None:
    with network.graph.inserting_after(node):
        raised = network.graph.call_function(operator.add, (node, constant))
    node.replace_all_uses_with(raised, delete_user_cb=lambda user: user is not raised)


class _Search:
    """Finds the tensors that can carry a constant, and its size."""

    def __init__(self, network: fx.GraphModule, seen: dict[fx.Node, Extremes]) -> None:
        self._network, self._seen = network, seen
        self._refusing: set[fx.Node] = set()
        """Convolutions that cannot undo it: they pad channels that have it a different number of times."""

    def found(self) -> dict[fx.Node, tuple[Counts, float]]:
        """The nodes whose output carries a constant: how often in each channel, and the constant."""
        while True:
            counts = self._counts()
            uneven = {
                user
                for node, many in counts.items()
                for user in node.users
                if len(set(many.tolist())) > 1 and _pads(self._network, user)
            }
            if not uneven:
                return {node: (many, constant) for node, many, constant in self._sized(counts)}
            self._refusing |= uneven

    def _counts(self) -> dict[fx.Node, Counts]:
        counts: dict[fx.Node, Counts] = {}
        for node in self._network.graph.nodes:
            if not self._all_take(node):
                continue
            if is_one(self._network, node, *ACTIVATIONS) and self._seen[node].lowest < 0:
                counts[node] = np.ones(self._seen[node].channels, np.int64)
            elif any(one in counts for one in node.all_input_nodes) and self._carries(node):
                counts[node] = self._carried(node, counts)
        return counts

    def _all_take(self, node: fx.Node) -> bool:
        return node in self._seen and bool(node.users) and all(self._takes(user) for user in node.users)

    def _takes(self, node: fx.Node) -> bool:
        if is_one(self._network, node, "Conv2d"):
            return node not in self._refusing and layer_of(self._network, node).padding != "same"
        return self._carries(node) and self._all_take(node)

    def _carries(self, node: fx.Node) -> bool:
        """Whether a constant in its inputs is the same constant, or a sum of such, in its output."""
        import torch

        if node not in self._seen:
            return False
        if node.op == "call_module":
            layer = layer_of(self._network, node)
            averaging = isinstance(layer, torch.nn.AvgPool2d)
            inside = averaging and (not layer.count_include_pad or layer.padding == (0, 0))
            return bool(inside) or isinstance(layer, (torch.nn.MaxPool2d, torch.nn.Upsample))
        if node.target is torch.cat:
            return len(node.args) == 2 and bool(node.args[1] == 1)
        if node.target is torch.add:
            return [self._seen[one].channels for one in node.all_input_nodes] == [self._seen[node].channels] * 2
        return node.target is torch.index_select or (
            node.target is operator.getitem and isinstance(node.args[1], tuple) and len(node.args[1]) == 4
        )

    def _carried(self, node: fx.Node, counts: dict[fx.Node, Counts]) -> Counts:
        import torch

        def of(one: Any) -> Counts:
            return counts.get(one, np.zeros(self._seen[one].channels, np.int64))

        if node.target is torch.cat:
            joined: Any = node.args[0]
            return np.concatenate([of(one) for one in joined])
        if node.target is torch.add:
            return of(node.args[0]) + of(node.args[1])
        source: Any = node.args[0]
        if node.target is torch.index_select:
            chosen: Any = node.args[2]
            return of(source).take(self._network.get_buffer(str(chosen.target)).numpy())
        if node.target is operator.getitem:
            where: Any = node.args[1]
            part: Counts = of(source)[where[1]]
            return part
        return of(source)

    def _sized(self, counts: dict[fx.Node, Counts]) -> list[tuple[fx.Node, Counts, float]]:
        """One constant for all tensors that are joined somewhere: a whole number of steps of the coarsest of them.

        Zero has to lie on the grid. It is what most channels have most of the time.
        """
        groups: list[set[fx.Node]] = []
        for node in counts:
            own = {node, *(one for one in node.all_input_nodes if one in counts)}
            joined = [group for group in groups if group & own]
            groups = [group for group in groups if not group & own] + [own.union(*joined)]
        found = []
        for group in groups:
            constant = self._constant([(self._seen[node].highest, int(counts[node].max())) for node in group], group)
            found += [(node, counts[node], constant) for node in counts if node in group]
        return found

    def _constant(self, peaks: list[tuple[float, int]], group: set[fx.Node]) -> float:
        least = max(-self._seen[node].lowest for node in group if is_one(self._network, node, *ACTIVATIONS))
        constant, before = least, 0.0
        while constant != before:
            widest = max(peak + many * constant for peak, many in peaks)
            before, constant = constant, whole_steps(least, power_of_two(widest))
        return constant


def _pads(network: fx.GraphModule, node: fx.Node) -> bool:
    return is_one(network, node, "Conv2d") and any(padding_of(layer_of(network, node)))


def padding_of(layer: Any) -> tuple[int, int]:
    """Rows and columns on each side."""
    return (0, 0) if layer.padding == "valid" else tuple(layer.padding)


def undo(network: fx.GraphModule, node: fx.Node, shift: NDArray[np.float64]) -> None:
    """Take from a convolution's bias what it makes of a constant in its input, and pad with that constant."""
    import torch

    layer: Any = layer_of(network, node)
    source: Any = node.args[0]
    rows, columns = padding_of(layer)
    if rows or columns:
        with network.graph.inserting_before(node):
            sides = [columns, columns, rows, rows]
            padded = network.graph.call_function(torch.nn.functional.pad, (source, sides), {"value": float(shift[0])})
        node.replace_input_with(source, padded)
        layer.padding = (0, 0)
    with torch.no_grad():
        given = torch.from_numpy(shift).to(layer.weight.dtype).reshape(layer.groups, -1)
        given = given.repeat_interleave(layer.out_channels // layer.groups, 0)
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
        layer.bias = torch.nn.Parameter(bias - (layer.weight.sum((2, 3)) * given).sum(1))
