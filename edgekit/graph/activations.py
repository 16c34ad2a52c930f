"""Activations that a network spells out become the operator that engines have: SiLU, hard swish, hard sigmoid.

ONNX had no SiLU before opset 24 and no HardSwish before 14, so that files have their parts: a sigmoid and a product; a
sum with 3, a clip at 0 and 6, a product and a division by 6. What looks for activations, such as equalization, sees
them only as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.graph.nodes import constant_of, operator_name

if TYPE_CHECKING:
    from torch import fx


def native_activations(graph: fx.GraphModule) -> dict[str, int]:
    """Replace every activation that is spelled out.

    Args:
        graph: the module form of a torch.export program (aten operators); changed in place.

    Returns:
        How many of each kind were replaced; no entry where none was.
    """
    import torch

    aten = torch.ops.aten
    kinds = (
        ("SiLU", aten.silu.default, _silu),
        ("hard swish", aten.hardswish.default, _hard_swish),
        ("hard sigmoid", aten.hardsigmoid.default, _hard_sigmoid),
    )
    counts = {}
    for name, operator, reads in kinds:
        found = [(node, given) for node in graph.graph.nodes if (given := reads(graph, node)) is not None]
        for node, given in found:
            _replace(graph, node, operator, given)
        graph.graph.eliminate_dead_code()
        counts[name] = len(found)
    return {name: count for name, count in counts.items() if count}


def _replace(graph: fx.GraphModule, node: fx.Node, operator: Any, given: fx.Node) -> None:
    with graph.graph.inserting_before(node):
        native = graph.graph.call_function(operator, (given,))
    native.meta = node.meta
    node.replace_all_uses_with(native)
    graph.graph.erase_node(node)


def _silu(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """x of x * sigmoid(x)."""
    for value, gate in _factors(node):
        if operator_name(gate) == "sigmoid" and gate.args[0] is value:
            return value
    return None


def _hard_swish(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """x of x * hardsigmoid(x), or of x * relu6(x + 3) / 6."""
    for value, gate in _factors(node):
        native = gate.args[0] if operator_name(gate) == "hardsigmoid" else None
        if value in (native, _hard_sigmoid(graph, gate)):
            return value
    for value, gate in _factors(_sixfold(graph, node)):
        if _shifted_relu6(graph, gate) is value:
            return value
    return None


def _hard_sigmoid(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """x of relu6(x + 3) / 6."""
    return _shifted_relu6(graph, _sixfold(graph, node))


def _factors(node: Any) -> list[tuple[fx.Node, fx.Node]]:
    """Both orders of the two tensors that a node multiplies."""
    return [(one, other) for one, other in _orders(node, "mul") if hasattr(one, "op") and hasattr(other, "op")]


def _orders(node: Any, name: str) -> list[tuple[Any, Any]]:
    """Both orders of the two arguments of an operator with this name."""
    if operator_name(node) != name or len(node.args) != 2 or node.kwargs:
        return []
    first, second = node.args
    return [(first, second), (second, first)]


def _sixfold(graph: fx.GraphModule, node: Any) -> Any:
    """The tensor that a node divides by 6."""
    if operator_name(node) == "div" and _number(graph, node.args[1]) == 6.0:
        return node.args[0]
    for value, factor in _orders(node, "mul"):
        number = _number(graph, factor)
        if number is not None and abs(number - 1 / 6) < 1e-6:
            return value
    return None


def _shifted_relu6(graph: fx.GraphModule, node: Any) -> fx.Node | None:
    """x of relu6(x + 3)."""
    name = operator_name(node)
    bounded = name in ("clamp", "hardtanh") and [_number(graph, one) for one in node.args[1:]] == [0.0, 6.0]
    if name != "relu6" and not bounded:
        return None
    return next((value for value, shift in _orders(node.args[0], "add") if _number(graph, shift) == 3.0), None)


def _number(graph: fx.GraphModule, argument: Any) -> float | None:
    """The number that an argument is, or that a constant of one element holds."""
    if isinstance(argument, int | float):
        return float(argument)
    constant = constant_of(graph, argument)
    return float(constant.reshape(())) if constant is not None and constant.numel() == 1 else None
