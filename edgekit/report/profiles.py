"""Profiles as one HTML page: to look at, to filter, to print and to send."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from edgekit.arrays import Doubles
from edgekit.errors import UsageError
from edgekit.profiling.record import (
    STAGES,
    Conditions,
    Machine,
    MachineState,
    Operators,
    Profile,
    Round,
    StageName,
    Sustained,
)
from edgekit.profiling.records.naming import FACETS, Named, by_task, facets, named, shortened
from edgekit.report.charts import (
    CROWD,
    LONGEST,
    Axis,
    ChartPoint,
    Panel,
    RoundMark,
    bar,
    curves,
    pareto_front,
    quantiles,
    rounds,
    scale,
    scatter,
    shared_end,
    stack,
)
from edgekit.report.numbers import count, number, percent
from edgekit.report.render import write_page

LOUD = 0.05
"""Rounds that spread more than this are highlighted: small differences mean nothing there."""

TOP = 12
"""Operators that are shown of each profile."""

AGREEMENT = "Share of the source's results found"

STAGE_WORDS: Mapping[StageName, str] = {
    "pre": "pre: image to input",
    "vision": "vision: image to features",
    "prefill": "prefill: prompt",
    "decode": "decode: tokens after the first",
    "inference": "inference: the engine",
    "post": "post: outputs to results",
    "track": "track: the tracker",
}


def write_profiles(profiles: Sequence[Profile], path: Path) -> None:
    """Write the page of these profiles, of any targets, tasks and machines.

    Args:
        profiles: at least one.
        path: of the file; its folder is made.

    Raises:
        UsageError: there are no profiles, or the file cannot be written.
    """
    if not profiles:
        raise UsageError(f"{path}: there are no profiles to show; measure some with: edgekit profile BUNDLE")
    given = named(profiles)
    tasks = by_task(given)
    days = sorted({one.time[:10] for one in profiles})
    write_page(
        "profiles.html.j2",
        path,
        given=given,
        days=" to ".join(dict.fromkeys((days[0], days[-1]))),
        filters={facet: counts for facet, counts in facets(given).items() if len(counts) > 1},
        several=len(tasks) > 1,
        facts=_facts(given, tasks),
        machines=_machines(profiles),
        notes=_notes(given),
        longest_of={task: shared_end([one.profile.total.p99 for one in some]) for task, some in tasks.items()},
        latency={task: _latency(some) for task, some in tasks.items()},
        restless=any(not part.settled for one in profiles for part in one.rounds),
        stages={task: _stages(some) for task, some in tasks.items()},
        stage_keys=[(f"s-{stage}", STAGE_WORDS[stage]) for stage in STAGES if any(stage in p.stages for p in profiles)],
        least_whole=max((whole(one) for one in profiles), key=lambda share: abs(share - 1)),
        plots=[plot for task, some in tasks.items() for plot in _plots(task, some)],
        unknown=[one for one in given if _measure(one.profile) is None],
        talking=[one for one in given if one.profile.first_token or one.profile.tokens_per_second is not None],
        sustained=[(one, load, _load_curves(load)) for one in given if (load := one.profile.sustained)],
        settings=_settings(profiles),
        loud=LOUD,
        marks=marks,
        whole=whole,
        stage_bar=_shares,
        bar=bar,
        timed=timed,
        kinds=kinds,
        longest=longest,
        by_kind=by_kind,
        heat=heat,
        engine=engine,
        median=statistics.median,
        shortened=shortened,
    )


def marks(one: Named) -> dict[str, str]:
    """Attributes of what is drawn for a profile, which the filters of the page read."""
    return {"data-mark": one.profile.id, **{f"data-{facet}": read(one.profile) for facet, read in FACETS.items()}}


# ---- summary ----


def _facts(given: Sequence[Named], tasks: Mapping[str, Sequence[Named]]) -> list[tuple[str, str, str]]:
    profiles = [one.profile for one in given]
    machines = len({one.conditions.machine.key for one in profiles})
    spreads = [one.spread for one in profiles]
    measured = f"{len(profiles)} profiles on {machines} machine{'s' if machines > 1 else ''}"
    facts = [("Bundles", f"{len({one.subject.sha256 + one.subject.name for one in profiles})}", measured)]
    for task, some in tasks.items():
        several = f" {task}" if len(tasks) > 1 else ""
        facts.append((f"Fastest{several}", f"{number(some[0].profile.total.p50)} ms", some[0].label))
    noise = f"worst {percent(max(spreads))}" if len(spreads) > 1 else "between rounds"
    return [*facts, ("Noise of the machine", percent(statistics.median(spreads)), noise)]


def _machines(profiles: Sequence[Profile]) -> dict[str, dict[str, str]]:
    """The known facts of each machine, by its name."""
    machines: dict[str, tuple[Machine, list[Conditions]]] = {}
    for one in profiles:
        machine = one.conditions.machine
        machines.setdefault(machine.key, (machine, []))[1].append(one.conditions)
    found = {}
    for key, (machine, conditions) in machines.items():
        packages = {name: version for one in conditions for name, version in one.packages.items()}
        has = (f"{machine.cores} cores", f"{number(machine.memory / 1e9)} GB", machine.accelerator)
        entries = {
            "Machine": f"{machine.model}, {machine.soc}" if machine.soc else machine.model,
            "System": f"{machine.system}, Python {machine.python}",
            "Has": _listed((*has, "virtual" if machine.virtual else "")),
            "Conditions": _conditions(conditions),
            "Engines": ", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
        }
        found[key] = {name: words for name, words in entries.items() if words}
    return found


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)


def _conditions(conditions: Sequence[Conditions]) -> str:
    before, after = [one.before for one in conditions], [one.after for one in conditions]
    states = (*before, *after)
    governors = sorted({state.governor for state in states if state.governor})
    modes = sorted({state.power_mode for state in states if state.power_mode})
    throttled = sorted({state.throttled for state in states if state.throttled})
    governor = f"governor {' and '.join(governors)}" if governors else ""
    return _listed([governor, *modes, _heat(before, after, " °C"), _clock(before, after), *throttled])


def _heat(before: Sequence[MachineState], after: Sequence[MachineState], unit: str = "") -> str:
    """The lowest temperature before and the highest after."""
    first = [state.celsius for state in before if state.celsius is not None]
    last = [state.celsius for state in after if state.celsius is not None]
    return _change(min(first), max(last), unit) if first and last else ""


def _clock(before: Sequence[MachineState], after: Sequence[MachineState]) -> str:
    """The highest clock before and the lowest after."""
    first = [state.megahertz for state in before if state.megahertz is not None]
    last = [state.megahertz for state in after if state.megahertz is not None]
    return _change(max(first), min(last), " MHz") if first and last else ""


def _change(first: float, last: float, unit: str) -> str:
    same = number(first) == number(last)
    return f"{number(first)}{unit}" if same else f"{number(first)} → {number(last)}{unit}"


def _notes(given: Sequence[Named]) -> list[tuple[str, str]]:
    """Notes, each with the profiles that it is of where these are not all."""
    notes: dict[str, list[str]] = {}
    for one in given:
        for note in one.profile.notes:
            notes.setdefault(note, []).append(one.label)
    return [
        (note[:1].upper() + note[1:], "" if len(labels) == len(given) else f"({_some(labels)})")
        for note, labels in notes.items()
    ]


def _some(labels: Sequence[str]) -> str:
    return "; ".join(labels) if len(labels) <= 3 else f"{len(labels)} profiles"


# ---- latency ----


@dataclass(frozen=True)
class Lane:
    """A line of a chart: whose, its drawings, and whether it is on their axis."""

    one: Named
    drawings: Sequence[Markup]
    beyond: bool = False


@dataclass(frozen=True)
class Lanes:
    """Lines under their axes."""

    axes: Sequence[Markup]
    lines: Sequence[Lane]


def _settled(one: Round) -> Doubles:
    """Times of the calls of a round after its warm-up; of one that was all warm-up, all."""
    return np.maximum(np.asarray(one.total[one.warm_up :] or one.total, np.float64), 1e-6)


def _latency(given: Sequence[Named]) -> Lanes:
    """Quantiles and outliers on an axis that all share; density and rounds of each around its own median."""
    samples = [[_settled(part) for part in one.profile.rounds if part.total] for one in given]
    every = [
        np.concatenate(parts) if parts else np.array([one.profile.total.p50])
        for parts, one in zip(samples, given, strict=True)
    ]
    low, high = min(float(times.min()) for times in every), max(float(times.max()) for times in every)
    axis = Axis(max(low / 1.06, 1e-6), max(high * 1.06, low * 1.2), logarithmic=True)
    spread = [_round_marks(one.profile) for one in given]
    ends = [end for one in spread for part in one for end in (part.low, part.high)] or [1.0]
    own = Axis(max(min(min(ends) / 1.01, 0.97), 0.4), min(max(max(ends) * 1.01, 1.04), 2.5), logarithmic=True)
    ticks = _own_ticks(own)
    words = {at: "median" if at == 1 else f"{100 * (at - 1):+.0f} %" for at in ticks}
    lines = []
    for one, times, parts in zip(given, every, spread, strict=True):
        total = one.profile.total
        alt = (
            f"p50 {number(total.p50)}, p90 {number(total.p90)}, p99 {number(total.p99)}, longest {number(total.max)} ms"
        )
        medians = ", ".join(f"{100 * (part.median - 1):+.1f} %" for part in parts)
        said = f"medians of {len(parts)} rounds: {medians}"
        drawings = [
            quantiles(times, (total.p50, total.p90, total.p99), axis, alt),
            rounds(times / max(total.p50, 1e-6), parts, own, ticks, said),
        ]
        lines.append(Lane(one, drawings))
    return Lanes([scale(axis), scale(own, words)], lines)


def _round_marks(profile: Profile) -> list[RoundMark]:
    found = []
    for one in profile.rounds:
        if one.total:
            low, middle, high = np.percentile(_settled(one), (10, 50, 90)) / max(profile.total.p50, 1e-6)
            found.append(RoundMark(float(low), float(middle), float(high), one.settled))
    return found


def _own_ticks(axis: Axis) -> list[float]:
    """1 and round shares around it, not too near to each other."""
    kept = [1.0]
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        every = [1 + count * step for count in range(-10, 16) if count and axis.low <= 1 + count * step <= axis.high]
        if len(every) <= 5:
            for at in sorted(every, key=lambda at: abs(at - 1)):
                if all(abs(axis.place(at) - axis.place(other)) >= 19 for other in kept):
                    kept.append(at)
            break
    return sorted(kept)


# ---- stages ----


def medians(profile: Profile) -> dict[str, float]:
    """The median of each stage that there is, in order."""
    return {stage: profile.stages[stage].p50 for stage in STAGES if stage in profile.stages}


def whole(profile: Profile) -> float:
    """The time of all stages together over the time end to end, of all calls; 1 of a profile without stages."""
    if not profile.stages:
        return 1.0
    return sum(stage.mean for stage in profile.stages.values()) / max(profile.total.mean, 1e-9)


def _shares(profile: Profile) -> Markup:
    there = medians(profile)
    total = sum(there.values()) or 1.0
    return stack(there, None, 0.0, ", ".join(f"{stage} {percent(time / total)}" for stage, time in there.items()))


def _stages(given: Sequence[Named]) -> Lanes:
    """Stacks of the stages' medians with a tick at the median end to end."""
    ends = [max(one.profile.total.p50, sum(medians(one.profile).values())) for one in given]
    limit = shared_end(ends)
    axis = Axis(0.0, limit * 1.02)
    lines = []
    for one, end in zip(given, ends, strict=True):
        there, median = medians(one.profile), one.profile.total.p50
        times = ", ".join(f"{stage} {number(time)} ms" for stage, time in there.items())
        drawn = stack(there, axis, median, f"{times}; end to end {number(median)} ms")
        lines.append(Lane(one, [drawn if end <= limit else _shares(one.profile)], end > limit))
    return Lanes([scale(axis)], lines)


