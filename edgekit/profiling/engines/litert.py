"""LiteRT's Python module reports which operators XNNPACK took, and into how many partitions that cuts a graph.

It gives no times: its profiler is there in C++ only. Reading tensors between operators would not do: that keeps XNNPACK
from fusing them, and another graph would be timed than the one that runs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.arrays import Floats
from edgekit.profiling.record import Operators
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.litert import ENGINE, XNNPACK

_DELEGATE = "DELEGATE"
_REASON = (
    "LiteRT's Python module has no profiler; its benchmark_model tool (--enable_op_profiling=true) has, on the device"
)


def measure(folder: Path, graph: Graph, options: SessionOptions, feeds: Sequence[Floats], runs: int) -> Operators:
    """No times, but operators per unit, partitions and fallbacks. Nothing is run.

    Raises:
        EngineError: the engine refuses the file.
    """
    session = ENGINE.open_session(folder, graph, options)
    executed = _executed(session.interpreter)
    outside = tuple(str(node["op_name"]) for node in executed if node["op_name"] != _DELEGATE)
    pieces = [(unit, list(nodes)) for unit, nodes in itertools.groupby(executed, lambda node: _unit(node))]
    return Operators(
        by="",
        units=dict(session.placement.operators) or dict(Counter(map(_unit, executed))),
        partitions=max(len(pieces), 1),
        fallbacks=outside,
        unavailable=_REASON,
    )


def _unit(node: dict[str, Any]) -> str:
    return XNNPACK if node["op_name"] == _DELEGATE else "builtin"


def _executed(interpreter: Any) -> list[dict[str, Any]]:
    """Nodes that run, delegates standing for what they replaced, each after those whose tensors it reads."""
    if not hasattr(interpreter, "_get_ops_details"):  # not public, but the only place that tells
        return []
    maker = {int(tensor): node for node in interpreter._get_ops_details() for tensor in node["outputs"]}
    order: dict[int, dict[str, Any]] = {}
    opened = set[int]()
    waiting = [(int(detail["index"]), False) for detail in reversed(interpreter.get_output_details())]
    while waiting:
        tensor, done = waiting.pop()
        node = maker.get(tensor)
        if node is None:
            continue
        if done:
            order.setdefault(int(node["index"]), node)
        elif node["index"] not in opened:
            opened.add(node["index"])
            waiting += [(tensor, True), *((int(read), False) for read in node["inputs"])]
    return list(order.values())
