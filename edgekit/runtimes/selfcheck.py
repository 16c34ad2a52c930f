"""Replay a bundle's golden frames on this machine, and note in a bundle that a device did.

Nothing but the bundle and its engine is needed. The record of a device says so itself and is signed by nobody: it is
worth what the way it came by is worth.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.bundle import manifest_file
from edgekit.runtimes.bundle.folder import Bundle, open_bundle, replace_manifest
from edgekit.runtimes.bundle.manifest import Execution, Manifest, ProofWord, Record
from edgekit.runtimes.golden_frames import (
    SAME,
    SOURCE,
    GoldenFrame,
    GoldenFrames,
    apart,
    outputs_apart,
    picture,
    read_frames,
    whole,
)
from edgekit.runtimes.inputs.files import read_file
from edgekit.runtimes.model import Model, load
from edgekit.runtimes.results import Result
from edgekit.structures import from_json

SCHEMA = 1

MOST_BYTES = 1 << 20
"""The most bytes of a record."""


class SelfCheck(Record, frozen=True, kw_only=True):
    """The result of replaying the golden frames of a bundle on a device.

    Attributes:
        bundle: its name, for people.
        files: SHA-256 of what the bundle's files are (`files_of`): which bundle this is about.
        time: UTC, ISO 8601.
        platform: which of edgekit's runtimes this was (``python``, ``swift``, ``kotlin``, ``web``).
        machine: in words.
        word: of the run: ``executed`` by the device's engine, or less.
        operators: how many ran on which unit.
        compared: with what the ``bundle`` found when it was converted, or, where it never ran, with its ``source``.
        agreed: whether all frames agree.
        differences: in what they do not.
    """

    schema: int = SCHEMA
    bundle: str
    files: str
    time: str
    edgekit: str
    platform: str = "python"
    machine: str
    engine: str
    word: ProofWord
    operators: dict[str, int] = msgspec.field(default_factory=dict)
    frames: int
    compared: str
    agreed: bool
    differences: tuple[str, ...] = ()


def selfcheck(path: str | os.PathLike[str], *, unit: str = "", threads: int = 0) -> SelfCheck:
    """Replay the golden frames of a bundle with the engine of this machine.

    Args:
        path: the bundle's folder.
        unit: one of the engine's units, empty for its first.
        threads: of the engine, 0 for its own choice.

    Raises:
        BundleError: it cannot be opened. UsageError: it has no golden frames, or no such unit.
        EngineError: the engine is missing, or cannot run it.
    """
    bundle = open_bundle(path)
    golden = read_frames(bundle)
    if golden is None or not golden.frames:
        raise UsageError(
            f"{bundle.path}: has no golden frames; convert the model again with --data (models that write texts have "
            "none, nor have bundles of --no-golden or of an older edgekit)"
        )
    manifest, differences = bundle.manifest, list[str]()
    with load(bundle, unit=unit, threads=threads, warm_up=0, size=manifest.contract.image.size) as model:
        for frame in golden.frames:
            differences += [f"{frame.image}: {text}" for text in _replayed(model, bundle, golden, frame)]
        placement = model.placement
    return SelfCheck(
        bundle=bundle.path.resolve().name,
        files=files_of(manifest),
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        edgekit=edgekit.__version__,
        machine=machine(),
        engine="+".join(manifest.engines),
        word=placement.word,
        operators=placement.operators,
        frames=len(golden.frames),
        compared="source" if golden.frames[0].bundle is None else "bundle",
        agreed=not differences,
        differences=tuple(differences),
    )


def _replayed(model: Model[Result], bundle: Bundle, golden: GoldenFrames, frame: GoldenFrame) -> list[str]:
    """In what one frame differs now."""
    contract, kind = model.contract, model.task.gives
    outputs = model.outputs(model.preprocess.normalise(picture(bundle, frame)))
    found = model.task.result(outputs, whole(contract.image.size), score=golden.score, iou=golden.iou)
    if frame.bundle is None:
        return apart(kind.from_dict(frame.source, contract.classes), found, SOURCE, golden.score)
    names = [output.name for output in contract.outputs]
    expected = kind.from_dict(frame.bundle, contract.classes)
    return [*outputs_apart(frame, names, outputs, SAME), *apart(expected, found, SAME, golden.score)]


def files_of(manifest: Manifest) -> str:
    """SHA-256 of the lines ``SHA256 PATH`` of all files of a bundle, sorted: what amendments do not change."""
    lines = sorted(f"{file.sha256} {file.path}\n" for file in manifest.files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def machine() -> str:
    """Processor, architecture and system, in words; no name of the host."""
    name = platform.processor() or ""
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            name = value.strip()
            break
    parts = [part for part in (name, platform.machine(), platform.system()) if part]
    return ", ".join(dict.fromkeys(parts))


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def add_record(path: str | os.PathLike[str], record: str | os.PathLike[str]) -> Bundle:
    """Note in a bundle's manifest that a device replayed its golden frames, as ``edgekit evidence add`` does.

    The bundle's own evidence stays as it is. A signature over the manifest has to be made again.

    Args:
        path: the bundle's folder.
        record: JSON of `SelfCheck`, by any of edgekit's runtimes.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: not such a record. UsageError: it is of another bundle, did not agree, or is there already.
        BundleError: the bundle cannot be read or written.
    """
    bundle = open_bundle(path)
    found = _read(Path(record))
    if found.files != files_of(bundle.manifest):
        raise UsageError(
            f"{record}: is of another bundle ({found.bundle}, files {found.files[:12]}), not of {bundle.path} (files "
            f"{files_of(bundle.manifest)[:12]}): add it to the bundle that the device has"
        )
    if not (found.agreed and found.frames):
        what = "; ".join(found.differences[:3]) or "no frame was replayed"
        raise UsageError(f"{record}: the device's results do not agree ({what}), so that they prove nothing")
    execution = Execution(
        time=found.time,
        platform=found.platform,
        machine=found.machine,
        engine=found.engine,
        word=found.word,
        frames=found.frames,
        compared=found.compared,
    )
    known = bundle.manifest.executions or ()
    if execution in known:
        raise UsageError(f"{record}: is noted in {bundle.path} already")
    manifest = msgspec.structs.replace(bundle.manifest, executions=(*known, execution))
    replace_manifest(bundle.path, manifest_file.encode(manifest))
    return open_bundle(bundle.path)


def _read(path: Path) -> SelfCheck:
    data: Any = read_file(path, MOST_BYTES)
    try:
        found = from_json(data, SelfCheck)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a record of edgekit selfcheck --json ({error})") from error
    if found.schema != SCHEMA:
        raise InputError(f"{path}: a record of schema {found.schema}, and this edgekit reads {SCHEMA}; upgrade it")
    return found
