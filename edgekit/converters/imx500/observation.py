"""What flows through a rebuilt network on calibration images, and how the chip would round it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import fx

STEPS = 256

Batches = Iterable["torch.Tensor"]
"""Calibration images (n, 3, H, W), as the network takes them."""


@dataclass
class Extremes:
    """The channels of a tensor, and the least and greatest of its values."""

    channels: int
    lowest: float = math.inf
    highest: float = -math.inf


def watch(network: fx.GraphModule, batches: Batches, look: Callable[[fx.Node, fx.Node | None, Any, Any], None]) -> None:
    """Run a network and show what every node gives: ``look(node, its first input node, that one's value, its own)``."""
    import torch
    from torch import fx

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            first = n.all_input_nodes[0] if n.all_input_nodes else None
            if isinstance(value, torch.Tensor) and value.ndim == 4:
                look(n, first, None if first is None else self.env[first], value)
            return value

    with torch.no_grad():
        for batch in batches:
            Watch(network).run(batch)


def extremes(network: fx.GraphModule, batches: Batches) -> dict[fx.Node, Extremes]:
    """Of what every node of four dimensions gives."""
    seen: dict[fx.Node, Extremes] = {}

    def look(node: fx.Node, _: fx.Node | None, __: Any, value: Any) -> None:
        one = seen.setdefault(node, Extremes(value.shape[1]))
        one.lowest, one.highest = min(one.lowest, float(value.min())), max(one.highest, float(value.max()))

    watch(network, batches, look)
    return seen


LEAST_WIDTH = 2.0**-100
"""The width of a tensor that is zero throughout: any would do."""


def power_of_two(value: float) -> float:
    """The least power of two that is not below a value: the chip's scales."""
    return 2.0 ** math.ceil(math.log2(max(value, LEAST_WIDTH)))


def whole_steps(shift: float, width: float) -> float:
    """A shift rounded up to whole steps of an unsigned tensor of this width, so that zero is on its grid."""
    step = width / STEPS
    return math.ceil(shift / step) * step


def stored(values: torch.Tensor, width: float, shift: float = 0.0) -> torch.Tensor:
    """Values as they come back from an unsigned tensor of 8 bits that holds them with a shift."""
    import torch

    step = width / STEPS
    return torch.round((values + shift) / step).clamp(0, STEPS - 1) * step - shift


def layer_of(network: fx.GraphModule, node: fx.Node) -> Any:
    """The layer that a node calls; None of a function."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_one(network: fx.GraphModule, node: fx.Node, *kinds: str) -> bool:
    """Whether a node calls a layer of one of these classes."""
    return type(layer_of(network, node)).__name__ in kinds
