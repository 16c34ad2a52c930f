"""docs/DECODERS.md as a user follows it: the page's files are written, and its commands run, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_conversions import environment

PAGE = Path(__file__).parents[1] / "docs" / "DECODERS.md"
CONSOLE = "from edgekit.cli import main; main()"

pytestmark = pytest.mark.convert


def block(language: str) -> str:
    """The page's one block of code in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return found


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command as typed in that folder, which is in nobody's path."""
    program, *rest = words
    command = [sys.executable, *(("-c", CONSOLE) if program == "edgekit" else ()), *rest]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder after every command of the page, and what the last printed."""
    folder = tmp_path_factory.mktemp("spots")
    (folder / "spots.py").write_text(block("python"))
    (folder / "spots.yaml").write_text(block("yaml"))
    for line in block("bash").splitlines():
        done = typed(folder, *shlex.split(line))
        assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_page_of_decoders_runs_as_it_stands(followed: tuple[Path, str]) -> None:
    folder, told = followed
    assert re.search(r"\d spot", told), told
    evidence = json.loads((folder / "out" / "network-onnx-fp32" / "manifest.json").read_text())["evidence"]
    assert evidence["compared"] == "detections"


@pytest.mark.nightly
def test_a_bundle_of_an_own_decoder_is_profiled_and_recommended(followed: tuple[Path, str]) -> None:
    folder, _ = followed
    store = ("--store", str(folder / "store.jsonl"), "--import", "spots")
    quick = ("--rounds", "1", "--seconds", "100ms", "--no-operators")
    measured = typed(folder, "edgekit", "profile", "out/network-onnx-fp32", *quick, *store)
    assert measured.returncode == 0, measured.stdout + measured.stderr
    chosen = typed(folder, "edgekit", "recommend", "out/network-onnx-fp32", *store)
    assert chosen.returncode == 0, chosen.stderr


def test_without_the_import_the_option_is_named(followed: tuple[Path, str]) -> None:
    folder, _ = followed
    without = typed(folder, "edgekit", "run", "out/network-onnx-fp32", "spots0.png")
    assert without.returncode == 2
    assert "'spots' is not one of" in without.stderr
    assert "--import MODULE" in without.stderr


def test_an_import_that_fails_is_said_by_every_command(followed: tuple[Path, str]) -> None:
    folder, _ = followed
    for command in ("run out/network-onnx-fp32 spots0.png", "profile out/network-onnx-fp32", "recommend"):
        failed = typed(folder, "edgekit", *command.split(), "--import", "spotz")
        assert (failed.returncode, failed.stderr) == (
            2, "edgekit: error: --import spotz: No module named 'spotz'\n",
        )  # fmt: skip