# ---- accuracy ----


@dataclass(frozen=True)
class Plot:
    """A chart of accuracy against latency, and the names on its front."""

    task: str
    drawing: Markup
    front: Sequence[str]
    crowded: bool


def _measure(profile: Profile) -> str | None:
    """How its accuracy is known: a metric on labelled data, the agreement with the source, or not at all."""
    if profile.accuracy is not None:
        return f"{profile.accuracy.metric} on {profile.accuracy.data}"
    return AGREEMENT if profile.subject.agreement is not None else None


def _quality(profile: Profile) -> float:
    value = profile.subject.agreement if profile.accuracy is None else profile.accuracy.value
    return value or 0.0


def _plots(task: str, given: Sequence[Named]) -> list[Plot]:
    """A plot for each measure: different measures do not share an axis."""
    plots = []
    for measure in dict.fromkeys(_measure(one.profile) for one in given):
        if measure is None:
            continue
        some = [one for one in given if _measure(one.profile) == measure]
        points = [
            ChartPoint(
                _cut(one.label),
                one.profile.total.p50,
                _quality(one.profile),
                one.profile.subject.bytes,
                marks=marks(one),
            )
            for one in some
        ]
        words = "; ".join(
            f"{one.label}: {percent(_quality(one.profile))}, {number(one.profile.total.p50)} ms" for one in some
        )
        alt = f"{measure} against latency. {words}"
        drawing = scatter(points, measure=measure, latency="ms end to end", alt=alt, front=True)
        front = [some[points.index(point)].label for point in pareto_front(points)]
        plots.append(Plot(task, drawing, front, len(points) > CROWD))
    return plots


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


