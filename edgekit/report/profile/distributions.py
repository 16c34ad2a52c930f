"""How the calls of every profile spread, and how its rounds differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.profiling.record import Profile, Round
from edgekit.profiling.records.naming import Named, by_task
from edgekit.report.page import Html, join, legend, number, tag
from edgekit.report.profile.lanes import Axis, box, dot, grid, lane, lanes, scale, strip, upright

HEIGHT = 44.0

BINS = 300
SMOOTH = 1.0
"""Standard deviation of the densities' kernel at least, in bins: narrow ones stay visible."""


def settled(one: Round) -> NDArray[np.float64]:
    """Times of the calls of a round after its warm-up; of one that was all warm-up, all."""
    times = np.asarray(one.total[one.warm_up :] or one.total, np.float64)
    return np.maximum(times, 1e-6)


def section(given: Sequence[Named]) -> Html:
    """Quantiles and outliers on an axis that all of a task share; density and rounds of each around its own median."""
    keys = legend(
        [
            ("ink", "p50; from the fastest (pale) to p90 (thick) and p99 (thin)"),
            ("ring", "far out, counted and kept"),
            ("seen", "density of the calls after warm-up"),
            ("point", "median of a round, on its middle 80 %"),
            *([("warm", "a round that found no steady state")] if _restless(given) else []),
        ]
    )
    parts = []
    for task, some in by_task(given).items():
        title = tag("h3", task) if len(by_task(given)) > 1 else ""
        parts.append(tag("div", title, _task(some), data_group=True))
    return join(keys, *parts)


def _restless(given: Sequence[Named]) -> bool:
    return any(not part.settled for one in given for part in one.profile.rounds)


def _task(given: Sequence[Named]) -> Html:
    samples = [[settled(part) for part in one.profile.rounds if part.total] for one in given]
    every = [np.concatenate(rounds) if rounds else np.array([one.profile.total.p50]) for rounds, one in
             zip(samples, given, strict=True)]  # fmt: skip
    low, high = min(float(times.min()) for times in every), max(float(times.max()) for times in every)
    axis = Axis(max(low / 1.06, 1e-6), max(high * 1.06, low * 1.2), logarithmic=True)
    own = _own_axis(given, samples)
    lines = []
    for one, times, rounds in zip(given, every, samples, strict=True):
        drawings = [_quantiles(one.profile, times, axis), _rounds(one.profile, times, rounds, own)]
        lines.append(lane(one, drawings, _figures(one.profile)))
    words = {0.0: "median"} | {at: f"{100 * at:+.0f} %" for at in _own_ticks(own)}
    shown = {1 + at: text for at, text in sorted(words.items())}
    heads = [("ms end to end, logarithmic", scale(axis)), ("calls and rounds, against the median", scale(own, shown))]
    return lanes(heads, lines, "p50, p90 · p99", kind="two")


def _figures(profile: Profile) -> Html:
    total = profile.total
    tail = f"{number(total.p90)} · {number(total.p99)}"
    lines = [tag("b", number(total.p50)), tag("span", tail, _class="soft")]
    if total.outliers:
        lines.append(tag("span", f"{total.outliers:,} far out", _class="soft small"))
    return join(*lines)


def _quantiles(profile: Profile, times: NDArray[np.float64], axis: Axis) -> Html:
    total, y = profile.total, HEIGHT / 2
    p50, p90, p99 = (axis.place(value) for value in (total.p50, total.p90, total.p99))
    parts = [*grid(axis, HEIGHT), box(axis.place(total.min), p50, y - 1, 2, "pale"), box(p50, p99, y - 1, 2, "fill")]
    low, high = np.percentile(times, (25, 75))
    far = {round(axis.place(time), 1) for time in times[times > high + 3 * (high - low)].tolist()}
    parts += [dot(place, y, 2.5, "ring") for place in sorted(far)]  # one for all that fall on the same pixel
    parts += [box(p50, p90, y - 4, 8, "fill"), upright(p99, y - 5, 10, "quantile"), upright(p50, y - 9, 18, "median")]
    told = f"p50 {number(total.p50)}, p90 {number(total.p90)}, p99 {number(total.p99)}, longest {number(total.max)} ms"
    return strip(HEIGHT, told, tag("title", told), *parts)


