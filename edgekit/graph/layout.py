"""Remove leftovers of layout changes from a graph: transposes around convolutions, redundant reshapes.

Networks that come from channels-last frameworks compute every convolution between two transposes, and transpose its
weights too. Quantisers do not see convolution and activation as neighbours then, and some converters take a computed
weight for an input. Everything here is exact: the same numbers in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.graph.nodes import constant_of, operator_name, shape_of

if TYPE_CHECKING:
    import torch
    from torch import fx

_UNARY = ("relu", "relu6", "relu_", "hardtanh", "clamp", "sigmoid", "tanh", "silu", "leaky_relu", "hardswish", "to")
_BINARY = ("add", "sub", "mul", "div")
_RESHAPES = ("unsqueeze", "squeeze", "reshape", "view", "flatten", "getitem", "to")
"""Operators that keep the order of the elements (`getitem` is that of a `_PARTINGS` into one piece)."""

_PARTINGS = ("unbind", "split", "split_with_sizes", "chunk")
"""Operators that give several tensors; LiteRT's exporter fails where there is but one."""

_CONVOLUTION: tuple[Any, ...] = (None, [1, 1], [0, 0], [1, 1], 1)
"""Bias, stride, padding, dilation and groups of a convolution that does not state them."""
_PADDING: tuple[Any, ...] = ("constant", None)
"""Mode and value of a padding that does not state them."""


def simplify_layout(graph: fx.GraphModule) -> fx.GraphModule:
    """Compute what is constant, drop reshapes that do nothing, and cancel transposes against each other.

    Args:
        graph: the module form of a torch.export program (aten operators), with the metadata of its export; changed in
            place and returned.
    """
    _drop_checks(graph)
    _fold_constants(graph)
    _drop_reshapes(graph)
    while _move_one_permute(graph):
        pass
    _fold_constants(graph)
    _fold_padding(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return graph


def _drop_checks(graph: fx.GraphModule) -> None:
    """Drop assertions of shapes and types, which held when the network was exported."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and operator_name(node).startswith("_assert") and not node.users:
            graph.graph.erase_node(node)


def _fold_constants(graph: fx.GraphModule) -> None:
    """Replace operators that read nothing but constants by what they give."""
    import torch

    known: dict[fx.Node, torch.Tensor] = {}
    for node in list(graph.graph.nodes):
        if (value := constant_of(graph, node)) is not None:
            known[node] = value
            node.meta.setdefault("val", value)
            continue
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or not all(one in known for one in inputs):
            continue
        with torch.no_grad():
            args, kwargs = _with_values((node.args, node.kwargs), known)
            value = node.target(*args, **kwargs)
        if isinstance(value, torch.Tensor):
            known[_replaced(graph, node, value)] = value


def _with_values(given: Any, known: dict[fx.Node, torch.Tensor]) -> Any:
    """Arguments of a call with constants in the place of their nodes."""
    from torch.fx.node import map_arg

    return map_arg(given, lambda one: known[one])


def _replaced(graph: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> fx.Node:
    """The constant that replaces an operator."""
    name = f"{node.name}_constant"
    graph.register_buffer(name, value.detach().clone().contiguous())
    with graph.graph.inserting_before(node):
        constant = graph.graph.get_attr(name)
    constant.meta["val"] = value
    node.replace_all_uses_with(constant)
    return constant


def _drop_reshapes(graph: fx.GraphModule) -> None:
    """Drop chains of reshapes at whose end the tensor has the shape that it began with, and casts to its own type."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or operator_name(node) not in _RESHAPES or not _is_tensor(node):
            continue
        for before in _chain(node):
            if shape_of(before) == shape_of(node) and before.meta["val"].dtype == node.meta["val"].dtype:
                node.replace_all_uses_with(before)
                break


def _chain(node: fx.Node) -> list[fx.Node]:
    """The chain of tensors before a tensor's reshapes, first one first."""
    found: list[fx.Node] = []
    while node.op == "call_function" and operator_name(node) in _RESHAPES:
        before = node.args[0]
        if operator_name(node) == "getitem":
            before = before.args[0] if _pieces(before) == 1 else None  # type: ignore[union-attr]
        if before is None or not _is_tensor(before):
            break
        found.insert(0, before)  # type: ignore[arg-type]
        node = before  # type: ignore[assignment]
    return found


def _pieces(node: Any) -> int:
    """Number of tensors that an operator takes one apart into; 0 for those that do not."""
    return len(node.meta["val"]) if operator_name(node) in _PARTINGS else 0


def _move_one_permute(graph: fx.GraphModule) -> bool:
    """Cancel one transpose, or move it ahead of the operator before it; False where none can be."""
    for node in graph.graph.nodes:
        if operator_name(node) != "permute" or not node.users:
            continue
        source, order = node.args[0], list(node.args[1])
        if order == sorted(order):
            node.replace_all_uses_with(source)
            return True
        if operator_name(source) == "permute":
            both = [source.args[1][axis] for axis in order]
            node.args = (source.args[0], both)
            return True
        users = list(source.users)
        same = all(operator_name(user) == "permute" and list(user.args[1]) == order for user in users)
        if same and _commutes(graph, source):
            _hoist(graph, source, users, order)
            return True
    return False


def _commutes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an operator works element by element, on inputs that can be transposed alike."""
    if node.op != "call_function" or not _is_tensor(node):
        return False
    if operator_name(node) in _UNARY:
        return True
    rank = len(shape_of(node))
    return operator_name(node) in _BINARY and all(
        len(shape_of(one)) == rank or constant_of(graph, one) is not None for one in node.all_input_nodes
    )


def _hoist(graph: fx.GraphModule, node: fx.Node, users: Sequence[fx.Node], order: list[int]) -> None:
    """Transpose the inputs of an element-wise operator instead of its output."""
    import torch

    rank = len(shape_of(node))
    for one in node.all_input_nodes:
        with graph.graph.inserting_before(node):
            moved = one
            if len(shape_of(one)) < rank:  # broadcast from the last axis: give it all of them first
                wide = (*(1,) * (rank - len(shape_of(one))), *shape_of(one))
                moved = graph.graph.call_function(torch.ops.aten.reshape.default, (one, list(wide)))
                moved.meta["val"] = one.meta["val"].reshape(wide)
            permuted = graph.graph.call_function(torch.ops.aten.permute.default, (moved, order))
            permuted.meta["val"] = moved.meta["val"].permute(order)
        node.replace_input_with(one, permuted)
    node.meta["val"] = node.meta["val"].permute(order)
    for user in users:
        user.replace_all_uses_with(node)
        graph.graph.erase_node(user)


def _fold_padding(graph: fx.GraphModule) -> None:
    """Let a convolution pad by zeros itself, where it can: on both sides alike."""
    import torch

    for node in list(graph.graph.nodes):
        if node.target is not torch.ops.aten.conv2d.default:
            continue
        before: Any = node.args[0]
        args = [*node.args, *_CONVOLUTION[len(node.args) - 2 :]]
        if operator_name(before) != "pad" or len(before.users) != 1 or args[4] != [0, 0]:
            continue
        given: list[Any] = list(before.args[1:])
        amounts, mode, value = [*given, *_PADDING[len(given) - 1 :]]
        alike = len(amounts) == 4 and amounts[0] == amounts[1] and amounts[2] == amounts[3] and min(amounts) >= 0
        if alike and mode == "constant" and not value:
            args[4] = [amounts[2], amounts[0]]
            node.args = (before.args[0], *args[1:])


def _is_tensor(node: Any) -> bool:
    import torch

    return isinstance(getattr(node, "meta", {}).get("val"), torch.Tensor)
