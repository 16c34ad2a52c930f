"""DEVICE: the work of one measured process: open a bundle, call it, and watch the process meanwhile."""

from __future__ import annotations

import importlib
import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from edgekit.arrays import Image
from edgekit.profiling.calls import Call, Stages, call_of, endless, images
from edgekit.profiling.conditions import state
from edgekit.profiling.jobs import Lasting, OperatorsJob, RoundJob, RoundResult, SustainJob, ThroughputJob, Throughputs
from edgekit.profiling.record import Load, Memory, Processor, Round, Second, Settings, StageName, Throughput
from edgekit.profiling.statistics import warm_up
from edgekit.runtimes.engines import SessionOptions, engine
from edgekit.worker import child, memory
from edgekit.worker.call import Report

LEAST_CALLS = 25
"""Calls of a round at least, so that there is something to find a steady state in: five batches of five."""

MOST_SECONDS = 20.0
"""A round of slow calls ends after this many times its seconds, with fewer calls."""


def measure_round(job: RoundJob, report: Report) -> RoundResult:
    """Open, make the first call, then call for the seconds that were asked for, and at least `LEAST_CALLS` times."""
    reading = time.perf_counter() - child.began  # what was imported to read the job is part of the load
    bundle_bytes_out_of_cache = job.cold and _drop_from_cache(Path(job.bundle))
    began = time.perf_counter()
    before = _import_engine(job.engine)
    imported = time.perf_counter()
    model = _open(job.bundle, job.settings, job.device)
    opened = time.perf_counter()
    shown, call = endless(images(job.settings)), call_of(model, job.settings)
    image = next(shown)
    first = _timed(call, image)[0]
    load = Load(
        cold=bundle_bytes_out_of_cache,
        imports=1e3 * (reading + imported - began),
        open=1e3 * (opened - imported),
        first=first,
    )
    cpu, begun = time.process_time(), time.perf_counter()
    total, stages = _calls(call, shown, job.settings.seconds)
    wall, spent = time.perf_counter() - begun, time.process_time() - cpu
    cut, settled = warm_up(total)
    return RoundResult(
        round=Round(total=tuple(total), stages=stages, warm_up=cut, settled=settled),
        load=load,
        memory=Memory(
            before=before, peak=memory.peak(), steady=memory.resident(), device=_accelerator_memory(job.device)
        ),
        processor=Processor(milliseconds=1e3 * spent / len(total), cores=spent / wall, threads=memory.threads()),
    )


def measure_throughput(job: ThroughputJob, report: Report) -> Throughputs:
    """Batches in one session, and streams with a session and thread each."""
    shown = images(job.settings)
    found = [_batch(job, shown, count) for count in job.settings.batch]
    found += [_streams(job, shown, count) for count in job.settings.streams]
    return Throughputs(found=tuple(found))


def _batch(job: ThroughputJob, shown: list[Image], count: int) -> Throughput:
    model = _open(job.bundle, job.settings, job.device)
    pictures = endless(shown)
    times: list[float] = []
    end = time.perf_counter() + job.settings.seconds
    while time.perf_counter() < end or len(times) < 4:
        # Distinct copies: `endless` gives the same array again, with another corner.
        group = [image.copy() for image in itertools.islice(pictures, count)]
        begun = time.perf_counter()
        _many(model, group, job.settings)
        times.append(1e3 * (time.perf_counter() - begun))
    latency = statistics.median(times[1:])
    return Throughput(kind="batch", count=count, latency=latency, frames_per_second=1e3 * count / latency)


def _many(model: Any, group: list[Image], settings: Settings) -> None:
    if hasattr(model, "predict"):
        model(group)
    elif model.kind == "retrieval":
        model.embed(group)
    else:
        model.caption(group, settings.prompt or None, max_new_tokens=settings.tokens, min_new_tokens=settings.tokens)


