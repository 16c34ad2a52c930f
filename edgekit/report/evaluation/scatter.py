"""A plot of models: accuracy against latency, with the size of a model as the area of its circle, and their front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from edgekit.report.charts import chart, log_share
from edgekit.report.page import Html, number, percent, tag

WIDTH, HEIGHT = 860.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 836.0, 30.0, 366.0
LARGEST, SMALLEST = 26.0, 3.5
"""Radii of the largest model's circle, and of the dot in the middle of each."""


LEAST_ROOM = 0.005
"""Accuracy over the best and under the worst model: models that are all alike shall look alike."""

CROWD = 18
"""Of more models than this, only those on the front have a label."""

FAINT = {"stroke": "currentColor", "stroke_opacity": 0.4}


@dataclass(frozen=True)
class Point:
    """A model: latency in ms (above 0), accuracy 0..1, size in bytes; ``reference`` is the one others compare with.

    ``marks`` are attributes of what is drawn for it (as `edgekit.report.page.tag` takes them), for a filter.
    """

    name: str
    latency: float
    accuracy: float
    bytes: int
    reference: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Axes:
    fastest: float
    slowest: float
    worst: float
    best: float

    def x(self, latency: float) -> float:
        return LEFT + (RIGHT - LEFT) * log_share(latency, self.fastest, self.slowest)

    def y(self, accuracy: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (accuracy - self.worst) / (self.best - self.worst)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is faster than and at least as accurate, the fastest first; of equals only the first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (one.latency, -one.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def scatter_plot(
    points: Sequence[Point], *, measure: str, description: str, latency: str = "ms of inference", front: bool = False
) -> Html:
    """The plot: latency to the right on a logarithmic axis, accuracy upwards, a dashed line at the reference's.

    Args:
        points: at least one.
        measure: what the accuracy is.
        description: for those who do not see it.
        latency: what the latency is.
        front: draw what accuracy is to be had within a latency, and emphasise the models that it is of. The script
            of the page draws it anew where a filter hides some; of more than `CROWD` models only these have labels.
    """
    axes = _axes(points)
    largest = max(point.bytes for point in points) or 1
    radii = [max(LARGEST * math.sqrt(point.bytes / largest), SMALLEST + 2) for point in points]
    parts = [*_grid(axes), _text(8, 16, measure), _text(RIGHT, HEIGHT - 8, f"{latency}, median (log)", "end")]
    for point in points:
        if point.reference:
            y = f"{axes.y(point.accuracy):.1f}"
            parts.append(_line(LEFT, y, RIGHT, y, stroke_dasharray="6 4", **FAINT))
    best = pareto_front(points) if front else []
    if front:
        parts.append(_front(best, axes))
    for point, radius in sorted(zip(points, radii, strict=True), key=lambda pair: -pair[1]):
        parts.append(tag("g", *_circle(point, radius, axes), **point.marks))
    parts += _labels(points, best, axes)
    return tag("div", chart(WIDTH, HEIGHT, description, *parts, kind="wide"), _class="plot")


def _corners(best: Sequence[Point], axes: _Axes) -> list[tuple[float, float]]:
    """Of the steps of a front: the accuracy of the best that is as fast, up to the right end."""
    corners: list[tuple[float, float]] = []
    for point in best:
        x, y = axes.x(point.latency), axes.y(point.accuracy)
        corners += [(x, corners[-1][1] if corners else y), (x, y)]
    return [*corners, (RIGHT, corners[-1][1])] if corners else []


def _front(best: Sequence[Point], axes: _Axes) -> Html:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _corners(best, axes))
    return tag("polyline", points=path, data_right=f"{RIGHT:g}", data_crowd=CROWD, _class="front")


def _axes(points: Sequence[Point]) -> _Axes:
    latencies = [max(point.latency, 1e-3) for point in points]
    accuracies = [point.accuracy for point in points]
    room = max(0.2 * (max(accuracies) - min(accuracies)), LEAST_ROOM)
    worst, best = max(min(accuracies) - room, -room / 2), min(max(accuracies) + room, 1 + room / 2)
    return _Axes(min(latencies) / 1.5, max(latencies) * 1.8, worst, best)


def _grid(axes: _Axes) -> list[Html]:
    parts = [_line(LEFT, BOTTOM, RIGHT, BOTTOM, _class="grid")]
    for latency in _decades(axes.fastest, axes.slowest):
        x = axes.x(latency)
        parts += [
            _line(x, BOTTOM, x, BOTTOM + 5, _class="grid"),
            _text(x, BOTTOM + 20, number(latency), "middle"),
        ]
    step = _step(axes.best - axes.worst)
    for place in range(math.ceil(axes.worst / step), math.floor(axes.best / step) + 1):
        y = axes.y(place * step)
        if place * step <= 1 + 1e-9:
            parts += [
                _line(LEFT, y, RIGHT, y, _class="grid"),
                _text(LEFT - 8, y + 4, percent(round(place * step, 6)), "end"),
            ]
    return parts


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]


