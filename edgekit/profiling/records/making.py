"""HOST: make profiles: here or on a device, with the accuracy of the bundles beside them where labels are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import EngineError, UsageError
from edgekit.profiling.protocol import Event, Profiled, Progress, SessionJob, Skipped
from edgekit.profiling.record import Accuracy, Profile, Settings
from edgekit.runtimes.bundle.folder import Bundle, open_bundle

Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to profile, and how.

    ``each`` has the settings of every bundle where they differ; a bundle may be given several times. ``device`` is the
    name of a device (`edgekit.profiling.devices`), empty for this machine. ``labels`` are labelled images to measure
    accuracy on, as ``edgekit evaluate --data`` takes them, ``images`` the folder of their images where that is another.
    """

    bundles: tuple[Path, ...]
    settings: Settings = Settings()  # noqa: RUF009 - it is immutable
    each: tuple[Settings, ...] = ()
    device: str = ""
    labels: str = ""
    images: str = ""


@dataclass(frozen=True)
class Made:
    """Records, and what could not be measured and why."""

    profiles: tuple[Profile, ...]
    skipped: tuple[Skipped, ...]


def make(request: Request, report: Report, known: Sequence[Profile] = ()) -> Made:
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
    skipped: list[Skipped] = []

    def follow(event: Event) -> None:
        if isinstance(event, Profiled):
            profiles.append(event.profile)
        elif isinstance(event, Skipped):
            skipped.append(event)
        report(event)

    if request.device:
        _there(request, follow)
    else:
        from edgekit.profiling.session import run_session

        paths = tuple(str(path) for path in request.bundles)
        run_session(SessionJob(bundles=paths, settings=request.settings, each=request.each), follow)
    if not request.labels:
        return Made(tuple(profiles), tuple(skipped))
    accuracies: dict[str, Accuracy] = {}
    for profile in profiles:
        key = profile.subject.sha256
        if key not in accuracies:
            report(Progress(text=f"{profile.subject.name}: accuracy on {request.labels}", share=1.0))
            accuracies[key] = _known(profile, request.labels, known) or accuracy(
                Path(profile.subject.path), request.labels, request.images
            )
    with_accuracy = (msgspec.structs.replace(one, accuracy=accuracies[one.subject.sha256]) for one in profiles)
    return Made(tuple(with_accuracy), tuple(skipped))


def profile(
    *bundles: str | os.PathLike[str],
    device: str = "",
    labels: str = "",
    report: Report = lambda event: None,
    **settings: Any,
) -> tuple[Profile, ...]:
    """Profile bundles in turns, as ``edgekit profile`` does; nothing is kept.

    Args:
        bundles: folders that ``edgekit convert`` wrote.
        device: name of a device of ``edgekit device list``, empty for this machine.
        labels: labelled images, to measure the accuracy too.
        report: given progress, and what is skipped and why.
        settings: of `edgekit.profiling.record.Settings`: ``rounds``, ``threads``, ``tracker`` and so on. What is called
            ``device`` there, the engine's unit, is ``unit`` here.

    Raises:
        UsageError: no bundle, or settings that are not valid.
        EngineError: none of the bundles could be measured.
        DeviceError: the device cannot be reached, is not set up, or was lost in the middle.
    """
    try:
        unit = settings.pop("unit", "")
        chosen = msgspec.convert({**settings, "device": unit}, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"profile: {error}") from error
    request = Request(bundles=tuple(Path(one) for one in bundles), settings=chosen, device=device, labels=labels)
    made = make(request, report)
    if not made.profiles:
        raise EngineError("; ".join(one.reason for one in made.skipped))
    return made.profiles


def accuracy(path: Path, labels: str, images: str = "") -> Accuracy:
    """The main figure of a bundle on labelled images, measured here: by the same engine, or what stands in for it.

    Raises:
        UsageError: a vision-language bundle, whose texts ``edgekit evaluate`` measures.
        InputError: the labels cannot be read, or do not fit the bundle.
    """
    from edgekit.evaluation.coco import SCORE_THRESHOLD
    from edgekit.evaluation.labelled import evaluate
    from edgekit.runtimes.engines import proof_device
    from edgekit.runtimes.model import load

    bundle: Bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.contract.language is not None:
        raise UsageError(f"{path}: --labels measures models of images; of BLIP-2 edgekit evaluate does")
    model = load(bundle, unit=proof_device(manifest.engine, manifest.graphs[0]))
    report = evaluate(lambda image: model.predict(image, score=SCORE_THRESHOLD), labels, images or None)
    name, value = next(iter(report[0].figures.items()))
    return Accuracy(metric=name, value=value, data=labels)


def _known(profile: Profile, labels: str, known: Sequence[Profile]) -> Accuracy | None:
    for one in reversed(known):
        if one.subject.sha256 == profile.subject.sha256 and one.accuracy is not None and one.accuracy.data == labels:
            return one.accuracy
    return None


def _there(request: Request, report: Report) -> None:
    from edgekit.profiling.devices.known import device
    from edgekit.profiling.devices.remote import profile_on

    where = device(request.device)
    bundles = [open_bundle(path) for path in request.bundles]
    profile_on(where, bundles, request.settings, report, each=request.each)
