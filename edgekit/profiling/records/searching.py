"""HOST: a search over targets, precisions, input sizes and threads within a time budget, by Optuna.

A search pays where there is more to try than there is time for: it measures each point shortly, learns which targets,
precisions, sizes and threads are worth more trials, and measures the best few again in turns, at length. These are what
is recommended.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import UsageError
from edgekit.profiling.record import Profile, Settings
from edgekit.profiling.records.choosing import Bounds, Preference, choose, worth
from edgekit.runtimes.engines import importable

FINALISTS = 3
"""How many are measured again at length."""

BROKEN = 1e6
"""Cost of a bound that is broken: more than any figure."""


@dataclass(frozen=True, order=True)
class Point:
    """One way of running the model."""

    target: str
    precision: str
    size: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched. ``bundle`` gives the bundle of a point, converts it where that is possible, and gives None
    where there is none; ``measure`` profiles bundles in turns, with the settings of each.
    """

    points: tuple[Point, ...]
    bundle: Callable[[Point], Path | None]
    measure: Callable[[Sequence[Path], Sequence[Settings]], Sequence[Profile]]


@dataclass(frozen=True)
class Found:
    """``trials`` are short records, ``finals`` those of the best, measured at length in turns; ``untried`` points were
    left when the time was up."""

    trials: tuple[Profile, ...]
    finals: tuple[Profile, ...]
    untried: int


def search(space: Space, bounds: Bounds, prefer: Preference, settings: Settings, seconds: float) -> Found:
    """Search until the time is up or everything was tried.

    Args:
        space: what to try.
        bounds: what has to be kept; a trial that breaks one is worth less than any that does not.
        prefer: what is best of what keeps them.
        settings: of the final measurement; trials take two rounds of a third of the time.
        seconds: the budget. The last trial is finished, the finals come on top.

    Raises:
        UsageError: Optuna is not installed, there is nothing to try, or nothing could be measured.
    """
    if not importable("optuna"):
        raise UsageError("a search needs Optuna: pip install edgekit[recommend]")
    if not space.points:
        raise UsageError("there is nothing to search: give bundles, or a source with --target and --precision")
    short = msgspec.structs.replace(
        settings, rounds=2, seconds=settings.seconds / 3, operators=False, sustain=0.0, batch=(), streams=()
    )
    trials: list[Profile] = []
    walk = _Walk(space.points, settings.seed)
    end = time.monotonic() + seconds
    while walk.untried and (time.monotonic() < end or not trials):
        trial, point = walk.next()
        path = space.bundle(point)
        made = space.measure([path], [msgspec.structs.replace(short, threads=point.threads)]) if path else ()
        trials += made
        walk.tell(trial, cost(made[0], bounds, prefer) if made else None)
    if not trials:
        raise UsageError("none of the bundles could be measured; edgekit profile on one of them says why")
    ranked = choose(trials, bounds, prefer)
    best = [choice.profile for choice in (*ranked.fitting, *ranked.others)][:FINALISTS]
    each = [msgspec.structs.replace(settings, threads=one.settings.threads) for one in best]
    finals = space.measure([Path(one.subject.path) for one in best], each)
    return Found(tuple(trials), tuple(finals), len(walk.untried))


def cost(profile: Profile, bounds: Bounds, prefer: Preference) -> float:
    """What the search makes small: the preferred figure, and a step for every bound that is broken."""
    figures = {
        "latency": profile.total.p50,
        "accuracy": 1e3 * (1 - worth(profile)),
        "size": profile.subject.bytes / 1e6,
        "memory": profile.memory.peak / 1e6,
    }
    return figures[prefer] + BROKEN * len(bounds.violations(profile))


class _Walk:
    """Optuna's tree-structured Parzen estimator over a finite set of points, each of which is tried once."""

    def __init__(self, points: Sequence[Point], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.untried = set(points)
        self._draw = random.Random(seed)  # noqa: S311 - a choice of what to measure, not a secret
        self._distributions: dict[str, Any] = {
            name: optuna.distributions.CategoricalDistribution(sorted({getattr(point, name) for point in points}))
            for name in Point.__dataclass_fields__
        }
        # Independent of each other at first; what was tried at random comes before what is believed to be good.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, len(points) // 5))
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._pruned = optuna.trial.TrialState.PRUNED

    def next(self) -> tuple[Any, Point]:
        """A trial, and the point that it stands for."""
        for _ in range(8):
            trial = self._study.ask(self._distributions)
            point = Point(*(trial.params[name] for name in self._distributions))
            if point in self.untried:
                self.untried.discard(point)
                return trial, point
            self._study.tell(trial, state=self._pruned)  # it is known, or there is no such bundle
        point = self._draw.choice(sorted(self.untried))
        self.untried.discard(point)
        self._study.enqueue_trial({name: getattr(point, name) for name in self._distributions})
        return self._study.ask(self._distributions), point

    def tell(self, trial: Any, value: float | None) -> None:
        """What a trial cost; None when it could not be measured."""
        if value is None:
            self._study.tell(trial, state=self._pruned)
        else:
            self._study.tell(trial, value)


def points(targets: Sequence[tuple[str, str, str]], threads: Sequence[int]) -> tuple[Point, ...]:
    """Every target, precision and size with every number of threads."""
    several = itertools.product(dict.fromkeys(targets), threads)
    return tuple(Point(target, precision, size, count) for (target, precision, size), count in several)
