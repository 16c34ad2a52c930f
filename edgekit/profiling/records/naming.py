"""HOST: what profiles are called where several stand beside each other, and what a page filters them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.profiling.record import Profile

LONGEST = 48
"""Characters of a part of a name; longer ones are shortened in the middle."""


@dataclass(frozen=True)
class Named:
    """A profile with its name among others: ``title`` (target and precision), and ``remark``, what tells it from those
    of the same title; empty where nothing has to."""

    profile: Profile
    title: str
    remark: str = ""

    @property
    def label(self) -> str:
        """The whole name; no other profile of the same report has it."""
        return f"{self.title}, {self.remark}" if self.remark else self.title

    @property
    def told(self) -> str:
        """Label, name of the bundle and where it lies."""
        return f"{self.label}: {self.profile.subject.name} ({self.profile.subject.path})"


FACETS: Mapping[str, Callable[[Profile], str]] = {
    "target": lambda one: one.subject.target,
    "precision": lambda one: one.subject.precision,
    "device": lambda one: one.conditions.machine.key,
    "task": lambda one: one.subject.task,
}
"""The settings that distinguish profiles, for tables and filters."""

_DIFFERENCES: tuple[Callable[[Profile], str], ...] = (
    lambda one: one.subject.task,
    lambda one: f"{one.subject.size[0]}×{one.subject.size[1]}",
    lambda one: f"{one.settings.threads or 'all'} threads" if one.settings.threads != 1 else "1 thread",
    lambda one: one.settings.device,
    lambda one: shortened(one.subject.name),
    lambda one: one.time[:19].replace("T", " "),
    lambda one: one.id[:8],
)
"""The settings that may distinguish profiles of the same target and precision, the most asked first."""


def shortened(name: str) -> str:
    """A name of at most `LONGEST` characters."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}"


def named(profiles: Sequence[Profile]) -> list[Named]:
    """Profiles with names that differ, by task, the fastest first. The machine is named where there are several."""
    ordered = sorted(profiles, key=lambda one: (one.subject.task, one.total.p50))
    given = [Named(one, f"{one.subject.target} {one.subject.precision}") for one in ordered]
    if len({one.conditions.machine.key for one in ordered}) > 1:
        given = [_with(one, one.profile.conditions.machine.key) for one in given]
    for difference in _DIFFERENCES:
        given = _told_apart(given, difference)
    return [_counted(place, one, given) for place, one in enumerate(given)]


def _told_apart(given: Sequence[Named], difference: Callable[[Profile], str]) -> list[Named]:
    """With the difference in the names of those that are named alike and differ in it."""
    values: dict[str, set[str]] = {}
    for one in given:
        values.setdefault(one.label, set()).add(difference(one.profile))
    return [_with(one, difference(one.profile)) if len(values[one.label]) > 1 else one for one in given]


def _with(one: Named, more: str) -> Named:
    return replace(one, remark=", ".join(part for part in (one.remark, more) if part))


def _counted(place: int, one: Named, given: Sequence[Named]) -> Named:
    before = sum(other.label == one.label for other in given[:place])
    return _with(one, f"#{before + 1}") if before else one


def by_task(given: Sequence[Named]) -> dict[str, list[Named]]:
    """Those of each task: the calls of different tasks are not compared."""
    tasks = dict.fromkeys(one.profile.subject.task for one in given)
    return {task: [one for one in given if one.profile.subject.task == task] for task in tasks}


def facets(given: Sequence[Named]) -> dict[str, dict[str, int]]:
    """How many profiles there are of each value of each facet."""
    found: dict[str, dict[str, int]] = {}
    for facet, read in FACETS.items():
        values = sorted(read(one.profile) for one in given)
        found[facet] = {value: values.count(value) for value in dict.fromkeys(values)}
    return found
