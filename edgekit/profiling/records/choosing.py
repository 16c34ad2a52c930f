"""HOST: which of the measured bundles to ship, by bounds on what they may cost and must be worth, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.profiling.record import Profile
from edgekit.runtimes.bundle.manifest import FLOATS

Preference = Literal["latency", "accuracy", "size", "memory"]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds on a bundle's cost and accuracy; None is no bound.

    ``latency`` bounds the 95th percentile end to end in ms, so that nineteen of twenty calls keep it; ``accuracy`` is
    the least main figure on labelled images (0..1), ``agreement`` the least share of the source's results that it finds
    too, ``size`` and ``memory`` (peak) in bytes.
    """

    latency: float | None = None
    accuracy: float | None = None
    agreement: float | None = None
    size: float | None = None
    memory: float | None = None

    def violations(self, profile: Profile) -> tuple[str, ...]:
        """The bounds that a record breaks or does not measure, in words; empty if it keeps all."""
        found = []
        most = (
            ("p95", profile.total.p95, self.latency, 1.0, "ms"),
            ("size", profile.subject.bytes, self.size, 1e6, "MB"),
            ("peak memory", profile.peak_memory, self.memory, 1e6, "MB"),
        )
        for name, value, bound, unit, word in most:
            if bound is not None and value is None:
                found.append(f"its {name} is not known")
            elif bound is not None and value is not None and value > bound:
                found.append(f"{name} {value / unit:.1f} {word} is over {bound / unit:g} {word}")
        least = (
            ("accuracy", profile.accuracy.value if profile.accuracy else None, self.accuracy),
            ("agreement", profile.subject.agreement, self.agreement),
        )
        for name, known, bound in least:
            if bound is not None and known is None:
                found.append(f"its {name} is not known")
            elif bound is not None and known is not None and known < bound:
                found.append(f"{name} {known:.4f} is under {bound:g}")
        return tuple(found)


@dataclass(frozen=True)
class Choice:
    """A record, and what it breaks; it may be chosen where that is nothing."""

    profile: Profile
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """The ranking of bundles, best first: ``fitting`` keep all bounds, ``others`` do not, the nearest first."""

    fitting: tuple[Choice, ...]
    others: tuple[Choice, ...]
    prefer: Preference

    @property
    def best(self) -> Profile | None:
        """The record to follow, None when nothing keeps the bounds."""
        return self.fitting[0].profile if self.fitting else None


def choose(profiles: Sequence[Profile], bounds: Bounds, prefer: Preference) -> Recommendation:
    """Sort records into those that keep the bounds, the preferred first, and those that do not.

    Args:
        profiles: of one machine; of the same bundle and settings the last counts.
        bounds: what has to be kept.
        prefer: what is best of what keeps them. Of equals the faster one is better. Without a preference for less size
            or memory, a bundle that is not faster than the float one of its target is not chosen beside it: it is only
            smaller.
    """
    choices = [Choice(one, bounds.violations(one)) for one in latest(profiles)]
    if prefer not in ("size", "memory"):
        choices = [Choice(one.profile, one.violations or _slower(one.profile, choices)) for one in choices]

    def rank(choice: Choice) -> tuple[float, float]:
        one = choice.profile
        first = {
            "latency": one.total.p50,
            "accuracy": -worth(one),
            "size": float(one.subject.bytes),
            "memory": math.inf if one.peak_memory is None else float(one.peak_memory),
        }[prefer]
        return first, one.total.p50

    fitting = sorted((one for one in choices if not one.violations), key=rank)
    others = sorted((one for one in choices if one.violations), key=lambda one: (len(one.violations), rank(one)))
    return Recommendation(tuple(fitting), tuple(others), prefer)


def _slower(profile: Profile, choices: Sequence[Choice]) -> tuple[str, ...]:
    """A note that a float bundle of the same target within all bounds takes no longer; empty if there is none."""
    one = profile.subject
    if one.precision in FLOATS:
        return ()
    for other in (choice.profile for choice in choices if not choice.violations):
        its = other.subject
        same = (its.source, its.target, its.size) == (one.source, one.target, one.size)
        alike = (other.settings.threads, other.settings.device) == (profile.settings.threads, profile.settings.device)
        if its.precision in FLOATS and same and alike and other.total.p50 <= profile.total.p50:
            return (f"smaller, not faster: {profile.total.p50:.2f} ms, {its.precision} {other.total.p50:.2f} ms",)
    return ()


def worth(profile: Profile) -> float:
    """How good its results are: accuracy where it was measured, else agreement with the source, else nothing."""
    return profile.accuracy.value if profile.accuracy else profile.subject.agreement or 0.0


def latest(profiles: Sequence[Profile]) -> list[Profile]:
    """The last record of each bundle, machine and way of running it, in the order of these."""
    found: dict[tuple[object, ...], Profile] = {}
    for one in profiles:
        how = one.settings
        key = (
            one.subject.sha256,
            one.subject.path,
            one.conditions.machine.key,
            how.threads,
            how.device,
            how.tracker,
            how.data,
            how.delay,
        )
        found.pop(key, None)
        found[key] = one
    return list(found.values())
