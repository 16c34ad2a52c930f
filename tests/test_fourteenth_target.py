"""Adding a target touches one converter file and at most one runtime file: nothing else knows its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from edgekit.shapes import write_coco
from edgekit.shapes.trained import SOURCE

HERE = Path(__file__).parent
WITH_IT = "import fourteenth_target; from edgekit.cli import main; main()"

pytestmark = pytest.mark.convert


def edgekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", WITH_IT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, check=False)


def test_two_files_are_a_target(tmp_path: Path) -> None:
    listed = json.loads(edgekit("targets", "--json").stdout)
    assert len(listed) == 14
    (own,) = [entry for entry in listed if entry["target"] == "torchscript"]
    assert own["available"]
    data = write_coco(tmp_path / "data", range(100_000, 100_032)).parent
    wanted = ("--target", "torchscript", "--import", "fourteenth_target", "--data", f"{data}/*.png", "--json")
    done = edgekit("convert", SOURCE, *wanted, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (bundle,) = json.loads(done.stdout)["bundles"]
    evidence = bundle["evidence"]
    assert (evidence["word"], evidence["compared"], evidence["passed"]) == ("executed", "detections", True)
    assert evidence["decoded"]["matched"] == 1.0
    run = edgekit("run", bundle["path"], data / "00100000.png", "--json")
    assert json.loads(run.stdout)["detections"]


def test_nothing_else_names_it() -> None:
    files = [*ROOT.glob("edgekit/**/*.py"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    naming = [path.name for path in files if "torchscript.py" in path.read_text(encoding="utf-8")]
    assert naming == []
    added = sorted(
        path.relative_to(HERE / "fourteenth_target").as_posix() for path in HERE.glob("fourteenth_target/*/*.py")
    )
    assert added == ["converters/torchscript.py", "runtimes/torchscript.py"]
