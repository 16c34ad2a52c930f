"""Golden frames of bundles: written by a conversion, replayed on a machine, and noted in the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from sample_bundles import FILES, write_bundle
from tiny_conversions import Converted, edgekit

from edgekit.errors import BundleError, EdgekitError, InputError, UsageError
from edgekit.runtimes.bundle.folder import Bundle, Staging, open_bundle
from edgekit.runtimes.bundle.manifest import GOLDEN, Skeleton
from edgekit.runtimes.golden_frames import (
    FILE,
    MOST_BYTES,
    SAME,
    SOURCE,
    GoldenFrame,
    GoldenFrames,
    GoldenOutput,
    apart,
    picture,
    read_frames,
)
from edgekit.runtimes.results import (
    Classification,
    Detections,
    Embedding,
    Instances,
    LabelMap,
    Masks,
    OrientedBoxes,
    Poses,
    Result,
)
from edgekit.runtimes.selfcheck import SelfCheck, add_record, files_of, selfcheck

# What a conversion writes, replayed by the engine of this machine.


@pytest.fixture(scope="module")
def bundle(converted: Converted) -> Path:
    return converted.path("onnx", "int8")


def test_a_conversion_puts_golden_frames_into_the_bundle(bundle: Path) -> None:
    opened = open_bundle(bundle)
    golden = read_frames(opened)
    assert golden is not None
    assert (golden.word, golden.engine, len(golden.frames)) == ("executed", "onnxruntime", 2)
    listed = {file.path: file.bytes for file in opened.manifest.files}
    frames = sum(size for path, size in listed.items() if path.startswith(f"{GOLDEN}/"))
    assert 0 < frames < 50_000
    assert opened.bytes == sum(listed.values()) - frames  # the size of a bundle is that of its model
    for frame in golden.frames:
        assert picture(opened, frame).shape == (*opened.manifest.contract.image.size, 3)
        assert len(frame.source["detections"]) > 3
        assert frame.bundle is not None
        assert [one.name for one in frame.outputs] == [one.name for one in opened.manifest.contract.outputs]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_engine_that_proved_a_bundle_agrees_with_itself(converted: Converted, target: str, precision: str) -> None:
    done = selfcheck(converted.path(target, precision))
    assert (done.agreed, done.differences, done.compared, done.frames) == (True, (), "bundle", 2)
    assert done.word == "executed"


def test_there_are_none_where_that_is_asked_for_or_there_are_no_photographs(
    converted: Converted, tmp_path: Path
) -> None:
    base = ("convert", "tiny_models:detector", "--target", "onnx", "-o", tmp_path)
    done = edgekit(*base, "--data", converted.photos, "--no-golden")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "detector-onnx-fp32" / GOLDEN).exists()
    done = edgekit("selfcheck", tmp_path / "detector-onnx-fp32")
    assert (done.returncode, "has no golden frames; convert the model again with --data" in done.stderr) == (2, True)


def test_the_command_prints_a_record_that_the_bundle_takes(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    done = edgekit("selfcheck", copy, "--json")
    assert done.returncode == 0
    (tmp_path / "record.json").write_text(done.stdout)
    evidence = open_bundle(copy).manifest.evidence
    added = edgekit("evidence", "add", copy, tmp_path / "record.json")
    assert added.returncode == 0, added.stderr
    assert "executed by onnxruntime (python) on" in added.stdout
    manifest = open_bundle(copy).manifest
    assert (len(manifest.executions or ()), manifest.evidence) == (1, evidence)
    assert "2 golden frames agree with its conversion" in edgekit("info", copy).stdout
    assert "is noted in" in edgekit("evidence", "add", copy, tmp_path / "record.json").stderr
    assert selfcheck(copy).agreed  # what was noted changes nothing that is checked


def altered(bundle: Path, to: Path, change: Any) -> Path:
    """A copy of a bundle whose golden frames were changed, sealed as a whole one."""
    copy = shutil.copytree(bundle, to)
    golden = read_frames(open_bundle(copy))
    assert golden is not None
    document = json.loads(msgspec.json.encode(golden))
    change(document["frames"][0])
    (copy / FILE).write_text(json.dumps(document))
    Staging(copy, copy).seal(open_manifest(copy))
    return copy


def open_manifest(path: Path) -> Any:
    from edgekit.runtimes.bundle import manifest_file

    return manifest_file.decode((path / "manifest.json").read_bytes(), str(path))


def recoloured(row: dict[str, Any]) -> None:
    row["class_id"] = 1 - row["class_id"]


CHANGES = {
    "a box that is elsewhere": lambda frame: frame["bundle"]["detections"][0].update(box=[0, 0, 9, 9]),
    "an object of another class": lambda frame: recoloured(frame["bundle"]["detections"][0]),
    "a lower score": lambda frame: frame["bundle"]["detections"][0].update(score=0.8),
    "an object less": lambda frame: frame["bundle"]["detections"].pop(0),
    "another output": lambda frame: frame["outputs"][0].update(values=[-v for v in frame["outputs"][0]["values"]]),
    "an output of another size": lambda frame: frame["outputs"][0]["values"].pop(),
    "an output of another name": lambda frame: frame["outputs"][0].update(name="nobody's"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_planted_difference_is_found(name: str, bundle: Path, tmp_path: Path) -> None:
    done = selfcheck(altered(bundle, tmp_path / "bundle", CHANGES[name]))
    assert not done.agreed
    assert all(text.startswith("frame-0.png: ") for text in done.differences)


def test_results_that_differ_exit_with_1_and_are_not_noted(bundle: Path, tmp_path: Path) -> None:
    copy = altered(bundle, tmp_path / "bundle", CHANGES["an object less"])
    done = edgekit("selfcheck", copy)
    assert (done.returncode, "DO NOT AGREE" in done.stdout, " is new" in done.stdout) == (1, True, True)
    record = tmp_path / "record.json"
    record.write_text(edgekit("selfcheck", copy, "--json").stdout)
    with pytest.raises(UsageError, match=r"do not agree \(frame-0.png: .* is new\), so that they prove nothing"):
        add_record(copy, record)


def test_a_bundle_that_never_ran_is_compared_with_its_source(bundle: Path, tmp_path: Path) -> None:
    def never(frame: Any) -> None:
        frame.update(bundle=None, outputs=[])

    done = selfcheck(altered(bundle, tmp_path / "bundle", never))
    assert (done.agreed, done.compared) == (True, "source")


# Records that are refused.


def record_of(bundle: Bundle, **changes: Any) -> SelfCheck:
    record = SelfCheck(
        bundle="cells",
        files=files_of(bundle.manifest),
        time="2026-11-29T12:00:00+00:00",
        edgekit="0.1.0",
        platform="swift",
        machine="iPhone17,1, iOS 26.1",
        engine="coreml",
        word="executed",
        frames=2,
        compared="bundle",
        agreed=True,
    )
    return msgspec.structs.replace(record, **changes)


def test_the_record_of_a_phone_is_noted(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(record_of(bundle)))
    (noted,) = add_record(bundle.path, tmp_path / "record.json").manifest.executions or ()
    assert noted.sentence() == (
        "executed by coreml (swift) on iPhone17,1, iOS 26.1, 2026-11-29T12:00:00+00:00: 2 golden frames agree with its "
        "conversion"
    )


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"files": "00" * 32}, UsageError, "is of another bundle"),
        ({"agreed": False, "differences": ("a", "b")}, UsageError, r"do not agree \(a; b\)"),
        ({"frames": 0}, UsageError, "no frame was replayed"),
        ({"schema": 2}, InputError, "a record of schema 2, and this edgekit reads 1"),
        ({"word": "believed"}, InputError, "not a record of edgekit selfcheck"),
    ],
)
def test_another_record_is_refused(
    changes: dict[str, Any], error: type[EdgekitError], words: str, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(record_of(bundle, **changes)))
    with pytest.raises(error, match=words):
        add_record(bundle.path, tmp_path / "record.json")


# Golden frames that are not valid.

GOOD = GoldenFrames(
    word="executed",
    engine="onnxruntime",
    score=0.25,
    iou=0.5,
    frames=(GoldenFrame(image="frame-0.png", source={"image": "", "width": 64, "height": 64, "detections": []}),),
)


def png(height: int, width: int) -> bytes:
    return cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()


def test_frames_that_are_not_valid_are_refused(tmp_path: Path) -> None:
    good = msgspec.json.encode(GOOD)
    for data, words in (
        (b"{", "the golden frames are not valid"),
        (good.replace(b"executed", b"believed"), "the golden frames are not valid"),
        (good, "'frame-0.png' is not one of the bundle's files"),
        (bytes(MOST_BYTES + 1), f"golden frames have no more than {MOST_BYTES}"),
    ):
        bundle = write_bundle(tmp_path / "bundle", {**FILES, FILE: data})
        with pytest.raises(BundleError, match=words):
            read_frames(bundle)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    files = {**FILES, FILE: msgspec.json.encode(GOOD), f"{GOLDEN}/frame-0.png": png(32, 48)}
    bundle = write_bundle(tmp_path / "bundle", files)
    with pytest.raises(BundleError, match=r"is 32x48 \(height x width\), and the input 64x64"):
        picture(bundle, GOOD.frames[0])


def test_a_bundle_without_golden_frames_has_none(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    assert read_frames(bundle) is None
    with pytest.raises(UsageError, match="has no golden frames"):
        selfcheck(bundle.path)


# What agrees, for every type of result.

BOXES = np.array([[10, 10, 50, 50], [60, 60, 90, 90]], np.float32)


def result(kind: type[Result], shift: float = 0.0, score: float = 0.9) -> Result:
    """Two objects, or one whole image, that may be off by so much."""
    base: dict[str, Any] = {"classes": ("a", "b"), "size": (100, 100)}
    if kind is Classification:
        return Classification(scores=np.array([score, 1 - score], np.float32), **base)
    if kind is LabelMap:
        labels = np.zeros((100, 100), np.uint8)
        labels[:, : round(50 + shift)] = 1
        return LabelMap(labels=labels, **base)
    if kind is Embedding:
        angle = shift / 40
        return Embedding(vector=np.array([np.cos(angle), np.sin(angle)], np.float32), **base)
    base |= {"boxes": BOXES, "scores": np.array([score, 0.27], np.float32), "class_ids": np.array([0, 1])}
    if kind is Poses:
        points = np.zeros((2, 1, 3), np.float32)
        points[0, 0, 0] = 20 + shift
        return Poses(keypoints=points, skeleton=Skeleton(names=("nose",)), **base)
    if kind is Instances:
        bitmaps = np.zeros((2, 100, 100), np.bool_)
        bitmaps[0, 10:50, 10 : round(50 - 2 * shift)] = True
        return Instances(masks=Masks.from_bitmaps(bitmaps), **base)
    if kind is OrientedBoxes:
        oriented = np.array([[30, 30, 40, 10, shift / 20], [75, 75, 30, 30, 0]], np.float32)
        return OrientedBoxes(oriented=oriented, **base)
    return Detections(**{**base, "boxes": BOXES + np.float32(shift)})


KINDS = (Detections, Poses, Instances, OrientedBoxes, Classification, LabelMap, Embedding)


@pytest.mark.parametrize("kind", KINDS)
def test_results_agree_within_margins_and_not_beyond(kind: type[Result]) -> None:
    same = result(kind)
    assert not apart(same, same, SAME, 0.25)
    assert not apart(same, result(kind, 0.3, 0.88), SAME, 0.25)
    assert apart(same, result(kind, 6.0, 0.7), SAME, 0.25)
    assert not apart(same, result(kind, 0.6, 0.8), SOURCE, 0.25)


def test_an_object_at_the_threshold_may_be_missing() -> None:
    both = result(Detections)
    assert isinstance(both, Detections)
    assert not apart(both, both[[0]], SAME, 0.25)
    assert apart(both, both[[1]], SAME, 0.25) == ["a 0.900 at [10.0, 10.0, 50.0, 50.0] is missing"]
    assert apart(both[[1]], both, SAME, 0.25) == ["a 0.900 at [10.0, 10.0, 50.0, 50.0] is new"]


def test_results_of_two_types_cannot_be_compared() -> None:
    with pytest.raises(TypeError, match="Detections and LabelMap cannot be compared"):
        apart(result(Detections), result(LabelMap), SAME, 0.25)


def test_values_of_an_output_are_taken_evenly() -> None:
    output = np.arange(1000, dtype=np.float32).reshape(1, 10, 100)
    kept = GoldenOutput.of("x", output)
    assert (kept.step, len(kept.values), kept.values[1]) == (4, 250, 4.0)
    assert kept.cosine(output) == pytest.approx(1)
    assert kept.cosine(-output) == pytest.approx(-1)
    assert kept.cosine(output[:, :5]) == -1
    assert GoldenOutput.of("x", np.zeros(5, np.float32)).cosine(np.zeros(5, np.float32)) == 1
    assert GoldenOutput.of("x", np.zeros(5, np.float32)).cosine(np.ones(5, np.float32)) == 0
