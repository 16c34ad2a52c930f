"""Manifests and bundles made by hand, for tests that need no converter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from edgekit.runtimes.bundle import manifest_file as manifests
from edgekit.runtimes.bundle.folder import Bundle, stage
from edgekit.runtimes.bundle.manifest import (
    MANIFEST,
    Agreement,
    Calibration,
    Contract,
    Decoder,
    Evidence,
    Gate,
    Graph,
    ImageRule,
    Manifest,
    Origin,
    Output,
    OutputDrift,
    Tensor,
)

FILES = {"model.bin": bytes(range(256)) * 3, "parts/weights.bin": b"weights"}

EVIDENCE = Evidence(
    word="executed",
    engine="onnxruntime",
    images=7,
    views=14,
    images_sha256="ab" * 32,
    reference="the source",
    compared="detections",
    decoded=Agreement(
        score_floor=0.3,
        iou=0.5,
        detections=40,
        matched=0.975,
        matched_at={"0.5": 0.975},
        score_drift=0.002,
        score_drift_max=0.1,
        class_flips=1,
        extra=0.0,
        top_score=0.9,
        top_score_source=0.91,
    ),
    outputs=(OutputDrift(name="boxes", cosine=0.9999, max_error=0.25, mean_error=0.001),),
    gate=Gate(iou=0.5, matched=0.9, score_drift=0.06, extra=0.12),
    passed=True,
    placement={"CPUExecutionProvider": 5},
)


def sample_manifest(**changes: Any) -> Manifest:
    """A complete manifest of a small detector, with ``changes``."""
    whole = Manifest(
        edgekit="0.1.0",
        name="cells",
        target="onnx",
        precision="int8",
        engine="onnxruntime",
        graphs=(
            Graph(
                files=("model.bin",),
                inputs=(Tensor(name="images", shape=(1, 3, 64, 64)),),
                outputs=(Tensor(name="boxes", shape=(1, 4, 4, 4)), Tensor(name="classes", shape=(1, 2, 4, 4))),
            ),
        ),
        contract=Contract(
            image=ImageRule(size=(64, 64), resize="stretch"),
            classes=("rød", "grün"),
            decoder=Decoder(name="anchor_free", options={"strides": [16], "reg_max": 1}),
            outputs=(Output(name="boxes", role="boxes"), Output(name="classes", role="classes")),
        ),
        origin=Origin(kind="factory", name="a:b", sha256="cd" * 32, notes=("a note",)),
        toolchain={"onnx": "1.18"},
        calibration=Calibration(count=2, method="seeded", seed=3, sha256="ef" * 32, images=("0" * 16, "1" * 16)),
        evidence=EVIDENCE,
        proven=True,
    )
    return msgspec.structs.replace(whole, **changes)


def write_bundle(path: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Bundle:
    """A bundle written the way conversions write it."""
    with stage(path) as staging:
        for name, content in (FILES if files is None else files).items():
            file = staging.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        staging.seal(sample_manifest(**changes))
        return staging.commit()


def forge(path: Path, to: Path, **changes: Any) -> Path:
    """A copy of a bundle whose manifest was changed and has a digest that fits, as only an attacker or a bug would."""
    shutil.copytree(path, to, symlinks=True)
    manifest = manifests.decode((to / MANIFEST).read_bytes(), str(to))
    (to / MANIFEST).write_bytes(manifests.encode(msgspec.structs.replace(manifest, **changes)))
    return to


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
