"""How profiles were measured, and what is known of the machines: the first and the last section of a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edgekit.profiling.record import Conditions, Machine, Profile, State
from edgekit.profiling.records.naming import Named, by_task, shortened
from edgekit.report.page import Cell, Column, Html, Row, bullets, facts, join, number, percent, table, tag
from edgekit.report.profile.lanes import who
from edgekit.report.profile.matrix import LOUD


def summary(given: Sequence[Named]) -> Html:
    """Large figures, the machines with their conditions, and what has to be known to read the rest."""
    profiles = [one.profile for one in given]
    machines = {one.conditions.machine.key: one.conditions.machine for one in profiles}
    spreads = [one.spread for one in profiles]
    told = [("Bundles", f"{len({one.subject.sha256 + one.subject.name for one in profiles})}", _measured(profiles))]
    for task, some in by_task(given).items():
        several = f" {task}" if len(by_task(given)) > 1 else ""
        told.append((f"Fastest{several}", f"{number(some[0].profile.total.p50)} ms", some[0].label))
    noise = f"worst {percent(max(spreads))}" if len(spreads) > 1 else "between rounds"
    told.append(("Noise of the machine", percent(statistics.median(spreads)), noise))
    words = [_machine(machine, [one.conditions for one in profiles if one.conditions.machine.key == key])
             for key, machine in machines.items()]  # fmt: skip
    return join(facts(told), tag("div", *words, _class="machines"), _notes(given))


def _measured(profiles: Sequence[Profile]) -> str:
    machines = len({one.conditions.machine.key for one in profiles})
    return f"{len(profiles)} profiles on {machines} machine{'s' if machines > 1 else ''}"


def _machine(machine: Machine, conditions: Sequence[Conditions]) -> Html:
    packages = {name: version for one in conditions for name, version in one.packages.items()}
    entries = [
        ("Machine", f"{machine.model}, {machine.soc}" if machine.soc else machine.model),
        ("System", f"{machine.system}, Python {machine.python}"),
        ("Has", f"{machine.cores} cores, {number(machine.memory / 1e9)} GB" + _accelerator(machine)),
        ("Conditions", _conditions(conditions)),
        ("Engines", ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))),
    ]
    rows = (join(tag("dt", name), tag("dd", words)) for name, words in entries if words)
    return tag("div", tag("h3", machine.key), tag("dl", *rows, _class="conditions"))


def _accelerator(machine: Machine) -> str:
    return (f", {machine.accelerator}" if machine.accelerator else "") + (", virtual" if machine.virtual else "")


def _conditions(conditions: Sequence[Conditions]) -> str:
    before, after = [one.before for one in conditions], [one.after for one in conditions]
    governors = sorted({state.governor for state in (*before, *after) if state.governor})
    modes = sorted({state.power_mode for state in (*before, *after) if state.power_mode})
    throttled = sorted({state.throttled for state in (*before, *after) if state.throttled})
    parts = [f"governor {' and '.join(governors)}" if governors else "", *modes]
    for name, unit in (("celsius", "°C"), ("megahertz", "MHz")):
        parts.append(_change(name, unit, before, after))
    return ", ".join(part for part in [*parts, *throttled] if part)


def _change(name: str, unit: str, before: Sequence[State], after: Sequence[State]) -> str:
    """The lowest value before and the highest after, or the other way round for a clock."""
    first = [value for value in (getattr(state, name) for state in before) if value is not None]
    last = [value for value in (getattr(state, name) for state in after) if value is not None]
    if not first or not last:
        return ""
    low, high = (min(first), max(last)) if name == "celsius" else (max(first), min(last))
    same = number(low) == number(high)
    return f"{number(low)} {unit}" if same else f"{number(low)} → {number(high)} {unit}"


def _notes(given: Sequence[Named]) -> Html:
    notes: dict[str, list[str]] = {}
    for one in given:
        for note in one.profile.notes:
            notes.setdefault(note, []).append(one.label)
    every = len(given)
    told = [
        _sentence(note)
        if len(labels) == every
        else join(_sentence(note), tag("span", f" {_some(labels)}", _class="soft"))
        for note, labels in notes.items()
    ]
    return join(tag("h3", "Notes"), bullets(told)) if told else Html("")


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:]


def _some(labels: Sequence[str]) -> str:
    return f"({'; '.join(labels)})" if len(labels) <= 3 else f"({len(labels)} profiles)"


def section(given: Sequence[Named]) -> Html:
    """Settings, rounds, warm-up and outliers of each profile, and what the words mean."""
    columns = [
        Column("Profile"),
        Column("Measured"),
        Column("Rounds", numeric=True),
        Column("Calls", numeric=True),
        Column("Warm-up calls", numeric=True),
        Column("Far out", numeric=True, first="descending"),
        Column("Threads", numeric=True),
        Column("CPU ms", numeric=True),
        Column("Cores in use", numeric=True),
        Column("Engine"),
        Column("°C"),
        Column("Bundle", kind="name"),
    ]
    table_ = table("Measurements", columns, [_row(one) for one in given])
    return join(bullets(_words(given)), tag("div", table_, _class="compact"))


def _words(given: Sequence[Named]) -> list[object]:
    settings = [one.profile.settings for one in given]
    rounds = sorted({one.rounds for one in settings})
    seconds = sorted({one.seconds for one in settings})
    data = sorted({one.data or "a generated photograph of 1280 × 720 pixels" for one in settings})
    said: list[object] = [
        f"Each round is a fresh process: it loads the bundle, warms up, and calls it for at least {_range(seconds)} s; "
        f"{_range(rounds)} rounds each. Bundles of one session take turns, so that a slow minute of the machine does "
        "not fall on one of them.",
        f"Images: {', '.join(data)}. Reading and decoding files is not part of any time.",
        "Warm-up is found, not guessed: calls before the times are steady are left out of every distribution. An "
        "orange round found no steady state before its end.",
        "Far out: further than three interquartile ranges above the third quartile. They are counted and stay in.",
        f"Spread is the noise from round to round; above {percent(LOUD)} small differences between bundles mean "
        "nothing. Whether one is faster is for “edgekit profile compare”, which gives an interval.",
    ]
    delays = sorted({one.delay for one in settings if one.delay})
    if delays:
        said.append(tag("span", f"Slowed on purpose by {_range(delays)} %, to see that it is found.", _class="flag"))
    return said


def _range(values: Sequence[float]) -> str:
    return number(values[0]) if len(values) == 1 else f"{number(values[0])} to {number(values[-1])}"


def _row(one: Named) -> Row:
    profile, total = one.profile, one.profile.total
    warm_up = statistics.median(part.warm_up for part in profile.rounds) if profile.rounds else None
    restless = sum(not part.settled for part in profile.rounds)
    rounds = f"{len(profile.rounds)}, {restless} not steady" if restless else len(profile.rounds)
    engine = profile.subject.engine
    packages = profile.conditions.packages.items()
    version = next((f"{name} {version}" for name, version in packages if engine in name.replace("_", "-")), engine)
    threads = profile.settings.threads
    heat = _change("celsius", "", [profile.conditions.before], [profile.conditions.after]).strip()
    bundle = tag("span", shortened(profile.subject.name), title=profile.subject.name)
    bundle = join(bundle, tag("span", f" {profile.subject.sha256[:12]}", _class="soft"))
    return Row(
        [
            Cell(who(one), one.label),
            Cell(profile.time[:16].replace("T", " "), profile.time),
            Cell(rounds, float(len(profile.rounds)), "number"),
            Cell(f"{total.count:,}", float(total.count), "number"),
            Cell(number(warm_up), warm_up, "number"),
            Cell(f"{total.outliers:,}", float(total.outliers), "number"),
            Cell(threads or "all", float(threads or profile.conditions.machine.cores), "number"),
            Cell(number(profile.processor.milliseconds), profile.processor.milliseconds, "number"),
            Cell(number(profile.processor.cores), profile.processor.cores, "number"),
            Cell(version, version),
            Cell(heat or "–", heat, "kind"),
            Cell(bundle, profile.subject.name, "name"),
        ],
        marks=one.marks,
    )
