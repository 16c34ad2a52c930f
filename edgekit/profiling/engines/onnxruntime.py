"""Times of operators by ONNX Runtime's profiler: a file of events (https://onnxruntime.ai/docs/performance), of which
those named ``*_kernel_time`` are one run of one operator's kernel, in whole microseconds.

Names are those of the graph that ONNX Runtime made of the file: fused operators have the names that it gave them, and
copies between memory layouts (``ReorderInput``) are operators of their own.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.profiling.engines import WARM_UP, pieces
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.onnxruntime import ENGINE
from edgekit.runtimes.engines.onnxruntime.session import PROVIDERS, OnnxRuntimeNetwork
from edgekit.structures import from_json

_KERNEL = "_kernel_time"
_TYPES = {"float": "float32", "double": "float64"}
"""Types that ONNX Runtime calls by their names in C++."""


class _Event(msgspec.Struct):
    """One line of the profile. ``dur`` and ``ts`` (the beginning) are microseconds."""

    cat: str
    name: str
    dur: int
    ts: int
    args: dict[str, Any] = {}


def measure(folder: Path, graph: Graph, options: SessionOptions, feeds: Sequence[Floats], runs: int) -> Operators:
    """Run the graph ``WARM_UP + runs`` times with the profiler on, of which the last ``runs`` count.

    Raises:
        EngineError: the engine refuses the file, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as place:
        network = OnnxRuntimeNetwork(folder, graph, options, Path(place) / "profile")
        named = {tensor.name: array for tensor, array in zip(graph.inputs, feeds, strict=True)}
        whole = []
        for _ in range(WARM_UP + runs):
            begin = time.perf_counter()
            network.run(named)
            whole.append(1e3 * (time.perf_counter() - begin))
        written = Path(network.session.end_profiling()).read_bytes()
    times = _times(from_json(written, list[_Event]), WARM_UP + runs)
    return summed_up(times, float(np.median(whole[WARM_UP:])), PROVIDERS[options.device or ENGINE.devices[0]])


def summed_up(times: tuple[OperatorTime, ...], measured: float, wanted: str) -> Operators:
    """The operators, for the provider that was asked for.

    On a GPU a kernel's event ends when the kernel is launched, long before it has run: such times are left out.
    """
    fallbacks = tuple(one.name for one in times if one.unit != wanted)
    if wanted == PROVIDERS["cpu"]:
        return Operators(by="onnxruntime profiler", times=times, measured=measured, fallbacks=fallbacks)
    return Operators(
        by="",
        units=dict(Counter(one.unit for one in times)),
        partitions=pieces(times),
        fallbacks=fallbacks,
        unavailable=f"with {wanted}, ONNX Runtime's profiler tells how long kernels took to launch, not to run",
    )


def _times(events: list[_Event], count: int) -> tuple[OperatorTime, ...]:
    """Median of each kernel over the last of ``count`` runs, in the order in which they begin."""
    kernels: dict[tuple[str, str], list[_Event]] = {}
    for event in sorted(events, key=lambda event: event.ts):
        if event.cat == "Node" and event.name.endswith(_KERNEL):
            kernels.setdefault((event.name, str(event.args.get("node_index"))), []).append(event)
    return tuple(_time(found, count) for found in kernels.values())


def _time(events: list[_Event], count: int) -> OperatorTime:
    durations = np.array([event.dur for event in events], np.float64) / 1e3
    if len(durations) % count:  # in the body of a loop or a branch, which does not run equally often each time
        milliseconds = float(durations.sum() / count)
    else:
        milliseconds = float(np.median(durations.reshape(count, -1).sum(axis=1)[WARM_UP:]))
    first = events[0]
    return OperatorTime(
        name=first.name.removesuffix(_KERNEL),
        kind=str(first.args.get("op_name", "")),
        milliseconds=milliseconds,
        unit=str(first.args.get("provider", "")),
        arithmetic=_arithmetic(first.args.get("input_type_shape", [])),
    )


def _arithmetic(inputs: list[dict[str, list[int]]]) -> str:
    """The type of the first tensor that a kernel reads."""
    name = next((name for one in inputs for name in one), "")
    return _TYPES.get(name, name)
