"""HOST: a search over targets, precisions, input sizes and threads within a time budget, by successive halving.

Every point is measured briefly, in a seeded random order, until the time is up. The better half is measured again for
twice as long, and so on until a few are left; these are measured at length, in turns, and recommended. (Jamieson and
Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.)
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.errors import UsageError
from edgekit.profiling.record import Profile, Settings
from edgekit.profiling.records.choosing import Bounds, Preference, worth

FINALISTS = 3
"""How many are measured again at length."""

BROKEN = 1e6
"""Cost of a bound that is broken: more than any figure."""


@dataclass(frozen=True, order=True)
class SearchPoint:
    """One way of running the model."""

    target: str
    precision: str
    size: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """The space of a search. ``bundle`` gives the bundle of a point, converts it where that is possible, and gives None
    where there is none; ``measure`` profiles bundles in turns, with the settings of each.
    """

    points: tuple[SearchPoint, ...]
    bundle: Callable[[SearchPoint], Path | None]
    measure: Callable[[Sequence[Path], Sequence[Settings]], Sequence[Profile]]


@dataclass(frozen=True)
class Found:
    """``trials`` are the longest short record of each point, the best first; ``finals`` are those of the best few,
    measured at length in turns; ``untried`` points were left when the time was up."""

    trials: tuple[Profile, ...]
    finals: tuple[Profile, ...]
    untried: int


def search(space: Space, bounds: Bounds, prefer: Preference, settings: Settings, seconds: float) -> Found:
    """Search until the time is up or a few are left.

    Args:
        space: what to try; a point is measured at most once in a round.
        bounds: what has to be kept; a trial that breaks one is worth less than any that does not.
        prefer: what is best of what keeps them.
        settings: of the final measurement; trials take two rounds, at first of a third of the time. The seed is that of
            the order.
        seconds: the budget. The last trial is finished, the finals come on top.

    Raises:
        UsageError: there is nothing to try, or nothing could be measured.
    """
    if not space.points:
        raise UsageError("there is nothing to search: give bundles, or a source with --target and --precision")
    end = time.monotonic() + seconds
    order = random.Random(settings.seed).sample(space.points, len(space.points))  # noqa: S311 - not a secret
    brief = msgspec.structs.replace(
        settings, rounds=2, seconds=settings.seconds / 3, operators=False, sustain=0.0, batch=(), streams=()
    )
    known: dict[SearchPoint, Profile] = {}
    tried = 0
    for place, point in enumerate(order):
        if known and time.monotonic() >= end:
            break
        tried = place + 1
        if (path := space.bundle(point)) is not None:
            for made in space.measure([path], [msgspec.structs.replace(brief, threads=point.threads)]):
                known[point] = made
    if not known:
        raise UsageError("none of the bundles could be measured; edgekit profile on one of them says why")
    best = _ranked(known, known, bounds, prefer)
    while (half := len(best) // 2) > FINALISTS and time.monotonic() < end:
        brief = msgspec.structs.replace(brief, seconds=2 * brief.seconds)
        best = best[:half]
        each = [msgspec.structs.replace(brief, threads=point.threads) for point in best]
        known |= zip(best, space.measure([Path(known[point].subject.path) for point in best], each), strict=True)
        best = _ranked(best, known, bounds, prefer)
    finalists = best[:FINALISTS]
    each = [msgspec.structs.replace(settings, threads=point.threads) for point in finalists]
    finals = space.measure([Path(known[point].subject.path) for point in finalists], each)
    trials = tuple(known[point] for point in _ranked(known, known, bounds, prefer))
    return Found(trials, tuple(finals), len(order) - tried)


def _ranked(
    some: Iterable[SearchPoint], known: Mapping[SearchPoint, Profile], bounds: Bounds, prefer: Preference
) -> list[SearchPoint]:
    return sorted(some, key=lambda point: (cost(known[point], bounds, prefer), point))


def cost(profile: Profile, bounds: Bounds, prefer: Preference) -> float:
    """The objective of the search: the preferred figure, plus a penalty for every broken bound."""
    figures = {
        "latency": profile.total.p50,
        "accuracy": 1e3 * (1 - worth(profile)),
        "size": profile.subject.bytes / 1e6,
        "memory": math.inf if profile.peak_memory is None else profile.peak_memory / 1e6,
    }
    return figures[prefer] + BROKEN * len(bounds.violations(profile))


def points(targets: Sequence[tuple[str, str, str]], threads: Sequence[int]) -> tuple[SearchPoint, ...]:
    """Every target, precision and size with every number of threads."""
    several = itertools.product(dict.fromkeys(targets), threads)
    return tuple(SearchPoint(target, precision, size, count) for (target, precision, size), count in several)
