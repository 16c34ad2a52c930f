"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from real_conversions import Converted, convert_once
from target_lists import PRECISIONS, here

from edgekit.shapes import write_coco
from edgekit.shapes.trained import SOURCE

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models and photographs that are not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared models and photographs at {folder}")
    return folder


@pytest.fixture(scope="session")
def converted(shared_folder: Path) -> Any:
    """A small detector converted by the command line to onnx and openvino in every precision (`tiny_conversions`)."""
    for package in ("torch", "onnx", "nncf", "openvino", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'convert'")
    from tiny_conversions import convert_all_once

    return convert_all_once(shared_folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def demo_bundles(shared_folder: Path) -> Converted:
    """The detector that comes with edgekit, in every precision of the targets that this run makes."""

    def arguments(folder: Path) -> list[str]:
        data = write_coco(folder.with_name("demo-data"), range(100_000, 100_080)).parent
        return [SOURCE, "--target", ",".join(here()), "--precision", PRECISIONS, "--data", f"{data}/*.png", "-j", "2"]

    return convert_once(shared_folder, "demo", arguments)


@pytest.fixture(scope="session")
def fastestdet_bundles(shared_folder: Path, shared_data: Path) -> Converted:
    """The real FastestDet, in every precision of the targets that this run makes, calibrated on 20 photographs."""

    def arguments(folder: Path) -> list[str]:
        given = ["--contract", str(ROOT / "examples" / "fastestdet.yaml"), "--data", str(shared_data / "calibration")]
        source = str(shared_data / "models" / "fastestdet_coco.pt2")
        return [source, "--target", ",".join(here()), "--precision", PRECISIONS, *given, "-j", "2"]

    return convert_once(shared_folder, "fastestdet", arguments)
