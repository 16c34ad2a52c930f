"""The layers of a torch.export program: convolutions and matrix products with constant weights, and what they read.

`edgekit.calibration.layers` finds the same ones in the ONNX form. Exporting names tensors after nodes, so a layer has
one name in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Floats

if TYPE_CHECKING:
    import torch
    from torch import fx

CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv_transpose2d": 2}
"""Operators that slide a kernel, with the number of axes that they slide along."""

_PLACES = {"mm": (0, 1, -1), "matmul": (0, 1, -1), "addmm": (1, 2, 0)}
"""Places of input, weights and bias among the arguments; (0, 1, 2) for all others."""


@dataclass(frozen=True)
class ProgramLayer:
    """A layer by its node, whose name it has.

    ``source`` is the node that gives its input, ``weight`` the path of its weights in the module, ``axis`` their axis
    of output channels. ``bias`` is the place of the bias among the node's arguments, or -1 where it can have none.
    """

    node: fx.Node
    operator: str
    source: fx.Node
    weight: str
    axis: int
    bias: int

    @property
    def channels(self) -> int:
        """Axis of the channels of its output, counted from the end."""
        return -1 - CONVOLUTIONS.get(self.operator, 0)

    def option(self, place: int, default: Any) -> Any:
        """One of the arguments behind the bias."""
        return self.node.args[place] if len(self.node.args) > place else default

    def respond(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The output for an input and other weights, without the bias."""
        if self.operator in _PLACES:
            return x @ weight
        target: Any = self.node.target
        result: torch.Tensor = target(x, weight, None, *self.node.args[3:])
        return result


def program_layers(module: fx.GraphModule) -> list[ProgramLayer]:
    """Layers with float32 weights, in the order of the graph.

    Weights that something else reads as well, or another layer along another axis, have no grid of their own: their
    layers are left out.
    """
    import torch

    found = [layer for node in module.graph.nodes if (layer := _layer(module, node)) is not None]
    found = [layer for layer in found if constant(module, layer.weight).dtype == torch.float32]
    axes: dict[int, set[int]] = {}
    for layer in found:
        axes.setdefault(storage(module, layer), set()).add(layer.axis)
    nodes = {layer.node for layer in found}
    strangers = {place for place, users in constant_readers(module).items() if any(user not in nodes for user in users)}
    alone = {place for place, several in axes.items() if len(several) == 1} - strangers
    return [layer for layer in found if storage(module, layer) in alone]


def constant(module: fx.GraphModule, path: str) -> torch.Tensor:
    """The tensor at the path of a ``get_attr`` node."""
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    tensor: torch.Tensor = value
    return tensor


def storage(module: fx.GraphModule, layer: ProgramLayer) -> int:
    """Where a layer's weights lie in memory: equal for layers that share them, under whatever names."""
    return constant(module, layer.weight).data_ptr()


def constant_readers(module: fx.GraphModule) -> dict[int, list[fx.Node]]:
    """The nodes that read each constant, by its place in memory."""
    readers: dict[int, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and hasattr(value := constant(module, str(node.target)), "data_ptr"):
            readers.setdefault(value.data_ptr(), []).extend(node.users)
    return readers


Observe = Callable[[ProgramLayer, "torch.Tensor", "torch.Tensor"], None]
"""Gets a layer, its input and its output; they may be overwritten afterwards."""


def watch(module: fx.GraphModule, layers: Iterable[ProgramLayer], samples: Iterable[Floats], observe: Observe) -> int:
    """Run a network on samples (1, 3, H, W) float32 and show every layer at work; returns the number of samples."""
    import torch
    from torch import fx

    wanted = {layer.node: layer for layer in layers}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in wanted:
                observe(wanted[n], self.env[wanted[n].source], result)
            return result

    count = 0
    with torch.no_grad():
        for sample in samples:
            Watch(module).run(torch.from_numpy(np.ascontiguousarray(sample)))
            count += 1
    return count


def operator_of(node: fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``; nothing for what is no operator."""
    packet = getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None
    return str(getattr(packet, "__name__", ""))


def _layer(module: fx.GraphModule, node: fx.Node) -> ProgramLayer | None:
    operator = operator_of(node)
    if operator not in (*CONVOLUTIONS, *_PLACES, "linear") or node.kwargs:  # addmm's factors are no layer's
        return None
    first, second, third = _PLACES.get(operator, (0, 1, 2))
    source: Any = node.args[first]
    weight: Any = node.args[second]
    if weight.op != "get_attr" or source.op == "get_attr":
        return None
    values = constant(module, str(weight.target))
    if operator in _PLACES and values.ndim != 2:
        return None
    axis = 1 if operator in _PLACES or operator == "conv_transpose2d" else 0
    bias: Any = node.args[third] if 0 <= third < len(node.args) else None
    if bias is not None and (bias.op != "get_attr" or constant(module, str(bias.target)).ndim != 1):
        third = -1
    return ProgramLayer(node, operator, source, str(weight.target), axis, third)
