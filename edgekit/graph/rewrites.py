"""Exact rewrites of a network before any target: fewer operators, or those that engines know, and the same outputs.

Each is applied to a copy, compared with the network as it was given, and kept only where nothing changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.graph.activations import native_activations
from edgekit.graph.branches import merge_branches
from edgekit.graph.focus import merge_space_to_depth
from edgekit.graph.pooling import chain_pools, whole_pools

if TYPE_CHECKING:
    import torch
    from torch import fx

SAME = 1e-4
"""How far a rewritten graph may be off, relative to an output's largest value."""

REWRITES: tuple[Callable[[fx.GraphModule], dict[str, int]], ...] = (
    merge_space_to_depth,
    merge_branches,
    native_activations,
    chain_pools,
    whole_pools,
)
"""Each changes a graph in place and says how often it did what."""


def rewritten(graph: fx.GraphModule, example: torch.Tensor) -> tuple[fx.GraphModule, dict[str, int]]:
    """A network with exact rewrites, and how many of each.

    Args:
        graph: the module form of a torch.export program (aten operators), with the metadata of its export; unchanged.
        example: an input of its shape.
    """
    expected = _outputs(graph, example)
    done: dict[str, int] = {}
    for rewrite in REWRITES:
        changed = copy.deepcopy(graph)
        counts = rewrite(changed)
        if not counts:
            continue
        changed.graph.eliminate_dead_code()
        changed.graph.lint()
        changed.recompile()
        pairs = zip(_outputs(changed, example), expected, strict=True)
        if all((new - old).abs().max() <= SAME * old.abs().max() for new, old in pairs):
            graph, done = changed, done | counts
    return graph, done


def _outputs(graph: fx.GraphModule, example: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Outputs for noise of the example's shape, the same at each call."""
    import torch

    noise = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = graph(noise)
    return (given,) if isinstance(given, torch.Tensor) else tuple(given)
