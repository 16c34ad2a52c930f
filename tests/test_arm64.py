"""A 64-bit ARM board without one: the device runtime on aarch64 Python under qemu-user, against this host's results.

It shows that what a board installs imports there, opens the bundles and computes the same; its timings mean nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT
from real_conversions import Converted, convert_once

from edgekit.shapes import scene, write_coco
from edgekit.shapes.trained import SOURCE

TARGETS = ("litert", "mnn", "ncnn", "onnx")
PRECISIONS = ("fp32", "int8")

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif("EDGEKIT_ARM64" not in os.environ, reason="make test-arm64 prepares the emulated board"),
]


@pytest.fixture(scope="module")
def bundles(shared_folder: Path) -> Converted:
    """The detector that comes with edgekit, for the engines that have wheels that can be emulated."""

    def arguments(folder: Path) -> list[str]:
        data = write_coco(folder.with_name("arm64-data"), range(100_000, 100_080)).parent
        wanted = ["--target", ",".join(TARGETS), "--precision", ",".join(PRECISIONS)]
        return [SOURCE, *wanted, "--data", f"{data}/*.png", "-j", "2"]

    return convert_once(shared_folder, "arm64", arguments)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene that no precision has seen, of the size the detector takes: nothing is resized."""
    path = tmp_path_factory.mktemp("arm64") / "scene.png"
    cv2.imwrite(str(path), scene(330_000).image)
    return path


def emulated(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the board's Python."""
    board = Path(os.environ["EDGEKIT_ARM64"]).absolute()
    qemu = shutil.which("qemu-aarch64")
    assert qemu, "qemu-aarch64 is not on PATH"
    # A Raspberry Pi 4; qemu's own default has instructions that no such board has.
    python = [qemu, "-cpu", "cortex-a72", "-L", str(board / "root"), str(board / "root/usr/bin/python3.11")]
    path = os.pathsep.join([str(board / "site"), str(ROOT)])
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONNOUSERSITE": "1"}
    return subprocess.run([*python, *arguments], capture_output=True, text=True, env=env, timeout=900, check=False)


def detections(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: list[dict[str, Any]] = json.loads(line)["detections"]
    return sorted(found, key=lambda one: (one["class_id"], one["box"]))


def test_it_is_an_arm_board_without_torch() -> None:
    done = emulated("-c", "import platform, importlib.util as u; print(platform.machine(), u.find_spec('torch'))")
    assert done.stdout.split() == ["aarch64", "None"], done.stderr


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_board_finds_what_the_host_finds(target: str, precision: str, bundles: Converted, image: Path) -> None:
    call = ["-m", "edgekit", "run", bundles.bundle(target, precision)["path"], str(image), "--json"]
    board = detections(emulated(*call))
    host = detections(subprocess.run([sys.executable, *call], capture_output=True, text=True, check=False))
    assert len(host) >= 2
    assert [one["class_id"] for one in board] == [one["class_id"] for one in host]
    # INT8 kernels of the two architectures round apart by a step now and then.
    pixels, score = {"fp32": (0.02, 0.001), "int8": (3.0, 0.05)}[precision]
    np.testing.assert_allclose([one["box"] for one in board], [one["box"] for one in host], atol=pixels)
    np.testing.assert_allclose([one["score"] for one in board], [one["score"] for one in host], atol=score)


PREPROCESS = """
import sys, cv2, numpy
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.bundle.manifest import ImageRule
tensor, _ = Preprocessor(ImageRule(size=(256, 256)))(cv2.imread(sys.argv[1]))
numpy.save(sys.argv[2], tensor)
"""


def test_the_board_resizes_as_the_host_does(tmp_path: Path) -> None:
    """OpenCV's bilinear interpolation rounds apart on the two architectures, by a grey level here and there."""
    picture, there, here = tmp_path / "scene.png", tmp_path / "there.npy", tmp_path / "here.npy"
    cv2.imwrite(str(picture), scene(330_001, (203, 317)).image)
    done = emulated("-c", PREPROCESS, str(picture), str(there))
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-c", PREPROCESS, str(picture), str(here)], check=True)
    apart = np.abs(np.load(there) - np.load(here)) * 255
    assert apart.max() <= 1.01
    assert apart.mean() < 0.3


def test_an_altered_bundle_is_refused_there_too(bundles: Converted, image: Path, tmp_path: Path) -> None:
    shutil.copytree(bundles.bundle("onnx", "fp32")["path"], tmp_path / "bundle")
    model = tmp_path / "bundle" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    done = emulated("-m", "edgekit", "run", str(tmp_path / "bundle"), str(image))
    assert done.returncode == 2
    assert "model.onnx" in done.stderr
