"""Times of operators by OpenVINO's performance counters (property ``PERF_COUNT``).

A counter gives the average over all inferences since the network was compiled, in whole microseconds. Times of single
inferences are told by difference, to as many microseconds as there were inferences: too rough for a median of short
operators, but enough to see in which ones the system interrupted it. The mean of the others is good to about 1 us.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.profiling.engines import WARM_UP
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions
from edgekit.runtimes.engines.openvino.session import OpenVinoNetwork, import_openvino

_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8"}
_ROUGH = 0.05
"""Milliseconds above the median from which on an operator's time in one inference is called interrupted."""


def measure(folder: Path, graph: Graph, options: SessionOptions, feeds: Sequence[Floats], runs: int) -> Operators:
    """Run the graph ``WARM_UP + runs`` times with its counters on, of which the last ``runs`` count.

    Raises:
        EngineError: the engine refuses the file, or failed.
    """
    network = OpenVinoNetwork(folder, graph, options, {"PERF_COUNT": True})
    named = {tensor.name: array for tensor, array in zip(graph.inputs, feeds, strict=True)}
    whole, totals = [], []
    for run in range(1, WARM_UP + runs + 1):
        begin = time.perf_counter()
        network.run(named)
        whole.append(1e3 * (time.perf_counter() - begin))
        totals.append([run * average for average in _averages(network)])
    spent = np.diff(np.array(totals, np.float64)[WARM_UP - 1 :], axis=0)
    layers = _layers(network)
    times = tuple(
        _time(info, _mean(spent[:, index]), network.placement.device, layers)
        for index, info in enumerate(network.request.get_profiling_info())
        if info.status == import_openvino().ProfilingInfo.Status.EXECUTED
    )
    return Operators(by="openvino performance counters", times=times, measured=float(np.median(whole[WARM_UP:])))


def _averages(network: OpenVinoNetwork) -> list[float]:
    """Milliseconds of each operator, on average over all inferences so far."""
    return [1e3 * info.real_time.total_seconds() for info in network.request.get_profiling_info()]


def _mean(spent: NDArray[np.float64]) -> float:
    """Mean over inferences in which nothing interrupted the operator: within Tukey's far fence, or near the median."""
    low, median, high = np.percentile(spent, (25, 50, 75))
    calm = spent[spent <= max(high + 3 * (high - low), median + _ROUGH)]
    return max(float(calm.mean()), 0.0)


def _time(info: Any, milliseconds: float, device: str, layers: dict[str, str]) -> OperatorTime:
    """``kind`` has the kernel behind the operator: ``Convolution brgconv_avx512``; its end is the arithmetic."""
    kernel, _, arithmetic = str(info.exec_type).rpartition("_")
    return OperatorTime(
        name=info.node_name,
        kind=f"{info.node_type} {kernel}".strip(),
        milliseconds=milliseconds,
        unit=device,
        arithmetic=_TYPES.get(arithmetic.lower(), arithmetic.lower()),
        source=layers.get(info.node_name, ""),
    )


def _layers(network: OpenVinoNetwork) -> dict[str, str]:
    """Layers of the file that became one operator each of the compiled network, by the operator's name."""
    found: dict[str, str] = {}
    for node in network.request.get_compiled_model().get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if "originalLayersNames" in info:
            found[node.get_friendly_name()] = str(info["originalLayersNames"].value)
    return found
