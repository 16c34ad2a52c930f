"""DEVICE: what was measured of a bundle, summed up as a `Profile`."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit import __version__
from edgekit.profiling import jobs
from edgekit.profiling.record import (
    STAGES,
    Conditions,
    Memory,
    Operators,
    Processor,
    Profile,
    Roofline,
    Round,
    Settings,
    StageName,
    Subject,
    Sustained,
)
from edgekit.profiling.statistics import distribution, ratio_interval, spread

NOISY = 0.05
"""A spread of the rounds from which a record says that its machine was busy."""

HOT = 5.0
"""Degrees Celsius that a machine warms up by before a record says so."""

BURST = 5.0
"""Seconds of sustained load that count as the burst at its beginning."""

CONFIDENCE = 0.99


@dataclass(frozen=True, kw_only=True)
class MeasuredBundle:
    """Everything that a session learnt of one bundle; ``arithmetic`` is what the converter
    counted of its graph, ``peaks`` the operations and bytes per second that the machine reached."""

    session: str
    time: str
    subject: Subject
    settings: Settings
    conditions: Conditions
    rounds: Sequence[jobs.RoundResult]
    throughputs: jobs.Throughputs | None = None
    lasting: jobs.Lasting | None = None
    operators: Operators | None = None
    peaks: tuple[float, float] | None = None
    arithmetic: dict[str, float] = field(default_factory=dict)


def profile_of(measured: MeasuredBundle) -> Profile:
    """The record."""
    rounds = [one.round for one in measured.rounds]
    total = distribution(np.concatenate([settled(one) for one in rounds]))
    stages = {
        name: distribution(np.concatenate([settled(one, name) for one in rounds]))
        for name in STAGES
        if all(name in one.stages for one in rounds)
    }
    lasting = sustained(measured.lasting) if measured.lasting is not None else None
    decode = stages.get("decode")
    profile = Profile(
        id=uuid.uuid4().hex,
        session=measured.session,
        time=measured.time,
        edgekit=__version__,
        subject=measured.subject,
        settings=measured.settings,
        conditions=measured.conditions,
        loads=tuple(one.load for one in measured.rounds),
        rounds=tuple(rounds),
        total=total,
        stages=stages,
        spread=spread([statistics.median(settled(one)) for one in rounds]),
        frames_per_second=1e3 / total.mean,
        memory=_memory([one.memory for one in measured.rounds if one.memory]),
        processor=_processor([one.processor for one in measured.rounds if one.processor]),
        throughput=measured.throughputs.found if measured.throughputs else (),
        sustained=lasting,
        operators=measured.operators,
        roofline=_roofline(measured, stages["inference"].p50) if "inference" in stages else None,
        first_token=distribution(_first_tokens(rounds)) if decode else None,
        tokens_per_second=1e3 * (measured.settings.tokens - 1) / decode.p50 if decode else None,
    )
    return _noted(profile)


def settled(one: Round, stage: StageName | None = None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The times of a round after its warm-up, in ms: of whole calls, or of one stage."""
    times = one.total if stage is None else one.stages[stage]
    return np.asarray(times[one.warm_up :], np.float64)


def round_medians(profile: Profile, stage: StageName | None = None) -> list[float]:
    """The median of each round, which is what records are compared by."""
    return [statistics.median(settled(one, stage)) for one in profile.rounds]


def sustained(lasting: jobs.Lasting) -> Sustained:
    """Burst and steady state, and the drift between them with its interval over seconds."""
    seconds = lasting.seconds
    early = [one.p50 for one in seconds if one.at < BURST] or [seconds[0].p50]
    late = [one.p50 for one in seconds[-max(len(seconds) // 4, 1) :]]
    burst, steady = statistics.median(early), statistics.median(late)
    if min(len(early), len(late)) >= 2:
        found = ratio_interval(late, early, paired=False, confidence=CONFIDENCE)
        low, high = found.low - 1, found.high - 1
    else:
        low, high = -1.0, float("inf")
    return Sustained(
        seconds=seconds,
        burst=burst,
        steady=steady,
        drift=steady / burst - 1,
        low=low,
        high=min(high, 1e9),  # JSON has no infinity
        throttled=lasting.throttled,
    )


def _memory(found: Sequence[Memory]) -> Memory | None:
    if not found:
        return None
    devices = [one.device for one in found if one.device is not None]
    return Memory(
        before=int(statistics.median(one.before for one in found)),
        peak=max(one.peak for one in found),
        steady=int(statistics.median(one.steady for one in found)),
        device=max(devices, default=None),
    )


def _processor(found: Sequence[Processor]) -> Processor | None:
    if not found:
        return None
    return Processor(
        milliseconds=statistics.median(one.milliseconds for one in found),
        cores=statistics.median(one.cores for one in found),
        threads=max(one.threads for one in found),
    )


def _first_tokens(rounds: Sequence[Round]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([settled(one, "vision") + settled(one, "prefill") for one in rounds])


def _roofline(measured: MeasuredBundle, inference: float) -> Roofline | None:
    if measured.peaks is None or not measured.arithmetic:
        return None
    from edgekit.profiling.roofline import roofline

    operations = measured.arithmetic["operations"]
    moved = measured.subject.bytes + measured.arithmetic["activation_bytes"]
    return roofline(operations, moved, measured.peaks, inference)


def _noted(profile: Profile) -> Profile:
    """The record with sentences on what a reader should know before believing its figures."""
    import msgspec

    notes = []
    if profile.spread > NOISY:
        notes.append(f"medians of rounds varied by over {100 * NOISY:.0f} %: a busy machine, or too few --rounds")
    if not all(one.settled for one in profile.rounds):
        notes.append("some rounds were still changing when they ended: give more --seconds")
    before, after = profile.conditions.before, profile.conditions.after
    if before.celsius is not None and after.celsius is not None and after.celsius - before.celsius > HOT:
        notes.append(f"the machine warmed up from {before.celsius:.0f} to {after.celsius:.0f} °C meanwhile")
    throttled = after.throttled or (profile.sustained.throttled if profile.sustained else "")
    if throttled:
        notes.append(f"the board says: {throttled}")
    lasting = profile.sustained
    if lasting is not None and lasting.low > 0 and lasting.drift > NOISY:
        notes.append(f"under sustained load it became {100 * lasting.drift:.0f} % slower than in its first seconds")
    if profile.memory is None:
        notes.append("measured in a page or an app, which tells neither memory nor processor time")
    elif profile.subject.target == "web":
        notes.append("run by node, whose process is fed through a pipe and whose memory is not counted")
    return msgspec.structs.replace(profile, notes=tuple(notes))
