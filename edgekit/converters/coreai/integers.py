"""INT8 in a torch.export program, in Core AI's own operators: weights alone, or what layers read as well."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgekit.calibration.correspondence import kept_in_float, planned_names
from edgekit.calibration.plan import TensorRange
from edgekit.calibration.ranges import LEVELS, STEPS
from edgekit.converters import Job

if TYPE_CHECKING:
    import torch
    from torch import fx

WEIGHTS = 512
"""Weights of fewer values stay in float: scales would take what INT8 saves."""

LEAST = 2.0**-12
"""The smallest scale of an activation, which float16 holds in full."""

NORMAL = 2.0**-14
"""The smallest normal number of float16. Core AI's interpreter computes with zero in place of smaller scales."""

HIGHEST = 14
"""The largest shift, whose inverse is a normal number of float16."""


def with_integers(module: fx.GraphModule, job: Job) -> fx.GraphModule:
    """The plan's network with INT8 weights in convolutions and linear layers, symmetric, a scale per output channel.

    In w8a8 what they read is INT8 too, in the plan's ranges. Layers that the plan leaves in float stay so. Where scales
    would be too small for float16, weights are multiplied by a power of two and what the layer reads is divided by it.

    Args:
        module: of the plan's program, whose weights lie on that grid.
        job: the conversion.
    """
    import coreai_torch._compression.custom_layers  # noqa: F401 - registers torch.ops.coreai, as coreai-opt does
    import torch

    aten = torch.ops.aten
    graph = module.graph
    layers = [node for node in graph.nodes if node.target in (aten.conv2d.default, aten.linear.default)]
    ranges, floats = _planned(graph, layers, job)
    rounded: dict[fx.Node, fx.Node] = {}
    for layer in layers:
        source = layer.all_input_nodes[0]
        if layer.name in floats:
            continue
        seen = ranges.get(source.name)
        if job.precision == "w8a8" and seen is not None:
            if source not in rounded:
                rounded[source] = _rounded(module, source, seen, layer)
            layer.replace_input_with(source, rounded[source])
        _round_weight(module, layer, _step(seen) if seen else 0.0)
    graph.lint()
    module.recompile()
    return module


def _planned(graph: fx.Graph, layers: list[fx.Node], job: Job) -> tuple[dict[str, TensorRange], set[str]]:
    """The plan's ranges of what layers read, and the layers in float, by the names of nodes."""
    plan = job.planned()
    names = planned_names(graph, [output.name for output in job.contract.outputs])
    weighted = {layer.name: (names[layer.name], names[layer.all_input_nodes[0].name]) for layer in layers}
    read = {layer.all_input_nodes[0].name for layer in layers}
    known = {name: plan.tensors[names[name]] for name in read if names[name] in plan.tensors}
    return known, kept_in_float(plan, weighted)


def _step(seen: TensorRange) -> float:
    """The scale of an activation in INT8, asymmetric."""
    return (max(seen.high, 0.0) - min(seen.low, 0.0)) / STEPS


def _round_weight(module: fx.GraphModule, layer: fx.Node, step: float) -> None:
    """Replace the weight of a layer by integers and their scales.

    Args:
        module: the network.
        layer: of it.
        step: of what the layer reads, in INT8; 0 where it is not known.
    """
    import torch

    held = layer.args[1]
    if not isinstance(held, torch.fx.Node) or held.op != "get_attr":
        return  # a product of two tensors of the network
    weight = _attribute(module, str(held.target)).detach()
    if weight.numel() < WEIGHTS:
        return
    largest = weight.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest / LEVELS, torch.ones(()))
    power = shift(float(scale.min()), step)
    # Rounded first: the layer is computed in float16, and its integers have to fit the scale that is stored.
    scale = (scale * 2.0**power).half().float().clamp(min=NORMAL)
    shape = (-1, *[1] * (weight.dim() - 1))
    integers = (weight * 2.0**power / scale.view(shape)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    name = f"{layer.name}_weight"
    places = [_kept(module, held, f"{name}_{what}", value) for what, value in (("int8", integers), ("scale", scale))]
    with module.graph.inserting_before(layer):
        floats = module.graph.call_function(torch.ops.coreai.dequantize.default, (*places, None, None, 0))
        layer.replace_input_with(held, floats)
        if power:
            read = layer.args[0]
            divided = module.graph.call_function(torch.ops.aten.mul.Tensor, (read, 2.0**-power))
            layer.args = (divided, *layer.args[1:])


def shift(smallest: float, step: float) -> int:
    """The power of two by which a layer's scales are multiplied, and what it reads is divided.

    Enough for normal numbers of float16, and not so much that an 8-bit step of what the layer reads is less than one.

    Args:
        smallest: of the scales.
        step: of what the layer reads.
    """
    if smallest >= NORMAL or step <= NORMAL:
        return 0
    return min(math.ceil(math.log2(NORMAL / smallest)), math.floor(math.log2(step / NORMAL)), HIGHEST)


def _rounded(module: fx.GraphModule, source: fx.Node, seen: TensorRange, layer: fx.Node) -> fx.Node:
    """A tensor by way of INT8, asymmetric, for the first layer that reads it."""
    import torch

    scale = torch.tensor(max(_step(seen), LEAST)).half().float()
    zero = torch.tensor(round(-128 - min(seen.low, 0.0) / float(scale))).clamp(-128, 127).to(torch.int8)
    places = [
        _kept(module, layer, f"{source.name}_{what}", value) for what, value in (("scale", scale), ("zero", zero))
    ]
    graph, coreai = module.graph, torch.ops.coreai
    with graph.inserting_before(layer):
        integers = graph.call_function(coreai.quantize.default, (source, places[0], torch.int8, places[1]))
        return graph.call_function(coreai.dequantize.default, (integers, *places))


def _kept(module: fx.GraphModule, before: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    """A buffer of the network, read before a node."""
    module.register_buffer(name, value)
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)


def _attribute(module: Any, path: str) -> torch.Tensor:
    for part in path.split("."):
        module = getattr(module, part)
    found: torch.Tensor = module
    return found
