"""ultralytics models with random weights, through the whole conversion. The package is optional (AGPL-3.0)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from real_conversions import convert_once
from target_lists import EVERYTHING

pytestmark = [pytest.mark.convert, pytest.mark.ultralytics]

SAVE = """
import os, sys
os.environ["YOLO_CONFIG_DIR"] = os.path.dirname(sys.argv[2])
os.environ["YOLO_AUTOINSTALL"] = "false"
import torch
from ultralytics import YOLO
torch.manual_seed(0)
YOLO(sys.argv[1] + ".yaml").save(sys.argv[2])
"""


@pytest.fixture(scope="session")
def checkpoints(shared_folder: Path) -> Path:
    pytest.importorskip("ultralytics", reason="needs the optional package ultralytics")
    return shared_folder


def save(name: str, folder: Path) -> Path:
    """A checkpoint as ultralytics writes it, made in a process of its own: importing the package changes much."""
    path = folder / f"{name}.pt"
    subprocess.run([sys.executable, "-c", SAVE, name, str(path)], check=True, capture_output=True, timeout=300)
    return path


# One of each kind of toolchain; the others are tried on the demo detector and on FastestDet.
TARGETS = ("coreml", "litert", "mnn", "ncnn", "onnx", "openvino") if EVERYTHING else ("ncnn", "onnx")
PRECISIONS = ("fp32", "fp16") if EVERYTHING else ("fp32",)


@pytest.mark.nightly
def test_yolov8n_matches(checkpoints: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        wanted = ["--target", ",".join(TARGETS), "--precision", ",".join(PRECISIONS), "-j", "2"]
        return [str(save("yolov8n", folder.parent)), *wanted]

    done = convert_once(checkpoints, "yolov8n-bundles", arguments)
    assert done.code == 0, done.messages
    for target in TARGETS:
        for precision in PRECISIONS:
            evidence = done.bundle(target, precision)["evidence"]
            assert evidence["passed"]
            # Random weights find nothing to be sure of: the best anchors are compared one by one, and every output.
            assert evidence["compared"] == "candidates"
            assert evidence["decoded"]["detections"] >= 1000
            assert evidence["reference"] == "the source as it was given, in PyTorch"
            assert min(output["cosine"] for output in evidence["outputs"]) > 0.999


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_newer_heads_match_too(name: str, checkpoints: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        return [str(save(name, folder.parent)), "--target", "onnx", "--precision", "fp32"]

    done = convert_once(checkpoints, f"{name}-bundles", arguments)
    assert done.code == 0, done.messages
    assert done.bundle("onnx", "fp32")["evidence"]["passed"]
