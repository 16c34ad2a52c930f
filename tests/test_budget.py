"""Keeping to a budget: which builds are tried, which is kept, what is said, and real conversions that have one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

for package in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'convert'")

from fragile_models import write_stack
from stages import stay
from tiny_conversions import edgekit

from edgekit.conversion import convert
from edgekit.conversion.budget import Attempt, keep
from edgekit.conversion.convert import Conversion
from edgekit.conversion.jobs import MeasuredScore
from edgekit.errors import ConversionError, GateError, UsageError
from edgekit.runtimes.bundle.folder import open_bundle
from edgekit.runtimes.bundle.manifest import Budget, Gate, Graph, Tensor

LAYERS = [f"layer{number}" for number in range(10)]
TENSOR = Tensor(name="tensor", shape=(1, 1))
GRAPH = Graph(files=("model",), inputs=(TENSOR,), outputs=(TENSOR,))


# ---- which builds are tried, and which is kept ----


@dataclass
class Bench:
    """Builds of known scores by the number of layers in float; each layer costs 100 bytes and 2 ms."""

    folder: Path
    scores: dict[int, float]
    fails_from: int = 99
    tried: list[int] = field(default_factory=list)

    def attempt(self, floats: tuple[str, ...]) -> Attempt:
        assert floats == tuple(LAYERS[: len(floats)])
        self.tried.append(len(floats))
        if len(floats) >= self.fails_from:
            raise ConversionError("nothing left")
        folder = self.folder / str(len(floats))
        folder.mkdir()
        (folder / "model").write_bytes(bytes(1000 + 100 * len(floats)))
        measured = MeasuredScore(score=self.scores[len(floats)], by="mAP", milliseconds=5.0 + 2 * len(floats))
        return Attempt(floats, folder, GRAPH, measured)


@pytest.mark.parametrize(
    ("scores", "tried", "kept"),
    [
        ({0: 0.79}, [0], 0),
        ({0: 0.81}, [0], 0),  # better than the source
        ({0: 0.70, 1: 0.785}, [0, 1], 1),
        ({0: 0.70, 1: 0.75, 2: 0.785}, [0, 1, 2], 2),
        ({0: 0.70, 1: 0.60, 2: 0.75, 4: 0.8}, [0, 1, 2, 4], 4),
    ],
)
def test_layers_go_back_until_the_budget_holds(
    tmp_path: Path, scores: dict[int, float], tried: list[int], kept: int
) -> None:
    bench = Bench(tmp_path, scores)
    best, budget = keep(0.02, 0.8, LAYERS, bench.attempt, "mAP")
    assert bench.tried == tried
    assert best.floats == budget.floats == tuple(LAYERS[:kept])
    assert budget == Budget(
        max_drop=0.02,
        by="mAP",
        before=round(0.8 - scores[0], 6),
        drop=round(0.8 - scores[kept], 6),
        kept=True,
        floats=tuple(LAYERS[:kept]),
        bytes_before=1000,
        bytes=1000 + 100 * kept,
        milliseconds_before=5.0,
        milliseconds=5.0 + 2 * kept,
    )


def test_a_budget_that_cannot_be_kept_says_so_and_keeps_the_best(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {0: 0.5, 1: 0.6, 2: 0.7, 4: 0.7, 8: 0.65, 9: 0.69})
    best, budget = keep(0.01, 0.8, LAYERS, bench.attempt, "agreement")
    assert bench.tried == [0, 1, 2, 4, 8, 9], "one layer stays in INT8, or it is another precision"
    assert best.floats == ("layer0", "layer1"), "of two that are equal, the one with fewer layers in float"
    assert (budget.kept, budget.before, budget.drop) == (False, 0.3, 0.1)
    said = budget.sentence()
    assert said.startswith("agreement drop 0.1000 cannot be brought within 0.01: 2 layer(s) back in float")
    assert "(0.00 -> 0.00 MB, 5.0 -> 9.0 ms)" in said
    assert said.endswith("try --finetune 10min, more calibration images, or fp16")


def test_a_build_that_fails_on_the_way_ends_the_search(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {0: 0.5, 1: 0.6, 2: 0.7}, fails_from=4)
    best, budget = keep(0.01, 0.8, LAYERS, bench.attempt, "mAP")
    assert bench.tried == [0, 1, 2, 4]
    assert (len(best.floats), budget.kept) == (2, False)
    with pytest.raises(ConversionError, match="nothing left"):
        keep(0.01, 0.8, LAYERS, Bench(tmp_path, {}, fails_from=0).attempt, "mAP")


def test_without_layers_to_move_there_is_one_build(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {0: 0.5})
    _, budget = keep(0.01, 0.8, [], bench.attempt, "mAP")
    assert bench.tried == [0]
    assert not budget.kept
    assert "layers back in float do not help, or are not possible (" in budget.sentence()


def test_a_kept_budget_in_words() -> None:
    budget = Budget(
        max_drop=0.02, by="mAP", before=0.05, drop=0.0123, kept=True, floats=("a", "b"),
        bytes_before=1_500_000, bytes=2_250_000, milliseconds_before=5.0, milliseconds=6.5,
    )  # fmt: skip
    assert budget.sentence() == (
        "mAP drop 0.0123, within 0.02: 2 layer(s) back in float (1.50 -> 2.25 MB, 5.0 -> 6.5 ms)"
    )
    nothing = msgspec.structs.replace(budget, floats=())
    assert ": no layer had to go back to float (" in nothing.sentence()


# ---- conversions ----


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stay(monkeypatch)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stack(tmp_path_factory.mktemp("pictures") / "pictures.npy", 150)


def fragile(stack: Path, out: Path, **given: Any) -> Conversion:
    return Conversion(
        source="fragile_models:fragile",
        targets=("onnx",),
        precisions=("int8",),
        data=str(stack),
        out=out,
        recipe="plan",
        threads=1,
        gates={"int8": Gate(iou=0.5, matched=0.5, score_drift=0.5, extra=0.5)},
        **given,
    )


def test_a_budget_is_kept_by_layers_in_float_or_broken_openly(
    stack: Path, tmp_path: Path, in_this_process: None
) -> None:
    """One budget that holds at once, one that takes layers, and one that no layers can keep."""
    plan = str(tmp_path / "plan")
    (easy,) = convert.convert(fragile(stack, tmp_path / "easy", plan=plan, max_drop=0.9)).outcomes
    assert easy.ok
    assert easy.evidence is not None
    first = easy.evidence.budget
    assert first is not None
    assert (first.kept, first.floats, first.by, first.max_drop) == (True, (), "agreement", 0.9)
    assert first.before == first.drop > 0.01
    assert (easy.evidence.recipe, easy.evidence.recipes) == ("plan", {})

    conversion = fragile(stack, tmp_path / "hard", plan=plan, max_drop=0.0)
    (hard,) = convert.convert(conversion).outcomes
    assert not hard.ok
    assert isinstance(hard.error, GateError)
    assert "agreement drop 0." in str(hard.error)
    assert "cannot be brought within 0:" in str(hard.error)
    assert "layer(s) back in float" in str(hard.error)
    assert " MB, " in str(hard.error)
    assert "(--no-gate writes it anyway)" in str(hard.error)
    assert not hard.path.exists()

    (written,) = convert.convert(replace(conversion, gated=False)).outcomes
    assert not written.ok
    manifest = open_bundle(written.path).manifest
    assert not manifest.proven
    assert manifest.evidence is not None
    broken = manifest.evidence.budget
    assert broken is not None
    assert manifest.evidence.failures == (broken.sentence(),)
    assert not broken.kept
    assert 0 < broken.drop < broken.before
    assert broken.floats
    assert broken.bytes != broken.bytes_before

    middle = (broken.drop + broken.before) / 2
    (kept,) = convert.convert(fragile(stack, tmp_path / "middle", plan=plan, max_drop=middle)).outcomes
    assert kept.ok
    found = open_bundle(kept.path).manifest.evidence
    assert found is not None
    assert found.budget is not None
    assert found.budget.floats
    assert found.budget.drop <= middle < found.budget.before


def test_a_budget_needs_something_to_be_measured_on(stack: Path, tmp_path: Path, in_this_process: None) -> None:
    few = write_stack(tmp_path / "few.npy", 9)
    with pytest.raises(UsageError, match=r"--max-drop needs labelled images \(--labels\) or more images in --data"):
        convert.convert(fragile(few, tmp_path / "out", max_drop=0.1))


@pytest.mark.nightly
@pytest.mark.convert
def test_recipes_and_budget_are_in_the_manifest_and_on_the_screen(stack: Path, tmp_path: Path) -> None:
    """The command line with its children: both recipes are tried, the better one becomes the bundle."""
    given = ("--target", "onnx", "--precision", "int8", "--data", stack, "--max-drop", "0.5", "--gate", "matched=0.5")
    loose = ("--gate", "score_drift=0.5", "--gate", "extra=0.5")
    done = edgekit("convert", "fragile_models:fragile", *given, *loose, "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["bundles"]
    evidence = open_bundle(entry["path"]).manifest.evidence
    assert evidence is not None
    assert set(evidence.recipes) == {"nncf", "plan"}
    assert evidence.recipe == max(evidence.recipes, key=lambda name: evidence.recipes[name])
    assert evidence.budget is not None
    assert evidence.budget.kept
    assert f"onnx int8: {evidence.budget.sentence()}" in " ".join(done.stderr.split())
