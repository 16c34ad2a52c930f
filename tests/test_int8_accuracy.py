"""INT8 keeps the mAP of detectors of several families, of one made hard on purpose, and of poses, masks and labels.

Measured on 300 scenes nobody has seen.

``make accuracy``, which takes an hour: every target that executes, emulates or interprets here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from detectors.scores import held_out, main_figures, opened_source
from target_lists import here

from edgekit import converters
from edgekit.calibration.plan import Methods
from edgekit.conversion.convert import Conversion, Conversions, convert
from edgekit.emulators import proof_device
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.model import load
from edgekit.shapes import write_coco

pytestmark = [pytest.mark.convert, pytest.mark.nightly]

HARD = "tests.detectors.hard:detector"
OTHERS = (
    "edgekit.shapes.trained:detector",
    "edgekit.shapes.trained:pose",
    "edgekit.shapes.trained:segment",
    "edgekit.shapes.trained:classify",
    "tests.detectors.relu:detector",
    "tests.detectors.leaky:detector",
    "tests.detectors.hard:silu_detector",
    "tests.detectors.hard:leaky_detector",
)
MODELS = (HARD, *OTHERS)
TARGETS = tuple(name for name in here() if converters.target(name).proof != "reference")
DROP = 0.01
DROPS = {"OKS mAP": 0.02}
"""Keypoints of shapes are true to a hundredth of a pixel, and judged by it: OKS counts every half pixel."""

OFF = Methods(cross_layer_equalization=False, ranges="min-max", bias_correction=False, float_fallback=False)
"""Everything that the plan does, switched off."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return held_out(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("calibration"), range(100_000, 100_100)).parent


@pytest.fixture(scope="module")
def hard_map(scenes: Path) -> float:
    return main_figures(opened_source(HARD), scenes)["mAP"]


def converted(source: str, names: tuple[str, ...], calibration: Path, out: Path, methods: Methods) -> Conversions:
    return convert(
        Conversion(
            source=source,
            targets=names,
            precisions=("int8", "w8a8") if "coreml" in names else ("int8",),
            out=out,
            data=str(calibration / "*.png"),
            methods=methods,
            gated=methods != OFF,
        )
    )


@pytest.fixture(scope="module", params=MODELS)
def bundles(
    request: pytest.FixtureRequest, calibration: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Conversions]:
    source: str = request.param
    return source, converted(source, TARGETS, calibration, tmp_path_factory.mktemp("out"), Methods())


def score(bundle: Path, scenes: Path) -> dict[str, float]:
    manifest = open_bundle(bundle).manifest
    device = proof_device(manifest.engine, manifest.graphs[0])
    return main_figures(load(bundle, device=device, threads=1), scenes)


def test_every_bundle_keeps_the_map_of_its_source(
    bundles: tuple[str, Conversions], scenes: Path, hard_map: float
) -> None:
    source, done = bundles
    wanted = {"mAP": hard_map} if source == HARD else main_figures(opened_source(source), scenes)
    made = [one for one in done.outcomes if (one.target, one.precision) != ("coreml", "int8")]  # weights only
    assert not [one.error for one in made if one.error]
    assert {one.target for one in made} == {*TARGETS}
    lost = {
        (one.target, one.precision, name): round(wanted[name] - value, 4)
        for one in made
        for name, value in score(one.path, scenes).items()
    }
    assert all(value <= DROPS.get(name, DROP) for (_, _, name), value in lost.items()), lost


def test_with_the_methods_off_the_hard_model_is_lost(
    calibration: Path, scenes: Path, tmp_path: Path, hard_map: float
) -> None:
    done = converted(HARD, ("onnx",), calibration, tmp_path, OFF)
    (outcome,) = done.outcomes
    assert outcome.evidence is not None
    assert not outcome.evidence.passed
    assert score(outcome.path, scenes)["mAP"] < hard_map - 5 * DROP
