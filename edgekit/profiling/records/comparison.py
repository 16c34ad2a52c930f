"""HOST: two records side by side: whether one bundle is faster than the other, and how sure that is.

The word is only said when the interval holds. Rounds that were run in turns (one session) are compared in pairs, so
that what happened to the machine happened to both. Records of different sessions are compared with what sessions are
known to differ by on top: of the same bundle on the same machine, where a store has enough of them, and otherwise
`SESSION_NOISE`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.profiling.record import Profile
from edgekit.profiling.statistics import Interval, ratio_interval
from edgekit.profiling.summary import round_medians

CONFIDENCE = 0.99
"""Of the interval: one comparison in a hundred of equal things may be called a difference."""

SESSION_NOISE = 0.03
"""Standard deviation, on a logarithmic scale, between sessions of the same bundle, where nothing better is known."""

ENOUGH_SESSIONS = 4
"""Sessions of one bundle from which their own noise is believed."""

TRIFLE = 0.01
"""A difference below this is not worth a word, however sure it is."""

Verdict = Literal["faster", "slower", "no difference"]


@dataclass(frozen=True)
class ProfileComparison:
    """One bundle against another.

    ``interval`` is how many times as long the candidate takes as the baseline; ``paired`` whether their rounds were run
    in turns; ``remarks`` say in what else the two differ.
    """

    candidate: Profile
    baseline: Profile
    interval: Interval
    paired: bool
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """``faster`` or ``slower`` only where the whole interval says so."""
        if abs(self.interval.ratio - 1) < TRIFLE or self.interval.low <= 1 <= self.interval.high:
            return "no difference"
        return "slower" if self.interval.ratio > 1 else "faster"

    def slower_than(self, limit: float) -> bool:
        """Whether the candidate is slower by more than this share, and is slower beyond doubt."""
        return self.verdict == "slower" and self.interval.ratio > 1 + limit

    @property
    def sentence(self) -> str:
        """The verdict with its figures, by the names of the bundles."""
        return self.between(self.candidate.subject.name, self.baseline.subject.name)

    def between(self, candidate: str, baseline: str) -> str:
        """The verdict with its figures, by other names."""
        words = {
            "faster": "is faster than",
            "slower": "is slower than",
            "no difference": "is not shown to differ from",
        }
        change = f"{100 * (self.interval.ratio - 1):+.1f} %"
        bounds = f"{100 * (self.interval.low - 1):+.1f} to {100 * (self.interval.high - 1):+.1f} %"
        how = "in turns" if self.paired else "in different sessions"
        return (
            f"{candidate} {words[self.verdict]} {baseline}: {change} "
            f"({100 * CONFIDENCE:.0f} % interval {bounds}; {len(self.candidate.rounds)} rounds {how})"
        )


def compare(candidate: Profile, baseline: Profile, history: Sequence[Profile] = ()) -> ProfileComparison:
    """Compare two records by the end-to-end medians of their rounds.

    Args:
        candidate: the one that may be faster or slower.
        baseline: than this one.
        history: further records, from which the noise between sessions is learnt.

    Raises:
        InputError: a record of fewer than two rounds.
    """
    paired = candidate.session == baseline.session and len(candidate.rounds) == len(baseline.rounds)
    ours, theirs = round_medians(candidate), round_medians(baseline)
    interval = ratio_interval(ours, theirs, paired=paired, confidence=CONFIDENCE)
    if not paired:
        noise = session_noise([*history, candidate, baseline])
        interval = _widened(interval, math.sqrt(2) * noise * statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2))
    return ProfileComparison(candidate, baseline, interval, paired, tuple(_remarks(candidate, baseline)))


def session_noise(profiles: Sequence[Profile]) -> float:
    """Standard deviation of the logarithm of p50 between sessions of the same bundle, machine and settings."""
    groups: dict[tuple[object, ...], dict[str, float]] = {}
    for profile in profiles:
        one = profile.settings
        key = (profile.subject.sha256, profile.conditions.machine.key, one.threads, one.device, one.data, one.delay)
        groups.setdefault(key, {})[profile.session] = math.log(profile.total.p50)
    squares = [
        (statistics.variance(group.values()), len(group) - 1)
        for group in groups.values()
        if len(group) >= ENOUGH_SESSIONS
    ]
    if not squares:
        return SESSION_NOISE
    return math.sqrt(sum(value * weight for value, weight in squares) / sum(weight for _, weight in squares))


def _widened(interval: Interval, further: float) -> Interval:
    """Two independent reasons for doubt add up as squares do."""
    middle = math.log(interval.ratio)
    reach = math.hypot(math.log(interval.high) - middle, further)
    return Interval(interval.ratio, math.exp(middle - reach), math.exp(middle + reach))


def _remarks(candidate: Profile, baseline: Profile) -> list[str]:
    """In what else two records differ than in the bundle."""
    ours, theirs = candidate.conditions, baseline.conditions
    pairs = [
        ("machine", ours.machine.key, theirs.machine.key),
        ("data", candidate.settings.data or "generated", baseline.settings.data or "generated"),
        ("tracker", candidate.settings.tracker or "none", baseline.settings.tracker or "none"),
        ("threads", candidate.settings.threads, baseline.settings.threads),
        ("device", candidate.settings.device or "default", baseline.settings.device or "default"),
        ("governor", ours.before.governor, theirs.before.governor),
        ("power mode", ours.before.power_mode, theirs.before.power_mode),
        ("added delay", f"{candidate.settings.delay:g} %", f"{baseline.settings.delay:g} %"),
    ]
    pairs += [
        (name, ours.packages[name], theirs.packages[name])
        for name in sorted(ours.packages.keys() & theirs.packages.keys())
    ]
    return [f"{name}: {mine} against {other}" for name, mine, other in pairs if mine != other]
