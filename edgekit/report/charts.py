"""Charts in SVG. All text in them is escaped.

A *strip* has no viewBox and is drawn in per cent of its width: it fills its place while text, ticks and circles keep
their shape. A *chart* has a viewBox and scales as a whole.
"""

from __future__ import annotations

import math
import statistics
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from edgekit.arrays import Doubles
from edgekit.report.numbers import number, percent, shortened
from edgekit.report.render import STYLE

# ---- shapes: coordinates are numbers, or text in per cent ----

Place = float | str


def _at(place: Place) -> str:
    if isinstance(place, str):
        return place
    return f"{place:.2f}".rstrip("0").rstrip(".") if math.isfinite(place) else "0"


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")


def _rect(x: Place, y: float, width: Place, height: float, kind: str, alt: str = "") -> Markup:
    shape = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}">{}</rect>')
    return shape.format(_at(x), _at(y), _at(width), _at(height), kind, _title(alt))


def _line(x1: Place, y1: float, x2: Place, y2: float, kind: str) -> Markup:
    shape = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"></line>')
    return shape.format(_at(x1), _at(y1), _at(x2), _at(y2), kind)


def _circle(x: Place, y: float, radius: float, kind: str, alt: str = "") -> Markup:
    shape = Markup('<circle cx="{}" cy="{}" r="{}" class="{}">{}</circle>')
    return shape.format(_at(x), _at(y), _at(radius), kind, _title(alt))


def _text(x: Place, y: float, content: object, kind: str = "", anchor: str = "start") -> Markup:
    shape = Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>')
    return shape.format(_at(x), _at(y), kind, anchor, content)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_at(x)},{_at(y)}" for x, y in points)


def _group(parts: Sequence[Markup], marks: Mapping[str, str], kind: str = "") -> Markup:
    attributes = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in marks.items())
    return Markup('<g class="{}"{}>{}</g>').format(kind, attributes, Markup("").join(parts))


def _chart(width: float, height: float, alt: str, parts: Sequence[Markup], kind: str = "") -> Markup:
    shape = Markup(
        '<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}" class="{3}">{4}</svg>'
    )
    return shape.format(_at(width), _at(height), alt, kind, Markup("").join(parts))


def _plot(drawing: Markup) -> Markup:
    return Markup('<div class="plot">{}</div>').format(drawing)


def svg_file(drawing: Markup) -> str:
    """A chart as a file of its own, with the page's colours, light or dark."""
    style = f"{STYLE.read_text(encoding='utf-8')}\nsvg {{ background: var(--card); height: auto; }}"
    opening, _, rest = str(drawing).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).partition(">")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opening}><style><![CDATA[{style}]]></style>{rest}\n'


