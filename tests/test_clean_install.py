"""Each device extra in an environment of its own: ``edgekit run`` works, torch and the other engines are not there."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from real_conversions import Converted
from target_lists import ORDINARY

from edgekit import converters
from edgekit.runtimes import engine, engine_names
from edgekit.shapes import scene

ROOT = Path(__file__).parents[1]
# The engines that PyPI has for this host; the others come with their device, or stand in a toolchain. ExecuTorch's
# Python module imports torch, so it is not among those that go without.
ENGINES = [name for name in engine_names() if engine(name).extra and not engine(name).hosts and name != "executorch"]
EXTRAS = sorted((engine(name).extra, name) for name in ENGINES)

pytestmark = pytest.mark.clean


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that users install."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("edgekit-*.whl")
    return built


@pytest.mark.parametrize(("extra", "name"), EXTRAS)
def test_one_engine_is_enough(extra: str, name: str, wheel: Path, tmp_path: Path, demo_bundles: Converted) -> None:
    import cv2

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run([*install, f"edgekit[{extra}] @ file://{wheel}"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr

    (target,) = [t for t in converters.target_names() if converters.target(t).engine == name]
    image = tmp_path / "scene.png"
    cv2.imwrite(str(image), scene(320_000).image)
    command = [str(python), "-m", "edgekit", "run", demo_bundles.bundle(target, "int8")["path"], str(image), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["image"] == str(image)
    assert result["detections"]
    assert {"box", "score", "class_id", "name"} <= set(result["detections"][0])

    others = {package for other in ENGINES if other != name for package in engine(other).packages}
    absent = sorted({"torch", "onnx", "nncf", "scipy"} | others)
    check = f"import importlib.util as u; print([p for p in {absent!r} if u.find_spec(p)])"
    found = subprocess.run([str(python), "-c", check], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert found.strip() == "[]"

    other = next(t for t in ORDINARY if converters.target(t).engine in ENGINES and converters.target(t).engine != name)
    command[command.index("run") + 1] = demo_bundles.bundle(other, "fp32")["path"]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert missing.returncode != 0
    assert f"pip install edgekit[{engine(converters.target(other).engine).extra}]" in missing.stderr
    assert "Traceback" not in missing.stderr
