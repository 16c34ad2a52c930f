"""Compare the speed of functions that run in turns, so that whatever slows the machine down slows all of them down."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from edgekit.arrays import Doubles
from edgekit.runtimes.bundle.manifest import Speed
from edgekit.runtimes.engines import engine, importable

ROUNDS, SECONDS, LEAST = 40, 6.0, 7
"""The most rounds and the time of a comparison, and the rounds that are made however long they take."""

INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp", "asimd")
"""The instruction sets that decide how fast integers are, best first, as Linux names them."""

ELSEWHERE = 0.05
"""A process that computes for less than this share of the time has another one compute."""


@dataclass(frozen=True)
class Ratio:
    """The median of a time over another's in the same round, with the interval (confidence 95 %) of that median."""

    median: float
    low: float
    high: float
    rounds: int

    def speed(self, engine: str, *, of: str = "fp32", threads: int = 1) -> Speed:
        """The manifest's entry.

        Args:
            engine: that ran both, with its version.
            of: the precision of the other.
            threads: that each had.
        """
        return Speed(
            ratio=round(self.median, 4),
            low=round(self.low, 4),
            high=round(self.high, 4),
            of=of,
            rounds=self.rounds,
            threads=threads,
            instructions=instructions(),
            engine=engine,
        )


def instructions() -> str:
    """The instruction set of this machine, as far as integer arithmetic depends on it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    flags = set(text.split())
    return next((name for name in INSTRUCTIONS if name in flags), platform.machine())


def versioned(name: str) -> str:
    """An engine's name, with the version of its package where it has one."""
    distributions = metadata.packages_distributions()
    for package in filter(importable, engine(name).packages):
        for distribution in distributions.get(package.partition(".")[0], ()):
            return f"{name} {metadata.version(distribution)}"
    return name


def in_turns(
    base: Callable[[], object], others: Mapping[str, Callable[[], object]], *, seconds: float = SECONDS
) -> dict[str, Ratio]:
    """How long functions take beside ``base``, all called in turns.

    The time of the process is compared, all of its threads together: it hardly depends on what else the machine does.
    Where another process computes, the clock on the wall.

    Args:
        base: what the others are compared with.
        others: by name.
        seconds: after which no further round begins.

    Returns:
        The ratio of each of the others; above 1 it takes longer than ``base``.
    """
    calls = [base, *others.values()]
    for call in calls:
        call()
    rounds: list[list[tuple[float, float]]] = []
    begun = time.monotonic()
    while len(rounds) < LEAST or (len(rounds) < ROUNDS and time.monotonic() - begun < seconds):
        rounds.append([_spent(call) for call in calls])
    times = np.array(rounds)  # (rounds, calls, processor and wall)
    processor, wall = times[..., 0], times[..., 1]
    spent = processor if (processor.sum(0) >= ELSEWHERE * wall.sum(0)).all() else wall
    ratios = spent[:, 1:] / np.maximum(spent[:, :1], 1e-9)
    return {name: _median(column) for name, column in zip(others, ratios.T, strict=True)}


def _spent(call: Callable[[], object]) -> tuple[float, float]:
    processor, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - processor, time.perf_counter() - wall


def _median(ratios: Doubles) -> Ratio:
    """Bounds by order statistics, which assume nothing of the distribution (Conover, Practical Nonparametric
    Statistics, 3.2)."""
    ordered, count = np.sort(ratios), len(ratios)
    reach = 1.96 * math.sqrt(count) / 2
    low, high = max(math.floor(count / 2 - reach), 0), min(math.ceil(count / 2 + reach), count - 1)
    return Ratio(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), count)