# ---- axes ----


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``; above 0 where it is logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0..100; what lies outside is at its end."""
        if not math.isfinite(value):
            return 100.0 if value > 0 else 0.0
        if self.logarithmic:
            share = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return 100 * min(max(share, 0.0), 1.0)

    def ticks(self, room: float = 7.0) -> list[float]:
        """Round values on it, no two closer than ``room`` per cent of it."""
        found = self._decades() if self.logarithmic else []
        kept: list[float] = []
        for value in found if len(found) >= 3 else self._even():
            if not kept or self.place(value) - self.place(kept[-1]) >= room:
                kept.append(value)
        return kept

    def _decades(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [(step, step * 10.0**power) for power in powers for step in (1, 2, 5)]
        inside = [(step, value) for step, value in every if self.low <= value <= self.high]
        tens = [value for step, value in inside if step == 1]
        return tens if len(tens) > 4 else [value for _, value in inside]

    def _even(self) -> list[float]:
        span = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(span))
        step = next(one * power for one in (1, 2, 5, 10) if one * power >= span)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(place * step, 12) for place in range(first, last + 1)]


FAR = 5.0


def shared_end(lengths: Sequence[float]) -> float:
    """Where an axis from 0 ends: at the longest, or at the longest of the rest where a few are `FAR` times longer than
    the median: one slow machine shall not squeeze all others into nothing."""
    longest = max(lengths, default=0.0)
    kept = [length for length in lengths if length <= FAR * statistics.median(lengths)]
    return (max(kept) if kept and len(lengths) > 2 else longest) or 1e-6


# ---- strips ----


def _strip(height: float, alt: str, parts: Sequence[Markup], kind: str = "") -> Markup:
    label = Markup('role="img" aria-label="{}"').format(alt) if alt else Markup('aria-hidden="true"')
    shape = Markup('<svg class="strip {}" {} style="height:{:g}px">{}{}</svg>')
    return shape.format(kind, label, height, _title(alt), Markup("").join(parts))


def _box(start: float, end: float, y: float, height: float, kind: str, alt: str = "") -> Markup:
    return _rect(f"{start:.2f}%", y, f"{max(end - start, 0):.2f}%", height, kind, alt)


def _upright(place: float, y: float, height: float, kind: str) -> Markup:
    return _line(f"{place:.2f}%", y, f"{place:.2f}%", y + height, kind)


def bar(share: float, kind: str = "fill", *, tail: float = 0.0, mark: float | None = None, alt: str = "") -> Markup:
    """A thin bar for a cell, ``share`` (0..1) of it filled, pale up to ``tail``, with a tick at ``mark``."""
    full, pale = (100 * min(max(one, 0.0), 1.0) if math.isfinite(one) else 0.0 for one in (share, tail))
    parts = [_box(0, 100, 0, 8, "track")]
    parts += [_box(0, pale, 0, 8, "pale")] if tail else []
    parts.append(_box(0, full, 0, 8, kind))
    parts += [_box(100 * mark, 100 * mark + 0.8, 0, 8, "tick")] if mark is not None else []
    return _strip(8, alt, parts, "bar")


def log_bar(value: float, end: float, mark: float, kind: str) -> Markup:
    """A bar on a logarithmic axis from 1 to ``end``."""
    axis = Axis(1.0, end, logarithmic=True)
    return bar(0.0 if math.isnan(value) else axis.place(value) / 100, kind, mark=axis.place(mark) / 100)


def interval(seen: tuple[float, float], chosen: tuple[float, float]) -> Markup:
    """Two ranges on one line: ``chosen`` over ``seen``, so that what is cut off looks out, and a tick at zero."""
    ends = [end for end in (*seen, *chosen, 0.0) if math.isfinite(end)]
    low = min(ends)
    axis = Axis(
        low / 2, (max(ends) if max(ends) > low else low + 1.0) / 2
    )  # halves: the span of two floats may overflow

    def between(ends: tuple[float, float], kind: str) -> Markup:
        return _box(axis.place(ends[0] / 2), axis.place(ends[1] / 2), 3, 8, kind)

    zero = min(axis.place(0.0), 99.2)
    parts = [
        _box(0, 100, 6, 2, "track"),
        between(seen, "pale"),
        between(chosen, "fill"),
        _box(zero, zero + 0.8, 0, 14, "tick"),
    ]
    return _strip(14, "", parts, "bar range")


def scale(axis: Axis, words: Mapping[float, str] | None = None) -> Markup:
    """The axis of strips: its ticks with their values (or ``words`` for them)."""
    parts = []
    for value in words or axis.ticks():
        place = axis.place(value)
        anchor = "start" if place < 3 else "end" if place > 97 else "middle"
        parts.append(_text(f"{place:.2f}%", 12, words[value] if words else number(value), "", anchor))
        parts.append(_upright(place, 16, 4, "grid"))
    return _strip(20, "", parts)


def stack(stages: Mapping[str, float], axis: Axis | None, median: float, alt: str) -> Markup:
    """Times of stages one after the other, with a tick at the time that was measured of all; without an axis, their
    shares of the sum in a thin bar that is always full."""
    total, start = sum(stages.values()) or 1.0, 0.0
    parts = [_upright(axis.place(value), 0, 26, "grid") for value in axis.ticks()] if axis else []
    for stage, time in stages.items():
        ends = [axis.place(at) if axis else 100 * at / total for at in (start, start + time)]
        parts.append(_box(ends[0], ends[1], 5 if axis else 0, 16 if axis else 12, f"stage s-{stage}"))
        start += time
    if axis:
        parts.append(_upright(axis.place(median), 1, 24, "median"))
    return _strip(26 if axis else 12, alt, parts)


LANE = 44.0
"""Height of the strips of a profile's calls."""


