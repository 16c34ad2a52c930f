"""``edgekit run --track``: options of the line and of the bundle, and what is said where a threshold discards most."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from tiny_conversions import edgekit as command
from tiny_models import picture
from tiny_onnx import write_tiny_bundle

import edgekit

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnx", reason="needs onnx to write a model")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames that show the same."""
    folder = tmp_path_factory.mktemp("film")
    for number in range(12):
        cv2.imwrite(str(folder / f"{number:02}.png"), picture(3))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


def tracked(bundle: Path, film: Path, *options: str) -> tuple[int, str]:
    """How many objects are tracked in the last frame, and what is said."""
    done = command("run", bundle, film, "--track", "bytetrack", "--json", *options)
    assert done.returncode == 0, done.stderr
    return len(json.loads(done.stdout.splitlines()[-1])["detections"]), done.stderr


def test_options_of_the_line_and_of_the_bundle(bundle: Path, film: Path) -> None:
    found = len(edgekit.load(bundle)(picture(3)))
    all_of_them = ("--track-option", "new_score=0.3", "--track-option", "high_score=0.25")
    assert tracked(bundle, film, *all_of_them) == (found, "")
    none, said = tracked(bundle, film, "--track-option", "new_score=1", "--track-option", "high_score=1")
    assert none == 0
    assert f"edgekit: {found:.1f} found per frame, 0.0 tracked: {12 * found} of {12 * found} detections scored" in said
    assert "under bytetrack's new_score, 1; try --track-option high_score=0.6 --track-option new_score=0.7, " in said
    assert f"or keep that in the bundle: edgekit amend {bundle} --tracker-option high_score=0.6" in said
    edgekit.amend(bundle, tracker_options={"new_score": 1.0, "high_score": 1.0})
    assert tracked(bundle, film)[0] == 0
    assert tracked(bundle, film, *all_of_them)[0] == found, "the line wins"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--track-option", "new_score=0.3"), "--track-option goes with --track NAME"),
        (("--track", "bytetrack", "--track-option", "new_score"), "write it as NAME=VALUE, for example new_score=0.5"),
        (("--track", "bytetrack", "--track-option", "speed=1"), "option 'speed' is not one of: "),
        (("--track", "bytetrack", "--track-option", "new_score=2"), "option new_score=2: "),
        (("--track", "sort", "--track-option", "new_score=0.3"), "option 'new_score' is not one of: "),
    ],
)
def test_wrong_options_end_with_2(bundle: Path, film: Path, options: tuple[str, ...], says: str) -> None:
    done = command("run", bundle, film, *options)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
