"""Errors of external tools, with an explanation and what to do."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import ConversionError
from edgekit.graph.exchange import operators

NEXT = (
    "these are the tool's own words; another --precision, --recipe or --target may take the network, or cut it before "
    "that part (cut: in the contract)"
)
"""Advice if a tool fails in a way that edgekit does not know."""

_MOST = 400
"""Characters of a tool's message that are passed on."""


_EVERYWHERE = frozenset(
    {
        *("Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "Div", "Flatten", "Gemm"),
        *("GlobalAveragePool", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "ReduceMean", "Relu"),
        *("Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    }
)
"""Operators that every target takes."""


def tool_error(what: str, error: BaseException | str, onnx: Path | None = None) -> ConversionError:
    """An error of a tool with what it was doing before it, and what to do behind it.

    Args:
        what: the tool, and what it was asked for.
        error: what it raised, or said.
        onnx: the network, of which the operators are named that not every target takes.
    """
    text = error if isinstance(error, str) else str(error)
    said = " ".join(text.split())
    said = said if len(said) <= _MOST else f"{said[:_MOST]} ..."
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    return ConversionError(f"{what}: {kind}{said.rstrip('.')}; {_rare(onnx)}{NEXT}")


def _rare(path: Path | None) -> str:
    """The operators of a network that may be why a tool failed."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        found = {} if path is None else operators(path)
    except DecodeError:  # the file itself is what is wrong
        found = {}
    named = [f"{kind} (node {node!r})" for kind, node in found.items() if kind not in _EVERYWHERE]
    return f"not every target takes {', '.join(named)}; " if named else ""