def quantiles(times: Doubles, quantile: tuple[float, float, float], axis: Axis, alt: str) -> Markup:
    """p50 as a tick, the fastest (pale) to p90 (thick) and p99 (thin) as bars, and circles for what lies far out."""
    y = LANE / 2
    p50, p90, p99 = (axis.place(value) for value in quantile)
    low, high = np.percentile(times, (25, 75))
    far = {round(axis.place(time), 1) for time in times[times > high + 3 * (high - low)].tolist()}
    parts = [_upright(axis.place(value), 0, LANE, "grid") for value in axis.ticks()]
    parts += [_box(axis.place(float(times.min())), p50, y - 1, 2, "pale"), _box(p50, p99, y - 1, 2, "fill")]
    parts += [_circle(f"{place:.2f}%", y, 2.5, "ring") for place in sorted(far)]  # one for all on the same pixel
    parts += [
        _box(p50, p90, y - 4, 8, "fill"),
        _upright(p99, y - 5, 10, "quantile"),
        _upright(p50, y - 9, 18, "median"),
    ]
    return _strip(LANE, alt, parts)


@dataclass(frozen=True)
class RoundMark:
    """A round in a strip: its middle 80 % and its median, as shares of the median of all."""

    low: float
    median: float
    high: float
    settled: bool


def rounds(shares: Doubles, marks: Sequence[RoundMark], axis: Axis, ticks: Sequence[float], alt: str) -> Markup:
    """The density of all calls (as shares of their median), and over it a line for each round."""
    parts = [_density(100 * np.log(shares / axis.low) / math.log(axis.high / axis.low))]
    parts += [_upright(axis.place(at), 0, LANE, "middle" if at == 1 else "grid") for at in ticks]
    step = min((LANE - 8) / max(len(marks), 1), 9.0)
    first = (LANE - step * (len(marks) - 1)) / 2
    for place, one in enumerate(marks):
        y = first + place * step
        parts.append(_box(axis.place(one.low), axis.place(one.high), y - 1.5, 3, "reach"))
        parts.append(_circle(f"{axis.place(one.median):.2f}%", y, 2.5, "dot" if one.settled else "dot flag"))
    return _strip(LANE, alt, parts)


BINS = 300


