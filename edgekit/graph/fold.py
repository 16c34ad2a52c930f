"""Fold BatchNorm into the convolution before it: exact in float, and required by quantisers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.graph.nodes import constant_of

if TYPE_CHECKING:
    import torch
    from torch import fx


def fold_batch_norm(graph: fx.GraphModule) -> fx.GraphModule:
    """Fold every inference BatchNorm whose only input is a convolution that nothing else reads.

    ``w' = w * gamma / sqrt(var + eps)``, ``b' = (b - mean) * gamma / sqrt(var + eps) + beta``.

    Args:
        graph: the module form of a torch.export program (aten operators); changed in place and returned.
    """
    import torch

    norm = torch.ops.aten.batch_norm.default
    aten = torch.ops.aten
    convolutions = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input)  # padding: "same"
    for node in list(graph.graph.nodes):
        if node.target is not norm or node.args[5]:  # in training mode it normalises by the batch
            continue
        if node.args[0].target in convolutions and len(node.args[0].users) == 1:
            _fold(graph, node.args[0], node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return graph


def _by_output(conv: fx.Node, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A factor of each output channel in the layout of the weights: (out, in / groups, ...), or, transposed,
    (in, out / groups, ...)."""
    import torch

    if conv.target is not torch.ops.aten.conv_transpose2d.input:
        return scale.reshape(-1, *(1,) * (weight.ndim - 1))
    given = conv.args[6] if len(conv.args) > 6 else 1
    groups = given if isinstance(given, int) else 1
    each = scale.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return each.reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))


def _fold(graph: fx.GraphModule, conv: fx.Node, norm: fx.Node) -> None:
    import torch

    gamma, beta, mean, variance = (constant_of(graph, argument) for argument in norm.args[1:5])
    weight = constant_of(graph, conv.args[1])
    bias = constant_of(graph, conv.args[2]) if len(conv.args) > 2 else None
    if weight is None or mean is None or variance is None:
        return
    scale = torch.rsqrt(variance.double() + float(norm.args[7]))  # type: ignore[arg-type]
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    folded = shift * scale if beta is None else shift * scale + beta.double()
    name = f"{conv.name}_folded"
    graph.register_buffer(f"{name}_weight", (weight.double() * _by_output(conv, weight, scale)).float())
    graph.register_buffer(f"{name}_bias", folded.float())
    with graph.graph.inserting_before(conv):
        new_weight = graph.graph.get_attr(f"{name}_weight")
        new_bias = graph.graph.get_attr(f"{name}_bias")
    conv.args = (conv.args[0], new_weight, new_bias, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    graph.graph.erase_node(norm)
