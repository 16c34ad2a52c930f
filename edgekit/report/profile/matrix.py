"""All profiles in one table: what a user of each feels, and what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edgekit.profiling.record import Load, Profile
from edgekit.profiling.records.naming import Named, by_task
from edgekit.report.page import Cell, Column, Html, Row, escape, join, number, percent, table, tag
from edgekit.report.profile import stages
from edgekit.report.profile.lanes import box, shared_end, strip

LOUD = 0.05
"""Rounds that spread more than this are highlighted: small differences mean nothing there."""


def load(profile: Profile, *, cold: bool) -> Load | None:
    """The load that is told of: the cold one, or of the warm ones the median."""
    some = sorted((one for one in profile.loads if one.cold == cold), key=lambda one: one.total)
    return some[(len(some) - 1) // 2] if some else None


def first_call(profile: Profile) -> float | None:
    """The first call after a load, in ms: the median of all loads."""
    return statistics.median(one.first for one in profile.loads) if profile.loads else None


def section(given: Sequence[Named]) -> Html:
    """The table; the bars of a task have one scale, from 0."""
    accurate = any(one.profile.accuracy for one in given)
    rows = []
    for some in by_task(given).values():
        longest = shared_end([one.profile.total.p99 for one in some])
        rows += [_row(one, longest, accurate) for one in some]
    note = (
        "Times are ms from image to result; the bar is p50, its pale end p99, on one scale for each task; orange: "
        "longer than the scale. Stages: shares of a call. Load: from a fresh process to the first result. Found: share "
        "of the source's results that it finds too. Spread: standard deviation of the rounds' medians over their mean, "
        f"highlighted above {percent(LOUD)}."
    )
    return tag("div", table("Profiles", _columns(accurate), rows, note), _class="compact matrix")


def _columns(accurate: bool) -> list[Column]:
    return [
        Column("Target"),
        Column("Precision"),
        Column("p50", numeric=True, kind="timed"),
        Column("p90", numeric=True),
        Column("p99", numeric=True),
        Column("Frames/s", numeric=True, first="descending"),
        Column("Stages"),
        Column("Load cold", numeric=True),
        Column("Load warm", numeric=True),
        Column("First call", numeric=True),
        Column("Peak MB", numeric=True),
        Column("Size MB", numeric=True),
        Column("Found", numeric=True, first="descending"),
        *([Column("Accuracy", numeric=True, first="descending")] if accurate else []),
        Column("Spread", numeric=True),
    ]


def _row(one: Named, longest: float, accurate: bool) -> Row:
    profile, total = one.profile, one.profile.total
    cold, warm = load(profile, cold=True), load(profile, cold=False)
    remark = tag("span", one.remark, _class="soft") if one.remark else ""
    name = tag("div", tag("b", profile.subject.target), remark, _class="who", title=one.told)
    accuracy = profile.accuracy
    share = escape("–")
    if accuracy is not None:
        share = join(percent(accuracy.value), tag("span", accuracy.metric, _class="unit"))
    agreement = profile.subject.agreement
    loud = tag("span", percent(profile.spread), _class="flag" if profile.spread > LOUD else None)
    cells = [
        Cell(name, one.label),
        Cell(profile.subject.precision, profile.subject.precision),
        Cell(tag("div", tag("b", number(total.p50)), _bar(total.p50, total.p99, longest), _class="timed"), total.p50),
        _figure(total.p90),
        _figure(total.p99),
        _figure(profile.frames_per_second),
        Cell(stages.shares(profile, 12), kind="stages"),
        _figure(cold.total if cold else None),
        _figure(warm.total if warm else None),
        _figure(first_call(profile)),
        Cell(number(profile.memory.peak / 1e6), float(profile.memory.peak), "number"),
        Cell(number(profile.subject.bytes / 1e6), float(profile.subject.bytes), "number"),
        Cell(percent(agreement), agreement, "number"),
        *([Cell(share, accuracy.value if accuracy else None, "number")] if accurate else []),
        Cell(loud, profile.spread, "number"),
    ]
    return Row(cells, marks=one.marks)


def _figure(value: float | None) -> Cell:
    return Cell(number(value), value, "number")


def _bar(middle: float, tail: float, longest: float) -> Html:
    told = f"p50 {number(middle)}, p99 {number(tail)} ms"
    if tail > longest:
        return strip(8, told, box(0, 100, 1, 6, "fill flag"))
    ends = 100 * middle / longest, 100 * tail / longest
    return strip(8, told, box(0, 100, 1, 6, "track"), box(0, ends[1], 1, 6, "pale"), box(0, ends[0], 1, 6, "fill"))
