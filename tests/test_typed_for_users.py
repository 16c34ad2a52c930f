"""A user's project that calls edgekit type-checks: the Python of README and docs, by mypy --strict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs the extra 'dev'")

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/API.md", "docs/BLIP2.md", "docs/PROFILING.md", "docs/TASKS.md", "docs/TRACKING.md")

SETTINGS = """\
[mypy]
strict = True
python_version = 3.11
follow_imports = silent
[mypy-torch.*,transformers.*,onnx.*,onnxruntime.*,openvino.*,cv2.*]
follow_imports = skip
ignore_missing_imports = True
[mypy-rich.*,click.*,yaml.*,PIL.*]
follow_imports = skip
"""
"""As in a user's project: edgekit is a library there, followed for its types alone. Large packages are skipped."""

KNOWN = """\
import numpy as np
from torch import nn

import edgekit

model = edgekit.load("out/detector-onnx-int8")
network = nn.Identity()
boxes, scores, class_ids = np.zeros((1, 4), np.float32), np.zeros(1, np.float32), np.zeros(1, np.int64)
seconds = 0.0
image = np.zeros((8, 8, 3), np.uint8)
text = ""
"""
"""What the pages take for granted."""

MORE = """\
from pathlib import Path

from typing_extensions import assert_type

import edgekit

assert_type(model("a.jpg"), edgekit.Detections)
assert_type(model(Path("a.jpg")), edgekit.Detections)
assert_type(model(np.zeros((8, 8, 3), np.uint8)), edgekit.Detections)
assert_type(model(["a.jpg", "b.jpg"]), list[edgekit.Detections])
assert_type(edgekit.load("pose", edgekit.Poses)("a.jpg"), edgekit.Poses)
assert_type(edgekit.load("label", edgekit.Classification)(["a.jpg"]), list[edgekit.Classification])
assert_type(edgekit.load("detector", workers=2), edgekit.ModelPool[edgekit.Detections])
assert_type(edgekit.load("pose", edgekit.Poses, workers=2, isolated=True)("a.jpg"), edgekit.Poses)
blip = edgekit.load("blip2", edgekit.VisionLanguage, isolated=True, timeout=5.0)
assert_type(blip.caption("a.jpg"), edgekit.Text)
assert_type(blip.ask("a.jpg", ["how many?"]), list[edgekit.Text])
assert_type(blip.match(["a.jpg"], "a bus"), list[edgekit.Match])


def stopped(event: edgekit.ProgressEvent) -> None:
    print(event.step, event.text, event.share)


found = edgekit.convert(network, "onnx", contract="a.yaml", progress=stopped, stop=edgekit.Stop())
assert_type(found, edgekit.Conversions)
assert_type(found[0], edgekit.Outcome)
for one in found:
    if one.bundle is not None and one.evidence is not None:
        print(one.bundle.manifest.name, one.evidence.passed, one.error)
"""

WRONG = """\
import edgekit

model = edgekit.load("out/pose", edgekit.Poses)
model("a.jpg").top(5)  # a classification has that
edgekit.convert("a.pt", "onnx", precison="int8")
edgekit.load("out/opt").caption("a.jpg")
"""


def test_what_the_pages_show_type_checks_and_mistakes_do_not(tmp_path: Path) -> None:
    """One run of mypy, in which the last file is the negative control."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        for number, block in enumerate(blocks):
            name = re.sub(r"\W", "_", page.removesuffix(".md").lower())
            (tmp_path / f"{name}_{number}.py").write_text(f"{KNOWN}\n\n{block}", encoding="utf-8")
    (tmp_path / "more.py").write_text(f"{KNOWN}\n\n{MORE}")
    (tmp_path / "wrong.py").write_text(WRONG)
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    cache = ["--cache-dir", str(ROOT / ".mypy_cache" / "users")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *cache, *files],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    ours = [line for line in errors if not line.startswith("wrong.py")]
    assert not ours, "\n".join(ours)
    assert [re.sub(r"^wrong.py:(\d+):.*\[([a-z-]+)\]$", r"\1 \2", line) for line in errors] == [
        "4 attr-defined",
        "5 arg-type",
        "6 attr-defined",
    ], done.stdout