def _density(places: Doubles) -> Markup:
    """The density of places (0..100, those outside are not drawn) by a Gaussian kernel of Silverman's width."""
    counts, _ = np.histogram(places, BINS, (0, 100))
    deviation = min(float(places.std()), float(np.subtract(*np.percentile(places, (75, 25)))) / 1.34)
    width = min(max(0.9 * deviation * len(places) ** -0.2 * BINS / 100, 1.0), BINS / 8)
    reach = math.ceil(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    density = np.convolve(counts, kernel)[reach : reach + BINS]
    density = (LANE - 4) * density / max(float(density.max()), 1e-12)
    outline = "".join(f"L{place + 0.5:g} {LANE - height:.1f}" for place, height in enumerate(density.tolist()))
    shape = Markup(
        '<svg width="100%" height="{0:g}" viewBox="0 0 {1} {0:g}" preserveAspectRatio="none" style="height:100%">'
        '<path d="M0.5 {0:g}{2}L{3:g} {0:g}Z" class="density"></path></svg>'
    )
    return shape.format(LANE, BINS, outline, BINS - 0.5)


# ---- curves ----


@dataclass(frozen=True)
class Panel:
    """A curve of one value: its unit (``%`` for shares), height in pixels, class of the line; ``dots`` marks points."""

    values: Sequence[float]
    unit: str
    height: float
    kind: str = "curve"
    dots: bool = False


FIRST, LAST = 76.0, 450.0
"""Ends of the axis of curves."""


def curves(at: Sequence[float], unit: str, panels: Sequence[Panel], alt: str, *, logarithmic: bool = False) -> Markup:
    """Curves over one axis, one under the other."""
    axis = Axis(at[0], max(at[-1], at[0] * 2 if logarithmic else at[0] + 1), logarithmic)
    across = [FIRST + (LAST - FIRST) * axis.place(one) / 100 for one in at]
    parts: list[Markup] = []
    top = 8.0
    for panel in panels:
        parts += _panel(across, panel, top)
        top += panel.height + 14
    for tick in axis.ticks(12):
        x = FIRST + (LAST - FIRST) * axis.place(tick) / 100
        parts.append(_text(x, top + 6, f"{number(tick)} {unit}".strip(), "", "middle"))
    return _plot(_chart(LAST + 14, top + 12, alt, parts))


def _written(value: float, unit: str) -> str:
    return percent(value) if unit == "%" else f"{number(value)} {unit}"


def _panel(across: Sequence[float], panel: Panel, top: float) -> list[Markup]:
    values = [value if math.isfinite(value) else 0.0 for value in panel.values]
    low, high = min(values), max(values)
    room = max((high - low) * 0.1, abs(high) * 0.02, 1e-9)
    axis = Axis(low - room, high + room)
    bottom = top + panel.height
    points = [(x, bottom - panel.height * axis.place(value) / 100) for x, value in zip(across, values, strict=True)]
    parts = [_line(FIRST, bottom, LAST, bottom, "grid")]
    for value in [high] if panel.height * (high - low) / (axis.high - axis.low) < 14 else [high, low]:
        y = bottom - panel.height * axis.place(value) / 100
        parts.append(_text(FIRST - 6, y + 4, _written(value, panel.unit), "", "end"))
    parts.append(Markup('<polyline points="{}" class="{}"></polyline>').format(_path(points), panel.kind))
    if panel.dots:
        parts += [
            _circle(x, y, 3.5, "dot", _written(value, panel.unit)) for (x, y), value in zip(points, values, strict=True)
        ]
    return parts


# ---- bars with names ----

LONGEST = 40
"""Characters of a name in a chart."""


@dataclass(frozen=True)
class Entry:
    """One bar, filled in the way of ``kind``: ``fill``, ``pale``, or ``fill flag``: look here."""

    name: str
    value: float
    remark: str = ""
    kind: str = "fill"


def bar_chart(entries: Sequence[Entry], *, title: str, alt: str, logarithmic: bool = False) -> Markup:
    """Horizontal bars from top to bottom: name, value, bar, and the remark at its end.

    Args:
        entries: in the order that they are shown; long names are shortened in the middle and whole in the tooltip.
        title: a line over them.
        alt: for those who do not see it.
        logarithmic: the axis starts a little under the smallest positive value, at most four decades below the largest.
    """
    names = [shortened(entry.name, LONGEST) for entry in entries]
    label = 14 + 7.3 * max((_columns(name) for name in names), default=0)
    left, length, row, top = label + 72, 420.0, 20.0, 36.0
    largest = max((entry.value for entry in entries), default=0.0)
    lowest = max(min((entry.value for entry in entries if entry.value > 0), default=1.0) / 2, largest / 1e4)
    axis = (
        Axis(lowest, max(largest, lowest * 1.01), True) if logarithmic else Axis(0.0, largest if largest > 0 else 1.0)
    )
    parts = [_text(12, 16, title)]
    for line, (entry, name) in enumerate(zip(entries, names, strict=True)):
        y = top + line * row
        filled = 0.0 if math.isnan(entry.value) else length * axis.place(entry.value) / 100
        parts += [
            Markup("<g>{}{}</g>").format(_title(entry.name or " "), _text(label, y + 12, name, "label", "end")),
            _text(left - 12, y + 12, number(entry.value), "value", "end"),
            _rect(left, y + 3, length, 10, "track"),
            _rect(left, y + 3, max(filled, 1.0) if entry.value > 0 else 0.0, 10, entry.kind),
        ]
        if entry.remark:
            parts.append(_text(left + filled + 6, y + 12, entry.remark))
    width = left + length + 12 + 6.5 * max((len(entry.remark) for entry in entries), default=0)
    return _chart(width, top + row * len(entries) + 8, alt, parts, "wide")


def _columns(name: str) -> int:
    """Width of a name in a monospaced font."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)


# ---- accuracy against latency ----

WIDTH, HEIGHT = 860.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 836.0, 30.0, 366.0
LARGEST, SMALLEST = 26.0, 3.5
"""Radii of the largest model's circle, and of the dot in the middle of each."""

LEAST_ROOM = 0.005
"""Accuracy over the best and under the worst model: models that are all alike shall look alike."""

CROWD = 18
"""Of more models than this, only those on the front have a label."""


@dataclass(frozen=True)
class ChartPoint:
    """A model: latency in ms (above 0), accuracy 0..1, size in bytes; ``reference`` is the one others compare with.
    ``marks`` are attributes of what is drawn for it, for the filters of the page."""

    name: str
    latency: float
    accuracy: float
    bytes: int
    reference: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)


