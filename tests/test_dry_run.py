"""``edgekit convert --dry-run``: what would happen, and nothing is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'convert'")

import cv2
from click.testing import CliRunner
from tiny_models import picture

from edgekit.cli.convert import command
from edgekit.conversion import dry_run as dry
from edgekit.conversion.dry_run import Planned, dry_run
from edgekit.conversion.request import Request
from edgekit.errors import UsageError

SOURCE = "tiny_models:detector"


@pytest.fixture(autouse=True)
def _tests_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the child process that reads the source, too."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(name="photos")
def _photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(20):
        cv2.imwrite(str(folder / f"{seed}.png"), picture(seed))
    return folder


def absent() -> str:
    """A target that cannot be made here."""
    from edgekit import converters

    missing = [name for name in converters.target_names() if converters.target(name).missing]
    if not missing:
        pytest.skip("every target is possible here")
    return missing[0]


def test_what_would_happen(photos: Path, tmp_path: Path) -> None:
    """Images, recipes and the target that is refused; exit code 2, and no folder of bundles."""
    out, other = tmp_path / "out", absent()
    arguments = [SOURCE, "--target", f"onnx,{other}", "--precision", "fp32,int8", "--data", str(photos), "-o", str(out)]
    done = CliRunner().invoke(command, [*arguments, "--dry-run", "--json"], catch_exceptions=False)
    assert done.exit_code == 2
    said = json.loads(done.stdout)
    bundles = {(one["target"], one["precision"]): one for one in said["bundles"]}
    assert bundles["onnx", "fp32"] == {"target": "onnx", "precision": "fp32", "recipes": [], "refusal": ""}
    assert bundles["onnx", "int8"]["recipes"][0] == "plan"
    assert f"target {other}" in bundles[other, "fp32, int8"]["refusal"]
    assert said["prepared"]["calibration"]["count"] + said["prepared"]["calibration"]["held"] <= 20
    assert said["prepared"]["proof_views"] > 0
    assert said["minutes"] > 0
    assert not out.exists()


def test_an_operator_that_a_target_refuses(monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path) -> None:
    """The refusal that building would meet."""
    from dataclasses import replace

    from edgekit import converters

    target = replace(converters.target("onnx"), refuses={"Conv": "not here"})
    monkeypatch.setattr(dry.converters, "target", lambda name: target)
    done = dry_run(Request(source=SOURCE, targets=("onnx",), data=str(photos), out=tmp_path / "out"))
    assert not done.ok
    assert "onnx cannot take Conv" in done.planned[0].refusal


def test_nothing_refused_is_exit_code_0(photos: Path, tmp_path: Path) -> None:
    arguments = [SOURCE, "--target", "onnx", "--data", str(photos), "-o", str(tmp_path / "out"), "--dry-run"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("task detect, 2 classes", "built and proven", "roughly", "no bundle is written"):
        assert words in done.output


def test_wrong_use_is_refused_as_by_convert(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 needs calibration images"):
        dry_run(Request(source=SOURCE, targets=("onnx",), precisions=("int8",), out=tmp_path))
    with pytest.raises(UsageError, match="'nothing' is not one of"):
        dry_run(Request(source=SOURCE, targets=("nothing",), out=tmp_path))


def test_recipes_and_fine_tuning_take_time() -> None:
    request = Request(targets=("litert",), finetune=10.0)
    from edgekit.conversion.selection import Selection

    selection = Selection((), (), {})
    one = dry._minutes(request, selection, (Planned("litert", "int8", ("plan",), ""),), 1.0)
    two = dry._minutes(request, selection, (Planned("litert", "int8", ("plan", "litert"), ""),), 1.0)
    assert 10.0 < one < two
