"""``edgekit demo``, on few scenes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from tiny_conversions import edgekit

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_the_demo_measures_and_draws(folder: Path) -> None:
    given = ("--target", "onnx", "--precision", "fp32,int8", "--scenes", 12, "-o", folder)
    done = edgekit("demo", *given, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {(row["target"], row["precision"]): row for row in report["measured"]}
    assert set(rows) == {("torch", "fp32"), ("onnx", "fp32"), ("onnx", "int8")}
    assert rows["onnx", "fp32"]["mAP"] == pytest.approx(rows["torch", "fp32"]["mAP"], abs=1e-3)
    assert all(row["mAP"] > 0.7 and row["latency_ms"] > 0 for row in rows.values())
    assert not report["failed"]
    picture = cv2.imread(report["picture"])
    assert picture is not None
    assert picture.std() > 20
    assert (folder / "shapes-onnx-int8" / "manifest.json").is_file()


def test_the_demo_prints_a_table(folder: Path) -> None:
    done = edgekit("demo", "--target", "onnx", "--precision", "fp32", "--scenes", 4, "-o", folder)
    assert done.returncode == 0, done.stderr
    assert "mAP50-95 on 4 held-out scenes" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if "onnx" in line]
    assert "executed" in row
    assert "matched" in row
