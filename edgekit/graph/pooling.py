"""Pools in a form that more engines take.

Parallel max-pools of growing windows (SPP: 5, 9 and 13) become a chain of small ones (SPPF: 5, 5 and 5). The maximum
of a window is the maximum over the maxima of smaller windows that cover it, borders included: padding never wins. Some
NPUs pool windows of up to 7 only; elsewhere the chain reads a fifth of the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.graph.nodes import operator_name, shape_of

if TYPE_CHECKING:
    from torch import fx


def chain_pools(graph: fx.GraphModule) -> dict[str, int]:
    """Let every max-pool with stride 1 read the next smaller one of the same tensor.

    Args:
        graph: the module form of a torch.export program (aten operators); changed in place.

    Returns:
        How many pools were made smaller, as ``chained pool``; empty where none was.
    """
    groups: dict[fx.Node, list[tuple[int, fx.Node]]] = {}
    for node in graph.graph.nodes:
        size = _window(node)
        if size:
            groups.setdefault(node.args[0], []).append((size, node))
    count = 0
    for pools in groups.values():
        if len({size for size, _ in pools}) > 1:
            count += _chained(graph, pools)
    return {"chained pool": count} if count else {}


def whole_pools(graph: fx.GraphModule) -> dict[str, int]:
    """Let every average over a window larger than its input be one over its input.

    EfficientNet ends in one in transformers, and OpenVINO refuses a window that is larger than what it pools.

    Args:
        graph: as of `chain_pools`.

    Returns:
        How many pools were changed, as ``whole pool``; empty where none was.
    """
    import torch

    count = 0
    for node in list(graph.graph.nodes):
        if operator_name(node) != "avg_pool2d":
            continue
        window = [node.args[1]] * 2 if isinstance(node.args[1], int) else list(node.args[1])
        sides, given = shape_of(node.args[0])[-2:], shape_of(node)[-2:]
        larger = any(side < extent for side, extent in zip(sides, window, strict=True))
        if not larger or given != (1, 1) or any(side > extent for side, extent in zip(sides, window, strict=True)):
            continue
        with graph.graph.inserting_before(node):
            whole = graph.graph.call_function(torch.ops.aten.adaptive_avg_pool2d.default, (node.args[0], [1, 1]))
        whole.meta = node.meta
        node.replace_all_uses_with(whole)
        graph.graph.erase_node(node)
        count += 1
    return {"whole pool": count} if count else {}


def _chained(graph: fx.GraphModule, pools: list[tuple[int, fx.Node]]) -> int:
    """Put one chain in the place of the first of them; how many became smaller."""
    import torch

    first = min(node for _, node in pools)
    given: Any = first.args[0]
    reached, count = 1, 0
    for size, node in sorted(pools, key=lambda pool: pool[0]):
        step = size - reached + 1
        if step > 1:
            settings = ([step, step], [1, 1], [step // 2, step // 2])
            with graph.graph.inserting_before(first):
                given = graph.graph.call_function(torch.ops.aten.max_pool2d.default, (given, *settings))
            given.meta = node.meta
            count += step < size
        reached = size
        node.replace_all_uses_with(given)
    for _, node in pools:
        graph.graph.erase_node(node)
    return count


def _window(node: fx.Node) -> int:
    """Side of a square max-pool that keeps the size of its input; 0 for anything else."""
    if operator_name(node) != "max_pool2d":
        return 0
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    stated: dict[str, Any] = {"stride": [], "padding": 0, "dilation": 1, "ceil_mode": False}
    stated |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    size, stride, padding, dilation = (_side(stated[name]) for name in names[1:5])
    fits = stride == dilation == 1 and size % 2 == 1 and padding == size // 2 and not stated["ceil_mode"]
    return size if fits and size > 1 else 0


def _side(value: Any) -> int:
    """The number that both sides have, -1 where they differ or are not stated."""
    sides = {value} if isinstance(value, int) else set(value)
    return sides.pop() if len(sides) == 1 else -1
