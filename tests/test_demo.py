"""``edgekit demo``, on few scenes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner
from target_lists import EVERYTHING
from tiny_conversions import edgekit

from edgekit.cli._progress import Countdown
from edgekit.cli.demo import command

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_the_demo_measures_draws_and_describes(folder: Path) -> None:
    precisions = ("fp32", "int8") if EVERYTHING else ("fp32",)
    given = ("--target", "onnx", "--precision", ",".join(precisions), "--scenes", 8, "-o", folder)
    done = edgekit("demo", *given, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {(row["target"], row["precision"]): row for row in report["measured"]}
    assert set(rows) == {("torch", "fp32"), *(("onnx", precision) for precision in precisions)}
    assert rows["onnx", "fp32"]["mAP"] == pytest.approx(rows["torch", "fp32"]["mAP"], abs=1e-3)
    assert all(row["mAP"] > 0.7 and row["latency_ms"] > 0 for row in rows.values())
    assert not report["failed"]
    said = report["described"]
    assert said["question"] == "What color is the cross?"
    assert said["answer"] == "green"
    assert {"triangle", "cross", "heart", "circle"} & set(re.findall(r"[a-z]+", said["caption"]))
    for path in (report["picture"], said["picture"]):
        picture = cv2.imread(path)
        assert picture is not None
        assert picture.std() > 20
    assert (folder / f"shapes-onnx-{precisions[-1]}" / "manifest.json").is_file()
    # Nobody watches here: a line tells of each step, and how long the rest will take.
    assert re.search(
        rf"^\[\d+:\d\d\] onnx {precisions[-1]}: done in \d+:\d\d \(about \d+:\d\d left\)$", done.stderr, re.MULTILINE
    )


@pytest.mark.nightly
def test_the_demo_prints_a_table(folder: Path) -> None:
    done = edgekit("demo", "--target", "onnx", "--precision", "fp32", "--scenes", 4, "--no-blip2", "-o", folder)
    assert done.returncode == 0, done.stderr
    assert "mAP50-95 on 4 held-out scenes" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if "onnx" in line]
    assert "executed" in row
    assert "matched" in row
    assert "no BLIP-2" in done.stdout


def test_one_model_cannot_be_both_given_and_left_out(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--blip2", str(tmp_path), "--no-blip2"])
    assert done.exit_code == 2
    assert "--blip2 and --no-blip2 exclude each other" in done.output


def test_the_time_left_follows_the_pace_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("edgekit.cli._progress.time.monotonic", lambda: now)
    countdown = Countdown({"one": 60.0, "two": 60.0})
    assert str(countdown) == "about 2:00 left"
    now += 120.0  # twice as slow as expected
    countdown.tell("one", 1.0)
    countdown.tell("no such step", 1.0)
    assert countdown.share == 0.5
    assert 100 < countdown.left < 120
    countdown.tell("two", 1.0)
    assert countdown.left == 0
