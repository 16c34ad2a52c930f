"""How a network ends: the tensors it can be cut at, and what is computed from each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.graph.heads import behind_scale, factor_of, is_stride, last_convolutions, results_of
from edgekit.graph.nodes import operator_name, shape_of

if TYPE_CHECKING:
    import torch
    from torch import fx


def _nothing() -> Floats:
    return np.zeros(0, np.float32)


@dataclass(frozen=True)
class Tail:
    """A tensor that a network can be cut at.

    Attributes:
        tensor: its name under ``cut:``.
        shape: (1, channels, rows, columns).
        then: the operators that only this tensor goes through, up to where it meets others.
        outputs: names of the outputs that are computed from it.
        behind: it is not what a convolution gives, but something just behind it: a part of it, or its product with a
            learned number.
        by_stride: it is multiplied by its own stride next.
        turns: a sine or cosine is computed from it, as from the angle of an oriented box.
        value: what it is for one random input.
    """

    tensor: str
    shape: tuple[int, ...]
    then: tuple[str, ...]
    outputs: tuple[str, ...]
    behind: bool = False
    by_stride: bool = False
    turns: bool = False
    value: Floats = field(default_factory=_nothing, compare=False, repr=False)


@dataclass(frozen=True)
class Ending:
    """How a network ends.

    Attributes:
        tails: what it can be cut at, in the order of the outputs.
        softmax: numbers of values that a softmax behind the cut runs over.
        outputs: shape of each output, by name.
        values: what the outputs are for that random input.
    """

    tails: tuple[Tail, ...]
    softmax: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)


def ending_of(graph: fx.GraphModule, names: Mapping[str, str], outputs: Sequence[str]) -> Ending:
    """How a graph ends.

    Args:
        graph: with shapes (`with_shapes`).
        names: name under ``cut:`` of each node that can be cut at, by the node's name.
        outputs: names of the results, in order.
    """
    results = results_of(graph)
    named = dict(zip(results, outputs, strict=False))
    ends = last_convolutions(graph)
    cuts = [part for node in ends for part in _parts(graph, node)]
    behind = _after(cuts)
    reached = {cut: _after([cut]) for cut in cuts}
    tails = tuple(
        Tail(
            tensor=names.get(cut.name, cut.name),
            shape=shape_of(cut),
            then=_then(cut, [other for other in cuts if other is not cut], reached),
            outputs=tuple(name for node, name in named.items() if node is cut or node in reached[cut]),
            behind=cut not in ends,
            by_stride=_by_stride(graph, cut),
            turns=any(operator_name(node) in ("sin", "cos") for node in reached[cut]),
            value=cut.meta.get("value", _nothing()),
        )
        for cut in cuts
        if len(shape_of(cut)) == 4
    )
    softmax = {_softmax_values(node) for node in behind if operator_name(node) in ("softmax", "_softmax")}
    values = {name: node.meta.get("value", _nothing()) for node, name in named.items()}
    return Ending(tails, tuple(sorted(softmax)), {name: shape_of(node) for node, name in named.items()}, values)


def with_shapes(module: fx.GraphModule, example: torch.Tensor) -> fx.GraphModule:
    """The graph with the shape of every tensor in its metadata, where `torch.export` writes it too, and the values of
    its outputs and last convolutions for an input of noise in 0..1."""
    import torch
    from torch import fx

    wanted = set(results_of(module))
    ends = {node for node in module.graph.nodes if operator_name(node) == "conv2d"}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                n.meta["val"] = result.to("meta")
                near = n in wanted or n in ends or not ends.isdisjoint(n.all_input_nodes)
                if near or any(not ends.isdisjoint(node.all_input_nodes) for node in n.all_input_nodes):
                    n.meta["value"] = result.numpy()
            return result

    noise = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        Shapes(module).run(noise)
    return module


def _parts(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The tensors that a convolution's result is taken apart into along its channels, as for boxes and classes that one
    convolution gives (NanoDet), else the result itself, behind a batch norm of its own or a learned scale (GFL)."""
    if (scaled := behind_scale(graph, node)) is not node:
        return _parts(graph, scaled)
    users = list(node.users)
    if len(users) == 1 and operator_name(users[0]) == "batch_norm":
        return _parts(graph, users[0])
    parts = [part for user in users for part in (user.users if operator_name(user).startswith("split") else [user])]
    taken = [part for part in parts if operator_name(part) in ("getitem", "slice", "narrow")]
    shapes = [shape_of(part) for part in taken if "val" in part.meta]
    whole = shape_of(node)
    apart = len(shapes) == len(parts) > 1 and all(
        len(shape) == 4 and shape[2:] == whole[2:] and shape[1] < whole[1] for shape in shapes
    )
    return taken if apart and sum(shape[1] for shape in shapes) == whole[1] else [node]


def _by_stride(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether all that is done with a tensor begins with a product with its stride."""
    factors = [factor_of(graph, node, user) for user in node.users]
    return bool(factors) and all(factor is not None and is_stride(graph, factor, node) for factor in factors)


def _after(nodes: Sequence[fx.Node]) -> dict[fx.Node, None]:
    """Everything that is computed from these nodes."""
    found: dict[fx.Node, None] = {}
    left = [user for node in nodes for user in node.users]
    while left:
        node = left.pop()
        if node not in found:
            found[node] = None
            left += node.users
    return found


def _then(
    cut: fx.Node, others: Sequence[fx.Node], reached: Mapping[fx.Node, Mapping[fx.Node, None]]
) -> tuple[str, ...]:
    """Names of the operators behind one cut that no other cut reaches."""
    shared = {node for other in others for node in reached[other]}
    own = [operator_name(node) for node in reached[cut] if node not in shared]
    return tuple(dict.fromkeys(name for name in own if name and name != "getitem"))


def _softmax_values(node: fx.Node) -> int:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    return shape_of(node)[axis] if isinstance(axis, int) else 0
