"""Nothing of the folder that a command is run in is executed, unless the user names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_onnx import write_model, write_tiny_bundle

NAMES = (
    "argparse", "cv2", "json", "msgspec", "networkx", "numpy", "onnx", "onnxruntime", "pip", "redis", "runpy",
    "threading", "torch", "traceback", "triton", "typing", "venv",
)  # fmt: skip
"""Modules of the standard library, installed ones, and ones that others look for and do not find."""

EDGEKIT = [str(Path(sys.executable).with_name("edgekit"))]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a model, and with a file for each name that says when it is run."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RUN')!r}, 'a').write({name!r} + ' ')\n")
    write_model(tmp_path / "model.onnx")
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path


def said(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(["", *filter(None, [os.environ.get("PYTHONPATH")])])  # as after PYTHONPATH=$PYTHONPATH:x
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path[1:], **environment}, capture_output=True, text=True
    )


def executed(folder: Path) -> set[str]:
    found = folder / "RUN"
    return set(found.read_text().split()) if found.exists() else set()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["targets"], id="targets"),
        pytest.param(["info", "bundle"], id="info"),
        pytest.param(["profile", "bundle", "--seconds", "0.1"], id="profile", marks=pytest.mark.nightly),
        pytest.param(["convert", "model.onnx", "--target", "onnx", "--size", "64x64"], id="convert"),
        pytest.param(["calibrate", "model.onnx", "-o", "plan"], id="calibrate", marks=pytest.mark.nightly),
    ],
)
def test_no_command_runs_a_file_of_the_folder(arguments: list[str], hostile: Path) -> None:
    done = said(EDGEKIT + arguments, hostile)
    assert executed(hostile) == set(), done.stderr
    assert "Traceback" not in done.stderr


def test_an_installation_runs_no_file_of_the_folder(hostile: Path) -> None:
    """It runs ``python -m venv`` and ``python -m pip``."""
    code = (
        "import sys\n"
        "from edgekit.conversion import installation\n"
        "for call in (['venv', '--help'], ['pip', '--version']):\n"
        "    installation._run([sys.executable, '-m', *call], print)\n"
        "    assert installation._succeeds([sys.executable, '-m', *call])\n"
    )
    script = hostile / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(code)
    (hostile / "toolchains").mkdir()
    done = said([sys.executable, str(script)], hostile, EDGEKIT_TOOLCHAINS=str(hostile / "toolchains"))
    assert done.returncode == 0, done.stderr
    assert executed(hostile) == set()


def test_the_traps_work(hostile: Path) -> None:
    said([sys.executable, "-c", "import msgspec, typing, redis"], hostile)
    assert executed(hostile) >= {"msgspec", "redis"}


def test_what_import_names_is_found_there_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    done = said([*EDGEKIT, "--import", "mine", "targets"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "edgekit: imported mine from the current folder\n"


@pytest.mark.nightly
def test_a_factory_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def network():\n    raise RuntimeError('reached')\n")
    done = said([*EDGEKIT, "convert", "mine:network", "--target", "onnx"], tmp_path)
    assert "reached" in done.stderr, done.stderr
