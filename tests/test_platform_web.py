"""The web runtime (platforms/web): its own tests, and real bundles in node with results equal to Python's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from platform_bundles import TASKS, converted, expected, write_pictures

from edgekit.runtimes.selfcheck import add_record

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
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_gives_pythons_results_in_node(task: str, tmp_path: Path, pictures: Path) -> None:
    bundle = converted(task, "web", tmp_path, pictures)
    (tmp_path / "expected.json").write_text(json.dumps([expected(bundle.path, pictures)]))
    said = node("node", "--test", "build/test/bundles.test.js", EDGEKIT_WEB_BUNDLES=str(tmp_path))
    assert "# fail 0" in said
    assert "# skipped 0" in said
    # What the web runtime writes, edgekit reads.
    noted = add_record(bundle.path, tmp_path / f"{bundle.path.name}-record.json")
    (execution,) = noted.manifest.executions or ()
    assert (execution.platform, execution.word) == ("web", "executed")
