"""One file per engine that tells the time of each operator, with the engine's name and a function ``measure``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.arrays import Floats
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions

Measure = Callable[[Path, Graph, SessionOptions, Sequence[Floats], int], Operators]
"""``measure(folder, graph, options, feeds, runs)``: times of a graph's operators over so many runs."""

WARM_UP = 3
"""Inferences before those that count: the first ones fill caches and allocate memory."""


def pieces(times: Sequence[OperatorTime]) -> int:
    """Into how many pieces the order of execution falls when it is cut wherever the compute unit changes."""
    return sum(1 for _ in itertools.groupby(times, key=lambda one: one.unit))
