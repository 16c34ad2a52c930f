"""Cutting a network at its raw heads: before sigmoid, softmax, DFL, concat and everything that decodes.

One scale for boxes in pixels beside scores in 0..1 leaves every INT8 score exactly zero; raw convolutions each get
their own. The cut walks back from the outputs to the first convolutions and tells them apart by their channels.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ContractError
from edgekit.graph.nodes import constant_of, operator_name, shape_of
from edgekit.runtimes.bundle.manifest import Output
from edgekit.runtimes.tasks.decoders.base import Counts, at_level

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class CutPoint:
    """A tensor to cut at: its name in the graph, and its role for the decoder."""

    tensor: str
    role: str
    level: int = 0


@dataclass(frozen=True)
class Cut:
    """A graph that ends at its raw heads: outputs, the tensors they are, and a sentence on what was done."""

    graph: fx.GraphModule
    outputs: tuple[Output, ...]
    tensors: tuple[str, ...]
    note: str


def cut_automatically(
    graph: fx.GraphModule, channels: Mapping[str, Counts], decoder: str, prototypes: bool = False
) -> Cut:
    """Cut at the first convolutions behind the outputs, matched to a decoder's roles by their channels.

    With ``prototypes`` the graph also returns those of masks, which stay as they are; the convolutions of their
    coefficients have as many channels.

    Args:
        graph: flat aten graph with BatchNorm folded (`edgekit.graph.exchange.flatten`).
        channels: role -> channel count, of all levels or of each, in the order in which the family's networks
            concatenate them.
        decoder: its name, for messages.

    Raises:
        ContractError: the convolutions found do not match.
    """
    whole = [node for node in results_of(graph) if len(shape_of(node)) == 4] if prototypes else []
    if prototypes and len(whole) != 1:
        raise ContractError(
            f"{len(whole)} outputs of four dimensions where one, the prototypes of masks, is needed; name the tensors "
            "in the contract (cut:)"
        )
    if whole:
        channels = {**channels, "coefficients": shape_of(whole[0])[1]}
    found = [behind_scale(graph, node) for node in last_convolutions(graph, whole)]
    levels = _by_level(found)
    if not levels:
        raise ContractError(_mismatch(found, channels, decoder))
    points, same = [], False
    for level, nodes in enumerate(levels):
        expected = [at_level(count, level) for count in channels.values()]
        same = same or len(set(expected)) < len(expected)
        counts = [shape_of(node)[1] for node in nodes]
        if sorted(counts) != sorted(expected):
            raise ContractError(_mismatch(found, channels, decoder))
        if counts != expected and len(set(counts)) != len(counts):
            raise ContractError(f"{_mismatch(found, channels, decoder)} (equal channels in an unusual order)")
        order = nodes if counts == expected else [nodes[counts.index(count)] for count in expected]
        points += [CutPoint(node.name, role, level) for node, role in zip(order, channels, strict=True)]
    points += [CutPoint(node.name, "prototypes") for node in whole]
    done = cut_at(graph, points)
    ends = {node.name for node in results_of(graph)}
    if ends == {point.tensor for point in points}:
        return Cut(done.graph, done.outputs, done.tensors, "the graph ends in raw heads already")
    tail = sorted({operator_name(node) for node in _tail(graph) if node.op == "call_function"} - {"getitem"})
    note = f"cut at {len(points)} raw heads, before {', '.join(tail)}"
    if same:
        note += f"; heads of equal channels taken in the usual order: {', '.join(channels)}"
    return Cut(done.graph, done.outputs, done.tensors, note)


def cut_at(graph: fx.GraphModule, points: Sequence[CutPoint]) -> Cut:
    """Cut at named tensors.

    Raises:
        ContractError: a name that the graph does not have; the nearest are listed.
    """
    from torch import fx

    nodes = {node.name: node for node in graph.graph.nodes}
    for point in points:
        if point.tensor not in nodes:
            near = difflib.get_close_matches(point.tensor, nodes, n=5, cutoff=0.3)
            convolutions = [node.name for node in last_convolutions(graph)]
            raise ContractError(
                f"cut: the graph has no tensor {point.tensor!r}; near it: {', '.join(near) or 'none'}; "
                f"its last convolutions: {', '.join(convolutions)}"
            )
    kept = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    needed = _ancestors([nodes[point.tensor] for point in points])
    for node in graph.graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = kept.node_copy(node, lambda old: copies[old])
    kept.output(tuple(copies[nodes[point.tensor]] for point in points))
    tensors = tuple(point.tensor for point in points)
    return Cut(fx.GraphModule(graph, kept), outputs_at(points), tensors, f"cut at {', '.join(tensors)}")


def outputs_at(points: Sequence[CutPoint]) -> tuple[Output, ...]:
    """The contract's outputs of a graph cut at these points: named by role, and by level where it has several."""
    levels = Counter(point.role for point in points)
    return tuple(
        Output(
            name=f"{point.role}_{point.level}" if levels[point.role] > 1 else point.role,
            role=point.role,
            level=point.level,
        )
        for point in points
    )


