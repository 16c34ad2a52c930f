"""Accuracy against latency and size, and the profiles that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.profiling.records.naming import Named, by_task
from edgekit.report.charts import LONGEST
from edgekit.report.evaluation.scatter import CROWD, Point, pareto_front, scatter_plot
from edgekit.report.page import Html, join, legend, number, percent, tag

AGREEMENT = "Share of the source's results found"


def measure(one: Named) -> str | None:
    """What is known of how well it answers: a metric on labelled data, the agreement with the source, or nothing."""
    accuracy = one.profile.accuracy
    if accuracy is not None:
        return f"{accuracy.metric} on {accuracy.data}"
    return AGREEMENT if one.profile.subject.agreement is not None else None


def quality(one: Named) -> float | None:
    """That as a share of one."""
    accuracy = one.profile.accuracy
    return one.profile.subject.agreement if accuracy is None else accuracy.value


def section(given: Sequence[Named]) -> Html:
    """A plot for each task and measure: different measures do not share an axis."""
    parts = []
    for task, some in by_task(given).items():
        for told in dict.fromkeys(measure(one) for one in some):
            if told is not None:
                parts.append(_plot(task, told, [one for one in some if measure(one) == told], len(by_task(given)) > 1))
    without = [one for one in given if measure(one) is None]
    if without:
        ends = ["; "] * (len(without) - 1) + ["."]
        names = (tag("span", one.label, end, **one.marks) for one, end in zip(without, ends, strict=True))
        parts.append(tag("p", "Left out, because nothing is known of their accuracy: ", *names, data_group=True))
    keys = legend([("point", "a profile; the area of its circle is the size of its files"), ("steps", "Pareto front")])
    return join(keys if len(without) < len(given) else "", *parts)


def _plot(task: str, told: str, some: Sequence[Named], several: bool) -> Html:
    points = [
        Point(_short(one.label), one.profile.total.p50, quality(one) or 0.0, one.profile.subject.bytes, marks=one.marks)
        for one in some
    ]
    best = pareto_front(points)
    names = [one.label for one in some]
    front = [names[points.index(point)] for point in best]
    crowd = " Of so many, only these are labelled until a filter leaves fewer." if len(points) > CROWD else ""
    said = (
        f"On the front of all of these, from the fastest to the most accurate: {'; '.join(front)}. No other here is as "
        f"fast and as accurate.{crowd}"
    )
    words = "; ".join(
        f"{name}: {percent(point.accuracy)}, {number(point.latency)} ms"
        for name, point in zip(names, points, strict=True)
    )
    drawing = scatter_plot(
        points, measure=told, latency="ms end to end", description=f"{told} against latency. {words}", front=True
    )
    title = tag("h3", task) if several else ""
    return tag("div", title, drawing, tag("p", said, _class="note"), data_group=True)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
