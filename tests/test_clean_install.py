"""Each device extra in an environment of its own: ``edgekit run`` works, torch and the other engines are not there."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from matrix import picture
from real_conversions import Converted
from target_lists import ORDINARY

from edgekit import converters
from edgekit.runtimes.engines import engine, engine_names
from edgekit.shapes import scene

ROOT = Path(__file__).parents[1]
# The engines that PyPI has for this host; the others come with their device, or stand in a toolchain. ExecuTorch's
# Python module imports torch, so it is not among those that go without.
ENGINES = [name for name in engine_names() if engine(name).extra and not engine(name).hosts and name != "executorch"]
EXTRAS = [
    pytest.param(engine(name).extra, name, id=name, marks=() if name == "litert" else pytest.mark.nightly)
    for name in sorted(ENGINES)
]

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
def test_one_engine_is_enough(extra: str, name: str, wheel: Path, tmp_path: Path, target_bundles: Converted) -> None:
    import cv2

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run([*install, f"edgekit[{extra}] @ file://{wheel}"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr

    (target,) = [t for t in converters.target_names() if converters.target(t).engine == name]
    image = tmp_path / "scene.png"
    cv2.imwrite(str(image), picture(320_000))
    command = [str(python), "-m", "edgekit", "run", target_bundles.bundle(target, "int8")["path"], str(image), "--json"]
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
    command[command.index("run") + 1] = target_bundles.bundle(other, "int8")["path"]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert missing.returncode != 0
    assert f"pip install edgekit[{engine(converters.target(other).engine).extra}]" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.fixture(scope="module")
def blip2_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small BLIP-2 models of the examples, converted for both engines."""
    pytest.importorskip("transformers", reason="needs the extra 'convert'")
    out = tmp_path_factory.mktemp("blip2")
    for kind in ("opt", "retrieval"):
        command = [sys.executable, "-m", "edgekit", "convert", str(ROOT / "examples" / "blip2" / kind)]
        given = ["--target", "onnx,openvino", "--precision", "fp16", "-o", str(out)]
        done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    return out


@pytest.mark.nightly
@pytest.mark.parametrize("extra", ["onnx", "openvino"])
def test_blip2_needs_neither_torch_nor_transformers(
    extra: str, wheel: Path, tmp_path: Path, blip2_bundles: Path
) -> None:
    import cv2

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    wanted = f"edgekit[{extra},language] @ file://{wheel}"
    done = subprocess.run([*install, wanted], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (tmp_path / "photos").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), scene(320_000 + number).image)

    def edgekit(*arguments: str) -> str:
        command = [str(python), "-m", "edgekit", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    writer, matcher = (str(blip2_bundles / f"{kind}-{extra}-fp16") for kind in ("opt", "retrieval"))
    assert json.loads(edgekit("caption", writer, "photos/0.png", "--json"))["text"]
    assert json.loads(edgekit("ask", writer, "How many circles are there?", "photos/0.png", "--json"))["text"]
    assert 0 <= json.loads(edgekit("match", matcher, "a red circle", "photos/0.png", "--json"))["probability"] <= 1
    edgekit("index", matcher, "photos", "-o", "index")
    found = [json.loads(line) for line in edgekit("search", matcher, "index", "a red circle", "--json").splitlines()]
    assert "photos/1.png" in json.dumps(found)
    check = "import importlib.util as u; print([p for p in ('torch', 'transformers', 'onnx') if u.find_spec(p)])"
    absent = subprocess.run([str(python), "-c", check], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert absent.strip() == "[]"
