"""Poses, masks and classes through the whole conversion: networks of the shapes world, MoveNet, MobileNetV2, YOLO11.

The short suite makes INT8 of one network for one target; ``make test-all`` has every network, precision and target.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch, the source of every conversion")

import mobilenet
from families.people import write_people
from real_conversions import Converted, convert_once
from target_lists import EVERYTHING
from test_top_down import annotated_people, people_in_boxes
from test_ultralytics_conversion import checkpoints, save

from edgekit.runtimes.model import load
from edgekit.runtimes.top_down import TopDown
from edgekit.shapes import write_coco

pytestmark = pytest.mark.convert

__all__ = ["checkpoints"]  # the fixture, which pytest finds by its name in this module

ROOT = Path(__file__).parents[1]
TARGETS = ("litert", "ncnn", "onnx", "openvino") if EVERYTHING else ("onnx",)
PRECISIONS = ("fp32", "fp16", "int8") if EVERYTHING else ("int8",)
FEW = TARGETS
"""Targets of the larger networks."""


def passed(done: Converted, targets: tuple[str, ...], precisions: tuple[str, ...], measure: str) -> None:
    """Every one of them is there, with evidence of detections compared by this measure."""
    assert done.code == 0, done.messages
    for target in targets:
        for precision in precisions:
            evidence = done.bundle(target, precision)["evidence"]
            assert evidence["passed"], (target, precision, evidence["failures"])
            assert evidence["compared"] == "detections", (target, precision)
            assert evidence["decoded"]["measure"] == measure


@pytest.mark.parametrize(
    ("task", "measure"),
    [
        pytest.param("pose", "OKS", marks=pytest.mark.nightly),
        pytest.param("segment", "mask IoU"),
        pytest.param("classify", "", marks=pytest.mark.nightly),
        pytest.param("semantic", "region IoU", marks=pytest.mark.nightly),
    ],
)
def test_the_tasks_of_the_shapes_world(task: str, measure: str, shared_folder: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        data = write_coco(folder.with_name(f"{task}-data"), range(100_000, 100_060 if EVERYTHING else 100_040)).parent
        wanted = ["--target", ",".join(TARGETS), "--precision", ",".join(PRECISIONS), "-j", "2"]
        wanted += [] if EVERYTHING else ["--recipe", "plan"]
        return [f"edgekit.shapes.trained:{task}", *wanted, "--data", f"{data}/*.png"]

    passed(convert_once(shared_folder, f"shapes-{task}", arguments), TARGETS, PRECISIONS, measure)


@pytest.mark.nightly
def test_mobilenet_of_imagenet(shared_folder: Path, shared_data: Path) -> None:
    """By name, with torchvision's own weights: nothing else is told."""
    weights = mobilenet.weights()

    def arguments(folder: Path) -> list[str]:
        given = ["--weights", str(weights), "--data", str(shared_data / "voc50" / "images")]
        wanted = ["--target", ",".join(FEW), "--precision", ",".join(PRECISIONS), "-j", "2"]
        return ["torchvision:mobilenet_v2", *given, *wanted]

    done = convert_once(shared_folder, "mobilenet", arguments)
    passed(done, FEW, PRECISIONS, "")
    assert done.bundle("onnx", "int8")["bytes"] < 4e6, "the last layer, 37 % of the weights, is in INT8 too"


@pytest.fixture(scope="module")
def movenet_bundles(shared_folder: Path, shared_data: Path) -> Converted:
    """MoveNet, calibrated and proven on what it sees on a device: the parts of photographs that people are in."""

    def arguments(folder: Path) -> list[str]:
        people = write_people(folder.with_name("people"), shared_data)
        contract = str(ROOT / "examples" / "movenet.yaml")
        given = [str(shared_data / "models" / "movenet_lightning.pt2"), "--contract", contract, "--data", str(people)]
        return [*given, "--target", ",".join(FEW), "--precision", ",".join(PRECISIONS), "-j", "2"]

    return convert_once(shared_folder, "movenet", arguments)


@pytest.mark.nightly
def test_movenet(movenet_bundles: Converted) -> None:
    passed(movenet_bundles, FEW, PRECISIONS, "OKS")


@pytest.mark.nightly
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", FEW)
def test_movenet_places_keypoints_as_pytorch_does(
    target: str, precision: str, movenet_bundles: Converted, shared_data: Path
) -> None:
    """Mean OKS with annotated keypoints on four photographs: within .02 of PyTorch's."""
    source = people_in_boxes(shared_data)
    bundle = load(movenet_bundles.bundle(target, precision)["path"], threads=1)
    wanted = np.mean(list(annotated_people(shared_data, source)))
    found = np.mean(list(annotated_people(shared_data, TopDown(source.detector, bundle))))
    assert wanted > 0.6
    assert found > wanted - 0.02, (wanted, found)


KINDS = {"yolo11n-pose": "OKS", "yolo11n-seg": "mask IoU", "yolo11n-cls": ""}


@pytest.mark.nightly
@pytest.mark.ultralytics
@pytest.mark.parametrize("name", KINDS)
def test_yolo11_of_every_task(name: str, checkpoints: Path) -> None:
    """Random weights: they are sure of nothing, so that the best anchors are compared one by one, and every output."""
    targets = TARGETS if EVERYTHING or name.endswith("cls") else FEW

    def arguments(folder: Path) -> list[str]:
        return [str(save(name, folder.parent)), "--target", ",".join(targets), "--precision", "fp32,fp16", "-j", "2"]

    done = convert_once(checkpoints, f"{name}-bundles", arguments)
    assert done.code == 0, done.messages
    for target in targets:
        for precision in ("fp32", "fp16"):
            evidence = done.bundle(target, precision)["evidence"]
            assert evidence["passed"]
            assert evidence["decoded"]["measure"] == KINDS[name]
            assert min(output["cosine"] for output in evidence["outputs"]) > 0.999


@pytest.mark.nightly
def test_a_bundle_of_another_network_is_not_taken_for_movenet(movenet_bundles: Converted, tmp_path: Path) -> None:
    """Negative control: one swapped file is found out when the bundle is opened."""
    from edgekit.errors import BundleError

    copy = tmp_path / "copy"
    shutil.copytree(movenet_bundles.bundle("onnx", "fp32")["path"], copy)
    other = Path(movenet_bundles.bundle("onnx", "int8")["path"])
    name = next(path.name for path in other.glob("*.onnx"))
    shutil.copy(other / name, copy / name)
    with pytest.raises(BundleError):
        load(copy)
