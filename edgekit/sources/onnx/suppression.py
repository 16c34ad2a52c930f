"""Files that end in NonMaxSuppression: where the network itself ends."""

from __future__ import annotations

from pathlib import Path

from edgekit.sources.onnx.rebuild import read_onnx

SUPPRESSION = "NonMaxSuppression"

_REARRANGING = frozenset({"Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators between the tables of a network and what a suppression reads, which compute nothing."""


def before_suppression(path: Path) -> tuple[str, ...]:
    """The tensors that a file's first NonMaxSuppression gets its boxes and scores from; nothing where it has none.

    Nothing behind them is of use: edgekit does NMS itself, and no target takes outputs whose number of rows changes.

    Raises:
        SourceError: the file cannot be read.
    """
    nodes = list(read_onnx(path).graph.node)
    makers = {output: node for node in nodes for output in node.output}
    node = next((node for node in nodes if node.op_type == SUPPRESSION), None)
    if node is None:
        return ()
    found = []
    for name in list(node.input)[:2]:
        while name in makers and makers[name].op_type in _REARRANGING:
            name = makers[name].input[0]
        found.append(name)
    return tuple(dict.fromkeys(found))
