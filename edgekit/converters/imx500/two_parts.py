"""Give convolutions that lose too much with an input of 8 bits that input in two parts of 8 bits each.

The upper part is the excess of the input over a threshold, stored coarsely. The lower part is the rest, which is at
most the threshold, and so has steps up to 16 times finer. Depthwise convolutions often compute differences of
neighbours, which need those bits. The convolution runs once on each part, and a sum with 16 bits adds the results: the
chip has 16 bits for everything except the inputs of convolutions and poolings.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.converters.imx500.observation import (
    STEPS,
    Batches,
    Extremes,
    extremes,
    is_one,
    layer_of,
    power_of_two,
    stored,
    watch,
    whole_steps,
)
from edgekit.converters.imx500.unsigned import padding_of, undo
from edgekit.converters.imx500.widths import gives_wide, is_wide, takes_wide

if TYPE_CHECKING:
    from torch import fx

NOISE = 0.0005
"""A layer gets two parts if rounding its input causes more than this share of its output's variance.

In YOLOX-Nano these are two thirds of the layers. The error of the detections' log odds by rounding activations (rms, to
first order, on photographs that did not set the ranges) is then .061. With a limit of .001 it is .090, with .005 .103,
and without any parts .285.
"""

HALVINGS = (4, 3, 2, 1)
"""How often the whole range is halved to get that of the lower part, finest steps first."""

ROOM = 2
"""The range of the upper part, as a multiple of its maximum on the calibration images. Its coarse steps cost nothing,
because the lower part has the remainder, but clipping does: on other photographs YOLOX-Nano's activations reach 1.4
times as far.
"""

ABOVE = "_above"
"""Suffix of the layers that compute an upper part."""


@dataclass(frozen=True)
class _Parts:
    """The division of a tensor: its lower part reaches up to ``threshold``, and has ``shift`` added when stored."""

    shift: float
    threshold: float


@dataclass(frozen=True)
class _Reader:
    """A convolution that reads a tensor, and the padding in front of it that is a node of its own."""

    layer: fx.Node
    pad: fx.Node | None

    def padding(self, network: fx.GraphModule) -> tuple[int, int]:
        """Rows and columns of padding on each side, by the convolution itself or by the node."""
        if self.pad is None:
            return padding_of(layer_of(network, self.layer))
        sides: Any = self.pad.args[1]
        return sides[2], sides[0]

    @property
    def zero(self) -> float:
        """The value of the padding."""
        value: Any = 0.0 if self.pad is None else self.pad.kwargs["value"]
        return float(value)


Sites = dict["fx.Node", list[_Reader]]
"""Tensors that can be divided, and the convolutions that read them."""


@dataclass
class _Noise:
    """Sums of squares over the calibration images: a layer's output, and its change by rounding the input."""

    signal: float = 0.0
    error: float = 0.0


def divide_inputs(network: fx.GraphModule, batches: Batches, noise: float = NOISE) -> list[str]:
    """Give the convolutions that need it their input in two parts, in place.

    The heads always do: no layer behind them evens out an error, and a small mean error there is a large one at the
    objects, whose features are the largest and are clipped first.

    Args:
        network: after `edgekit.converters.imx500.unsigned.store_unsigned`, if that is used.
        batches: calibration images.
        noise: the limit for layers that are not heads.

    Returns:
        Names of the layers.
    """
    batches = list(batches)
    seen = extremes(network, batches)
    heads = _heads(network)
    sites = _sites(network)
    measured = _measure(network, batches, sites, seen)
    divided: dict[fx.Node, fx.Node] = {}
    for node, readers in sites.items():
        parts = _division(seen[node], max(reader.zero for reader in readers))
        limits = {reader.layer: 0.0 if reader.layer in heads else noise for reader in readers}
        if not parts or not _is_fine(network, node):
            continue
        if any(measured[one].error > limit * measured[one].signal for one, limit in limits.items()):
            divided |= _divide(network, divided.get(node, node), readers, parts)
    network.recompile()
    return [layer.name for layer in divided]


def upper_parts(network: fx.GraphModule) -> list[str]:
    """Names of the nodes that compute upper parts."""
    return [node.name for node in network.graph.nodes if node.op == "call_module" and node.name.endswith(ABOVE)]


def _heads(network: fx.GraphModule) -> set[fx.Node]:
    """The last convolutions in front of the outputs."""
    reached: set[fx.Node] = set()
    for node in reversed(network.graph.nodes):
        behind = [user for user in node.users if not is_one(network, user, "Conv2d")]
        if node.op == "output" or any(user in reached for user in behind):
            reached.add(node)
    return {node for node in reached if is_one(network, node, "Conv2d")}


