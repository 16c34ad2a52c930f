"""DEVICE: what a graph's arithmetic and bytes would take at the most that this machine reaches.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (2009): no inference takes
less than its operations at the highest rate of arithmetic, nor than its bytes at the rate of memory. Both rates are
measured with numpy, in float32: engines that compute in INT8 may come under the limit, which is then a hint of how much
that brings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgekit.errors import EngineError, UsageError
from edgekit.profiling.record import Roofline
from edgekit.runtimes.bundle.manifest import Record
from edgekit.worker import call

_SIDE = 1024
"""Rows and columns of the matrices: enough for a library's full speed, 4 MiB each."""

_SECONDS = 0.5
"""How long each of the two is repeated; the best repetition counts."""

_BYTES_LEAST, _BYTES_MOST = 64 << 20, 512 << 20
"""Bounds of the size of the copied array, which is four times the cache where the system tells that."""

_PATIENCE = 120.0
_POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables by which the libraries that numpy may be built with are told how many threads to take."""


class _Threads(Record, frozen=True):
    """How many threads to measure with."""

    threads: int


class _Peaks(Record, frozen=True):
    """Float32 operations per second, and bytes per second."""

    operations: float
    bytes: float


def reached(threads: int = 0) -> tuple[float, float]:
    """Float32 operations per second of a matrix product, and bytes per second of copying (read and written).

    It is measured in a process of its own, since numpy's library takes its number of threads once, when it starts.

    Args:
        threads: how many to use; 0 is one for each core that this process may run on.

    Raises:
        EngineError: the process failed.
        UsageError: a negative number of threads.
    """
    if threads < 0:
        raise UsageError(f"threads must be 0 (one for each core) or more, not {threads}")
    count = threads or available_cores()
    found = call.run(
        "edgekit.profiling.roofline:peaks",
        _Threads(threads=count),
        _Peaks,
        name="what this machine reaches could not be measured, profile again",
        error=EngineError,
        variables=dict.fromkeys(_POOLS, str(count)),
        group=False,
        seconds=_PATIENCE,
    ).result
    return found.operations, found.bytes


def peaks(job: _Threads, report: call.Report) -> _Peaks:
    """Measure both rates in this process."""
    return _Peaks(operations=_product(), bytes=_copy(job.threads))


def roofline(operations: float, moved: float, peaks: tuple[float, float], inference: float) -> Roofline:
    """How close an inference comes to what the machine reaches.

    Args:
        operations: 2 x multiply-accumulates of one inference.
        moved: bytes of its weights as they are stored and of its float32 activations, each once. A cache that keeps
            activations moves fewer to memory, an engine that computes in INT8 as well; one that reads a tensor several
            times moves more.
        peaks: operations and bytes per second, of `reached`.
        inference: its measured time in ms.

    Raises:
        UsageError: a peak or the time is not positive.
    """
    if min(*peaks, inference) <= 0:
        raise UsageError(f"peaks and time must be positive, not {peaks[0]:g}, {peaks[1]:g} and {inference:g} ms")
    arithmetic, memory = 1e3 * operations / peaks[0], 1e3 * moved / peaks[1]
    limit = max(arithmetic, memory)
    return Roofline(
        operations=operations,
        bytes=moved,
        peak_operations=peaks[0],
        peak_bytes=peaks[1],
        limit=limit,
        share=limit / inference,
        bound="arithmetic" if arithmetic >= memory else "memory",
    )


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _product() -> float:
    """Operations per second of a float32 matrix product, by numpy's own threads."""
    random = np.random.default_rng(0)
    left, right = random.random((2, _SIDE, _SIDE), np.float32)
    result = np.empty_like(left)
    return 2.0 * _SIDE**3 / _best(lambda: np.matmul(left, right, out=result))


def _copy(threads: int) -> float:
    """Bytes per second that so many threads copy, counted once read and once written."""
    size = min(max(4 * _cache(), _BYTES_LEAST), _BYTES_MOST)
    source, target = np.ones(size // 8, np.float64), np.zeros(size // 8, np.float64)
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        # numpy lets go of the interpreter's lock while it copies.
        return 2.0 * size / _best(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)))


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several repetitions after a first one."""
    work()
    fastest, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        begin = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - begin)
    return fastest


def _cache() -> int:
    """Bytes of the largest cache of the first core, 0 where Linux does not tell."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text[-1:] in ("K", "M") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << (10 if text[-1] == "K" else 20))
    return max(sizes)
