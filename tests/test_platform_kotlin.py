"""The Kotlin runtime (platforms/kotlin): its own tests, and real bundles with results equal to Python's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from platform_bundles import TASKS, converted, expected, write_pictures
from platform_language import converted_language, expected_language
from tiny_onnx import write_tiny_bundle

from edgekit.apps import android
from edgekit.profiling.records.importing import read_benchmark
from edgekit.runtimes.bundle.manifest import Language
from edgekit.runtimes.selfcheck import add_record

SCRIPT = ROOT / "platforms" / "kotlin" / "test.sh"
TOOLCHAIN = Path(os.environ.get("EDGEKIT_KOTLIN_ROOT") or Path.home() / ".cache" / "edgekit" / "kotlin")

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        not list(TOOLCHAIN.glob(".edgekit-ready-*")), reason="make test-kotlin sets the Kotlin compiler and JUnit up"
    ),
]


def kotlin(*tests: str, bundles: Path | None = None) -> str:
    """What the tests of the library say; a failure fails the test with its words."""
    environment = {**os.environ, "EDGEKIT_KOTLIN_BUNDLES": str(bundles or ""), "EDGEKIT_PYTHON": sys.executable}
    done = subprocess.run(
        [str(SCRIPT), *tests], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_the_golden_set_the_model_the_modules_and_damaged_input() -> None:
    said = kotlin()
    assert "OK (" in said
    for kind in (
        "preprocess",
        "decode",
        "nms",
        "rle",
        "track",
        "smooth",
        "oks_nms",
        "manifest",
        "tokenizer",
        "generation",
    ):
        assert f"golden {kind}: " in said


@pytest.mark.parametrize(("engine", "speaks"), [("litert", False), ("onnxruntime", False), ("onnxruntime", True)])
def test_an_android_app_compiles_and_its_tests_pass(engine: str, speaks: bool, tmp_path: Path) -> None:
    """Against stubs of Android; its tests are plain Kotlin."""
    language = Language(family="opt", queries=4) if speaks else None
    app = android.write_app(write_tiny_bundle(tmp_path / "tiny", engine=engine, language=language), tmp_path / "app")
    assert "OK (3 tests)" in kotlin("app", str(app))
    if speaks:
        return
    # Negative control: what does not compile is told.
    with (app / android.SOURCES / "Phone.kt").open("a") as file:
        file.write('val wrong: Int = "text"\n')
    with pytest.raises(AssertionError, match=r"wrong: Int|type mismatch"):
        kotlin("app", str(app))


def test_bundles_of_every_task_give_pythons_results_in_kotlin(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    bundles = [converted(task, "onnx", tmp_path, pictures) for task in TASKS]
    (tmp_path / "expected.json").write_text(json.dumps([expected(bundle, pictures) for bundle in bundles]))
    said = kotlin("BundleTest", "AppTest", bundles=tmp_path)
    # What the Kotlin runtime writes, edgekit reads.
    for bundle in bundles:
        assert f"bundle {bundle.path.name}: 6 pictures" in said
        noted = add_record(bundle.path, tmp_path / f"{bundle.path.name}-record.json")
        (execution,) = noted.manifest.executions or ()
        assert (execution.platform, execution.word) == ("kotlin", "executed")
    profile = read_benchmark(tmp_path / "app-benchmark.json")
    assert profile.conditions.machine.key == "Google Pixel 10, Android 16"
    assert len(profile.rounds) == 3


def test_blip2_gives_pythons_texts_and_matches_in_kotlin(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    spoken = [
        converted_language(family, target, precision, tmp_path / "language", pictures)
        for family, target, precision in (
            ("opt", "onnx", "int4"),
            ("t5", "onnx", "fp32"),
            ("opt", "web", "fp32"),
            ("retrieval", "onnx", "fp32"),
        )
    ]
    two = sorted(pictures.glob("*.png"))[:2]
    (tmp_path / "language.json").write_text(
        json.dumps([expected_language(one, two, "node" if "-web-" in one.name else "") for one in spoken])
    )
    said = kotlin("LanguageTest", bundles=tmp_path)
    for bundle in spoken:
        assert f"language {bundle.name}: " in said
