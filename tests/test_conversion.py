"""Conversions from end to end, with real engines: what they promise, what they prove, and what the proof refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_bundles import contents
from tiny_conversions import PHOTOS, PRECISIONS, SOURCE, TARGETS, TWICE, Converted, edgekit, write_pictures
from tiny_models import CLASSES, CONTRACT, SIZE, picture

from edgekit.arrays import Image
from edgekit.conversion import convert as conversion
from edgekit.conversion import jobs, prepare
from edgekit.conversion.bundle_builder import Outcome
from edgekit.conversion.convert import Conversion, Stop, convert
from edgekit.conversion.request import Request, source_of, validate
from edgekit.conversion.selection import BundleSpec
from edgekit.conversion.stages import Stages
from edgekit.conversion.workspace import Workspace
from edgekit.errors import ConversionError, SourceError, UsageError
from edgekit.evaluation.agreement import GATES
from edgekit.progress import silent
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Manifest
from edgekit.runtimes.model import load

pytestmark = pytest.mark.convert

ALL = [(target, precision) for target in TARGETS for precision in PRECISIONS]
each = pytest.mark.parametrize(("target", "precision"), ALL)


def digest_of(image: Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


DIGESTS = {digest_of(picture(seed)) for seed in range(PHOTOS)}


def manifest_of(converted: Converted, target: str, precision: str) -> Manifest:
    return open_bundle(converted.path(target, precision)).manifest


# ---- a conversion that goes well ----


@each
def test_every_bundle_carries_its_contract_and_its_proof(converted: Converted, target: str, precision: str) -> None:
    manifest = manifest_of(converted, target, precision)
    evidence = manifest.evidence
    assert (manifest.target, manifest.precision, manifest.name) == (target, precision, "detector")
    assert manifest.contract == CONTRACT
    assert evidence is not None
    assert manifest.proven
    assert evidence.passed
    assert not evidence.failures
    assert (evidence.word, evidence.compared, evidence.gate) == ("executed", "detections", GATES[precision])
    assert evidence.decoded.detections >= 50
    assert evidence.decoded.matched >= GATES[precision].matched
    assert [drift.name for drift in evidence.outputs] == ["boxes", "classes"]
    assert sum(evidence.placement.values()) >= 3
    for package in {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "nncf")}[target]:
        assert manifest.toolchain[package] == metadata.version(package)
    assert manifest.toolchain["torch"] == metadata.version("torch")
    assert (manifest.origin.kind, manifest.origin.name) == ("factory", SOURCE)


@each
def test_every_bundle_finds_what_was_drawn(converted: Converted, target: str, precision: str) -> None:
    model = load(converted.path(target, precision), threads=1)
    for seed in range(1000, 1005):
        image = picture(seed)
        found = np.zeros((2, 4, 4), bool)
        result = model(image)
        for box, kind in zip(result.boxes, result.class_ids, strict=True):
            found[kind, int((box[1] + box[3]) / 32), int((box[0] + box[2]) / 32)] = True
        drawn = [image[8::16, 8::16, channel] > 150 for channel in (2, 1)]
        np.testing.assert_array_equal(found, np.stack(drawn))


def test_precision_and_size_are_what_they_say(converted: Converted) -> None:
    import onnx

    kinds = {}
    for precision in PRECISIONS:
        model = onnx.load(converted.path("onnx", precision) / "model.onnx")
        kinds[precision] = (
            {tensor.data_type for tensor in model.graph.initializer},
            {node.op_type for node in model.graph.node},
        )
    assert onnx.TensorProto.FLOAT16 in kinds["fp16"][0]
    assert onnx.TensorProto.FLOAT16 not in kinds["fp32"][0]
    assert onnx.TensorProto.INT8 in kinds["int8"][0]
    assert "QuantizeLinear" in kinds["int8"][1]
    assert "QuantizeLinear" not in kinds["fp32"][1]


def test_calibration_is_recorded_only_where_it_was_used(converted: Converted) -> None:
    for target, precision in ALL:
        calibration = manifest_of(converted, target, precision).calibration
        if precision != "int8":
            assert calibration is None
            continue
        assert calibration is not None
        assert calibration.count + calibration.held == len(calibration.images) == len(set(calibration.images)) >= 32
        assert calibration.held == len(calibration.images) // 5
        assert calibration.method.startswith(f"seeded choice of {calibration.count} from {PHOTOS + TWICE}")
        assert len(calibration.sha256) == 64
        assert calibration.seed == 0


def test_no_photograph_is_both_calibrated_and_judged_on_whatever_its_name(converted: Converted) -> None:
    manifest = manifest_of(converted, "onnx", "int8")
    calibration, evidence = manifest.calibration, manifest.evidence
    assert calibration is not None
    assert evidence is not None
    assert set(calibration.images) < DIGESTS
    # All photographs were used, so those that were not calibrated on were judged on, each once.
    assert evidence.images == PHOTOS - calibration.count - calibration.held
    assert evidence.views == 2 * evidence.images  # few, and so each was shown mirrored too


def test_all_targets_are_judged_on_the_same_images(converted: Converted) -> None:
    evidence = [manifest_of(converted, target, precision).evidence for target, precision in ALL]
    assert len({one.images_sha256 for one in evidence if one}) == 1


def test_nothing_but_the_bundles_is_left(converted: Converted) -> None:
    bundles = [f"detector-{t}-{p}" for t, p in ALL]
    sheets = [f"{bundle}-contact-sheet.jpg" for bundle in bundles]
    assert sorted(path.name for path in converted.out.iterdir()) == sorted([*bundles, *sheets])


def test_the_photographs_are_untouched(converted: Converted) -> None:
    assert len(list(converted.photos.iterdir())) == PHOTOS + TWICE


def test_a_conversion_needs_no_network(converted: Converted) -> None:
    if not converted.offline:
        pytest.skip("taking the network away (unshare -n) is not allowed here")
    assert all(bundle["ok"] for bundle in converted.document["bundles"])


def test_a_conversion_installs_nothing(converted: Converted) -> None:
    assert converted.packages_before == converted.packages_after


def test_enough_images_are_no_reason_to_warn(converted: Converted) -> None:
    assert "warning" not in converted.stderr
    assert "Traceback" not in converted.stderr


# ---- the proof can fail ----

BROKEN = ("swapped", "shifted", "timid", "endless", "unwritten", "crashing")
WITH_BROKEN_TARGETS = "import broken_targets; from edgekit.cli import main; main()"


@dataclass(frozen=True)
class Broken:
    """A conversion in which most targets fail."""

    code: int
    bundles: dict[str, Any]
    failed: dict[str, Any]
    out: Path
    old: dict[str, bytes]


@pytest.fixture(scope="module")
def broken(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """One good target among bad ones; where ``shifted`` goes there is a good bundle from before."""
    out = tmp_path_factory.mktemp("broken")
    shutil.copytree(converted.path("onnx", "fp32"), out / "detector-shifted-fp32")
    old = contents(out)
    targets = ",".join([*BROKEN[:3], "onnx", *BROKEN[3:]])
    given = ("--target", targets, "--data", converted.photos, "--import", "broken_targets", "-o", out, "-j", 2)
    done = edgekit("convert", SOURCE, *given, "--json", program=WITH_BROKEN_TARGETS)
    document = json.loads(done.stdout)
    by_target = [{entry["target"]: entry for entry in document[key]} for key in ("bundles", "failed")]
    return Broken(done.returncode, *by_target, out, old)


def test_failing_targets_do_not_stop_the_others(broken: Broken) -> None:
    assert broken.code == 1
    assert list(broken.bundles) == ["onnx"]
    assert broken.bundles["onnx"]["ok"]
    assert list(broken.failed) == list(BROKEN)
    assert not any(entry["ok"] for entry in broken.failed.values())
    assert open_bundle(broken.out / "detector-onnx-fp32").manifest.proven


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("swapped", r"matched 0.000 of \d+ at IoU 0.95, at least 0.99; extra detections 1.000, at most 0.02"),
        ("shifted", r"matched 0.000 of \d+ at IoU 0.95, at least 0.99"),
        ("timid", r"mean score drift 0.01\d\d, at most 0.005"),
    ],
)
def test_a_bad_conversion_is_caught_by_its_gate(broken: Broken, target: str, message: str) -> None:
    entry = broken.failed[target]
    assert entry["error"].startswith("outside its gate, not written: ")
    assert entry["error"].endswith("(--no-gate writes it anyway)")
    assert entry["evidence"]["passed"] is False
    assert len(entry["evidence"]["failures"]) == entry["error"].count(";") + 1
    assert re.search(message, entry["error"])


def test_an_overflow_is_caught_though_no_detection_shows_it(broken: Broken) -> None:
    assert broken.failed["endless"]["evidence"] is None
    assert broken.failed["endless"]["error"] == (
        "output 'boxes' holds NaN or infinite values; convert in another precision"
    )


def test_a_converter_that_crashes_or_forgets_its_file_is_named(broken: Broken) -> None:
    assert broken.failed["unwritten"]["error"] == "the unwritten converter did not write 'model.onnx'"
    assert broken.failed["crashing"]["error"].startswith("build: the child process was killed by SIGABRT")


def test_outside_the_gate_nothing_is_written_and_the_old_bundle_stays(broken: Broken) -> None:
    found = sorted(path.name for path in broken.out.iterdir() if path.is_dir())
    assert found == ["detector-onnx-fp32", "detector-shifted-fp32"]
    assert not (broken.out / "detector-shifted-fp32-contact-sheet.jpg").exists()
    left = {name: data for name, data in contents(broken.out).items() if name.startswith("detector-shifted")}
    assert left == broken.old


def test_without_a_gate_the_bundle_is_written_and_marked_and_few_images_warn(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 9)
    given = ("--target", "onnx", "--precision", "int8", "--data", photos, "--gate", "score_drift=0", "--no-gate")
    done = edgekit("convert", "tiny_models:noisy", *given, "-o", tmp_path / "out", "--json")
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)["bundles"]
    assert entry["ok"] is False
    assert "error" not in entry
    manifest = open_bundle(entry["path"]).manifest
    assert manifest.evidence is not None
    assert not manifest.proven
    assert manifest.evidence.gate.score_drift == 0
    assert manifest.evidence.gate.matched == GATES["int8"].matched
    assert manifest.evidence.failures[0].startswith("mean score drift 0.0")
    assert manifest.calibration is not None
    assert f"warning: calibrated on {manifest.calibration.count} images; 32 or more" in done.stderr
    assert manifest.calibration.count + manifest.evidence.images == 9
    shown = edgekit("info", entry["path"])
    assert shown.returncode == 0
    assert shown.stdout.endswith("UNPROVEN\n")
    assert "FAILED: mean score drift" in shown.stdout


# ---- verify ----


def test_verify_leaves_out_what_was_calibrated_on(converted: Converted) -> None:
    path = converted.path("onnx", "int8")
    before = contents(path)
    done = edgekit("verify", path, "--against", SOURCE, "--data", converted.photos, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    calibration = open_bundle(path).manifest.calibration
    assert calibration is not None
    assert list(document) == ["bundle", "ok", "evidence"]
    assert document["ok"] is True
    assert document["evidence"]["images"] == PHOTOS - calibration.count - calibration.held
    assert contents(path) == before


STATED = """
image: {size: [64, 64], resize: stretch, color: COLOR}
classes: [red, green]
decoder: {name: anchor_free, strides: [16], reg_max: 1}
postprocess: {iou_threshold: 0.6}
"""


@pytest.mark.parametrize(
    ("before", "after", "code", "said"),
    [
        pytest.param("COLOR", "rgb", 0, "passed", marks=pytest.mark.nightly),
        # The bundle keeps to its own contract, so a source that is stated otherwise has to differ from it.
        ("COLOR", "bgr", 1, "FAILED"),
        ("stretch", "letterbox", 2, "image.resize is 'stretch' in the bundle and 'letterbox' in the contract given"),
    ],
)
def test_verify_runs_a_bundle_by_its_own_contract(
    before: str, after: str, code: int, said: str, converted: Converted, tmp_path: Path
) -> None:
    contract = tmp_path / "contract.yaml"
    contract.write_text(STATED.replace(before, after).replace("COLOR", "rgb"))
    given = ("--against", SOURCE, "--data", converted.photos, "--contract", contract)
    done = edgekit("verify", converted.path("onnx", "fp32"), *given)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


def test_verify_refuses_another_training_of_the_same_network(converted: Converted) -> None:
    path = converted.path("openvino", "fp32")
    done = edgekit("verify", path, "--against", "tiny_models:recoloured", "--data", converted.photos)
    assert done.returncode == 1
    assert "FAILED: matched 0.0" in done.stdout
    assert "Traceback" not in done.stderr


# ---- what is refused before anything starts ----


def test_a_refused_conversion_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        convert(Conversion(source=SOURCE, targets=("onnx",), precisions=("int8",), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_conversion_can_be_stopped_from_outside(tmp_path: Path) -> None:
    stop, told = Stop(), list[str]()

    def progress(what: str, text: str, share: float) -> None:
        told.append(what)
        stop.pull()

    request = Request(source=SOURCE, targets=("onnx",), out=tmp_path / "out")
    with pytest.raises(ConversionError, match=r"^cancelled$"):
        convert(request, progress, stop)
    assert told == ["prepare"]
    assert not list((tmp_path / "out").iterdir())


def test_targets_are_built_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two jobs two targets wait for each other; with one they never meet."""
    barrier = threading.Barrier(2)

    class Builder:
        def __init__(self, *given: object) -> None:
            pass

        def build(self, spec: BundleSpec, report: object) -> Outcome:
            barrier.wait(0.5 if stages.request.jobs == 1 else 20)
            return Outcome(spec.target, spec.precision, tmp_path)

    monkeypatch.setattr(conversion, "BundleBuilder", Builder)
    request = Request(source=SOURCE, targets=("onnx", "openvino"), jobs=2)
    for stages in (Stages(request, Workspace(tmp_path)), Stages(replace(request, jobs=1), Workspace(tmp_path))):
        selection = validate(request, source_of(request))
        if stages.request.jobs == 1:
            with pytest.raises(threading.BrokenBarrierError):
                conversion._side_by_side(stages, selection, None, None, silent)  # type: ignore[arg-type]
            assert stages.stop.pulled
        else:
            done = conversion._side_by_side(stages, selection, None, None, silent)  # type: ignore[arg-type]
            assert [outcome.target for outcome in done] == ["onnx", "openvino"]


def test_a_source_that_gives_nan_itself_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "photos.npy", np.stack([picture(0), np.zeros((SIZE, SIZE, 3), np.uint8)]))
    for factory, output in (("blind_in_the_dark", "classes"), ("endless_boxes_in_the_dark", "boxes")):
        job = jobs.PrepareJob(folder=str(tmp_path), source=f"tiny_models:{factory}", data=str(tmp_path / "photos.npy"))
        with pytest.raises(SourceError, match=f"gives NaN or infinite values itself, in output '{output}'"):
            prepare.work(job, lambda text, share: None)


def test_an_operator_that_cannot_be_exported_is_named_in_one_line(tmp_path: Path) -> None:
    job = jobs.PrepareJob(folder=str(tmp_path), source="tiny_models:untranslatable")
    with pytest.raises(
        SourceError, match=r"the ONNX exporter cannot write this network \(.*aten\.amax.*\); write"
    ) as said:
        prepare.work(job, lambda text, share: None)
    assert "\n" not in str(said.value)


def test_the_names_of_the_tiny_detector_are_in_every_result(converted: Converted) -> None:
    result = load(converted.path("onnx", "fp32"))(picture(3))
    assert set(result.names) == set(CLASSES)
