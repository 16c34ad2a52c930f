"""Change a bundle's thresholds, class names and tracker options, without converting it again."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping

import msgspec

from edgekit.errors import UsageError, choices
from edgekit.runtimes.bundle import manifest_file
from edgekit.runtimes.bundle.folder import Bundle, open_bundle, replace_manifest
from edgekit.runtimes.bundle.manifest import Amendment, Change, Contract, Postprocess
from edgekit.runtimes.results import Classification, Detections
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tracking import trackers
from edgekit.runtimes.tracking.fitting import known_to
from edgekit.runtimes.tracking.options import parsed

Value = bool | int | float | str


def amend(
    path: str | os.PathLike[str],
    *,
    score: float | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    classes: Mapping[int, str] | None = None,
    tracker_options: Mapping[str, Value] | None = None,
) -> Bundle:
    """Change a bundle's thresholds, class names and tracker options, as ``edgekit amend`` does.

    Its files and its evidence stay; what was changed, when, and from what is recorded in the manifest, whose checksum
    is made anew. The manifest is replaced in one step. A signature over the manifest has to be made again.

    Args:
        path: the bundle's folder.
        score: least score of a result, 0..1.
        iou: IoU above which NMS drops a box, 0..1.
        max_detections: the most results of an image.
        classes: new names by class id.
        tracker_options: options by name, for the trackers that have them (docs/TRACKING.md).

    Returns:
        The bundle as it is now.

    Raises:
        UsageError: nothing to change, a value out of range, a class or option that there is not, a name that another
            class has, or something that the bundle's task does not have.
        ContractError: its decoder is one of your own, whose module was not imported.
        BundleError: it cannot be read or written.
    """
    bundle = open_bundle(path)
    old = bundle.manifest.contract
    wanted = {"score": score, "iou": iou, "max_detections": max_detections}
    thresholds = {name: value for name, value in wanted.items() if value is not None}
    if not (thresholds or classes or tracker_options):
        raise UsageError("nothing to change: give a score, an IoU, max_detections, a class name or a tracker option")
    _check_task(bundle, thresholds, tracker_options or {})
    new = msgspec.structs.replace(
        old, postprocess=_thresholds(old.postprocess, thresholds), classes=_classes(old.classes, classes or {})
    )
    if tracker_options:
        new = msgspec.structs.replace(new, tracker_options={**old.trackers, **_options(old, tracker_options)})
    changes = tuple(_changes(old, new))
    if not changes:
        raise UsageError(f"nothing to change: {bundle.path} has these values already")
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = Amendment(time=now, changes=changes)
    manifest = msgspec.structs.replace(
        bundle.manifest, contract=new, amendments=(*(bundle.manifest.amendments or ()), record)
    )
    replace_manifest(bundle.path, manifest_file.encode(manifest))
    return open_bundle(bundle.path)


def _check_task(bundle: Bundle, thresholds: Mapping[str, object], options: Mapping[str, Value]) -> None:
    contract = bundle.manifest.contract
    if contract.language is not None:
        raise UsageError(f"{bundle.path} is a vision-language model, which has no thresholds, classes or trackers")
    gives = open_task(contract).gives
    boxes, classes = issubclass(gives, Detections), issubclass(gives, Classification)
    given = [name for name in thresholds if not boxes and not (classes and name == "score")]
    given += [f"tracker option {name}" for name in options if not boxes]
    if given:
        raise UsageError(f"{given[0]}: {bundle.path} is of the task {contract.task!r}, which has none")
    if "iou" in thresholds and not contract.postprocess.nms:
        raise UsageError(f"iou: {bundle.path} has no NMS, because its decoder is one-to-one")


def _thresholds(old: Postprocess, given: Mapping[str, float | int]) -> Postprocess:
    try:
        return msgspec.structs.replace(old, **given)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _classes(old: tuple[str, ...], given: Mapping[int, str]) -> tuple[str, ...]:
    names = list(old)
    for class_id, name in given.items():
        if not 0 <= class_id < len(old):
            raise UsageError(f"class {class_id}: there are {len(old)} classes, 0 to {len(old) - 1}")
        if not name.strip():
            raise UsageError(f"class {class_id}: a class needs a name")
        names[class_id] = name
    for class_id, name in given.items():
        if (other := next((i for i, one in enumerate(names) if one == name and i != class_id), None)) is not None:
            raise UsageError(f"class {class_id}: {name!r} is class {other}'s name already; choose another")
    return tuple(names)


def _options(old: Contract, given: Mapping[str, Value]) -> dict[str, Value]:
    """The options, each of them one that some tracker has, and valid in all that have it."""
    kinds = [tracker.Options for tracker in trackers().values()]
    valid = sorted({name for kind in kinds for name in kind.__struct_fields__})
    for name in given:
        if name not in valid:
            raise UsageError(f"tracker option {choices(name, valid)}")
    for kind in kinds:
        parsed(kind, known_to(kind, {**old.trackers, **given}))
    return dict(given)


def _changes(old: Contract, new: Contract) -> Iterator[Change]:
    for name in ("score", "iou", "max_detections"):
        before, after = getattr(old.postprocess, name), getattr(new.postprocess, name)
        if before != after:
            yield Change(name=name, before=before, after=after)
    for class_id, (was, becomes) in enumerate(zip(old.classes, new.classes, strict=True)):
        if was != becomes:
            yield Change(name=f"class {class_id}", before=was, after=becomes)
    for name, value in new.trackers.items():
        if old.trackers.get(name) != value:
            yield Change(name=f"tracker option {name}", before=old.trackers.get(name), after=value)
