"""HOST: bars, ranges and curves in SVG, for the pages of `edgekit.report.page` and as files of their own."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.report.page import STYLE, Html, number, percent, tag


def log_share(value: float, lowest: float, highest: float) -> float:
    """Where a value lies on a logarithmic axis, 0..1; what lies outside is at its end."""
    if not value > lowest:
        return 0.0
    return 1.0 if value >= highest else math.log(value / lowest) / math.log(highest / lowest)


def chart(width: float, height: float, description: str, *parts: Html, kind: str | None = None) -> Html:
    """An SVG drawing of that size, which ``description`` tells to those who do not see it."""
    box = f"0 0 {_xy(width)} {_xy(height)}"
    seen = {"width": _xy(width), "height": _xy(height)}
    return tag("svg", *parts, viewBox=box, **seen, role="img", aria_label=description, _class=kind)


def svg_file(drawing: Html) -> str:
    """A `chart` as a file of its own, with the page's colours, light or dark."""
    opening, _, rest = drawing.partition(">")
    opening = opening.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    style = f"{STYLE.read_text(encoding='utf-8')}\nsvg {{ background: var(--card); height: auto; }}"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opening}><style><![CDATA[{style}]]></style>{rest}\n'


def bar(share: float, kind: str = "fill", *, mark: float | None = None) -> Html:
    """A thin bar for a cell, ``share`` (0..1) of it filled, with a tick at ``mark``. It stands beside its number."""
    parts = [_rect(0, 100, "track"), _rect(0, 100 * min(max(share, 0.0), 1.0), kind)]
    if mark is not None:
        parts.append(_rect(100 * mark, 0.8, "tick"))
    return _strip("bar", 8, *parts)


def figure(text: object, drawing: Html) -> Html:
    """A number with its bar, for one cell."""
    return tag("div", tag("span", text), drawing, _class="figure")


def interval(seen: tuple[float, float], chosen: tuple[float, float]) -> Html:
    """Two ranges on one line for a cell: ``chosen`` over ``seen``, so that what is cut off looks out, and zero."""
    ends = [end for end in (*seen, *chosen, 0.0) if math.isfinite(end)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / span

    def part(ends: tuple[float, float], kind: str) -> Html:
        return _rect(place(ends[0]), place(ends[1]) - place(ends[0]), kind, 3, 8)

    zero = _rect(min(place(0.0), 99.2), 0.8, "tick", 0, 14)
    return _strip("bar range", 14, _rect(0, 100, "track", 6, 2), part(seen, "pale"), part(chosen, "fill"), zero)


def _strip(kind: str, height: float, *parts: Html) -> Html:
    box = f"0 0 100 {height:g}"
    return tag("svg", *parts, viewBox=box, preserveAspectRatio="none", aria_hidden="true", _class=kind)


def _rect(x: float, width: float, kind: str, y: float = 0, height: float = 8) -> Html:
    return tag("rect", x=_xy(x), y=_xy(y), width=_xy(max(width, 0)), height=_xy(height), _class=kind)


def _xy(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"


def _text(x: float, y: float, content: object, kind: str = "", anchor: str = "start") -> Html:
    return tag("text", content, x=_xy(x), y=_xy(y), text_anchor=anchor, _class=kind or None)


_CROWDED = 26.0
"""A point closer to the next one than this has no label."""


def line_plot(points: Sequence[tuple[float, float]], *, x_label: str, y_label: str, description: str) -> Html:
    """A curve over a logarithmic x axis: positive x, and y (a share of 1) written at each point in per cent."""
    width, height, left, right, top, bottom = 460.0, 216.0, 4.0, 44.0, 44.0, 176.0
    first, last = points[0][0], max(points[-1][0], points[0][0] * 2)
    highest = max(max(y for _, y in points), 1e-9)
    places = [
        (left + 6 + (width - left - right - 6) * log_share(x, first, last), bottom - (bottom - top) * y / highest)
        for x, y in points
    ]
    path = " ".join(f"{_xy(x)},{_xy(y)}" for x, y in places)
    area = f"{_xy(places[0][0])},{_xy(bottom)} {path} {_xy(places[-1][0])},{_xy(bottom)}"
    parts = [
        tag("line", x1=_xy(left), x2=_xy(width - right + 8), y1=_xy(bottom), y2=_xy(bottom), _class="grid"),
        tag("polygon", points=area, _class="area"),
        tag("polyline", points=path, _class="curve"),
        _text(left, 12, y_label),
        _text(width - right + 8, height - 4, x_label, anchor="end"),
    ]
    followers = [*(x for x, _ in places[1:]), math.inf]
    before = -math.inf
    for (x, y), (at, share), after in zip(places, points, followers, strict=True):
        parts.append(tag("circle", cx=_xy(x), cy=_xy(y), r=3.5, _class="dot"))
        if after - x < _CROWDED:
            continue
        y -= 12 if x - before < 1.6 * _CROWDED else 0  # over the label beside it
        before = x
        parts.append(_text(x + 5, y - 7, percent(share), "value"))
        parts.append(_text(x, bottom + 17, number(at), anchor="middle"))
    return tag("div", chart(width, height, description, *parts), _class="plot")


@dataclass(frozen=True)
class Entry:
    """One bar of a plot, filled in the way of ``kind``: ``fill``, ``pale``, or ``fill flag``: look here."""

    name: str
    value: float
    remark: str = ""
    kind: str = "fill"


def bar_plot(entries: Sequence[Entry], *, title: str, description: str, logarithmic: bool = False) -> Html:
    """Horizontal bars from top to bottom: name, value, bar, and the remark at its end.

    Args:
        entries: in the order that they are shown; long names are shortened in the middle and told whole on hovering.
        title: a line over them.
        description: for those who do not see it.
        logarithmic: the axis starts a little under the smallest positive value, at most four decades below the largest.
    """
    names = [_shortened(entry.name) for entry in entries]
    label = 14 + 7.3 * max((_columns(name) for name in names), default=0)
    left, length, row, top = label + 72, 420.0, 20.0, 36.0
    largest = max((entry.value for entry in entries), default=0.0)
    lowest = max(min((entry.value for entry in entries if entry.value > 0), default=1.0) / 2, largest / 1e4)
    parts = [_text(12, 16, title)]
    for line, (entry, name) in enumerate(zip(entries, names, strict=True)):
        share = log_share(entry.value, lowest, largest) if logarithmic else entry.value / (largest or 1.0)
        filled, y = length * min(max(share, 0.0), 1.0), top + line * row
        parts += [
            tag("g", tag("title", entry.name), _text(label, y + 12, name, "label", "end")),
            _text(left - 12, y + 12, number(entry.value), "value", "end"),
            _rect(left, length, "track", y + 3, 10),
            _rect(left, max(filled, 1.0 if entry.value > 0 else 0.0), entry.kind, y + 3, 10),
        ]
        if entry.remark:
            parts.append(_text(left + filled + 6, y + 12, entry.remark))
    width = left + length + 12 + 6.5 * max((len(entry.remark) for entry in entries), default=0)
    return chart(width, top + row * len(entries) + 8, description, *parts, kind="wide")


LONGEST = 40
"""Characters of a name in a plot."""


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}"


def _columns(name: str) -> int:
    """Width of a name in a monospaced font."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)
