"""Give the convolutions that read the image weights of 16 bits, in two parts of 8.

The whole image passes through them, so errors of their weights reach every output. In YOLOX-Nano, one of them causes
more than a third of the error of scores by rounding all weights, and more than half of that of boxes (to first order,
on 20 photographs). A second convolution of the image has the rounding errors of the weights as its weights, and a sum
with 16 bits adds the results. The image itself has 8 bits, so its rounding costs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.calibration.originals import Original
from edgekit.converters.imx500.observation import is_one, layer_of

if TYPE_CHECKING:
    from torch import fx


def readers_of_the_image(network: fx.GraphModule) -> list[fx.Node]:
    """The convolutions of a rebuilt network that read its input."""
    (entry,) = [node for node in network.graph.nodes if node.op == "placeholder"]
    return [node for node in entry.users if is_one(network, node, "Conv2d")]


def refine_stem(network: fx.GraphModule, originals: Mapping[str, Original]) -> list[str]:
    """Add the rounding errors of the weights of the convolutions that read the image, in place.

    Args:
        network: of `edgekit.converters.imx500.network.rebuild`.
        originals: unrounded weights and biases, by node.

    Returns:
        Names of the layers whose weights had been rounded.
    """
    refined = []
    for node in readers_of_the_image(network):
        original = originals.get(node.name)
        if original is not None and original.weight.shape == tuple(layer_of(network, node).weight.shape):
            refined += [node.name] if _refine(network, node, original) else []
    network.recompile()
    return refined


def _refine(network: fx.GraphModule, node: fx.Node, original: Original) -> bool:
    import torch

    layer = layer_of(network, node)
    lost = torch.from_numpy(original.weight) - layer.weight.detach()
    if not bool(lost.any()):
        return False
    rest = copy.deepcopy(layer)
    rest.bias = None
    with torch.no_grad():
        rest.weight.copy_(lost)
        if layer.bias is not None:  # it was corrected for the rounding errors, which are now added
            layer.bias.copy_(torch.zeros_like(layer.bias) if original.bias is None else torch.from_numpy(original.bias))
    network.add_module(f"{node.name}_rest", rest)
    with network.graph.inserting_after(node):
        found = network.graph.call_module(f"{node.name}_rest", node.args)
    with network.graph.inserting_after(found):
        total = network.graph.call_function(torch.add, (node, found))
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    return True
