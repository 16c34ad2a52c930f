"""DEVICE: a profiling session: bundles measured in turns, round after round, each time in a fresh process.

Turns are what makes a comparison fair: whatever happens to the machine meanwhile happens to all of them, and rounds of
the same number pair. The order within a round is drawn anew for each.
"""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from edgekit.emulators import emulator
from edgekit.errors import EdgekitError, EngineError, UsageError
from edgekit.profiling import conditions, jobs
from edgekit.profiling.protocol import Event, Profiled, SessionJob, SessionProgress, SessionResult, SkippedBundle
from edgekit.profiling.record import Conditions, MachineState, Operators, Settings, Subject
from edgekit.profiling.roofline import reached
from edgekit.profiling.summary import MeasuredBundle, profile_of
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.runtimes.engines import engine
from edgekit.worker import call

if TYPE_CHECKING:
    from edgekit.runtimes.bundle.manifest import Manifest

Answer = TypeVar("Answer")

OPENING = 600.0
"""Seconds that a process may take beside what it measures: some engines compile for minutes."""


_MEASURES: dict[type[jobs.Job], str] = {
    jobs.RoundJob: "measure_round",
    jobs.ThroughputJob: "measure_throughput",
    jobs.SustainJob: "measure_sustained",
    jobs.OperatorsJob: "measure_operators",
}
"""The function of `edgekit.profiling.measuring` that does a job."""


@dataclass
class _Entry:
    """A bundle of the session, and what has been measured of it."""

    bundle: Bundle
    given: str
    settings: Settings
    device: str
    before: MachineState
    imports: tuple[str, ...] = ()
    rounds: list[jobs.RoundResult] = field(default_factory=list)
    throughputs: jobs.Throughputs | None = None
    lasting: jobs.Lasting | None = None
    operators: Operators | None = None
    failure: str = ""


def run_session(job: SessionJob, report: Callable[[Event], None]) -> None:
    """Measure the bundles of a job, and report progress, what is skipped and why, and each `Profile` at the end.

    Raises:
        UsageError: settings that no bundle can be measured with, or no bundle at all.
    """
    if not job.bundles:
        raise UsageError("there is no bundle to profile: give the folders that edgekit convert wrote")
    if job.each and len(job.each) != len(job.bundles):
        raise UsageError(
            f"{len(job.each)} settings do not go with {len(job.bundles)} bundles: give one for each, or none"
        )
    entries = list(_opened(job, report))
    steps = _Steps(report, sum(job.settings.rounds + _extras(entry.settings) for entry in entries) + 1)
    _rounds(job, entries, steps)
    for entry in entries:
        _further(entry, steps)
    peaks = _peaks(entries, steps)
    session, now = uuid.uuid4().hex, datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = conditions.machine(job.key)
    for entry in entries:
        if entry.failure:
            report(SkippedBundle(bundle=entry.given, reason=entry.failure))
            continue
        versions = conditions.packages(engine(entry.bundle.manifest.engine).packages)
        measured = MeasuredBundle(
            session=session,
            time=now,
            subject=subject(entry.bundle, entry.given, entry.settings.size),
            settings=entry.settings,
            conditions=Conditions(machine=machine, packages=versions, before=entry.before, after=conditions.state()),
            rounds=entry.rounds,
            throughputs=entry.throughputs,
            lasting=entry.lasting,
            operators=entry.operators,
            peaks=peaks.get(entry.settings.threads),
            arithmetic=_arithmetic(entry.bundle.manifest),
        )
        profile = profile_of(measured)
        notes = (*profile.notes, *_shape_note(entry))
        report(Profiled(profile=msgspec.structs.replace(profile, notes=notes)))


def answer(job: SessionJob, report: call.Report) -> SessionResult:
    """`run_session` for a caller in another process."""
    found: list[Profiled | SkippedBundle] = []

    def on_event(event: Event) -> None:
        if isinstance(event, SessionProgress):
            report(event.text, event.share)
        else:
            found.append(event)

    run_session(job, on_event)
    return SessionResult(found=tuple(found))


def ask(job: jobs.Job, answer: type[Answer], seconds: float, imports: tuple[str, ...] = ()) -> Answer:
    """Have a job done in a fresh process.

    Args:
        job: the work.
        answer: type of what it gives.
        seconds: after which it is killed.
        imports: modules of the user's to import there before.

    Raises:
        EdgekitError: what the process met; EngineError when it crashed or took too long.
    """
    return call.run(
        f"edgekit.profiling.measuring:{_MEASURES[type(job)]}",
        job,
        answer,
        name="measuring",
        error=EngineError,
        imports=imports,
        group=False,  # one with the session: they end together
        seconds=seconds,
    ).result


def device_here(manifest: Manifest, wanted: str) -> str:
    """The device that a bundle is measured on: the one that is wanted, or what its engine runs it on here.

    Raises:
        EngineError: nothing here executes it. A simulator or interpreter says nothing about time.
    """
    spec = engine(manifest.engine)
    if wanted:
        return wanted
    other = emulator(spec.name)
    if other is None or not other.needed(manifest.graphs[0]):
        if spec.missing:
            raise EngineError(f"engine {spec.name} {spec.missing}")
        return spec.devices[0]
    if other.word != "executed":
        raise EngineError(
            f"engine {spec.name} {spec.missing or 'cannot run this file here'}; its {other.device} here says "
            "nothing about time: profile it on a host that has it (--on NAME)"
        )
    if other.missing:
        raise EngineError(f"engine {spec.name} needs: {other.missing}")
    return other.device


