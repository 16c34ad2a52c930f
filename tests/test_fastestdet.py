"""The flagship: a real COCO detector, given as a fused torch.export program. ``make test-all`` has every target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from real_conversions import Converted
from target_lists import EVERYTHING, pairs
from test_targets import opened

from edgekit.arrays import Image
from edgekit.conversion.jobs import PrepareJob
from edgekit.conversion.reading import read_source
from edgekit.evaluation.coco import evaluate
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.model import Model
from edgekit.runtimes.results import Detections
from edgekit.sources.session import TorchSession

ROOT = Path(__file__).parents[1]
CONTRACT = ROOT / "examples" / "fastestdet.yaml"
INT8 = pairs("int8", "w8a8", "w8a32") if EVERYTHING else [("onnx", "int8")]
PAIRS = pairs() if EVERYTHING else [("onnx", "fp32"), *INT8]

pytestmark = pytest.mark.convert


def mean_average_precision(model: Model, shared_data: Path) -> float:
    def run(image: Image) -> Detections:
        return model.predict(image, score=0.001)

    return evaluate(run, shared_data / "voc50" / "annotations.json").map


@pytest.fixture(scope="module")
def torch_map(shared_data: Path) -> float:
    source = str(shared_data / "models" / "fastestdet_coco.pt2")
    read = read_source(PrepareJob(folder="", source=source, contract=str(CONTRACT)))
    return mean_average_precision(Model(read.contract, TorchSession(read.heads)), shared_data)


def test_the_head_is_cut_and_said_so(fastestdet_bundles: Converted) -> None:
    assert fastestdet_bundles.code == 0
    assert "cut at 3 raw heads, before cat, sigmoid, softmax" in fastestdet_bundles.messages
    assert "calibrated on 12 images" in fastestdet_bundles.messages
    assert not fastestdet_bundles.report["failed"]


@pytest.mark.parametrize(("target", "precision"), PAIRS)
def test_all_pass_their_gates(target: str, precision: str, fastestdet_bundles: Converted) -> None:
    entry = fastestdet_bundles.bundle(target, precision)
    assert entry["ok"]
    assert entry["evidence"]["reference"] == "the source as it was given, in PyTorch"
    assert entry["evidence"]["decoded"]["detections"] > 100
    assert open_bundle(entry["path"]).manifest.proven


@pytest.mark.parametrize(("target", "precision"), INT8)
def test_int8_keeps_the_map_of_photographs(
    target: str, precision: str, fastestdet_bundles: Converted, torch_map: float, shared_data: Path
) -> None:
    assert torch_map > 0.3
    model = opened(fastestdet_bundles.bundle(target, precision))
    assert mean_average_precision(model, shared_data) >= torch_map - 0.02


@pytest.mark.nightly
def test_verify_on_other_photographs(fastestdet_bundles: Converted, shared_data: Path) -> None:
    path = fastestdet_bundles.bundle("onnx", "int8")["path"]
    source = str(shared_data / "models" / "fastestdet_coco.pt2")
    command = [sys.executable, "-m", "edgekit", "verify", path, "--against", source, "--json"]
    done = subprocess.run([*command, "--data", str(shared_data / "voc50" / "images")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert report["evidence"]["images"] == 50


def test_a_wrong_image_rule_is_visible(shared_data: Path) -> None:
    """Negative control of the comparison by mAP: RGB instead of BGR, letterboxed instead of stretched."""
    import msgspec

    source = str(shared_data / "models" / "fastestdet_coco.pt2")
    read = read_source(PrepareJob(folder="", source=source, contract=str(CONTRACT)))
    rule = msgspec.structs.replace(read.contract.image, color="rgb", scale=1.0)
    wrong = msgspec.structs.replace(read.contract, image=rule)
    assert mean_average_precision(Model(wrong, TorchSession(read.heads)), shared_data) < 0.1
