"""Bundles that edgekit wrote before the house was rebuilt still open, and find what they found then.

``tests/old_bundles/expected.json`` holds what the version that wrote them found in ``image.png``.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import edgekit
from edgekit.runtimes.bundle.folder import open_bundle

FOLDER = ROOT / "tests" / "old_bundles"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn", "litert": "ai_edge_litert"}


def needs(name: str) -> None:
    pytest.importorskip(ENGINES[name.split("-")[1]], reason=f"{name} needs its engine")


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("detector")])
def test_a_detector_finds_what_it_found(name: str) -> None:
    needs(name)
    found = edgekit.load(FOLDER / name)(str(FOLDER / "image.png"))
    expected = EXPECTED[name]
    assert len(expected["boxes"]) > 2
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.02)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-3)
    assert found.class_ids.tolist() == expected["class_ids"]


def test_a_blip2_says_what_it_said() -> None:
    needs("opt-onnx-int8")
    pytest.importorskip("tokenizers", reason="needs the extra 'language'")
    model = edgekit.load(FOLDER / "opt-onnx-int8")
    assert model.caption(str(FOLDER / "image.png")).text == EXPECTED["opt-onnx-int8"]["caption"]


@pytest.mark.parametrize("name", EXPECTED)
def test_their_proof_is_still_read(name: str) -> None:
    manifest = open_bundle(FOLDER / name).manifest
    assert manifest.proven
    assert manifest.evidence is not None
    assert manifest.evidence.passed
    assert manifest.contract.image.align == "center"
