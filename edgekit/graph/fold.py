"""Fold BatchNorm into the convolution before it: exact in float, and required by quantisers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.graph.nodes import constant_of

if TYPE_CHECKING:
    from torch import fx


def fold_batch_norm(graph: fx.GraphModule) -> fx.GraphModule:
    """Fold every inference BatchNorm whose only input is a convolution that nothing else reads.

    ``w' = w * gamma / sqrt(var + eps)``, ``b' = (b - mean) * gamma / sqrt(var + eps) + beta``.

    Args:
        graph: the module form of a torch.export program (aten operators); changed in place and returned.
    """
    import torch

    norm = torch.ops.aten.batch_norm.default
    convolutions = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)  # the latter for padding="same"
    for node in list(graph.graph.nodes):
        if node.target is not norm or node.args[5]:  # in training mode it normalises by the batch
            continue
        if node.args[0].target in convolutions and len(node.args[0].users) == 1:
            _fold(graph, node.args[0], node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return graph


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
    shape = (-1,) + (1,) * (weight.ndim - 1)
    graph.register_buffer(f"{name}_weight", (weight.double() * scale.reshape(shape)).float())
    graph.register_buffer(f"{name}_bias", folded.float())
    with graph.graph.inserting_before(conv):
        new_weight = graph.graph.get_attr(f"{name}_weight")
        new_bias = graph.graph.get_attr(f"{name}_bias")
    conv.args = (conv.args[0], new_weight, new_bias, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    graph.graph.erase_node(norm)
