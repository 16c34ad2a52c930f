"""The web runtime (platforms/web): its own tests, and real bundles in node with results equal to Python's."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT
from platform_bundles import TASKS, converted, expected, run, write_pictures
from platform_language import converted_language, expected_language
from web_page import chromium

import edgekit
from edgekit.apps.web import write_app
from edgekit.profiling.records.importing import read_benchmark
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.runtimes.selfcheck import add_record
from edgekit.shapes import scene
from edgekit.shapes.talk import talked

WEB = ROOT / "platforms" / "web"
PACKAGES = WEB / "node_modules"

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs node"),
    pytest.mark.skipif(not PACKAGES.is_dir(), reason="make test-web installs the packages of platforms/web"),
]


def node(*command: str, **environment: str) -> str:
    """What a command says in the package's folder; an error of it fails the test with its words."""
    done = subprocess.run(
        command, cwd=WEB, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    node("npx", "tsc", "-p", "tsconfig.test.json")


def test_the_golden_set_and_the_model_pass_in_node() -> None:
    said = node("node", "--test", "build/test/golden.test.js", "build/test/model.test.js")
    assert "# fail 0" in said
    assert "# skipped 0" in said


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("web") / "pictures")


@pytest.fixture(scope="module")
def bundles(pictures: Path) -> Callable[[str], Path]:
    """The folder with the bundle of a task and ``expected.json``, beside the pictures, converted once."""

    @functools.cache
    def made(task: str) -> Path:
        bundle = converted(task, "web", pictures.parent / task, pictures)
        entry = expected(bundle, pictures)
        if task == "detector":
            entry |= moving(bundle)
        (pictures.parent / task / "expected.json").write_text(json.dumps([entry]))
        return pictures.parent / task

    return made


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_gives_pythons_results_in_node(task: str, bundles: Callable[[str], Path]) -> None:
    folder = bundles(task)
    said = node("node", "--test", "build/test/bundles.test.js", EDGEKIT_WEB_BUNDLES=str(folder))
    assert "# fail 0" in said
    assert "# skipped 0" in said
    # What the web runtime writes, edgekit reads.
    (record,) = folder.glob("*-record.json")
    noted = add_record(record.with_name(record.name.removesuffix("-record.json")), record)
    (execution,) = noted.manifest.executions or ()
    assert (execution.platform, execution.word) == ("web", "executed")


@pytest.fixture(scope="module")
def language(pictures: Path) -> Path:
    """The folder of BLIP-2 bundles with ``expected.json``: both forms of cache, every family."""
    out = pictures.parent / "language"
    entries = []
    for family, target, precision in (
        ("opt", "web", "fp32"),
        ("opt", "web", "int4"),
        ("opt", "onnx", "int4"),
        ("t5", "web", "int4"),
        ("retrieval", "web", "int4"),
    ):
        bundle = converted_language(family, target, precision, out, pictures)
        unit = "node" if target == "web" else ""
        entries.append(expected_language(bundle, sorted(pictures.glob("*.png"))[:2], unit))
    (out / "expected.json").write_text(json.dumps(entries))
    return out


def test_blip2_says_in_node_what_it_says_in_python(language: Path) -> None:
    said = node("node", "--test", "build/test/language.test.js", EDGEKIT_WEB_LANGUAGE=str(language))
    assert "# fail 0" in said
    assert "# skipped 0" in said


@pytest.mark.skipif(not chromium(), reason="needs chromium")
def test_the_golden_set_and_bundles_pass_in_chromium(bundles: Callable[[str], Path]) -> None:
    """Pictures in every form that a page has, video, a fake camera, workers, and what is refused."""
    entries = [json.loads((bundles(task) / "expected.json").read_text())[0] for task in TASKS]
    folder = bundles("detector").parent
    (folder / "expected.json").write_text(json.dumps(entries))
    said = node("node", "--test", "build/test/browser.test.js", EDGEKIT_WEB_BUNDLES=str(folder))
    assert "# fail 0" in said
    assert "# skipped 0" in said


@pytest.mark.skipif(not chromium(), reason="needs chromium")
def test_the_app_in_chromium(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    """The page of ``edgekit app web``: what it shows, by keyboard too, what it says of errors, and its records."""
    for task in ("detector", "pose", "segment"):
        write_app(bundles(task) / f"{task}-web-fp32", tmp_path / task)
    detector = bundles("detector")
    shutil.copyfile(detector / "camera.y4m", tmp_path / "detector.y4m")
    example = cv2.imread(str(tmp_path / "detector" / "bundle" / "golden" / "frame-0.png"))
    seen = run(open_bundle(detector / "detector-web-fp32"))(example)
    (tmp_path / "detector.json").write_text(json.dumps(list(seen.names)))
    said = node("node", "--test", "build/test/app.test.js", EDGEKIT_WEB_APPS=str(tmp_path))
    assert "# fail 0" in said
    assert "# skipped 0" in said
    # What the buttons save, edgekit reads.
    noted = add_record(detector / "detector-web-fp32", tmp_path / "made" / "detector-selfcheck.json")
    executions = noted.manifest.executions or ()
    assert "Chrome" in executions[-1].machine
    profile = read_benchmark(tmp_path / "made" / "detector-benchmark.json")
    assert profile.subject.sha256 == open_bundle(tmp_path / "detector" / "bundle").manifest.digest
    assert (profile.subject.task, profile.subject.size, len(profile.rounds)) == ("detect", (256, 256), 3)
    assert profile.conditions.machine.key.startswith("Chrome ")
    assert profile.total.count >= 15
    assert set(profile.stages) == {"pre", "inference", "post"}


@pytest.mark.skipif(not chromium(), reason="needs chromium")
def test_the_page_of_a_blip2_in_chromium(language: Path, tmp_path: Path) -> None:
    """A picture, its caption, a question by keyboard, a match, and what is said of errors."""
    for family in ("opt", "retrieval"):
        write_app(language / f"{family}-web-int4", tmp_path / family)
    told = talked(9010)
    picture, question = str(tmp_path / "picture.png"), told.questions[0].text
    cv2.imwrite(picture, np.ascontiguousarray(told.scene.image))
    with edgekit.load(language / "opt-web-int4", edgekit.VisionLanguage, unit="node") as model:
        said = {"caption": model.caption(picture).text, "answer": model.ask(picture, question).text}
    (tmp_path / "expected.json").write_text(json.dumps({"picture": picture, "question": question, **said}))
    report = node("node", "--test", "build/test/language_app.test.js", EDGEKIT_WEB_LANGUAGE_APPS=str(tmp_path))
    assert "# fail 0" in report
    assert "# skipped 0" in report


def moving(bundle: Bundle) -> dict[str, Any]:
    """A camera and a video that show one scene, as files, and what Python finds in their frames."""
    image = np.ascontiguousarray(scene(3, (240, 320)).image)
    camera, video = bundle.path.parent / "camera.y4m", bundle.path.parent / "video.webm"
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    frame = b"FRAME\n" + planes.tobytes()
    camera.write_bytes(b"YUV4MPEG2 W320 H240 F30:1 Ip A1:1 C420\n" + 30 * frame)
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"VP80"), 30, (320, 240))
    for _ in range(30):
        writer.write(image)
    writer.release()
    read, first = cv2.VideoCapture(str(video)).read()
    assert read
    seen = {"camera": (camera, cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)), "video": (video, first)}
    return {
        name: {"file": str(file), "result": run(bundle)(shown).to_dict(classes=False)}
        for name, (file, shown) in seen.items()
    }