def _sites(network: fx.GraphModule) -> Sites:
    """Tensors that can be stored with 16 bits if the convolutions that read them get two parts."""
    found = {}
    for node in network.graph.nodes:
        readers = list(_readers(network, node))
        layers = {one for reader in readers for one in (reader.layer, reader.pad)}
        if (
            readers
            and gives_wide(network, node)
            and all(user in layers or takes_wide(network, user) for user in node.users)
            and all(layer_of(network, reader.layer).padding != "same" for reader in readers)
        ):
            found[node] = readers
    return found


def _is_fine(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a tensor has more than 8 bits to divide; a concatenation of tensors of 8 bits has not."""
    import torch

    return node.target is not torch.cat or all(is_wide(network, one) for one in node.all_input_nodes)


def _readers(network: fx.GraphModule, node: fx.Node) -> Iterator[_Reader]:
    import torch

    for user in node.users:
        if is_one(network, user, "Conv2d"):
            yield _Reader(user, None)
        elif user.target is torch.nn.functional.pad:
            yield from (_Reader(layer, user) for layer in user.users)


def _division(seen: Extremes, zero: float) -> _Parts | None:
    """The finest division whose upper part is zero in the padding, because that part is padded with zeros."""
    least = max(-seen.lowest, 0.0)
    whole = power_of_two(seen.highest + least)
    for halvings in HALVINGS:
        width = whole / 2**halvings
        shift = whole_steps(least, width) if least > width / STEPS / 2 else 0.0
        upper = ROOM * power_of_two((seen.highest - width + shift) * (1 + 1 / 64))
        # Where the upper part is rounded down, the lower one gets up to half a step more.
        threshold = width - shift - upper / STEPS / 2
        if threshold >= zero and seen.highest > width:
            return _Parts(shift, threshold)
    return None


def _measure(
    network: fx.GraphModule, batches: Batches, sites: Sites, seen: dict[fx.Node, Extremes]
) -> dict[fx.Node, _Noise]:
    """Measure the noise of each layer when its undivided input is rounded to 8 bits."""
    import torch

    inputs = {reader.layer: node for node, readers in sites.items() for reader in readers}
    found: dict[fx.Node, _Noise] = {layer: _Noise() for layer in inputs}

    def look(node: fx.Node, _: fx.Node | None, values: Any, output: Any) -> None:
        if node not in inputs:
            return
        layer, ends = layer_of(network, node), seen[inputs[node]]
        least = max(-ends.lowest, 0.0)
        width = power_of_two(ends.highest + least)
        error = stored(values, width, whole_steps(least, width)) - values
        options = (None, layer.stride, layer.padding, layer.dilation, layer.groups)
        found[node].error += float(torch.nn.functional.conv2d(error, layer.weight, *options).square().sum())
        found[node].signal += float((output - output.mean((0, 2, 3), keepdim=True)).square().sum())

    watch(network, batches, look)
    return found


def _divide(network: fx.GraphModule, node: fx.Node, readers: list[_Reader], parts: _Parts) -> dict[fx.Node, fx.Node]:
    """Divide a tensor; returns the sum that replaces the result of each layer that reads it."""
    import torch

    graph, name = network.graph, f"{readers[0].layer.name}{ABOVE}"
    network.add_module(name, torch.nn.ReLU())
    with graph.inserting_before(_first(network, node)):
        above = graph.call_function(operator.sub, (node, parts.threshold))
        above = graph.call_module(name, (above,))
        lower = graph.call_function(torch.sub, (node, above))
        if parts.shift:
            lower = graph.call_function(operator.add, (lower, parts.shift))
    found = {reader.layer: _read_both(network, reader, node, above, lower) for reader in readers}
    if parts.shift:
        for reader in readers:
            _undo(network, reader, parts.shift)
    return found


def _undo(network: fx.GraphModule, reader: _Reader, shift: float) -> None:
    if reader.pad is not None:
        reader.pad.update_kwarg("value", reader.zero + shift)
    undo(network, reader.layer, np.full(layer_of(network, reader.layer).in_channels, shift))


def _first(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The first node that reads another."""
    first: fx.Node = next(one for one in network.graph.nodes if one in node.users)
    return first


def _read_both(network: fx.GraphModule, reader: _Reader, whole: fx.Node, above: fx.Node, lower: fx.Node) -> fx.Node:
    import torch

    graph, layer = network.graph, layer_of(network, reader.layer)
    other = copy.deepcopy(layer)
    other.bias, other.padding = None, reader.padding(network)
    name = f"{reader.layer.name}_upper"
    network.add_module(name, other)
    (reader.pad or reader.layer).replace_input_with(whole, lower)
    with graph.inserting_after(reader.layer):
        upper = graph.call_module(name, (above,))
    with graph.inserting_after(upper):
        total = graph.call_function(torch.add, (reader.layer, upper))
    reader.layer.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    return total
