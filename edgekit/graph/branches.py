"""Parallel convolutions whose outputs are added become one, as RepVGG does before it is deployed (arXiv 2101.03697).

YOLOv6, YOLOv7, RepVGG and MobileOne are trained with a 3x3, a 1x1 and a batch norm side by side, and many are exported
that way. A convolution is linear: the sum of the kernels, the smaller ones in the middle of the largest, gives the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.graph.nodes import constant_of, operator_name, shape_of

if TYPE_CHECKING:
    import torch
    from torch import fx


class _Branch(NamedTuple):
    """A convolution in double precision: what it reads, weight (out, in / groups, k, k), bias, stride, groups."""

    source: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor
    stride: tuple[int, int]
    groups: int


def merge_branches(graph: fx.GraphModule) -> dict[str, int]:
    """Merge every sum of two convolutions, or of a convolution and a batch norm, of one tensor.

    Args:
        graph: the module form of a torch.export program (aten operators), with the metadata of its export; changed in
            place.

    Returns:
        How many were merged into another, as ``parallel convolution``; empty where none was.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if operator_name(node).rstrip("_") == "add" and len(node.args) == 2 and not node.kwargs:
            count += _merge(graph, node)
    return {"parallel convolution": count} if count else {}


def _merge(graph: fx.GraphModule, total: fx.Node) -> bool:
    import torch

    if len(set(total.args)) != 2 or not any(operator_name(one) == "conv2d" for one in total.args):
        return False
    first, second = (_convolution(graph, one) or _norm(graph, one) for one in total.args)
    if first is None or second is None or first.source is not second.source or first.stride != second.stride:
        return False
    if (first.groups, first.weight.shape[:2]) != (second.groups, second.weight.shape[:2]):
        if 1 not in (first.groups, second.groups):
            return False
        first, second = _dense(first), _dense(second)
    side = max(first.weight.shape[2], second.weight.shape[2])
    weight = _widened(first.weight, side) + _widened(second.weight, side)
    for name, value in (("weight", weight), ("bias", first.bias + second.bias)):
        graph.register_buffer(f"{total.name}_merged_{name}", value.float())
    with graph.graph.inserting_before(total):
        constants = [graph.graph.get_attr(f"{total.name}_merged_{name}") for name in ("weight", "bias")]
        settings = (list(first.stride), [side // 2, side // 2], [1, 1], first.groups)
        merged = graph.graph.call_function(torch.ops.aten.conv2d.default, (first.source, *constants, *settings))
    merged.meta = total.meta
    total.replace_all_uses_with(merged)
    graph.graph.erase_node(total)
    graph.graph.eliminate_dead_code()
    return True


def _convolution(graph: fx.GraphModule, node: Any) -> _Branch | None:
    """A convolution that only the sum reads, with an odd square kernel that keeps its place."""
    import torch

    if operator_name(node) != "conv2d" or node.target is not torch.ops.aten.conv2d.default or len(node.users) != 1:
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    stated: dict[str, Any] = {"bias": None, "stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    stated |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    weight, bias = constant_of(graph, stated["weight"]), constant_of(graph, stated["bias"])
    if weight is None or (bias is None) != (stated["bias"] is None):
        return None
    side = weight.shape[2]
    if (
        weight.shape[3] != side
        or side % 2 == 0
        or set(stated["padding"]) != {side // 2}
        or set(stated["dilation"]) != {1}
    ):
        return None
    values = weight.double()
    stride = tuple(stated["stride"]) * (2 if len(stated["stride"]) == 1 else 1)
    shift = values.new_zeros(len(values)) if bias is None else bias.double()
    return _Branch(node.args[0], values, shift, (stride[0], stride[1]), stated["groups"])


def _norm(graph: fx.GraphModule, node: Any) -> _Branch | None:
    """A batch norm as a 1x1 convolution of each channel alone: gamma / sqrt(var + eps), beta - mean times that."""
    if operator_name(node) != "batch_norm" or node.args[5] or len(node.users) != 1 or len(shape_of(node)) != 4:
        return None
    gamma, beta, mean, variance = (constant_of(graph, one) for one in node.args[1:5])
    if mean is None or variance is None:
        return None
    scale = (variance.double() + float(node.args[7])).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() * scale
    shift = shift if beta is None else shift + beta.double()
    return _Branch(node.args[0], scale.reshape(-1, 1, 1, 1), shift, (1, 1), len(scale))


def _dense(branch: _Branch) -> _Branch:
    """The same convolution in one group."""
    import torch

    if branch.groups == 1:
        return branch
    blocks = branch.weight.chunk(branch.groups)
    rows = [
        torch.cat([block if i == j else torch.zeros_like(block) for j in range(branch.groups)], 1)
        for i, block in enumerate(blocks)
    ]
    return branch._replace(weight=torch.cat(rows), groups=1)


def _widened(weight: torch.Tensor, side: int) -> torch.Tensor:
    """A kernel in the middle of a larger one."""
    import torch

    edge = (side - weight.shape[2]) // 2
    return torch.nn.functional.pad(weight, [edge] * 4)