def _step(span: float) -> float:
    """A round distance of which some five fit into the span."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= span / 6)


def _circle(point: Point, radius: float, axes: _Axes) -> list[Html]:
    at = {"cx": f"{axes.x(point.latency):.1f}", "cy": f"{axes.y(point.accuracy):.1f}"}
    told = f"{point.name}: {percent(point.accuracy)}, {number(point.latency)} ms, {point.bytes / 1e6:.2f} MB"
    return [
        tag("circle", tag("title", told), **at, r=f"{radius:.1f}", _class="area"),
        tag("circle", **at, r=SMALLEST, _class="fill flag" if point.reference else "dot"),
    ]


def _labels(points: Sequence[Point], best: Sequence[Point], axes: _Axes) -> list[Html]:
    """Each name beside its dot, where there is room: on the right or the left of it, or further up or down.

    With a front in a crowd, others' names are of class ``rest``, and only where there is room.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in ((axes.x(p.latency), axes.y(p.accuracy)) for p in points)]
    corners = _corners(best, axes)
    taken += [
        (min(x, x2) - 2, min(y, y2) - 2, max(x, x2) + 2, max(y, y2) + 2) for (x, y), (x2, y2) in pairwise(corners)
    ]
    on_front = {id(point) for point in best}
    crowded = bool(best) and len(points) > CROWD
    groups = []
    for point in sorted(points, key=lambda one: (crowded and id(one) not in on_front, axes.y(one.accuracy))):
        x, y, width = axes.x(point.latency), axes.y(point.accuracy), 7.3 * len(point.name)
        rest = crowded and id(point) not in on_front
        spot = _spot(x, y, width, taken, 60 if rest else 120)
        if spot is None and rest:
            continue
        spot = spot or (x + 9, y - 8, x + 9 + width, y + 6)  # nowhere: better over others than not at all
        taken.append((spot[0] - 4, spot[1], spot[2] + 4, spot[3]))
        parts = [_text(spot[0], spot[3] - 2, point.name, kind="label")]
        if abs(spot[1] + 8 - y) > 12:
            parts.insert(0, _line(x, y, spot[0] - 2 if spot[0] > x else spot[2] + 2, spot[1] + 7, **FAINT))
        groups.append(tag("g", *parts, **point.marks, _class="rest" if rest else None))
    return groups


_Box = tuple[float, float, float, float]


def _spot(x: float, y: float, width: float, taken: Sequence[_Box], far: int) -> _Box | None:
    """The nearest free place for a label of that width, at most ``far`` up or down; None: there is none."""
    for down in sorted(range(-far, far + 1, 6), key=abs):
        for left in (x + 9, x - 9 - width):
            box = (left, y + down - 8, left + width, y + down + 6)
            inside = left >= LEFT and left + width <= WIDTH and box[1] >= TOP - 12 and box[3] <= BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                return box
    return None


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _line(x1: object, y1: object, x2: object, y2: object, **more: object) -> Html:
    ends = {key: f"{float(str(value)):.1f}" for key, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    return tag("line", **ends, **more)


def _text(x: float, y: float, content: object, anchor: str = "start", kind: str | None = None) -> Html:
    return tag("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, _class=kind)
