"""A decoder of the user's own through the whole tool: convert, prove, run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_conversions import edgekit, write_pictures

pytestmark = pytest.mark.convert


def test_a_decoder_of_ones_own_is_one_function(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 6)
    given = ("--target", "onnx", "--data", photos, "-o", tmp_path / "out", "--json", "--import", "own_decoder")
    done = edgekit("convert", "own_decoder:detector", *given)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["bundles"]
    assert entry["evidence"]["compared"] == "detections"

    picture = photos / "000.png"
    ran = edgekit("run", entry["path"], picture, "--json", "--import", "own_decoder")
    assert ran.returncode == 0, ran.stderr
    boxes = [detection["box"] for detection in json.loads(ran.stdout)["detections"]]
    assert boxes
    assert all(x2 - x1 == y2 - y1 == 16 for x1, y1, x2, y2 in boxes)

    without = edgekit("run", entry["path"], picture, program="from edgekit.cli import main; main()")
    assert without.returncode == 2
    assert "'cells' is not one of" in without.stderr
    assert "--import MODULE" in without.stderr
