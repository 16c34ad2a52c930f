"""HOST: make profiles: here or on a device, with the accuracy of the bundles beside them where labels are given."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.errors import EngineError, StoppedError, UsageError
from edgekit.profiling.protocol import Event, Profiled, SessionJob, SessionProgress, SkippedBundle
from edgekit.profiling.record import Accuracy, Profile, Settings
from edgekit.progress import OnProgress, ProgressEvent
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.structures import from_builtins
from edgekit.worker.user_modules import import_given

if TYPE_CHECKING:
    from edgekit.worker.process import Stop

Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """The bundles to profile, and how.

    ``each`` has the settings of every bundle where they differ; a bundle may be given several times. ``on`` is the
    name of a host over SSH (`edgekit.profiling.devices`), empty for this machine. ``labels`` are annotations to measure
    accuracy on, as ``edgekit evaluate --labels`` takes them, ``images`` the folder of their images where that is
    another. ``imports`` are modules of the user's that register decoders; a host over SSH is sent them.
    """

    bundles: tuple[Path, ...]
    settings: Settings = Settings()  # noqa: RUF009 - it is immutable
    each: tuple[Settings, ...] = ()
    on: str = ""
    labels: str = ""
    images: str = ""
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """Records, and what could not be measured and why."""

    profiles: tuple[Profile, ...]
    skipped: tuple[SkippedBundle, ...]


def make(request: ProfileRequest, report: Report, known: Sequence[Profile] = ()) -> Made:
    """Profile bundles in turns.

    Args:
        request: what and how.
        report: given every event.
        known: earlier records; the accuracy of the same bundle on the same labels is taken from them.

    Raises:
        UsageError: settings or names that do not fit.
        DeviceError: the device cannot be reached, is not set up, or was lost in the middle.
    """
    profiles: list[Profile] = []
    skipped: list[SkippedBundle] = []

    def follow(event: Event) -> None:
        if isinstance(event, Profiled):
            profiles.append(event.profile)
        elif isinstance(event, SkippedBundle):
            skipped.append(event)
        report(event)

    if request.on:
        _there(request, follow)
    else:
        from edgekit.profiling.session import run_session

        paths = tuple(str(path) for path in request.bundles)
        for name in request.imports:  # opening a bundle asks for its decoder; each measured process imports it too
            import_given(name)
        job = SessionJob(bundles=paths, settings=request.settings, each=request.each, imports=request.imports)
        run_session(job, follow)
    if not request.labels:
        return Made(tuple(profiles), tuple(skipped))
    accuracies: dict[str, Accuracy] = {}
    for profile in profiles:
        key = profile.subject.sha256
        if key not in accuracies:
            report(SessionProgress(text=f"{profile.subject.name}: accuracy on {request.labels}", share=1.0))
            accuracies[key] = _known(profile, request.labels, known) or accuracy(
                Path(profile.subject.path), request.labels, request.images
            )
    with_accuracy = (msgspec.structs.replace(one, accuracy=accuracies[one.subject.sha256]) for one in profiles)
    return Made(tuple(with_accuracy), tuple(skipped))


def profile(
    *bundles: str | os.PathLike[str],
    on: str = "",
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    rounds: int = 5,
    seconds: float = 1.0,
    data: str | os.PathLike[str] = "",
    tracker: str = "",
    batch: Sequence[int] = (),
    streams: Sequence[int] = (),
    sustain: float = 0.0,
    operators: bool = True,
    tokens: int = 32,
    prompt: str = "",
    labels: str | os.PathLike[str] = "",
    images: str | os.PathLike[str] = "",
    seed: int = 0,
    imports: Sequence[str] = (),
    progress: OnProgress | None = None,
    stop: Stop | None = None,
    device: str | None = None,
) -> tuple[Profile, ...]:
    """Profile bundles in turns, as ``edgekit profile`` does; nothing is kept.

    ::

        (one,) = edgekit.profile("out/detector-litert-int8", on="pi5", sustain=60)
        print(one.total.p50, one.total.p95)  # ms

    Args:
        bundles: folders that ``edgekit convert`` wrote.
        on: name of a host of ``edgekit device list``, empty for this machine.
        unit: one of the engine's units (``cpu``, ``npu`` ...), empty for its first.
        threads: CPU threads, 0 for the engine's own choice.
        strict: make it an error when an operator leaves the unit.
        rounds: fresh processes of each bundle.
        seconds: of calls in each round, at least.
        data: images to show; a generated photograph when left out.
        tracker: name of a tracker behind the model.
        batch: also so many images in a call.
        streams: also so many streams at a time, a session each.
        sustain: also this many seconds without a pause.
        operators: also where the time goes.
        tokens: of a vision-language model, how many to generate.
        prompt: of a vision-language model, what it is asked.
        labels: annotations, to measure the accuracy too.
        images: folder of the labelled images, where they are not beside the labels.
        seed: of the order in a round, and of the photograph.
        imports: modules of yours to import first, which register decoders.
        progress: called with each `edgekit.ProgressEvent`; what is skipped, and why, is told there too.
        stop: ends the profile after the step it is at, when it is pulled from another thread.
        device: the former name of ``on``.

    Raises:
        UsageError: no bundle, or settings that are not valid.
        EngineError: none of the bundles could be measured.
        DeviceError: the host cannot be reached, is not set up, or was lost in the middle.
        StoppedError: ``stop`` was pulled.
    """
    if device is not None:
        warnings.warn("profile(device=...) is called profile(on=...) now", DeprecationWarning, stacklevel=2)
        if on:
            raise UsageError(f"on={on!r} and device={device!r} are one setting: give on alone")
        on = device
    given = {
        "device": unit,
        "threads": threads,
        "strict": strict,
        "rounds": rounds,
        "seconds": seconds,
        "data": os.fspath(data),
        "tracker": tracker,
        "batch": tuple(batch),
        "streams": tuple(streams),
        "sustain": sustain,
        "operators": operators,
        "tokens": tokens,
        "prompt": prompt,
        "seed": seed,
    }
    try:
        settings = from_builtins(given, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"profile: {error}") from error
    request = ProfileRequest(
        bundles=tuple(Path(one) for one in bundles),
        settings=settings,
        on=on,
        labels=os.fspath(labels),
        images=os.fspath(images),
        imports=tuple(imports),
    )
    made = make(request, _reporting(progress, stop))
    if not made.profiles:
        raise EngineError("; ".join(one.reason for one in made.skipped))
    return made.profiles


def _reporting(progress: OnProgress | None, stop: Stop | None) -> Report:
    """A report that passes progress on; once the profile is stopped it raises, which ends what runs."""

    def report(event: Event) -> None:
        if stop is not None and stop.pulled:
            raise StoppedError("the profile was stopped; nothing is kept of it")
        if progress is None:
            return
        if isinstance(event, SessionProgress):
            progress(ProgressEvent("profile", event.text, event.share))
        elif isinstance(event, SkippedBundle):
            progress(ProgressEvent("profile", f"{Path(event.bundle).name}: not measured: {event.reason}", 0.0))

    return report


def accuracy(path: Path, labels: str, images: str = "") -> Accuracy:
    """The main figure of a bundle on labelled images, measured here: by the same engine, or its emulator.

    Raises:
        UsageError: a vision-language bundle, whose texts ``edgekit evaluate`` measures.
        InputError: the labels cannot be read, or do not fit the bundle.
    """
    from edgekit.emulators import proof_device
    from edgekit.evaluation.coco import SCORE_THRESHOLD
    from edgekit.evaluation.labelled import evaluate
    from edgekit.runtimes.model import load

    bundle: Bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.contract.language is not None:
        raise UsageError(f"{path}: --labels measures models of images; for BLIP-2 use edgekit evaluate")
    model = load(bundle, unit=proof_device(manifest.engine, manifest.graphs[0]))
    report = evaluate(lambda image: model.predict(image, score=SCORE_THRESHOLD), labels, images or None)
    name, value = next(iter(report[0].figures.items()))
    return Accuracy(metric=name, value=value, data=labels)


def _known(profile: Profile, labels: str, known: Sequence[Profile]) -> Accuracy | None:
    for one in reversed(known):
        if one.subject.sha256 == profile.subject.sha256 and one.accuracy is not None and one.accuracy.data == labels:
            return one.accuracy
    return None


def _there(request: ProfileRequest, report: Report) -> None:
    from edgekit.profiling.devices.known import device
    from edgekit.profiling.devices.remote import profile_on

    where = device(request.on)
    bundles = [open_bundle(path) for path in request.bundles]
    profile_on(where, bundles, request.settings, report, each=request.each, imports=request.imports)