def _streams(job: ThroughputJob, shown: list[Image], count: int) -> Throughput:
    calls = [call_of(_open(job.bundle, job.settings, job.device), job.settings) for _ in range(count)]
    together = threading.Barrier(count)

    def stream(call: Call) -> tuple[float, list[float], float]:
        pictures = endless(shown)
        together.wait()
        begun = time.perf_counter()
        times, _ = _calls(call, pictures, job.settings.seconds)
        return begun, times, time.perf_counter()

    for call in calls:
        _timed(call, next(endless(shown)))
    with ThreadPoolExecutor(count) as threads:
        spans = list(threads.map(stream, calls))
    every = [value for _, times, _ in spans for value in times]
    wall = max(end for *_, end in spans) - min(begun for begun, *_ in spans)
    return Throughput(
        kind="streams", count=count, latency=statistics.median(every), frames_per_second=len(every) / wall
    )


def measure_sustained(job: SustainJob, report: Report) -> Lasting:
    """Calls without a pause, summed up about every second with the machine's state at its end."""
    model = _open(job.bundle, job.settings, job.device)
    shown, call = endless(images(job.settings)), call_of(model, job.settings)
    _timed(call, next(shown))
    begun = time.perf_counter()
    every: list[float] = []
    seconds: list[Second] = []
    said = set[str]()
    while (at := time.perf_counter() - begun) < job.settings.sustain:
        times, _ = _calls(call, shown, 1.0, least=1)
        now = state()
        said |= {now.throttled} if now.throttled else set()
        seconds.append(
            Second(
                at=at,
                calls=len(times),
                p50=statistics.median(times),
                megahertz=now.megahertz,
                celsius=now.celsius,
            )
        )
        every += times
    return Lasting(seconds=tuple(seconds), times=tuple(every), throttled="; ".join(sorted(said)))


def measure_operators(job: OperatorsJob, report: Report) -> Any:
    """The engine's own profiler on one real input."""
    from edgekit.profiling.operators import operators
    from edgekit.runtimes.bundle.folder import open_bundle
    from edgekit.runtimes.inputs.images import Preprocessor

    bundle = open_bundle(job.bundle)
    rule = bundle.manifest.contract.image
    size = job.settings.size or rule.size
    feeds = [Preprocessor(msgspec.structs.replace(rule, size=size))(images(job.settings)[0])[0]]
    shape = (1, 3, *size) if bundle.manifest.variants else ()
    options = SessionOptions(job.settings.threads, job.device, job.settings.strict, shape=shape)
    return operators(bundle, options, feeds)


def _calls(
    call: Call, shown: Iterator[Image], seconds: float, least: int = LEAST_CALLS
) -> tuple[list[float], dict[StageName, tuple[float, ...]]]:
    """Call until the seconds are over: the wall time of each call, and of its stages."""
    total: list[float] = []
    stages: dict[StageName, list[float]] = {}
    begun = time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds or (len(total) < least and spent < seconds * MOST_SECONDS):
        wall, parts = _timed(call, next(shown))
        total.append(wall)
        for name, value in parts.items():
            stages.setdefault(name, []).append(value)
    return total, {name: tuple(values) for name, values in stages.items()}


def _timed(call: Callable[[Image], Stages], image: Image) -> tuple[float, Stages]:
    begun = time.perf_counter()
    parts = call(image)
    return 1e3 * (time.perf_counter() - begun), parts


def _import_engine(name: str) -> int:
    """Import what opening will need, the engine last and as its session does; the resident set just before it."""
    importlib.import_module("cv2")
    importlib.import_module("edgekit.runtimes.load")
    before = memory.resident()
    engine(name).load_library()
    return before


def _open(folder: str, settings: Settings, device: str) -> Any:
    from edgekit.runtimes.load import load

    return load(folder, threads=settings.threads, unit=device, strict=settings.strict, warm_up=0, size=settings.size)


def _drop_from_cache(folder: Path) -> bool:
    """Have the system forget the files' pages, as after a restart; whether it can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)  # pages that are not on the disk yet cannot be dropped
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)
    return True


def _accelerator_memory(device: str) -> int | None:
    return memory.on_gpu() if device in ("cuda", "gpu") else None
