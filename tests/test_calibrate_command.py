"""``edgekit calibrate``, and what ``edgekit convert`` does with a plan."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'convert'")

from stages import stay
from tiny_conversions import edgekit as child
from tiny_conversions import write_pictures

from edgekit.calibration.plan import FILE, MIXED, Plan, read_plan
from edgekit.cli import main
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.folder import open_bundle

SOURCE = "tiny_models:detector"


@dataclass(frozen=True)
class Said:
    """What a command line gave."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command line and its stages in this process."""
    stay(monkeypatch)

    def cli(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, " ".join(err.split()))

    return cli


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("photos"), 24)


@dataclass(frozen=True)
class Calibrated:
    """A plan that the command line made, with its children."""

    folder: Path
    report: Path
    said: Any

    @property
    def plan(self) -> Plan:
        return read_plan(self.folder)


@pytest.fixture(scope="module")
def calibrated(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder = tmp_path_factory.mktemp("calibrated")
    given = ("--sensitivity", "--html", folder / "report.html", "--json", "-o", folder / "plan")
    done = child("calibrate", SOURCE, "--data", photos, *given)
    assert done.returncode == 0, done.stderr
    return Calibrated(folder / "plan", folder / "report.html", json.loads(done.stdout))


# ---- what calibrate leaves ----


@pytest.mark.convert
def test_the_plan_is_a_folder_with_everything_in_it(calibrated: Calibrated) -> None:
    assert {FILE, "sensitivity.svg", MIXED} <= {path.name for path in calibrated.folder.iterdir()}
    assert {path.name for path in (calibrated.folder / MIXED).iterdir()} == {"graph.onnx", "graph.pt2"}
    plan = calibrated.plan
    assert calibrated.said == json.loads((calibrated.folder / FILE).read_text())
    assert plan.images == 14  # a third of 24 is the proof's, a fifth of the others is held back
    assert plan.fp16_issues == ()
    assert plan.advice is not None


@pytest.mark.convert
def test_sensitivity_is_measured_and_drawn(calibrated: Calibrated) -> None:
    layers = calibrated.plan.mixed.layers
    assert len(layers) == 8
    assert all(layer.sensitivity is not None and 0 <= layer.sensitivity <= 1 for layer in layers)
    drawn = (calibrated.folder / "sensitivity.svg").read_text()
    assert xml.etree.ElementTree.fromstring(drawn).tag.endswith("svg")
    assert all(layer.name in drawn for layer in layers)


@pytest.mark.convert
def test_the_report_is_one_page(calibrated: Calibrated) -> None:
    page = calibrated.report.read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "https://" not in page
    assert all(layer.name in page for layer in calibrated.plan.mixed.layers)


@pytest.mark.nightly
def test_in_words(cli: Cli, photos: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    done = cli("calibrate", SOURCE, "--data", photos, "--sensitivity", "--ranges", "percentile", "-o", plan)
    assert done.code == 0, done.err
    assert "layers: 3 int8, 5 in float where a target can (3 stem, 2 head)" in done.out
    assert "ranges: " in done.out
    assert " percentile" in done.out
    assert "biases corrected: " in done.out
    assert "sensitivity" in done.out
    assert f"plan: {plan}" in done.out.replace("\n", " ").replace("  ", " ")
    tensors = read_plan(plan).mixed.tensors
    assert {one.method for name, one in tensors.items() if name not in ("boxes", "classes")} == {"percentile"}

    again = cli(
        "calibrate",
        SOURCE,
        "--data",
        photos,
        "--no-float-fallback",
        "--no-equalization",
        "--no-bias-correction",
        "-o",
        plan,
    )
    assert again.code == 0, again.err
    assert "layers: 8 int8, 0 in float where a target can (none)" in again.out
    assert "biases corrected: 0" in again.out
    assert not (plan / "sensitivity.svg").exists(), "an older plan is replaced altogether"


# ---- what it refuses ----


def test_a_folder_of_something_else_is_left_alone(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        done = cli("calibrate", SOURCE, "--data", photos, "-o", out)
        assert done.code == 2
        assert "holds something that is not a plan; choose another folder for the plan" in done.err
        given = ("--target", "onnx", "--precision", "int8", "--data", photos, "--plan", out)
        done = cli("convert", SOURCE, *given, "-o", tmp_path / "out")
        assert done.code == 2
        assert "holds something that is not a plan" in done.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--ranges", "kl"), "'kl' is not one of 'auto', 'min-max', 'percentile', 'squared'"),
        (("--adaptive-rounding",), "No such option '--adaptive-rounding'"),
    ],
)
def test_methods_that_are_gone_are_refused(given: tuple[str, ...], message: str, cli: Cli, photos: Path) -> None:
    done = cli("calibrate", SOURCE, "--data", photos, *given)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10", "'10' has no unit: write 10min or 10s"),
        ("0min", "'0min' is no time at all: write 10min"),
        ("-1min", "'-1min' is not a number with one of the units s, ms, min"),
        ("nanmin", "'nanmin' is not a number"),
        ("10years", "'10years' is not a number with one of the units"),
        ("minutes=", "'min' is not a number"),
        ("minutes=0", "'0min' is no time at all"),
        ("hours=1", "'hours=1' is not a number"),
    ],
)
def test_finetune_takes_a_time(text: str, says: str, cli: Cli, photos: Path, tmp_path: Path) -> None:
    done = cli("calibrate", SOURCE, "--data", photos, "--finetune", text, "-o", tmp_path / "plan")
    assert done.code == 2
    assert says in done.err