def pareto_front(points: Sequence[ChartPoint]) -> list[ChartPoint]:
    """Those that no other is faster than and at least as accurate, the fastest first; of equals only the first."""
    front: list[ChartPoint] = []
    for point in sorted(points, key=lambda one: (one.latency, -one.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


class _Scatter:
    """Where points lie in the plot."""

    def __init__(self, points: Sequence[ChartPoint]) -> None:
        latencies = [max(point.latency, 1e-3) for point in points]
        accuracies = [point.accuracy for point in points]
        room = max(0.2 * (max(accuracies) - min(accuracies)), LEAST_ROOM)
        self.latency = Axis(min(latencies) / 1.5, max(latencies) * 1.8, logarithmic=True)
        self.accuracy = Axis(max(min(accuracies) - room, -room / 2), min(max(accuracies) + room, 1 + room / 2))

    def x(self, latency: float) -> float:
        return LEFT + (RIGHT - LEFT) * self.latency.place(max(latency, 1e-3)) / 100

    def y(self, accuracy: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * self.accuracy.place(accuracy) / 100

    def at(self, point: ChartPoint) -> tuple[float, float]:
        return self.x(point.latency), self.y(point.accuracy)

    def grid(self) -> list[Markup]:
        parts = [_line(LEFT, BOTTOM, RIGHT, BOTTOM, "grid")]
        for latency in self.latency.ticks():
            x = self.x(latency)
            parts += [_line(x, BOTTOM, x, BOTTOM + 5, "grid"), _text(x, BOTTOM + 20, number(latency), "", "middle")]
        for accuracy in self.accuracy.ticks():
            if accuracy <= 1 + 1e-9:
                y = self.y(accuracy)
                text = _text(LEFT - 8, y + 4, percent(round(accuracy, 6)), "", "end")
                parts += [_line(LEFT, y, RIGHT, y, "grid"), text]
        return parts

    def corners(self, front: Sequence[ChartPoint]) -> list[tuple[float, float]]:
        """Of the steps of a front: the accuracy of the best that is as fast, up to the right end."""
        corners: list[tuple[float, float]] = []
        for x, y in map(self.at, front):
            corners += [(x, corners[-1][1] if corners else y), (x, y)]
        return [*corners, (RIGHT, corners[-1][1])] if corners else []


def scatter(
    points: Sequence[ChartPoint], *, measure: str, alt: str, latency: str = "ms of inference", front: bool = False
) -> Markup:
    """Accuracy against latency (logarithmic), with the size of a model as the area of its circle.

    Args:
        points: at least one.
        measure: what the accuracy is.
        alt: for those who do not see it.
        latency: what the latency is.
        front: draw the Pareto front. The script of the page draws it anew where a filter hides some; of more than
            `CROWD` models only those on it have labels.
    """
    axes = _Scatter(points)
    largest = max(point.bytes for point in points) or 1
    best = pareto_front(points) if front else []
    parts = [*axes.grid(), _text(8, 16, measure), _text(RIGHT, HEIGHT - 8, f"{latency}, median (log)", "", "end")]
    parts += [
        _line(LEFT, axes.y(one.accuracy), RIGHT, axes.y(one.accuracy), "faint dashed")
        for one in points
        if one.reference
    ]
    if front:
        line = Markup('<polyline points="{}" data-right="{:g}" data-crowd="{}" class="front"></polyline>')
        parts.append(line.format(_path(axes.corners(best)), RIGHT, CROWD))
    for point in sorted(points, key=lambda one: -one.bytes):
        x, y = axes.at(point)
        words = f"{point.name}: {percent(point.accuracy)}, {number(point.latency)} ms, {point.bytes / 1e6:.2f} MB"
        area = _circle(x, y, max(LARGEST * math.sqrt(point.bytes / largest), SMALLEST + 2), "area", words)
        parts.append(_group([area, _circle(x, y, SMALLEST, "fill flag" if point.reference else "dot")], point.marks))
    return _plot(_chart(WIDTH, HEIGHT, alt, [*parts, *_labels(points, best, axes)], "wide"))


_Area = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def _labels(points: Sequence[ChartPoint], best: Sequence[ChartPoint], axes: _Scatter) -> list[Markup]:
    """Each name beside its dot, where there is room: on the right or the left of it, or further up or down.

    With a front in a crowd, others' names are of class ``rest``, and only where there is room.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in map(axes.at, points)]
    for (x, y), (x2, y2) in pairwise(axes.corners(best)):
        taken.append((min(x, x2) - 2, min(y, y2) - 2, max(x, x2) + 2, max(y, y2) + 2))
    on_front = {id(point) for point in best}
    crowded = bool(best) and len(points) > CROWD
    groups = []
    for point in sorted(points, key=lambda one: (crowded and id(one) not in on_front, axes.y(one.accuracy))):
        (x, y), width = axes.at(point), 7.3 * len(point.name)
        rest = crowded and id(point) not in on_front
        spot = _spot(x, y, width, taken, 60 if rest else 120)
        if spot is None and rest:
            continue
        spot = spot or (x + 9, y - 8, x + 9 + width, y + 6)  # nowhere: better over others than not at all
        taken.append((spot[0] - 4, spot[1], spot[2] + 4, spot[3]))
        parts = [_text(spot[0], spot[3] - 2, point.name, "label")]
        if abs(spot[1] + 8 - y) > 12:
            parts.insert(0, _line(x, y, spot[0] - 2 if spot[0] > x else spot[2] + 2, spot[1] + 7, "faint"))
        groups.append(_group(parts, point.marks, "rest" if rest else ""))
    return groups


def _spot(x: float, y: float, width: float, taken: Sequence[_Area], far: int) -> _Area | None:
    """The nearest free place for a label of that width, at most ``far`` up or down; None: there is none."""
    for down in sorted(range(-far, far + 1, 6), key=abs):
        for left in (x + 9, x - 9 - width):
            area = (left, y + down - 8, left + width, y + down + 6)
            inside = left >= LEFT and left + width <= WIDTH and area[1] >= TOP - 12 and area[3] <= BOTTOM
            if inside and not any(_overlap(area, other) for other in taken):
                return area
    return None


def _overlap(one: _Area, other: _Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
