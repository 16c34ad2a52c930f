"""Every target on one detector (`matrix`), converted as a user would."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matrix import OUTPUTS, in_pytorch, picture
from real_conversions import Converted
from target_lists import EVERYTHING, best, made, pairs, targets

import edgekit
from edgekit import converters
from edgekit.arrays import Image
from edgekit.emulators import emulator, proof_device
from edgekit.errors import EngineError
from edgekit.evaluation.coco import SCORE_THRESHOLD, evaluate
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.engines import engine
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections
from edgekit.shapes import write_coco

SCENES = range(300_000, 300_060)
SIMULATED = ("qnn",)
"""Too slow here for mAP over all scenes."""

pytestmark = pytest.mark.convert


def of_the_trained_detector(test: Any) -> Any:
    """A test that says something of the trained detector alone."""
    skipped = pytest.mark.skipif(not EVERYTHING, reason="needs the trained detector: make test-all")
    return pytest.mark.nightly(skipped(test))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out scenes with boxes."""
    return write_coco(tmp_path_factory.mktemp("labelled"), SCENES)


@pytest.fixture(scope="module")
def source() -> Model:
    """The detector in PyTorch, behind the same runtime."""
    return in_pytorch()


def mean_average_precision(model: Model, annotations: Path) -> float:
    def run(image: Image) -> Detections:
        return model.predict(image, score=SCORE_THRESHOLD)

    return evaluate(run, annotations).map


@pytest.fixture(scope="module")
def source_map(source: Model, labelled: Path) -> float:
    return mean_average_precision(source, labelled)


@of_the_trained_detector
def test_the_detector_is_good_enough_to_judge_int8_on(source_map: float) -> None:
    assert source_map >= 0.85


def opened(entry: dict[str, Any], **options: Any) -> Model:
    """A bundle, opened by what proves it on this host."""
    bundle = open_bundle(entry["path"])
    return edgekit.load(bundle, unit=proof_device(bundle.manifest.engine), **options)


@pytest.mark.parametrize(("target", "precision"), pairs())
def test_a_target_is_proven(target: str, precision: str, target_bundles: Converted) -> None:
    entry = target_bundles.bundle(target, precision)
    assert entry["ok"]
    evidence = entry["evidence"]
    assert evidence["word"] == converters.target(target).proof
    assert evidence["compared"] == "detections"
    assert evidence["decoded"]["detections"] >= 50
    assert evidence["passed"]
    assert not evidence["failures"]
    assert opened(entry).placement.word == evidence["word"]


@of_the_trained_detector
@pytest.mark.parametrize(("target", "precision"), pairs())
def test_a_target_keeps_its_accuracy(
    target: str, precision: str, target_bundles: Converted, labelled: Path, source_map: float
) -> None:
    if target in SIMULATED:
        pytest.skip("seconds for an image: its evidence has to do")
    bound = {"fp32": 0.001, "fp16": 0.005, "int8": 0.02, "w8a8": 0.02, "w8a32": 0.02}[precision]
    model = opened(target_bundles.bundle(target, precision))
    assert mean_average_precision(model, labelled) >= source_map - bound