def _curve(places: NDArray[np.float64]) -> Html:
    """The density of places (0..100, those outside are not drawn) by a Gaussian kernel of Silverman's width."""
    counts, _ = np.histogram(places, BINS, (0, 100))
    deviation = min(float(places.std()), float(np.subtract(*np.percentile(places, (75, 25)))) / 1.34)
    width = min(max(0.9 * deviation * len(places) ** -0.2 * BINS / 100, SMOOTH), BINS / 8)
    reach = math.ceil(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    density = np.convolve(counts, kernel)[reach : reach + BINS]
    density = (HEIGHT - 4) * density / max(float(density.max()), 1e-12)
    outline = "".join(f"L{place + 0.5:g} {HEIGHT - height:.1f}" for place, height in enumerate(density.tolist()))
    inner = tag("path", d=f"M0.5 {HEIGHT:g}{outline}L{BINS - 0.5:g} {HEIGHT:g}Z", _class="density")
    whole = {"width": "100%", "height": f"{HEIGHT:g}", "viewBox": f"0 0 {BINS} {HEIGHT:g}"}
    return tag("svg", inner, **whole, preserveAspectRatio="none", style="height:100%")


def _own_axis(given: Sequence[Named], samples: Sequence[Sequence[NDArray[np.float64]]]) -> Axis:
    """Wide enough for the middle 80 % of the calls of every round, against the median of its profile."""
    shares = [
        float(share)
        for one, rounds in zip(given, samples, strict=True)
        for times in rounds
        for share in np.percentile(times, (10, 90)) / max(one.profile.total.p50, 1e-6)
    ] or [1.0]
    return Axis(max(min(min(shares) / 1.01, 0.97), 0.4), min(max(max(shares) * 1.01, 1.04), 2.5), logarithmic=True)


def _own_ticks(axis: Axis) -> list[float]:
    """Round differences from the median (shares of one), not too near to each other and to it."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        every = [count * step for count in range(-10, 16) if count and axis.low <= 1 + count * step <= axis.high]
        if len(every) <= 5:
            kept: list[float] = []
            for at in sorted(every, key=abs):
                place = axis.place(1 + at)
                if all(abs(place - axis.place(1 + other)) >= 19 for other in (0.0, *kept)):
                    kept.append(at)
            return kept
    return []


def _rounds(profile: Profile, times: NDArray[np.float64], rounds: Sequence[NDArray[np.float64]], axis: Axis) -> Html:
    step = min((HEIGHT - 8) / max(len(rounds), 1), 9.0)
    middle = max(profile.total.p50, 1e-6)
    places = 100 * np.log(times / middle / axis.low) / math.log(axis.high / axis.low)
    parts = [_curve(places)]
    parts += [upright(axis.place(1 + at), 0, HEIGHT, "grid") for at in _own_ticks(axis)]
    parts.append(upright(axis.place(1.0), 0, HEIGHT, "middle"))
    first = (HEIGHT - step * (len(rounds) - 1)) / 2
    medians = []
    for place, (times, one) in enumerate(zip(rounds, (part for part in profile.rounds if part.total), strict=True)):
        low, mid, high = (float(value) / middle for value in np.percentile(times, (10, 50, 90)))
        y = first + place * step
        medians.append(mid)
        parts.append(box(axis.place(low), axis.place(high), y - 1.5, 3, "reach"))
        parts.append(dot(axis.place(mid), y, 2.5, "dot" if one.settled else "dot flag"))
    told = f"medians of {len(rounds)} rounds: " + ", ".join(f"{100 * (mid - 1):+.1f} %" for mid in medians)
    return strip(HEIGHT, told, tag("title", told), *parts)