def last_convolutions(graph: fx.GraphModule, without: Sequence[fx.Node] = ()) -> list[fx.Node]:
    """The first learned convolutions met when walking back from the outputs, in the order of the outputs."""
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()

    def walk(node: fx.Node) -> None:
        if node in seen:
            return
        seen.add(node)
        if _is_convolution(graph, node):
            found[node] = None
            return
        for argument in node.all_input_nodes:
            walk(argument)

    for node in results_of(graph):
        if node not in without:
            walk(node)
    return list(found)


def behind_scale(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The product of a tensor with a number that was learned, where nothing else reads the tensor (GFL, FCOS); else the
    tensor itself. A product with the tensor's own stride belongs to its decoding."""
    users = list(node.users)
    factor = factor_of(graph, node, users[0]) if len(users) == 1 else None
    return node if factor is None or is_stride(graph, factor, node) else users[0]


def is_stride(graph: fx.GraphModule, factor: float, node: fx.Node) -> bool:
    """Whether a number is the input pixels to a cell of a tensor."""
    height = next(shape_of(one)[2] for one in graph.graph.nodes if one.op == "placeholder")
    return abs(factor - height / shape_of(node)[2]) < 0.01


def factor_of(graph: fx.GraphModule, node: fx.Node, user: fx.Node) -> float | None:
    """The number that a node is multiplied by, or None."""
    if operator_name(user) != "mul" or len(user.args) != 2:
        return None
    (other,) = [argument for argument in user.args if argument is not node] or [node]
    if isinstance(other, int | float):
        return float(other)
    constant = constant_of(graph, other)
    return float(constant) if constant is not None and constant.numel() == 1 else None


def _tail(graph: fx.GraphModule) -> set[fx.Node]:
    """Everything behind the frontier."""
    stop, tail, open_nodes = set(last_convolutions(graph)), set(), list(results_of(graph))
    while open_nodes:
        node = open_nodes.pop()
        if node not in stop and node not in tail:
            tail.add(node)
            open_nodes += node.all_input_nodes
    return tail


def _is_convolution(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A convolution, but not the fixed one that YOLO uses to take the expectation of the DFL bins."""
    import torch

    if operator_name(node) != "conv2d":
        return False
    weight: Any = graph
    for part in str(getattr(node.args[1], "target", "")).split("."):
        weight = getattr(weight, part)
    bins = weight.shape[1]
    expectation = weight.shape[0] == 1 and weight[0, 0].numel() == 1 and bins > 1
    return not (expectation and bool((weight.flatten() == torch.arange(bins, dtype=weight.dtype)).all()))


def _by_level(nodes: list[fx.Node]) -> list[list[fx.Node]]:
    """Nodes grouped by grid size, finest first."""
    sizes = sorted({shape_of(node)[2:] for node in nodes}, key=lambda size: -size[0] * size[1])
    return [[node for node in nodes if shape_of(node)[2:] == size] for size in sizes]


def results_of(graph: fx.GraphModule) -> list[fx.Node]:
    """The nodes that the graph returns."""
    (output,) = [node for node in graph.graph.nodes if node.op == "output"]
    return list(output.all_input_nodes)


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    open_nodes = list(nodes)
    while open_nodes:
        node = open_nodes.pop()
        if node not in needed:
            needed.add(node)
            open_nodes += node.all_input_nodes
    return needed


def _mismatch(found: list[fx.Node], channels: Mapping[str, Counts], decoder: str) -> str:
    wanted = ", ".join(f"{role} with {_counted(count)} channels" for role, count in channels.items())
    seen = ", ".join(f"{node.name} {shape_of(node)}" for node in found) or "none"
    return (
        f"decoder {decoder!r} needs, per level, {wanted}; the last convolutions are: {seen}. Correct classes or "
        "decoder, or name the tensors in the contract: cut: [{tensor: NAME, role: ROLE, level: 0}, ...]"
    )


def _counted(count: Counts) -> str:
    """A number of channels in words: one, or those of the levels."""
    if isinstance(count, int):
        return str(count)
    return str(count[0]) if len(set(count)) == 1 else "/".join(map(str, count))
