"""Convolutions that lose too much by an input of 8 bits get it in two parts of 8 bits each.

They are depthwise ones, and those of the stem. The input is an activation x, or several that are joined. What of it is
above a threshold is stored as one tensor, coarsely; what that leaves of x is at most the threshold, and is stored as
another, with steps up to 16 times finer. Differences of neighbours, which depthwise convolutions often compute, need
the last bits of x. Each part has the convolution to itself; the results are added with 16 bits, which the chip has for
everything but what convolutions read.
"""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.converters.imx500.observation import (
    STEPS,
    Batches,
    extremes,
    is_one,
    layer_of,
    power_of_two,
    stored,
    watch,
    whole_steps,
)
from edgekit.converters.imx500.unsigned import ACTIVATIONS, undo

if TYPE_CHECKING:
    import torch
    from torch import fx

NOISE = 0.005
"""A layer gets two parts when rounding its input makes more than this share of its output's variance.

Twelve in YOLOX-Nano. With fourteen, from .004 on, the error of its raw outputs where objects are is .160 of their
spread; with one, from .02 on, .205; with none .211.
"""

STEM = 3
"""The stem is the convolutions up to this one, counted from the image: as many as the plan keeps in float elsewhere."""

STEM_NOISE = 0.0005
"""The limit of layers of the stem, dense ones too: the whole image passes through them, so that every output has their
errors. In YOLOX-Nano two inputs with .4 and .5 % noise there made two thirds of what rounding does to the scores of
detections, and three quarters of what it does to their boxes (to first order, on 16 photographs).
"""

HALVINGS = (1, 2, 3, 4)
"""How many times the range of the lower part may be half of the whole's."""

LEAST = 0.5
"""The lower part has at least this width: it has to hold SiLU's negative side too."""


@dataclass(frozen=True)
class _Parts:
    """Where an activation is divided: its lower part reaches to ``threshold`` and is stored with ``shift``."""

    width: float
    shift: float
    threshold: float
    upper: float
    """Width of the part above the threshold."""


@dataclass
class _Noise:
    """Sums of squares over the calibration images: a layer's output, and its errors by halvings (0: undivided)."""

    signal: float = 0.0
    errors: dict[int, float] = field(default_factory=lambda: defaultdict(float))


def divide_inputs(
    network: fx.GraphModule, batches: Batches, noise: float = NOISE, stem_noise: float = STEM_NOISE
) -> list[str]:
    """Give the convolutions that need it their input in two parts, in place; returns their names."""
    batches = list(batches)
    seen = extremes(network, batches)
    stem = _stem(network)
    sites = _sites(network, stem)
    given = {node: _divisions(seen[_input(node)].lowest, seen[_input(node)].highest) for node in sites}
    measured = _measure(network, batches, given)
    divided = []
    for node, one in measured.items():
        best = min(one.errors, key=lambda halvings: one.errors[halvings])
        if best and one.errors[0] > (stem_noise if node in stem else noise) * one.signal:
            _divide(network, node, given[node][best])
            divided.append(node.name)
    network.recompile()
    return divided


def _input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _stem(network: fx.GraphModule) -> set[fx.Node]:
    """The first `STEM` convolutions on every path from the image."""
    passed: dict[fx.Node, int] = {}
    for node in network.graph.nodes:
        before = max((passed[one] for one in node.all_input_nodes), default=0)
        passed[node] = before + is_one(network, node, "Conv2d")
    return {node for node, count in passed.items() if count <= STEM and is_one(network, node, "Conv2d")}


def _sites(network: fx.GraphModule, stem: set[fx.Node]) -> list[fx.Node]:
    """Convolutions of groups, or of the stem, that alone read an activation or several that are joined."""
    return [
        node
        for node in network.graph.nodes
        if is_one(network, node, "Conv2d")
        and (node in stem or layer_of(network, node).groups > 1)
        and layer_of(network, node).padding != "same"
        and _activated(network, _input(node))
        and len(_input(node).users) == 1
    ]


def _activated(network: fx.GraphModule, node: fx.Node) -> bool:
    import torch

    if node.target is torch.cat:
        return all(is_one(network, one, *ACTIVATIONS) for one in node.all_input_nodes)
    return is_one(network, node, *ACTIVATIONS)


def _divisions(lowest: float, highest: float) -> dict[int, _Parts]:
    """The whole, and each way to divide it, by halvings."""
    least = max(-lowest, 0.0)
    whole = power_of_two(highest + least)
    found = {0: _Parts(whole, whole_steps(least, whole), highest, 0.0)}
    for halvings in HALVINGS:
        width = whole / 2**halvings
        shift = whole_steps(least, width)
        upper = power_of_two(highest - width + shift)
        if width >= LEAST:  # rounding the upper part down leaves half a step of it to the lower one
            found[halvings] = _Parts(width, shift, width - shift - upper / STEPS / 2, upper)
    return found


def _measure(
    network: fx.GraphModule, batches: Batches, given: dict[fx.Node, dict[int, _Parts]]
) -> dict[fx.Node, _Noise]:
    import torch

    found: dict[fx.Node, _Noise] = {node: _Noise() for node in given}

    def look(node: fx.Node, _: fx.Node | None, values: Any, output: Any) -> None:
        if node not in given:
            return
        layer = layer_of(network, node)

        def energy(error: torch.Tensor) -> float:
            options = (None, layer.stride, layer.padding, layer.dilation, layer.groups)
            return float(torch.nn.functional.conv2d(error, layer.weight, *options).square().sum())

        found[node].signal += float((output - output.mean((0, 2, 3), keepdim=True)).square().sum())
        for halvings, parts in given[node].items():
            rest = values - stored((values - parts.threshold).clamp_min(0), parts.upper) if parts.upper else values
            found[node].errors[halvings] += energy(stored(rest, parts.width, parts.shift) - rest)

    watch(network, batches, look)
    return found


def _divide(network: fx.GraphModule, node: fx.Node, parts: _Parts) -> None:
    import torch

    graph, whole = network.graph, _input(node)
    layer = layer_of(network, node)
    other = copy.deepcopy(layer)
    other.bias = None
    network.add_module(f"{node.name}_above", torch.nn.ReLU())
    network.add_module(f"{node.name}_upper", other)
    with graph.inserting_before(node):
        above = graph.call_function(operator.sub, (whole, parts.threshold))
        above = graph.call_module(f"{node.name}_above", (above,))
        upper = graph.call_module(f"{node.name}_upper", (above,))
        rest = graph.call_function(torch.sub, (whole, above))
        lower = graph.call_function(operator.add, (rest, parts.shift))
    node.replace_input_with(whole, lower)
    undo(network, node, np.full(layer.in_channels, parts.shift))
    with graph.inserting_after(node):
        total = graph.call_function(torch.add, (node, upper))
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