# ---- operators ----


@dataclass(frozen=True)
class OperatorBar:
    """An operator, or a kind of them, with its time; ``kind`` is the class of its bar."""

    name: str
    words: str
    milliseconds: float
    kind: str = "fill"


def timed(profile: Profile) -> Operators | None:
    """The operators, where the profiler gave some."""
    return profile.operators if profile.operators and profile.operators.times else None


def kinds(operators: Operators) -> dict[str, float]:
    """Milliseconds of each kind of operator together, the longest first."""
    sums: dict[str, float] = {}
    for one in operators.times:
        sums[one.kind] = sums.get(one.kind, 0.0) + one.milliseconds
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def longest(operators: Operators) -> list[OperatorBar]:
    """The `TOP` longest operators, and the rest together."""
    ordered = sorted(operators.times, key=lambda one: -one.milliseconds)
    bars = [
        OperatorBar(
            one.name,
            " · ".join(part for part in (one.kind, one.unit, one.arithmetic) if part),
            one.milliseconds,
            "fill flag" if one.name in operators.fallbacks else "fill",
        )
        for one in ordered
    ]
    return _first(bars, "others")


def by_kind(operators: Operators) -> list[OperatorBar]:
    """The `TOP` kinds of operator that take longest, and the rest together."""
    counts = Counter(one.kind for one in operators.times)
    lost = {one.kind for one in operators.times if one.name in operators.fallbacks}
    bars = [
        OperatorBar(kind, count(counts[kind], "operator"), time, "fill flag" if kind in lost else "fill")
        for kind, time in kinds(operators).items()
    ]
    return _first(bars, "other kinds")


