"""What was measured beyond single calls: sustained load, several images at a time, and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.profiling.record import Second, Sustained
from edgekit.profiling.records.naming import Named
from edgekit.report.charts import chart
from edgekit.report.page import Cell, Column, Html, Row, Section, join, number, table, tag
from edgekit.report.profile.lanes import Axis, who

WIDTH, LEFT, RIGHT = 460.0, 76.0, 450.0


def sustained(given: Sequence[Named]) -> Html:
    """A figure for each profile under load: its medians second by second, temperature and clock under them."""
    return tag("div", *(_sustained(one, one.profile.sustained) for one in given if one.profile.sustained),
               _class="columns figures")  # fmt: skip


def _sustained(one: Named, load: Sustained) -> Html:
    drift = f"{100 * load.drift:+.1f} % ({100 * load.low:+.1f} … {100 * load.high:+.1f} %)"
    said = f"{number(load.burst)} ms at first, {number(load.steady)} ms in the end: {drift}."
    slowed = tag("span", f" The board says: {load.throttled}.", _class="flag") if load.throttled else ""
    seconds = load.seconds
    panels = [_Panel([second.p50 for second in seconds], "ms", 84.0, "curve")]
    for values, unit in ((_known(seconds, "celsius"), "°C"), (_known(seconds, "megahertz"), "MHz")):
        if values:
            panels.append(_Panel(values, unit, 40.0, "curve thin"))
    return tag("div", who(one), _panels(seconds, panels, said), tag("p", said, slowed, _class="note"), **one.marks)


def _known(seconds: Sequence[Second], name: str) -> list[float]:
    values = [getattr(second, name) for second in seconds]
    return [] if any(value is None for value in values) else values


@dataclass(frozen=True)
class _Panel:
    """A curve of one value over time: what it is in, height in pixels, class of the line."""

    values: Sequence[float]
    unit: str
    height: float
    kind: str


def _panels(seconds: Sequence[Second], panels: Sequence[_Panel], said: str) -> Html:
    if not seconds:
        return Html("")
    time = Axis(seconds[0].at, max(seconds[-1].at, seconds[0].at + 1))
    across = [LEFT + (RIGHT - LEFT) * time.place(second.at) / 100 for second in seconds]
    parts: list[Html] = []
    top = 8.0
    for panel in panels:
        parts += _panel(across, panel, top)
        top += panel.height + 14
    for at in time.ticks(12):
        x = LEFT + (RIGHT - LEFT) * time.place(at) / 100
        parts.append(tag("text", f"{number(at)} s", x=f"{x:.1f}", y=f"{top + 6:g}", text_anchor="middle"))
    return chart(WIDTH, top + 12, said, *parts)


def _panel(across: Sequence[float], panel: _Panel, top: float) -> list[Html]:
    low, high = min(panel.values), max(panel.values)
    room = max((high - low) * 0.1, abs(high) * 0.02, 1e-9)
    axis = Axis(low - room, high + room)
    bottom = top + panel.height
    places = [bottom - panel.height * axis.place(value) / 100 for value in panel.values]
    parts = [tag("line", x1=f"{LEFT:g}", x2=f"{RIGHT:g}", y1=f"{bottom:g}", y2=f"{bottom:g}", _class="grid")]
    ends = [high] if panel.height * (high - low) / (axis.high - axis.low) < 14 else [high, low]
    for value in ends:
        y = bottom - panel.height * axis.place(value) / 100
        text = f"{number(value)} {panel.unit}" if value == high else number(value)
        parts.append(tag("text", text, x=f"{LEFT - 6:g}", y=f"{y + 4:.1f}", text_anchor="end"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, places, strict=True))
    return [*parts, tag("polyline", points=path, _class=panel.kind)]


def throughput(given: Sequence[Named]) -> Html:
    """Batches and streams, each against one image after the other."""
    columns = [
        Column("Profile"),
        Column("At a time"),
        Column("p50 ms of a call", numeric=True),
        Column("Frames/s together", numeric=True, first="descending"),
        Column("Against one by one", numeric=True, first="descending"),
    ]
    rows = []
    for one in given:
        single = one.profile.frames_per_second
        for several in one.profile.throughput:
            gain = several.frames_per_second / single if single else None
            words = f"a batch of {several.count}" if several.kind == "batch" else f"{several.count} streams"
            rows.append(
                Row(
                    [
                        Cell(who(one), one.label),
                        Cell(words, f"{several.kind} {several.count}"),
                        Cell(number(several.latency), several.latency, "number"),
                        Cell(number(several.frames_per_second), several.frames_per_second, "number"),
                        Cell("–" if gain is None else f"{gain:.2f} ×", gain, "number"),
                    ],
                    marks=one.marks,
                )
            )
    return table("Several at a time", columns, rows)


def tokens(given: Sequence[Named]) -> Html:
    """Vision-language models: time to the first token, and tokens per second after it."""
    columns = [
        Column("Profile"),
        Column("First token, p50 ms", numeric=True),
        Column("p90 ms", numeric=True),
        Column("Tokens/s", numeric=True, first="descending"),
        Column("Vision ms", numeric=True),
        Column("Prefill ms", numeric=True),
        Column("Decode ms", numeric=True),
        Column("Tokens", numeric=True),
    ]
    rows = []
    for one in given:
        first, stages = one.profile.first_token, one.profile.stages
        if first is None and one.profile.tokens_per_second is None:
            continue
        values = [first.p50 if first else None, first.p90 if first else None, one.profile.tokens_per_second]
        values += [stages[name].p50 if name in stages else None for name in ("vision", "prefill", "decode")]
        values.append(float(one.profile.settings.tokens))
        cells = [Cell(number(value), value, "number") for value in values]
        rows.append(Row([Cell(who(one), one.label), *cells], marks=one.marks))
    return table("Vision-language models", columns, rows, "Tokens/s: after the first token.")


def sections(given: Sequence[Named]) -> list[Section]:
    """What of these there is."""
    found = []
    if any(one.profile.first_token or one.profile.tokens_per_second is not None for one in given):
        found.append(Section("tokens", "Tokens", tag("div", tokens(given), _class="compact", data_group=True)))
    if any(one.profile.throughput for one in given):
        found.append(
            Section(
                "throughput", "Batches and streams", tag("div", throughput(given), _class="compact", data_group=True)
            )
        )
    drifts = [one.profile.sustained.drift for one in given if one.profile.sustained]
    if drifts:
        said = f"Calls without a pause; the largest drift is {100 * max(drifts):+.1f} %. Axes do not start at 0."
        found.append(Section("sustained", "Sustained load", join(tag("p", said), sustained(given))))
    return found
