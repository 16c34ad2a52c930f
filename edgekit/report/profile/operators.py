"""Where the time of an inference goes, by the engine's own profiler."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.profiling.record import Operators, OperatorTime, Profile, Roofline
from edgekit.profiling.records.naming import Named, shortened
from edgekit.report.page import Cell, Column, Html, Row, escape, join, number, percent, table, tag
from edgekit.report.profile.lanes import box, strip, who

TOP = 12
"""Operators that are shown of each profile."""


def section(given: Sequence[Named]) -> Html:
    """All profiles in a table, and the operators of each, folded."""
    columns = [
        Column("Profile"),
        Column("Operators", numeric=True),
        Column("ms", numeric=True),
        Column("Most time"),
        Column("Partitions", numeric=True),
        Column("Fallbacks", numeric=True, first="descending"),
        Column("Of the limit", numeric=True, first="descending"),
        Column("Bound by"),
    ]
    note = (
        "Partitions: pieces the engine cut the graph into; 1: nothing left its unit. Of the limit: the shortest time "
        "that arithmetic and memory of this machine allow in float32, over the measured inference."
    )
    told = tag("div", table("Operators", columns, [_row(one) for one in given], note), _class="compact")
    some = (one for one in given if _known(one.profile.operators) or one.profile.roofline)
    return join(told, *(_details(one) for one in some))


def _known(operators: Operators | None) -> Operators | None:
    """Those of a profiler that gave some."""
    return operators if operators and operators.times else None


def kinds(operators: Operators) -> dict[str, float]:
    """Milliseconds of each kind of operator together, the longest first."""
    sums: dict[str, float] = {}
    for one in operators.times:
        sums[one.kind] = sums.get(one.kind, 0.0) + one.milliseconds
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def _row(one: Named) -> Row:
    operators, roofline = _known(one.profile.operators), one.profile.roofline
    count, measured, partitions, fallbacks, share = (None,) * 5
    most: object = tag("span", _reason(one.profile.operators), _class="soft")
    if operators:
        count, measured = float(len(operators.times)), operators.measured
        partitions, fallbacks = float(operators.partitions), float(len(operators.fallbacks))
        kind, time = next(iter(kinds(operators).items()))
        most = f"{kind} {percent(time / _sum(operators.times))}"
    if roofline:
        share = roofline.share
    cells = [
        Cell(who(one), one.label),
        Cell(number(count), count, "number"),
        Cell(number(measured), measured, "number"),
        Cell(most, str(most) if operators else ""),
        Cell(number(partitions), partitions, "number"),
        Cell(_flag(number(fallbacks), bool(fallbacks)), fallbacks, "number"),
        Cell(percent(share), share, "number"),
        Cell(roofline.bound if roofline else "–", roofline.bound if roofline else ""),
    ]
    return Row(cells, marks=one.marks)


def _reason(operators: Operators | None) -> str:
    return "not asked for" if operators is None else operators.unavailable or "the profiler told of none"


def _flag(text: str, flagged: bool) -> Html:
    return tag("span", text, _class="flag") if flagged else escape(text)


def _sum(times: Sequence[OperatorTime]) -> float:
    return sum(one.milliseconds for one in times) or 1.0


def _details(one: Named) -> Html:
    operators = _known(one.profile.operators)
    said = _headline(operators) if operators else "against the limit of the machine"
    head = tag("summary", who(one), tag("span", said, _class="soft"))
    body = _columns(operators) if operators else ""
    return tag("details", head, body, _roofline(one.profile), _class="operators", **one.marks)


def _columns(operators: Operators) -> Html:
    return tag(
        "div",
        tag("div", tag("h4", "Longest operators"), _bars(_longest(operators), operators)),
        tag("div", tag("h4", "By kind"), _bars(_by_kind(operators), operators), _units(operators)),
        _class="columns",
    )


def _headline(operators: Operators) -> str:
    first = next(iter(kinds(operators)))
    share = percent(kinds(operators)[first] / _sum(operators.times))
    lost = f", {len(operators.fallbacks)} fallbacks" if operators.fallbacks else ""
    return f"{len(operators.times)} operators, {share} in {first}{lost}"


_Bar = tuple[str, str, float, str]
"""Name, what is said of it, milliseconds, class of the bar."""


def _kind(flagged: bool) -> str:
    return "fill flag" if flagged else "fill"


def _longest(operators: Operators) -> list[_Bar]:
    ordered = sorted(operators.times, key=lambda one: -one.milliseconds)
    bars = []
    for one in ordered[:TOP]:
        words = " · ".join(part for part in (one.kind, one.unit, one.arithmetic) if part)
        bars.append((one.name, words, one.milliseconds, _kind(one.name in operators.fallbacks)))
    if len(ordered) > TOP:
        rest = ordered[TOP:]
        bars.append((f"{len(rest)} others", "", sum(one.milliseconds for one in rest), "pale"))
    return bars


def _by_kind(operators: Operators) -> list[_Bar]:
    sums = list(kinds(operators).items())
    counts = {kind: sum(one.kind == kind for one in operators.times) for kind, _ in sums}
    lost = {one.kind for one in operators.times if one.name in operators.fallbacks}
    bars = [
        (kind, "1 operator" if counts[kind] == 1 else f"{counts[kind]} operators", time, _kind(kind in lost))
        for kind, time in sums[:TOP]
    ]
    if len(sums) > TOP:
        bars.append((f"{len(sums) - TOP} other kinds", "", sum(time for _, time in sums[TOP:]), "pale"))
    return bars


def _bars(bars: Sequence[_Bar], operators: Operators) -> Html:
    largest, total = max((time for _, _, time, _ in bars), default=0.0) or 1.0, _sum(operators.times)
    lines = []
    for name, words, time, kind in bars:
        drawing = strip(
            8,
            f"{number(time)} ms",
            box(0, 100, 0, 8, "track"),
            box(0, 100 * time / largest, 0, 8, kind),
        )
        label = tag("div", tag("code", shortened(name)), tag("span", words, _class="soft small"), _class="who")
        told = tag("div", tag("b", number(time)), tag("span", percent(time / total), _class="soft"), _class="told")
        lines.append(tag("div", label, tag("div", drawing, _class="draw"), told, _class="lane", title=name))
    return tag("div", *lines, _class="lanes bars")


def _units(operators: Operators) -> Html:
    where = ", ".join(f"{count} on {unit}" for unit, count in operators.units.items())
    pieces = "1 partition" if operators.partitions == 1 else f"{operators.partitions} partitions"
    times = f"Sum {number(_sum(operators.times))} of {number(operators.measured)} ms while profiled, by {operators.by}."
    parts = [tag("p", f"{where}; {pieces}. {times}" if where else times, _class="note")]
    if operators.fallbacks:
        names = join(*(tag("code", shortened(name)) for name in operators.fallbacks), by=", ")
        parts.append(tag("p", tag("span", "Fallbacks: ", _class="flag"), names, _class="note"))
    return join(*parts)


def _roofline(profile: Profile) -> Html:
    roofline = profile.roofline
    return tag("p", roofline_sentence(roofline), _class="note") if roofline else Html("")


def roofline_sentence(roofline: Roofline) -> str:
    """What the graph asks of the machine, what the machine can do, and how near it came."""
    work = f"{number(roofline.operations / 1e9)} GFLOP and moves at least {number(roofline.bytes / 1e6)} MB"
    peaks = f"{number(roofline.peak_operations / 1e9)} GFLOP/s and {number(roofline.peak_bytes / 1e9)} GB/s"
    return (
        f"An inference is {work}. With as many threads this machine reached {peaks} in float32, so "
        f"{number(roofline.limit)} ms is the limit, set by {roofline.bound}; the engine reached "
        f"{percent(roofline.share)} of it."
    )
