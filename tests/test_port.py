"""docs/MANIFEST.md: its program, which knows nothing of edgekit, gets the boxes that edgekit gets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from tiny_models import picture
from tiny_onnx import write_tiny_bundle

import edgekit
from edgekit.runtimes import engines
from edgekit.runtimes.bundle.folder import replace_manifest
from edgekit.runtimes.bundle.manifest import Contract, ImageRule, Manifest
from edgekit.runtimes.bundle.manifest_file import decode, encode

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnx", reason="needs onnx to write a model")

PAGE = (Path(__file__).parents[1] / "docs" / "MANIFEST.md").read_text("utf-8")


@pytest.mark.parametrize(
    "rule",
    [
        {"resize": "letterbox"},
        {
            "resize": "letterbox",
            "align": "corner",
            "color": "bgr",
            "pad": 0,
            "mean": (0.1, 0.2, 0.3),
            "std": (0.2, 0.3, 0.2),
        },
        {"resize": "stretch"},
    ],
)
def test_the_program_of_the_page_finds_what_edgekit_finds(tmp_path: Path, rule: dict[str, object]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    manifest = decode((bundle / "manifest.json").read_bytes(), "tiny")
    image = msgspec.structs.replace(manifest.contract.image, **rule)
    contract = msgspec.structs.replace(manifest.contract, image=image)
    replace_manifest(bundle, encode(msgspec.structs.replace(manifest, contract=contract)))
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "port.py").write_text(program)
    wide = np.ascontiguousarray(np.hstack([picture(3), picture(4)])[:50])
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    ran = subprocess.run(
        [sys.executable, "-I", tmp_path / "port.py", bundle, tmp_path / "wide.png"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    found = sorted((json.loads(line) for line in ran.stdout.splitlines()), key=lambda one: (-one["score"], one["box"]))
    ours = sorted(edgekit.load(bundle)(wide), key=lambda one: (-one.score, list(one.box)))
    assert len(found) == len(ours) > 3
    for one, other in zip(found, ours, strict=True):
        assert (one["class_id"], one["name"]) == (other.class_id, other.name)
        assert one["score"] == pytest.approx(other.score, abs=1e-5)
        assert one["box"] == pytest.approx(list(other.box), abs=1e-2)


def test_every_key_of_the_manifest_is_on_the_page() -> None:
    for kind in (Manifest, Contract, ImageRule):
        for name in kind.__struct_fields__:
            assert re.search(rf"`([a-z.]+\.)?{name}[`.:]", PAGE), name


def test_settings_of_engines_are_on_the_page() -> None:
    for name in engines.engine_names():
        for word in re.findall(r"use_\w+|TF32|INFERENCE_PRECISION_HINT|precision high", engines.engine(name).settings):
            assert word in PAGE, (name, word)
