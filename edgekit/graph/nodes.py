"""Properties of a node in a flat aten graph: operator, shape, constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import fx


def operator_name(node: Any) -> str:
    """Name of what a node calls, an aten operator or a Python function, without its overload; empty for others."""
    if getattr(node, "op", "") != "call_function":
        return ""
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of the tensor that a node gives, from the metadata of its export."""
    return tuple(int(size) for size in node.meta["val"].shape)


def constant_of(graph: fx.GraphModule, node: object) -> torch.Tensor | None:
    """The tensor that a node reads from the module, or None."""
    import torch

    target = getattr(node, "target", None)
    if getattr(node, "op", "") != "get_attr" or not isinstance(target, str):
        return None
    value: Any = graph
    for part in target.split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) else None
