"""The Swift runtime (platforms/swift): its own tests, and real bundles with results equal to Python's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from platform_bundles import TASKS, converted, expected, write_pictures
from platform_language import converted_language, expected_language
from tiny_onnx import write_tiny_bundle

from edgekit.apps import ios
from edgekit.profiling.records.importing import read_benchmark
from edgekit.runtimes.selfcheck import add_record

SCRIPT = ROOT / "platforms" / "swift" / "test.sh"
TOOLCHAIN = Path(os.environ.get("EDGEKIT_SWIFT_ROOT") or Path.home() / ".cache" / "edgekit" / "swift")

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        shutil.which("swift") is None and not (TOOLCHAIN / ".edgekit-ready").exists(),
        reason="make test-swift sets Swift up",
    ),
]


def swift(*arguments: str, bundles: Path | None = None) -> str:
    """What the tests of the package say; a failure fails the test with its words."""
    return run("test", *arguments, bundles=bundles)


def run(*arguments: str, bundles: Path | None = None) -> str:
    """What the script says; a failure fails the test with its words."""
    environment = {**os.environ, "EDGEKIT_SWIFT_BUNDLES": str(bundles or "")}
    done = subprocess.run(
        [str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def test_bundles_of_every_task_give_pythons_results_in_swift(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    bundles = [converted(task, "onnx", tmp_path, pictures) for task in TASKS]
    (tmp_path / "expected.json").write_text(json.dumps([expected(bundle, pictures) for bundle in bundles]))
    spoken = [
        # Debian's ONNX Runtime (1.21) refuses blocks of 8 bits, and the attention of T5 with its bias.
        converted_language(family, target, "fp32", tmp_path / "language", pictures)
        for family, target in (("opt", "onnx"), ("retrieval", "onnx"), ("opt", "web"), ("t5", "web"))
    ]
    two = sorted(pictures.glob("*.png"))[:2]
    (tmp_path / "language.json").write_text(
        json.dumps([expected_language(one, two, "node" if "-web-" in one.name else "") for one in spoken])
    )
    said = swift(bundles=tmp_path)
    assert " passed" in said
    assert "skipped" not in said
    # What the Swift runtime writes, edgekit reads.
    for bundle in bundles:
        noted = add_record(bundle.path, tmp_path / f"{bundle.path.name}-record.json")
        (execution,) = noted.manifest.executions or ()
        assert (execution.platform, execution.word) == ("swift", "executed")
    profile = read_benchmark(tmp_path / "app-benchmark.json")
    assert profile.conditions.machine.key == "iPhone17,1, iOS 18.5"
    assert len(profile.rounds) == 3


def test_the_package_of_an_app_compiles(tmp_path: Path) -> None:
    """What of it Linux has: the files behind `canImport` are parsed, and left out."""
    bundle = write_tiny_bundle(tmp_path / "tiny", engine="coreml")
    app = ios.write_app(bundle, tmp_path / "app")
    scratch = ["--package-path", str(app / "EdgeKit"), "--scratch-path", "/var/tmp/edgekit-swift-app"]
    said = run("run", "swift", "build", *scratch, bundles=tmp_path)
    assert "Compiling" in said or "Build complete" in said
    own = [str(path) for path in app.glob("EdgeApp*/*.swift")]
    assert len(own) == 2
    own.append(str(ROOT / "platforms" / "swift" / "app" / "EdgeAppTests" / "language.swift"))
    run("run", "swiftc", "-parse", *own, bundles=tmp_path)
    # Negative control: what does not compile is told.
    with (app / "EdgeKit" / "Sources" / "EdgeKitUI" / "Hud.swift").open("a") as file:
        file.write('let wrong: Int = "text"\n')
    with pytest.raises(AssertionError, match="cannot convert value"):
        run("run", "swift", "build", *scratch, bundles=tmp_path)


def test_the_stream_has_no_data_races() -> None:
    said = swift("--sanitize=thread", "--filter", "ModelTests", "--scratch-path", "/var/tmp/edgekit-swift-tsan")
    assert "ThreadSanitizer" not in said
    assert " passed" in said
