"""Space-to-depth in front of a convolution, such as YOLOX's Focus stem, becomes part of that convolution.

Such a network reads every second pixel into a channel of its own, and then convolves with stride 1. One convolution
with a kernel and stride twice as large computes the same sums, without the strided slices that some toolchains refuse
and all engines pay for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.graph.nodes import constant_of, operator_name, shape_of

if TYPE_CHECKING:
    import torch
    from torch import fx

_MOVES = ("slice", "cat", "concat", "view", "reshape", "permute", "transpose", "pixel_unshuffle", "contiguous", "clone")
"""Operators that only move elements."""


def merge_space_to_depth(graph: fx.GraphModule) -> dict[str, int]:
    """Rewrite every dense convolution with stride 1 that reads space-to-depth of one tensor, whatever moves spell it.

    ``W'[o, c, s*y + dy, s*x + dx] = W[o, k, y, x]`` where channel ``k`` of the convolution's input is channel ``c`` of
    that tensor at every ``s``-th pixel from ``(dy, dx)``; stride and padding are multiplied by ``s``.

    Args:
        graph: the module form of a torch.export program (aten operators), with the metadata of its export; changed in
            place.

    Returns:
        How many convolutions were rewritten, as ``space-to-depth``; empty where none was.
    """
    import torch

    count = 0
    for conv in list(graph.graph.nodes):
        if conv.target is torch.ops.aten.conv2d.default and _merge(graph, conv):
            count += 1
    return {"space-to-depth": count} if count else {}


def _merge(graph: fx.GraphModule, conv: fx.Node) -> bool:
    weight = constant_of(graph, conv.args[1])
    stride, padding, dilation, groups = (_settings(conv)[name] for name in ("stride", "padding", "dilation", "groups"))
    if weight is None or groups != 1 or set(stride) != {1} or set(dilation) != {1}:
        return False
    given = conv.all_input_nodes[0]
    base = _base(given)
    if base is None:
        return False
    source = _source(base, given)
    if source is None:
        return False
    step, channels, rows, columns = source
    outputs, _, height, width = weight.shape
    merged = weight.new_zeros(outputs, shape_of(base)[1], height * step, width * step)
    for number, (channel, row, column) in enumerate(zip(channels, rows, columns, strict=True)):
        merged[:, channel, row::step, column::step] = weight[:, number]
    name = f"{conv.name}_merged_weight"
    graph.register_buffer(name, merged)
    with graph.graph.inserting_before(conv):
        kernel = graph.graph.get_attr(name)
    bias = conv.args[2] if len(conv.args) > 2 else None
    conv.args = (base, kernel, bias, [step, step], [step * pad for pad in padding], [1, 1], 1)
    return True


def _settings(conv: fx.Node) -> dict[str, Any]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    stated = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    stated |= dict(zip(names, conv.args, strict=False))
    return {name: value * 2 if isinstance(value, list) and len(value) == 1 else value for name, value in stated.items()}


def _base(node: Any) -> fx.Node | None:
    """The one image-like tensor that a chain of moves starts from; None where nothing moves or there are several."""
    if operator_name(node) not in _MOVES:
        return None
    bases, open_nodes, seen = set(), [node], set()
    while open_nodes:
        one = open_nodes.pop()
        if one in seen:
            continue
        seen.add(one)
        if operator_name(one) in _MOVES:
            open_nodes += one.all_input_nodes
        else:
            bases.add(one)
    base = bases.pop() if len(bases) == 1 else None
    return base if base is not None and len(shape_of(base)) == 4 else None


def _source(base: fx.Node, node: fx.Node) -> tuple[int, list[int], list[int], list[int]] | None:
    """Step, and channel, row and column of the first pixel, for each channel of ``node``: found by moving numbered
    elements. None where it is not space-to-depth."""
    import torch

    batch, channels, height, width = shape_of(base)
    rows = shape_of(node)[2] if len(shape_of(node)) == 4 else 0
    step = height // rows if rows else 0
    if batch != 1 or step < 2 or shape_of(node)[2:] != (height // step, width // step) or height % step or width % step:
        return None
    numbered = torch.arange(channels * height * width).reshape(1, channels, height, width)
    moved = _moved(node, base, numbered, {})[0]
    first = moved[:, 0, 0]
    channel, pixel = first // (height * width), first % (height * width)
    row, column = pixel // width, pixel % width
    down = torch.arange(moved.shape[1]) * step * width
    across = torch.arange(moved.shape[2]) * step
    regular = bool((moved == first[:, None, None] + down[:, None] + across).all())
    one_cell = bool((row < step).all() and (column < step).all())
    different = len(set(first.tolist())) == len(first) == channels * step * step
    return (step, channel.tolist(), row.tolist(), column.tolist()) if regular and one_cell and different else None


def _moved(node: fx.Node, base: fx.Node, value: torch.Tensor, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    """The tensor that a chain of moves makes of its base."""
    from torch.fx.node import map_arg

    if node is base:
        return value
    if node not in known:
        args: Any = map_arg(node.args, lambda one: _moved(one, base, value, known))
        kwargs: Any = map_arg(node.kwargs, lambda one: _moved(one, base, value, known))
        known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]