def test_data_is_needed(cli: Cli, tmp_path: Path) -> None:
    done = cli("calibrate", SOURCE, "-o", tmp_path / "plan")
    assert done.code == 2
    assert "Missing option '--data'" in done.err
    one = write_pictures(tmp_path / "one", 1)
    done = cli("calibrate", SOURCE, "--data", one, "-o", tmp_path / "plan")
    assert done.code == 2
    assert "int8 needs some for calibration and others for the proof" in done.err
    assert not (tmp_path / "plan").exists()


# ---- converting with a plan ----


def test_convert_leaves_a_plan_and_takes_it_over(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = tmp_path / "new" / "plan", tmp_path / "out"
    given = ("--target", "onnx", "--precision", "int8", "--data", photos, "--recipe", "plan", "--plan", plan)
    assert cli("convert", SOURCE, *given, "-o", out).code == 0
    left = read_plan(plan)
    assert (left.images, len(left.mixed.layers)) == (14, 8)
    evidence = open_bundle(out / "detector-onnx-int8").manifest.evidence
    assert evidence is not None
    assert (evidence.recipe, evidence.recipes) == ("plan", {})
    first = (out / "detector-onnx-int8" / "model.onnx").read_bytes()

    def refuse(*arguments: Any) -> None:
        raise ConversionError("a plan is made a second time")

    monkeypatch.setattr("edgekit.conversion.calibrate.make_plan", refuse)
    before = (plan / FILE).read_bytes()
    done = cli("convert", SOURCE, *given, "-o", tmp_path / "again")
    assert done.code == 0, done.err
    assert (tmp_path / "again" / "detector-onnx-int8" / "model.onnx").read_bytes() == first
    assert (plan / FILE).read_bytes() == before
    assert "a plan is made a second time" in cli("convert", SOURCE, *given[:-2], "-o", tmp_path / "none").err

    for more in (("--finetune", "1min"), ("--ranges", "min-max"), ("--no-float-fallback",)):
        changed = cli("convert", SOURCE, *given, *more, "-o", tmp_path / "changed")
        assert changed.code == 2
        assert f"--plan {plan}: a given plan is used as it is; leave out --finetune" in changed.err

    other = cli("convert", "tiny_models:recoloured", *given, "-o", tmp_path / "other")
    assert other.code == 2
    assert f"{plan} is the plan of another model ({left.model[:12]}, this one is " in other.err
    assert "make one with: edgekit calibrate SOURCE --data DIR -o PLAN" in other.err

    (plan / FILE).write_text("{")
    spoilt = cli("convert", SOURCE, *given, "-o", tmp_path / "spoilt")
    assert spoilt.code == 2
    assert "plan.json: not a plan (" in spoilt.err


def test_a_budget_needs_something_to_be_kept_by(cli: Cli, tmp_path: Path) -> None:
    few = write_pictures(tmp_path / "few", 8)
    given = ("--target", "onnx", "--precision", "int8", "--data", few, "--max-drop", "0.01")
    done = cli("convert", SOURCE, *given, "-o", tmp_path / "out")
    assert done.code == 2
    assert "--max-drop needs labelled images (--labels) or more images in --data" in done.err
    done = cli("calibrate", SOURCE, "--data", few, "--finetune", "minutes=1", "-o", tmp_path / "plan")
    assert done.code == 2
    assert "--finetune needs more images in --data: from ten calibration images on some form the" in done.err


@pytest.mark.convert
def test_a_plan_of_calibrate_serves_a_conversion_in_other_processes(
    calibrated: Calibrated, cli: Cli, photos: Path, tmp_path: Path
) -> None:
    given = ("--target", "onnx", "--precision", "int8", "--data", photos, "--recipe", "plan")
    done = cli("convert", SOURCE, *given, "--plan", calibrated.folder, "-o", tmp_path)
    assert done.code == 0, done.err
    assert open_bundle(tmp_path / "detector-onnx-int8").manifest.proven
