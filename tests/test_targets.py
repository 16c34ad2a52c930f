"""Every target in every precision on the detector that comes with edgekit, converted as a user would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from real_conversions import Converted

import edgekit
from edgekit import converters
from edgekit.bundle import open_bundle
from edgekit.evaluation.coco import SCORE_THRESHOLD, evaluate
from edgekit.images import Image
from edgekit.model import Model
from edgekit.results import Detections
from edgekit.shapes import scene, write_coco
from edgekit.shapes.trained import detector
from edgekit.sources.session import TorchSession

PAIRS = [(name, precision) for name in converters.target_names() for precision in converters.target(name).precisions]
SCENES = range(300_000, 300_060)

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out scenes with boxes."""
    return write_coco(tmp_path_factory.mktemp("labelled"), SCENES)


@pytest.fixture(scope="module")
def source() -> Model:
    """The detector in PyTorch, behind the same runtime."""
    module = detector()
    return Model(module.contract, TorchSession(module))  # type: ignore[arg-type]


def mean_average_precision(model: Model, annotations: Path) -> float:
    def run(image: Image) -> Detections:
        return model.predict(image, score=SCORE_THRESHOLD)

    return evaluate(run, annotations).map


@pytest.fixture(scope="module")
def source_map(source: Model, labelled: Path) -> float:
    return mean_average_precision(source, labelled)


def test_the_detector_is_good_enough_to_judge_int8_on(source_map: float) -> None:
    assert source_map >= 0.85


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_a_target_is_proven_and_keeps_its_accuracy(
    target: str, precision: str, demo_bundles: Converted, labelled: Path, source_map: float
) -> None:
    entry = demo_bundles.bundle(target, precision)
    assert entry["ok"]
    evidence = entry["evidence"]
    assert evidence["word"] == "executed"
    assert evidence["compared"] == "detections"
    assert evidence["decoded"]["detections"] >= 50
    assert evidence["passed"]
    assert not evidence["failures"]
    bound = {"fp32": 0.001, "fp16": 0.005, "int8": 0.02}[precision]
    assert mean_average_precision(edgekit.load(entry["path"]), labelled) >= source_map - bound


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_a_bundle_says_what_it_is(target: str, precision: str, demo_bundles: Converted) -> None:
    bundle = open_bundle(demo_bundles.bundle(target, precision)["path"])
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision, manifest.proven) == (target, precision, True)
    assert manifest.engine == converters.target(target).engine
    assert manifest.toolchain
    assert len(manifest.contract.outputs) == len(manifest.graphs[0].outputs) == 6
    assert (manifest.calibration is not None) == (precision == "int8")
    if manifest.calibration:
        assert manifest.calibration.count == len(manifest.calibration.images) > 32


def test_smaller_precisions_make_smaller_files(demo_bundles: Converted) -> None:
    for target in converters.target_names():
        sizes = {p: open_bundle(demo_bundles.bundle(target, p)["path"]).bytes for p in ("fp32", "fp16", "int8")}
        assert sizes["fp16"] < 0.8 * sizes["fp32"]
        assert sizes["int8"] < 0.95 * sizes["fp32"]


@pytest.mark.parametrize("target", converters.target_names())
def test_engines_agree_on_an_odd_photograph(target: str, demo_bundles: Converted, source: Model) -> None:
    """Letterboxed from 317x203, through paths of the runtime that squares never take."""
    image = scene(310_001, (203, 317)).image
    expected = source.predict(image)
    assert len(expected) > 0
    found = edgekit.load(demo_bundles.bundle(target, "fp32")["path"]).predict(image)
    assert found.names == expected.names
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    assert found.size == (317, 203)


@pytest.mark.parametrize("target", converters.target_names())
def test_placement_and_threads(target: str, demo_bundles: Converted) -> None:
    image = scene(310_002).image
    path = demo_bundles.bundle(target, "fp32")["path"]
    one, two = edgekit.load(path, threads=1), edgekit.load(path, threads=2)
    assert one.placement.device
    np.testing.assert_allclose(one.predict(image).boxes, two.predict(image).boxes, atol=0.01)
    edgekit.load(path, strict=True)


@pytest.mark.parametrize("target", converters.target_names())
def test_results_survive_the_next_image(target: str, demo_bundles: Converted) -> None:
    """Engines hand out their own memory: a result must not change when the next image runs."""
    model = edgekit.load(demo_bundles.bundle(target, "int8")["path"])
    first = model.predict(scene(310_003).image)
    before = json.dumps(first.to_dict()["detections"])
    model.predict(scene(310_004).image)
    assert json.dumps(first.to_dict()["detections"]) == before


def test_a_batch_and_a_stream_give_what_single_images_give(demo_bundles: Converted, tmp_path: Path) -> None:
    model = edgekit.load(demo_bundles.bundle("onnx", "fp32")["path"])
    images = [scene(310_005 + index).image for index in range(3)]
    singles = [model.predict(image).to_dict()["detections"] for image in images]
    batch = model(np.stack(images))
    assert isinstance(batch, list)
    assert [result.to_dict()["detections"] for result in batch] == singles
    write_coco(tmp_path, range(310_005, 310_008))
    streamed = list(model.stream(tmp_path))
    assert [result.to_dict()["detections"] for result in streamed] == singles
    assert all(result.source and result.timings for result in streamed)