def _first(bars: Sequence[OperatorBar], others: str) -> list[OperatorBar]:
    rest = bars[TOP:]
    more = [OperatorBar(f"{len(rest)} {others}", "", sum(one.milliseconds for one in rest), "pale")] if rest else []
    return [*bars[:TOP], *more]


# ---- beyond single calls, and the method ----


def _load_curves(load: Sustained) -> Markup | None:
    """Medians second by second, temperature and clock under them."""
    seconds = load.seconds
    if not seconds:
        return None
    heat = [one.celsius for one in seconds if one.celsius is not None]
    clock = [one.megahertz for one in seconds if one.megahertz is not None]
    panels = [Panel([one.p50 for one in seconds], "ms", 84.0)]
    panels += [Panel(heat, "°C", 40.0, "curve thin")] if len(heat) == len(seconds) else []
    panels += [Panel(clock, "MHz", 40.0, "curve thin")] if len(clock) == len(seconds) else []
    alt = f"{number(load.burst)} ms at first, {number(load.steady)} ms in the end"
    return curves([one.at for one in seconds], "s", panels, alt)


def heat(profile: Profile) -> str:
    """The temperature before and after."""
    return _heat([profile.conditions.before], [profile.conditions.after])


def engine(profile: Profile) -> str:
    """The engine with its version, where a package is of its name."""
    name = profile.subject.engine
    packages = profile.conditions.packages.items()
    return next((f"{package} {version}" for package, version in packages if name in package.replace("_", "-")), name)


def _settings(profiles: Sequence[Profile]) -> dict[str, str]:
    """The settings that sentences of the page tell of."""
    settings = [one.settings for one in profiles]
    return {
        "rounds": _range({float(one.rounds) for one in settings}),
        "seconds": _range({one.seconds for one in settings}),
        "images": ", ".join(sorted({one.data or "a generated photograph of 1280 × 720 pixels" for one in settings})),
        "delays": _range({one.delay for one in settings if one.delay}),
    }


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return " to ".join(dict.fromkeys(number(value) for value in (ordered[:1] + ordered[-1:])))
