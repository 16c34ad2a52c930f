"""DEVICE: what samples of times say: percentiles, where a steady state begins, how noisy the machine is, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.profiling.record import Distribution

Samples = NDArray[np.float64]

FAR_OUT = 3.0
"""Interquartile ranges above the third quartile from which a sample is an outlier (Tukey 1977)."""

BATCH = 5
"""Samples whose median stands for them when a steady state is looked for (MSER-5)."""

MOVING = 0.05
"""Relative change between the last two quarters of a round from which it had not settled."""


def distribution(samples: Sequence[float] | Samples) -> Distribution:
    """Sum up times; percentiles are interpolated linearly.

    Raises:
        InputError: there are none.
    """
    times = np.asarray(samples, np.float64)
    if not len(times):
        raise InputError("there are no samples to sum up")
    lower, p50, upper, p90, p95, p99 = (float(value) for value in np.percentile(times, (25, 50, 75, 90, 95, 99)))
    return Distribution(
        count=len(times),
        mean=float(times.mean()),
        std=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        min=float(times.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(times.max()),
        outliers=int((times > upper + FAR_OUT * (upper - lower)).sum()),
    )


def warm_up(samples: Sequence[float] | Samples) -> tuple[int, bool]:
    """How many samples at the beginning are warm-up, and whether the rest is a steady state.

    The Marginal Standard Error Rule with batches of five (MSER-5; White 1997, Spratt 1998): what is cut off, at most a
    half, is what makes the standard error of the rest smallest. The medians of batches are taken, on a logarithmic
    scale, so that single outliers do not look like a change. It has not settled where the last quarter still differs
    from the one before by more than `MOVING` and four standard errors.
    """
    times = np.log(np.maximum(np.asarray(samples, np.float64), 1e-9))
    batches = len(times) // BATCH
    if batches < 4:
        return min(1, max(len(times) - 1, 0)), True  # too few to tell: the first call alone is known to be slow
    medians = np.median(times[: batches * BATCH].reshape(batches, BATCH), axis=1)
    middle = batches // 2
    # A cut near the end would win by chance: few samples can agree very well.
    rest = np.arange(batches, batches - middle - 1, -1)
    sums, squares = (part[::-1].cumsum()[::-1][: len(rest)] for part in (medians, medians**2))
    errors = np.maximum(squares - sums**2 / rest, 0.0) / rest**2
    quarters = medians[middle : (middle + batches) // 2], medians[(middle + batches) // 2 :]
    return int(np.argmin(errors)) * BATCH, not _differ(*quarters)


def _differ(before: Samples, after: Samples) -> bool:
    if min(len(before), len(after)) < 2:
        return False
    change = abs(float(before.mean() - after.mean()))
    error = math.hypot(*(float(one.std(ddof=1)) / math.sqrt(len(one)) for one in (before, after)))
    return change > max(MOVING, 4 * error)


def spread(medians: Sequence[float]) -> float:
    """Noise from round to round: the standard deviation of their medians over their mean, 0 of a single round."""
    values = np.asarray(medians, np.float64)
    return float(values.std(ddof=1) / values.mean()) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Interval:
    """A ratio, and the bounds within which it lies with the confidence that was asked for."""

    ratio: float
    low: float
    high: float


def ratio_interval(ours: Sequence[float], theirs: Sequence[float], *, paired: bool, confidence: float) -> Interval:
    """How many times as long ``ours`` take as ``theirs``, from the median of each round.

    Student's interval of the mean difference of logarithms: of pairs where the rounds were run in turns, Welch's where
    they were not. Rounds and not calls are the sample: calls of one process share its luck with memory and cores.

    Args:
        ours: the median time of each round.
        theirs: likewise; as many when paired.
        paired: round i of one was run next to round i of the other.
        confidence: 0..1, for example 0.99.

    Raises:
        InputError: fewer than two rounds of either, or numbers of rounds that do not pair.
    """
    if min(len(ours), len(theirs)) < 2:
        raise InputError("one round says nothing about its noise: profile with --rounds 3 or more")
    a, b = np.log(np.asarray(ours, np.float64)), np.log(np.asarray(theirs, np.float64))
    if paired:
        if len(a) != len(b):
            raise InputError(f"{len(a)} and {len(b)} rounds do not pair")
        differences = a - b
        error, freedom = float(differences.std(ddof=1)) / math.sqrt(len(a)), float(len(a) - 1)
    else:
        parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
        error = math.sqrt(float(parts.sum()))
        divisors = parts**2 / np.array([len(a) - 1, len(b) - 1])
        freedom = float(parts.sum() ** 2 / divisors.sum()) if divisors.sum() else float(len(a) + len(b) - 2)
    middle = float(a.mean() - b.mean())
    reach = student_quantile((1 + confidence) / 2, freedom) * error
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def student_quantile(share: float, freedom: float) -> float:
    """Quantile of Student's t distribution: exact for 1 and 2 degrees of freedom, else within 1 % at usual levels.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5 (the expansion around the normal quantile).
    """
    if freedom < 1.5:
        return math.tan(math.pi * (share - 0.5))
    if freedom < 2.5:
        return (2 * share - 1) * math.sqrt(1 / (2 * share * (1 - share)))
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
