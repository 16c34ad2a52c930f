"""Times of operators by the functions that MNN calls before and after each one (``runSessionWithCallBackInfo``).

Operators are those of the file after MNN has prepared it for the CPU: it adds ``Raster`` operators, which move data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import EngineError
from edgekit.profiling.engines import WARM_UP
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.mnn import ENGINE

_INT8 = "DT_INT8"
"""The suffix of the kind of an operator that MNN computes in INT8."""


class _Stopwatch:
    """Clock readings around every operator of one run."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.readings: list[float] = []

    def before(self, tensors: Any, info: Any) -> bool:
        """Called before an operator; True has it run."""
        self.names.append((info.getName(), info.getType()))
        self.readings.append(time.perf_counter())
        return True

    def after(self, tensors: Any, info: Any) -> bool:
        """Called after an operator; True goes on."""
        self.readings.append(time.perf_counter())
        return True


def measure(folder: Path, graph: Graph, options: SessionOptions, feeds: Sequence[Floats], runs: int) -> Operators:
    """Run the graph ``WARM_UP + runs`` times with a clock around every operator, of which the last ``runs`` count.

    Raises:
        EngineError: the engine refuses the file, or failed.
    """
    opened = ENGINE.open_session(folder, graph, options)
    whole, spent = [], []
    watch = _Stopwatch()
    for _ in range(WARM_UP + runs):
        opened.feed(feeds)
        watch = _Stopwatch()
        begin = time.perf_counter()
        # For this call MNN's Python module says 1 where all went well.
        done = opened.interpreter.runSessionWithCallBackInfo(opened.session, watch.before, watch.after)
        whole.append(1e3 * (time.perf_counter() - begin))
        if len(watch.readings) != 2 * len(watch.names) or not watch.names:
            raise EngineError(f"{graph.files[0]}: MNN stopped in the middle while it was profiled (code {done})")
        spent.append(1e3 * np.diff(watch.readings)[::2])
    medians = np.median(spent[WARM_UP:], axis=0)
    times = tuple(
        OperatorTime(
            name=name,
            kind=kind.partition(" [")[0],  # Convolution [ DT_INT8 ]
            milliseconds=float(milliseconds),
            arithmetic="int8" if _INT8 in kind else "float32",
        )
        for (name, kind), milliseconds in zip(watch.names, medians, strict=True)
    )
    return Operators(by="mnn callbacks", times=times, measured=float(np.median(whole[WARM_UP:])))