def test_the_words_are_those_that_were_earned() -> None:
    """On a Linux host; where an engine of its own is there (a Mac, a board), its word is stronger."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the words are of Linux on x86-64")
    words = {name: converters.target(name).proof for name in converters.target_names()}
    assert words == {
        "coreai": "emulated",
        "coreml": "interpreted",
        "ethosu": "reference",
        "executorch": "executed",
        "imx500": "reference",
        "litert": "executed",
        "mnn": "executed",
        "ncnn": "executed",
        "onnx": "executed",
        "openvino": "executed",
        "qnn": "emulated",
        "rknn": "emulated",
        "tensorrt": "reference",
        "web": "executed",
    }


@pytest.mark.parametrize(("target", "precision"), pairs())
def test_a_bundle_says_what_it_is(target: str, precision: str, target_bundles: Converted) -> None:
    bundle = open_bundle(target_bundles.bundle(target, precision)["path"])
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision, manifest.proven) == (target, precision, True)
    assert manifest.engine == converters.target(target).engine
    assert manifest.toolchain
    assert len(manifest.contract.outputs) == len(manifest.graphs[0].outputs) == OUTPUTS
    assert (manifest.calibration is not None) == (precision in converters.target(target).calibrated)
    if manifest.calibration:
        assert manifest.calibration.count + manifest.calibration.held == len(manifest.calibration.images) > 32


@of_the_trained_detector
@pytest.mark.parametrize("target", targets())
def test_smaller_precisions_make_smaller_files(target: str, target_bundles: Converted) -> None:
    """What the device opens; a bundle may hold more, for the check."""
    sizes = {p: device_bytes(target_bundles.bundle(target, p)) for p in made(target)}
    largest, *others = sizes
    for smaller in others:
        assert sizes[smaller] < (0.8 if smaller == "fp16" else 0.95) * sizes[largest]


def device_bytes(entry: dict[str, Any]) -> int:
    opened = open_bundle(entry["path"])
    with_others = ("coreml", "ncnn", "openvino")
    (graph,) = opened.manifest.graphs
    files = graph.files if opened.manifest.target in with_others else graph.files[:1]
    return sum(file.bytes for file in opened.manifest.files if file.path in files)


@pytest.mark.parametrize("target", targets())
def test_engines_agree_on_an_odd_photograph(target: str, target_bundles: Converted, source: Model) -> None:
    """Resized from 317x203, through paths of the runtime that squares never take."""
    image = picture(310_007, (203, 317))
    expected = source.predict(image)
    assert len(expected) > 0
    found = opened(target_bundles.bundle(target, best(target))).predict(image)
    assert found.names == expected.names
    pixels, score = {"fp32": (0.05, 1e-3), "fp16": (0.5, 0.02), "int8": (5.0, 0.15)}[best(target)]
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=pixels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=score)
    assert found.size == (317, 203)


@pytest.mark.parametrize("target", targets())
def test_placement_and_threads(target: str, target_bundles: Converted) -> None:
    image = picture(310_002)
    entry = target_bundles.bundle(target, best(target))
    boxes = []
    for threads in (1, 2):  # one after the other: some engines have one pool of threads
        model = opened(entry, threads=threads, strict=True)
        assert model.placement.device
        boxes.append(model.predict(image).boxes)
        del model
    np.testing.assert_allclose(boxes[0], boxes[1], atol=0.01)


def test_executorch_keeps_the_threads_of_an_open_model(target_bundles: Converted) -> None:
    """A new pool would take the memory of the one that the open model runs on: a crash in the next prediction."""
    pytest.importorskip("executorch", reason="executorch is not here")
    entry, image = target_bundles.bundle("executorch", "int8"), picture(310_002)
    one = opened(entry, threads=1)
    before = one.predict(image).to_dict()["detections"]
    with pytest.raises(EngineError, match=r"threads=2, but all ExecuTorch models of a process share one pool"):
        opened(entry, threads=2)
    assert opened(entry, threads=1).predict(image).to_dict()["detections"] == before
    assert one.predict(image).to_dict()["detections"] == before


@pytest.mark.parametrize("target", targets())
def test_a_file_is_never_run_by_an_emulator_silently(target: str, target_bundles: Converted) -> None:
    spec = engine(converters.target(target).engine)
    path = target_bundles.bundle(target, best(target))["path"]
    if spec.available:
        assert edgekit.load(path).placement.word == "executed"
        return
    other = emulator(spec.name)
    assert other is not None
    with pytest.raises(EngineError, match=f"unit='{other.device}' shows here what the file computes"):
        edgekit.load(path)


@pytest.mark.parametrize("target", targets())
def test_results_survive_the_next_image(target: str, target_bundles: Converted) -> None:
    """Engines hand out their own memory: a result must not change when the next image runs."""
    model = opened(target_bundles.bundle(target, "int8"))
    first = model.predict(picture(310_003))
    before = json.dumps(first.to_dict()["detections"])
    model.predict(picture(310_004))
    assert json.dumps(first.to_dict()["detections"]) == before


def test_a_batch_and_a_stream_give_what_single_images_give(target_bundles: Converted, tmp_path: Path) -> None:
    model = edgekit.load(target_bundles.bundle("onnx", best("onnx"))["path"])
    images = [picture(310_005 + index) for index in range(3)]
    singles = [model.predict(image).to_dict()["detections"] for image in images]
    batch = model(np.stack(images))
    assert isinstance(batch, list)
    assert [result.to_dict()["detections"] for result in batch] == singles
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    streamed = list(model.stream(tmp_path))
    assert [result.to_dict()["detections"] for result in streamed] == singles
    assert all(result.source and result.timings for result in streamed)
