"""A second conversion of the same request keeps what is finished, and a run that nobody watches tells how far it is."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'convert'")

import tiny_conversions
from sample_bundles import contents
from tiny_conversions import SOURCE, start, write_pictures

from edgekit.cli import _progress
from edgekit.conversion.kept_graphs import FOLDER
from edgekit.runtimes.bundle.folder import open_bundle

pytestmark = pytest.mark.convert

BOTH = ("--target", "onnx", "--precision", "fp32,int8")


def converted(photos: Path, out: Path, *more: object) -> dict[str, Any]:
    """The report of a conversion to two bundles."""
    done = tiny_conversions.edgekit("convert", SOURCE, *BOTH, "--data", photos, "-o", out, "--json", *more)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def kept(document: dict[str, Any]) -> list[str]:
    return [one["precision"] for one in document["bundles"] if "kept" in one]


@pytest.mark.nightly
def test_a_second_run_keeps_what_the_same_request_made(tmp_path: Path) -> None:
    photos, out = write_pictures(tmp_path / "photos", 16), tmp_path / "out"
    first = converted(photos, out)
    assert kept(first) == []
    assert set(first["seconds"]) == {"prepare", "calibrate", "total"}
    assert all({"build", "validate"} <= set(one["seconds"]) for one in first["bundles"])
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "the plan is not left behind"
    before = {path.name: contents(path) for path in out.iterdir() if path.is_dir()}

    again = tiny_conversions.edgekit("convert", SOURCE, *BOTH, "--data", photos, "-o", out)
    assert "onnx int8: kept: made by the same request at 20" in again.stderr
    assert "calibrate:" not in again.stderr
    assert again.stdout.count("proven (kept)") == 2
    assert {path.name: contents(path) for path in out.iterdir() if path.is_dir()} == before

    shutil.rmtree(out / "detector-onnx-fp32")
    (out / "detector-onnx-int8" / "model.onnx").write_bytes(b"damaged")
    assert kept(converted(photos, out)) == [], "missing, and damaged"
    assert kept(converted(photos, out, "--name", "detector")) == ["fp32", "int8"]
    changed = converted(photos, out, "--gate", "matched=0.5")
    assert kept(changed) == [], "another gate is another proof"
    assert kept(converted(photos, out, "--gate", "matched=0.5", "--rebuild")) == []
    write_pictures(photos, 1, first=100)
    assert "int8" not in kept(converted(photos, out, "--gate", "matched=0.5")), "another image to calibrate on"


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed while the second bundle is proven: the first bundle and the plan are not made again."""
    photos, out, folder = write_pictures(tmp_path / "photos", 16), tmp_path / "out", tmp_path / "stall"
    folder.mkdir()
    request = ("convert", SOURCE, *BOTH, "--data", photos, "-o", out, "--import", "stalling")
    # 1 the command, 2 prepares, 3 calibrates, 4 and 5 build and prove fp32, 6 builds int8
    stalled = start(*request, STALL_AT="6", STALL_FOLDER=str(folder))
    while not (folder / "stalled").exists():
        assert stalled.poll() is None, stalled.communicate()
        time.sleep(0.05)
    stalled.send_signal(signal.SIGTERM)
    _, told = stalled.communicate(timeout=60)
    assert stalled.returncode == 143
    assert "calibrate: done" in told
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [FOLDER], "the plan alone"
    made = contents(out / "detector-onnx-fp32")

    done = tiny_conversions.edgekit(*request, STALL_AT="99", STALL_FOLDER=str(folder))
    assert done.returncode == 0, done.stderr
    assert "onnx fp32: kept: made by the same request at" in done.stderr
    assert "calibrate: plan of an interrupted run" in done.stderr
    assert "onnx int8: done" in done.stderr
    assert contents(out / "detector-onnx-fp32") == made
    assert open_bundle(out / "detector-onnx-int8").manifest.proven
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_lines_tell_how_far_a_run_is_where_no_terminal_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_progress, "EVERY", 0.05)
    ticked = threading.Event()
    line = _progress._Lines._line

    def seen(lines: Any, text: str) -> None:
        line(lines, text)
        if text.endswith("half 50%"):
            ticked.set()

    monkeypatch.setattr(_progress._Lines, "_line", seen)
    with _progress.watched({"one": 10.0, "two": 10.0}) as watch:
        watch.progress("one", "half", 0.5)
        watch.say("source: cut at 3 [brackets]")
        assert ticked.wait(10)
        watch.progress("one", "done", 1.0)
        watch.progress("two", "failed", 1.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^\[0:00\] one: half \(about 0:1\d left\)$", err, re.MULTILINE)
    assert re.search(r"^\[0:0\d\] one: half 50% \(about 0:1\d left\)$", err, re.MULTILINE)
    assert re.search(r"^\[0:0\d\] one: done in 0:0\d \(about", err, re.MULTILINE)
    assert "source: cut at 3 [brackets]\n" in err
    assert "two: failed in 0:00 (about 0:00 left)" in err


def test_short_commands_tell_only_what_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress.progress_bars() as progress:
        progress("reading", "a model", 0.5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (67, "1:07"), (3723, "1:02:03")])
def test_a_length_of_time(seconds: float, shown: str) -> None:
    assert _progress.clock(seconds) == shown
