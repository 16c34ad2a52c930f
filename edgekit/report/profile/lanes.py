"""Charts of one line for each profile: name, drawing, figure; they reflow on a phone and close up when some are hidden.

A drawing is an SVG without a viewBox, placed in per cent of its width: it fills whatever is there, and its text, ticks
and circles keep their shape.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.profiling.records.naming import Named
from edgekit.report.page import Html, number, tag

_ROUND = (1, 2, 5)

FAR = 5.0


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
        if len(found) < 3:
            found = self._even()
        kept: list[float] = []
        for value in found:
            if not kept or self.place(value) - self.place(kept[-1]) >= room:
                kept.append(value)
        return kept

    def _decades(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [(step, step * 10.0**power) for power in powers for step in _ROUND]
        inside = [(step, value) for step, value in every if self.low <= value <= self.high]
        tens = [value for step, value in inside if step == 1]
        return tens if len(tens) > 4 else [value for _, value in inside]

    def _even(self) -> list[float]:
        span = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(span))
        step = next(one * power for one in (1, 2, 5, 10) if one * power >= span)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(place * step, 12) for place in range(first, last + 1)]


def shared_end(lengths: Sequence[float]) -> float:
    """Where an axis from 0 ends: at the longest, or at the longest of the rest where a few are `FAR` times longer than
    the median: one slow machine shall not squeeze all others into nothing."""
    longest = max(lengths, default=0.0)
    kept = [length for length in lengths if length <= FAR * statistics.median(lengths)]
    return (max(kept) if kept and len(lengths) > 2 else longest) or 1e-6


def strip(height: float, description: str, *parts: Html) -> Html:
    """A drawing as wide as its place and ``height`` pixels high."""
    style = f"height:{height:g}px"
    return tag("svg", *parts, role="img", aria_label=description, _class="strip", style=style)


def box(start: float, end: float, y: float, height: float, kind: str, *inner: Html) -> Html:
    """A rectangle between two places (per cent)."""
    width = f"{max(end - start, 0):.2f}%"
    return tag("rect", *inner, x=f"{start:.2f}%", y=f"{y:g}", width=width, height=f"{height:g}", _class=kind)


def upright(place: float, y: float, height: float, kind: str) -> Html:
    """A line from the height ``y`` down."""
    at = f"{place:.2f}%"
    return tag("line", x1=at, x2=at, y1=f"{y:g}", y2=f"{y + height:g}", _class=kind)


def dot(place: float, y: float, radius: float, kind: str) -> Html:
    """A circle."""
    return tag("circle", cx=f"{place:.2f}%", cy=f"{y:g}", r=f"{radius:g}", _class=kind)


def grid(axis: Axis, height: float) -> list[Html]:
    """A faint line at every tick."""
    return [upright(axis.place(value), 0, height, "grid") for value in axis.ticks()]


def scale(axis: Axis, words: Mapping[float, str] | None = None) -> Html:
    """The axis itself: its ticks with their values (or ``words`` for them)."""
    parts = []
    for value in words or axis.ticks():
        place = axis.place(value)
        anchor = "start" if place < 3 else "end" if place > 97 else "middle"
        text = words[value] if words else number(value)
        parts.append(tag("text", text, x=f"{place:.2f}%", y="12", text_anchor=anchor))
        parts.append(upright(place, 16, 4, "grid"))
    return tag("svg", *parts, aria_hidden="true", _class="strip", style="height:20px")


def who(one: Named) -> Html:
    """The name of a line."""
    remark = tag("span", one.remark, _class="soft") if one.remark else ""
    return tag("div", tag("b", one.title), remark, _class="who", title=one.told)


def lane(one: Named, drawings: Sequence[object], figure: object, below: object = "") -> Html:
    """A line: name, drawings, figure, and what stands under the drawings."""
    middle = (tag("div", drawing, below if not place else "", _class="draw") for place, drawing in enumerate(drawings))
    return tag("div", who(one), *middle, tag("div", figure, _class="told"), _class="lane", **one.marks)


def lanes(heads: Sequence[tuple[str, Html]], lines: Sequence[Html], unit: str, *, kind: str = "") -> Html:
    """Lines under their axes.

    Args:
        heads: of each drawing its title and its axis.
        lines: each a `lane` with as many drawings.
        unit: what the figures at the end of the lines are.
        kind: class of the whole.
    """
    titles = (tag("div", tag("span", title, _class="title"), axis, _class="draw") for title, axis in heads)
    head = tag("div", tag("div", _class="who"), *titles, tag("div", unit, _class="told"), _class="lane axis")
    return tag("div", head, *lines, _class=f"lanes {kind}".strip())
