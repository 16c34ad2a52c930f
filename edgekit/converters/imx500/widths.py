"""Which tensors of a network have 16 bits."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from edgekit.converters.imx500.observation import is_one

if TYPE_CHECKING:
    from torch import fx

_ACTIVATIONS = ("SiLU", "Hardswish", "GELU", "ReLU", "ReLU6", "LeakyReLU", "Sigmoid", "Hardsigmoid", "Tanh")
"""Layers that take 16 bits, and give them. All others take 8: what a convolution or a pooling reads."""


def wide_nodes(network: fx.GraphModule) -> list[str]:
    """Names of the nodes that can have 16 bits, because everything that reads them takes those.

    Sums and concatenations then round once, not twice. Of YOLOX-Nano's error on this chip, the rounding of what sums
    read had been a quarter. The host reads outputs of 16 bits too: with 8 the logits of a detector, of which most are
    far below zero, have steps of a quarter.
    """
    return [node.name for node in network.graph.nodes if is_wide(network, node)]


def is_wide(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node's result is stored with 16 bits: the chip can, and all its readers can."""
    return gives_wide(network, node) and _taken(network, node)


def _computes(node: fx.Node) -> bool:
    import torch

    return node.target in (torch.add, torch.sub, torch.mul, torch.cat, operator.add, operator.sub)


def gives_wide(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the chip can store a node's result with 16 bits."""
    return _computes(node) or is_one(network, node, "Conv2d", *_ACTIVATIONS)


def _taken(network: fx.GraphModule, node: fx.Node) -> bool:
    readers = list(node.users)
    if is_one(network, node, "Conv2d") and len(readers) == 1 and is_one(network, readers[0], *_ACTIVATIONS):
        return False  # computed together with the activation, so that it is not stored
    return bool(readers) and all(takes_wide(network, reader) for reader in readers)


def takes_wide(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node can read a tensor of 16 bits."""
    return node.op == "output" or _computes(node) or is_one(network, node, *_ACTIVATIONS)
