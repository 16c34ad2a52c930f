"""Equal channels for the inputs of depthwise convolutions, exact in float: what one scale per tensor needs.

Where the channels of such an input differ a hundred times in size and the weights behind make up for it, no single
8-bit scale can hold them all. Scaling the channels of the convolution before by s and the weights behind by 1/s leaves
the function as it is and makes the channels equal (Nagel et al., Data-Free Quantization through Weight Equalization and
Bias Correction, arXiv 1906.04721, section 4.1). They balance weights against weights; here the activations are measured
and made equal altogether, because the weights of a convolution and of a depthwise one have a scale per channel and lose
nothing by it. ReLU commutes with s; for SiLU the sigmoid reads x / s from a 1x1 depthwise convolution, whose weights
have a scale per channel as well (a Mul with 1/s would have one scale for all of them).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.images import Floats

if TYPE_CHECKING:
    import torch
    from torch import fx

SPREAD = 100.0
"""Ratio of the largest to the smallest channel from which on a site is equalised. On one trained detector 320x lost
nearly all accuracy in INT8 and 32x none."""

MOST_SAMPLES = 64
"""Sizes of channels are known well enough after so many images."""

DEAD = 1e-4
"""Channels smaller than this share of the largest are left as they are: to scale up one that the images never woke
would leave nothing of it on an image that does."""


@dataclass(frozen=True)
class Site:
    """A depthwise convolution (by the name of its node) whose input was equalised, and the spread that it had.

    ``sigmoid`` names the node that the sigmoid reads since then, where the activation is SiLU: x / s, of which only
    [-8, 8] matters.
    """

    name: str
    spread: float
    sigmoid: str = ""


@dataclass(frozen=True)
class _Candidate:
    convolution: fx.Node
    activation: fx.Node
    """The node that the readers read: ReLU, SiLU, or the convolution itself."""
    readers: tuple[fx.Node, ...]


def equalise(module: fx.GraphModule, samples: Iterable[Floats], spread: float = SPREAD) -> list[Site]:
    """Equalise every depthwise input of a network, in place, whose channels differ more than ``spread`` times.

    A site is a convolution, ReLU or SiLU or nothing, and depthwise convolutions that alone read the result.

    Args:
        module: a float network of aten operators with one input, as `torch.export` gives it.
        samples: calibration tensors (1, 3, H, W) float32; the first `MOST_SAMPLES` are looked at.
        spread: the largest ratio of channels that is left alone.

    Returns:
        What was equalised, in the order of the graph.
    """
    import torch

    candidates = _candidates(module)
    if not candidates:
        return []
    sizes = _sizes(module, candidates, samples)
    sites = []
    for candidate in candidates:
        largest = sizes.get(candidate.activation)
        if largest is None or not float(largest.max()) > 0:
            continue
        alive = largest > DEAD * largest.max()
        scale = torch.where(alive, largest.max() / largest, 1.0)
        found = float(scale.max())
        if found > spread:
            sites.append(Site(candidate.readers[0].name, found, _scale(module, candidate, scale)))
    module.recompile()
    return sites


def _candidates(module: fx.GraphModule) -> list[_Candidate]:
    found = []
    for node in module.graph.nodes:
        if not _is(node, "conv2d"):
            continue
        follower = next(iter(node.users)) if len(node.users) == 1 else node
        activation = follower if _is(follower, "relu", "relu_", "silu", "silu_") else node
        readers = tuple(activation.users)
        if readers and all(_depthwise(reader) and reader.args[0] is activation for reader in readers):
            # Equal weights may be stored once for two convolutions: changing them would change both.
            weights = [weight for conv in (node, *readers) for weight in conv.args[1:3] if weight is not None]
            if all(weight.op == "get_attr" and len(weight.users) == 1 for weight in weights):
                found.append(_Candidate(node, activation, readers))
    return found


def _is(node: fx.Node, *names: str) -> bool:
    if node.op != "call_function":
        return False
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", "") in names


def _depthwise(node: fx.Node) -> bool:
    """Whether a node is a convolution with as many groups as input channels."""
    if not _is(node, "conv2d"):
        return False
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    shape: Any = node.args[0].meta["val"].shape if isinstance(node.args[0], _node_type()) else (0, 0)
    return bool(groups > 1 and groups == shape[1])


def _node_type() -> type[fx.Node]:
    from torch import fx

    return fx.Node


def _sizes(
    module: fx.GraphModule, candidates: list[_Candidate], samples: Iterable[Floats]
) -> dict[fx.Node, torch.Tensor]:
    """Largest absolute value (channels,) of every candidate's activation."""
    import torch
    from torch import fx

    watched = {candidate.activation for candidate in candidates}
    sizes: dict[fx.Node, torch.Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in watched:
                largest = result.abs().amax((0, 2, 3))
                sizes[n] = torch.maximum(sizes[n], largest) if n in sizes else largest
            return result

    with torch.no_grad():
        for sample in itertools.islice(samples, MOST_SAMPLES):
            Watch(module).run(torch.from_numpy(np.ascontiguousarray(sample)))
    return sizes


def _scale(module: fx.GraphModule, site: _Candidate, scale: torch.Tensor) -> str:
    """Multiply the channels before the readers by ``scale``; the name of what the sigmoid reads then, if any."""
    import torch

    column = scale.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        _constant(module, site.convolution.args[1]).mul_(column)
        bias: Any = site.convolution.args[2] if len(site.convolution.args) > 2 else None
        if bias is not None:
            _constant(module, bias).mul_(scale)
        for reader in site.readers:
            weight = _constant(module, reader.args[1])
            weight.div_(column.repeat_interleave(len(weight) // len(scale), 0))
    if not _is(site.activation, "silu", "silu_"):
        return ""
    graph, name = module.graph, f"{site.activation.name}_unscale"
    module.register_buffer(name, 1 / column)
    with graph.inserting_before(site.activation):
        aten = torch.ops.aten
        arguments = (site.convolution, graph.get_attr(name), None, [1, 1], [0, 0], [1, 1], len(scale))
        original = graph.call_function(aten.conv2d.default, arguments)
        gate = graph.call_function(aten.sigmoid.default, (original,))
        product = graph.call_function(aten.mul.Tensor, (site.convolution, gate))
    for node in (original, gate, product):
        node.meta = dict(site.activation.meta)
    site.activation.replace_all_uses_with(product)
    graph.erase_node(site.activation)
    return str(original.name)


def _constant(module: fx.GraphModule, node: Any) -> torch.Tensor:
    """The tensor that a ``get_attr`` node gives."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    tensor: torch.Tensor = value
    return tensor
