"""What the time of a call is made of."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.profiling.record import STAGES, Profile, StageName
from edgekit.profiling.records.naming import Named, by_task
from edgekit.report.page import Html, join, legend, number, percent, tag
from edgekit.report.profile.lanes import Axis, box, grid, lane, lanes, scale, shared_end, strip, upright

HEIGHT = 26.0

WORDS: dict[StageName, str] = {
    "pre": "pre: image to input",
    "vision": "vision: image to features",
    "prefill": "prefill: prompt",
    "decode": "decode: tokens after the first",
    "inference": "inference: the engine",
    "post": "post: outputs to results",
    "track": "track: the tracker",
}


def medians(profile: Profile) -> dict[StageName, float]:
    """The median of each stage that there is, in order."""
    return {stage: profile.stages[stage].p50 for stage in STAGES if stage in profile.stages}


def whole(profile: Profile) -> float:
    """The time of all stages together over the time end to end, of all calls; 1 of a profile without stages."""
    if not profile.stages:
        return 1.0
    return sum(stage.mean for stage in profile.stages.values()) / max(profile.total.mean, 1e-9)


def section(given: Sequence[Named]) -> Html:
    """Stacks of the stages' medians with a tick at the median end to end."""
    there = [stage for stage in STAGES if any(stage in one.profile.stages for one in given)]
    keys = legend([*((f"s-{stage}", WORDS[stage]) for stage in there), ("ink", "end to end, measured by itself")])
    worst = max((whole(one.profile) for one in given), key=lambda share: abs(share - 1))
    said = (
        f"Bars are medians. Call by call, the stages together are {percent(worst)} of the time end to end where they "
        "agree least; medians of a noisy profile add up less exactly than its calls."
    )
    parts = []
    for task, some in by_task(given).items():
        title = tag("h3", task) if len(by_task(given)) > 1 else ""
        parts.append(tag("div", title, _task(some), data_group=True))
    return join(tag("p", said), keys, *parts)


def _task(given: Sequence[Named]) -> Html:
    ends = [max(one.profile.total.p50, sum(medians(one.profile).values())) for one in given]
    limit = shared_end(ends)
    axis = Axis(0.0, limit * 1.02)
    lines = [
        lane(one, [_stack(one.profile, axis)], _figure(one.profile), _list(one.profile, beyond=False))
        if end <= limit
        else lane(one, [shares(one.profile, HEIGHT)], _figure(one.profile), _list(one.profile, beyond=True))
        for one, end in zip(given, ends, strict=True)
    ]
    return lanes([("ms, medians", scale(axis))], lines, "end to end ms")


def _stack(profile: Profile, axis: Axis) -> Html:
    parts, start = grid(axis, HEIGHT), 0.0
    for stage, time in medians(profile).items():
        said = tag("title", f"{stage} {number(time)} ms")
        parts.append(box(axis.place(start), axis.place(start + time), 5, 16, f"stage s-{stage}", said))
        start += time
    parts.append(upright(axis.place(profile.total.p50), 1, 24, "median"))
    told = ", ".join(f"{stage} {number(time)} ms" for stage, time in medians(profile).items())
    return strip(HEIGHT, f"{told}; end to end {number(profile.total.p50)} ms", *parts)


def _figure(profile: Profile) -> Html:
    return join(tag("b", number(profile.total.p50)), tag("span", f"stages {percent(whole(profile))}", _class="soft"))


def _list(profile: Profile, *, beyond: bool) -> Html:
    spans = [
        tag("span", tag("span", _class=f"key s-{stage}"), f"{stage} {number(time)}")
        for stage, time in medians(profile).items()
    ]
    if beyond:
        spans.append(tag("span", "far longer than the others: shares of a call, not on the axis", _class="flag"))
    return tag("div", *spans, _class="parts soft small")


def shares(profile: Profile, height: float) -> Html:
    """The stages as shares of their sum, in a bar that is always full."""
    there, thick = medians(profile), min(height, 16)
    total, parts, start = sum(there.values()) or 1.0, [], 0.0
    for stage, time in there.items():
        ends = 100 * start / total, 100 * (start + time) / total
        parts.append(box(*ends, (height - thick) / 2, thick, f"stage s-{stage}"))
        start += time
    told = ", ".join(f"{stage} {percent(time / total)}" for stage, time in there.items())
    return strip(height, told, tag("title", told), *parts)