def subject(bundle: Bundle, path: str, size: tuple[int, int] | None = None) -> Subject:
    """The description of the bundle in a record, at one of its input sizes."""
    manifest = bundle.manifest
    evidence = manifest.evidence
    return Subject(
        name=Path(path).name or manifest.name,
        path=path,
        sha256=manifest.digest,
        source=manifest.name,
        target=manifest.target,
        precision=manifest.precision,
        engine=manifest.engine,
        task=manifest.contract.task,
        size=size or manifest.contract.image.size,
        bytes=bundle.bytes,
        proof=evidence.word if evidence else None,
        agreement=evidence.agreement.matched if evidence and evidence.agreement else None,
    )


def _shape_note(entry: _Entry) -> list[str]:
    """Which of several input sizes and batches was measured, where the settings do not say."""
    manifest, settings = entry.bundle.manifest, entry.settings
    said = [f"measured {manifest.size_note}"] if settings.size is None and manifest.size_note else []
    batches = [count for count in manifest.batches[settings.size or manifest.contract.image.size] if count > 1]
    if batches and not settings.batch:
        counts = ",".join(map(str, batches))
        said.append(f"measured with one image in a call (it takes {counts} too: --batch {counts})")
    return said


@dataclass
class _Steps:
    """Counts what is done, for the progress that is reported."""

    report: Callable[[Event], None]
    all: int
    done: int = 0

    def __call__(self, text: str) -> None:
        self.report(SessionProgress(text=text, share=min(self.done / self.all, 1.0)))
        self.done += 1


def _opened(job: SessionJob, report: Callable[[Event], None]) -> Iterator[_Entry]:
    for given, settings in zip(job.bundles, job.each or (job.settings,) * len(job.bundles), strict=True):
        try:
            bundle = open_bundle(given)
            device = device_here(bundle.manifest, settings.device)
        except EdgekitError as error:
            report(SkippedBundle(bundle=given, reason=str(error)))
            continue
        yield _Entry(bundle, given, settings, device, conditions.state(), job.imports)


def _extras(settings: Settings) -> int:
    return sum((bool(settings.batch or settings.streams), settings.sustain > 0, settings.operators))


def _rounds(job: SessionJob, entries: Sequence[_Entry], step: _Steps) -> None:
    """Every bundle once a round, in another order each time; the first round opens with cold files."""
    draw = random.Random(job.settings.seed)  # noqa: S311 - an order, not a secret
    for number in range(job.settings.rounds):
        order = [entry for entry in entries if not entry.failure]
        draw.shuffle(order)
        for entry in order:
            step(f"{entry.bundle.path.name}: round {number + 1} of {job.settings.rounds}")
            if number == 0:
                entry.before = conditions.state()
            work = jobs.RoundJob(
                bundle=str(entry.bundle.path),
                engine=entry.bundle.manifest.engine,
                settings=entry.settings,
                device=entry.device,
                cold=number == 0,
            )
            if (answer := _asked(entry, work, jobs.RoundResult, entry.settings.seconds * 40)) is not None:
                entry.rounds.append(answer)


def _further(entry: _Entry, step: _Steps) -> None:
    """Several images at a time, sustained load, operators: what is measured once."""
    settings, name = entry.settings, entry.bundle.path.name

    def of(kind: Callable[..., Answer]) -> Answer:
        return kind(bundle=str(entry.bundle.path), settings=settings, device=entry.device)

    if (settings.batch or settings.streams) and not entry.failure:
        step(f"{name}: several images at a time")
        seconds = 40 * settings.seconds * (len(settings.batch) + len(settings.streams))
        entry.throughputs = _asked(entry, of(jobs.ThroughputJob), jobs.Throughputs, seconds)
    if settings.sustain and not entry.failure:
        step(f"{name}: {settings.sustain:g} s without a pause")
        entry.lasting = _asked(entry, of(jobs.SustainJob), jobs.Lasting, 2 * settings.sustain)
    if settings.operators and not entry.failure:
        step(f"{name}: operators")
        try:
            entry.operators = ask(of(jobs.OperatorsJob), Operators, OPENING, entry.imports)
        except EdgekitError as error:  # what an engine's profiler cannot do is no reason to lose the rest
            entry.operators = Operators(by=entry.bundle.manifest.engine, unavailable=str(error))


def _asked(entry: _Entry, job: jobs.Job, answer: type[Answer], seconds: float) -> Answer | None:
    """The answer, or None with the failure noted: the other bundles go on."""
    try:
        return ask(job, answer, OPENING + seconds, entry.imports)
    except EdgekitError as error:
        entry.failure = str(error)
        return None


def _peaks(entries: Sequence[_Entry], step: _Steps) -> dict[int, tuple[float, float]]:
    """The machine's peaks with each number of threads, if a bundle's arithmetic is known."""
    known = [entry for entry in entries if not entry.failure and _arithmetic(entry.bundle.manifest)]
    if known:
        step("what the machine reaches")
    return {threads: reached(threads) for threads in sorted({entry.settings.threads for entry in known})}


def _arithmetic(manifest: Manifest) -> dict[str, float]:
    """Figures of the one graph that the converter counted, empty where it did not."""
    if len(manifest.graphs) != 1:
        return {}
    report = manifest.graphs[0].report
    names = ("operations", "weight_bytes", "activation_bytes")
    return {name: float(report[name]) for name in names} if all(name in report for name in names) else {}
