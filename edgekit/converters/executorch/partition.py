"""Count what XNNPACK's partitioner computes in integers and what stays in float, from the lowered program."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgekit.converters import CONVOLUTIONS

if TYPE_CHECKING:
    from torch import fx

CONVOLUTION = "convolution"

_FUSED = ("relu", "hardtanh", "clamp")
"""Activations that XNNPACK computes as the end of the operator before them."""

_ASIDE = ("getitem", "executorch_call_delegate", "alloc")


def told_integers(lowered: Any) -> dict[str, str]:
    """The entries of a report: convolutions in integers, and by operator how many compute in float.

    XNNPACK computes an operator in integers where all its tensors come from a DequantizeLinear and go into a
    QuantizeLinear; any other reads and writes float32, whatever is converted around it.

    Args:
        lowered: what `executorch.exir.to_edge_transform_and_lower` gives.
    """
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    module = lowered.exported_program().graph_module
    inside = [part.original_module.graph_module for _, part, _ in get_lowered_submodules(module)]
    of_all: Counter[str] = Counter()
    in_integers: Counter[str] = Counter()
    for one in (module, *inside):
        for node in one.graph.nodes:
            kind = _kind(node)
            if node.op != "call_function" or "quantize" in kind or kind in _ASIDE:
                continue
            of_all[kind] += 1
            in_integers[kind] += _integer(node)
    floats = {kind: count - in_integers[kind] for kind, count in sorted(of_all.items()) if count > in_integers[kind]}
    return {
        CONVOLUTIONS: f"{in_integers[CONVOLUTION]} of {of_all[CONVOLUTION]}",
        "in float32": ", ".join(f"{kind} {count} of {of_all[kind]}" for kind, count in floats.items()),
        "arithmetic": "int8 in convolutions and products, float32 elsewhere",
    }


def _integer(node: fx.Node) -> bool:
    """Whether an operator is computed in integers."""
    computed = [one for one in node.all_input_nodes if one.op == "call_function"]
    if _kind(node) in _FUSED and len(computed) == 1 and _kind(computed[0]) == CONVOLUTION:
        return _integer(computed[0])
    if not computed or not all("dequantize" in _kind(one) for one in computed):
        return False
    return _is_quantised(node)


def _is_quantised(node: fx.Node) -> bool:
    """Whether all that read a result read it as integers, behind a fused activation too."""
    for reader in node.users:
        kind = _kind(reader)
        fused = kind in _FUSED and _is_quantised(reader)
        if not fused and (not kind.startswith("quantize") or "dequantize" in kind):
            return False
    return bool(node.users)


def _kind(node: fx.Node) -> str:
    """The short name of an operator: ``convolution`` for ``aten.convolution.default``."""
    name = str(getattr(node.target, "__name__", node.target))
    parts = [part for part in name.split(".") if part not in ("aten", "quantized_decomposed")]
    return parts[0] if parts else name
