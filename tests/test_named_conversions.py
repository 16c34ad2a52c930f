"""Sources by name and folders of transformers, converted: random weights, as no trained ones can be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from test_source_transformers_tasks import SMALL, saved
from tiny_transformers import package

from edgekit.conversion.convert import Conversion, convert

pytestmark = [pytest.mark.convert, pytest.mark.nightly]

TARGETS = ("onnx", "openvino", "litert", "ncnn")
NAMED = (
    "torchvision:ssdlite320_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:shufflenet_v2_x0_5",
    "timm:mobilenetv3_small_050",
    "timm:vit_tiny_patch16_224",
)
REFUSING: dict[str, tuple[str, ...]] = {
    "timm:vit_tiny_patch16_224": ("ncnn",),
    "deformable_detr": ("ncnn",),
    "rf_detr": ("ncnn",),
    "lw_detr": ("ncnn",),
    "swin": ("ncnn",),
}
"""Targets that cannot take a network: ncnn has no tensors of five dimensions, in which timm splits queries and keys and
Swin rolls its windows, and no operators to choose the best proposals."""


def proven(source: str, targets: tuple[str, ...], out: Path) -> None:
    """FP32 of every target gives what PyTorch gives."""
    done = convert(Conversion(source=source, targets=targets, precisions=("fp32",), out=out))
    assert any("random" in doubt for doubt in done.prepared.reference.doubts) or ":" not in source
    for outcome in done.outcomes:
        assert outcome.evidence is not None, (outcome.target, outcome.error)
        assert outcome.evidence.passed, (outcome.target, outcome.evidence.failures)


@pytest.mark.parametrize("name", NAMED)
def test_by_name(name: str, tmp_path: Path) -> None:
    if name.startswith("timm"):
        from edgekit.sources._torchvision import import_torchvision

        import_torchvision("tests")
        pytest.importorskip("timm", reason="needs the optional package timm (tests/requirements-named.txt)")
    proven(name, tuple(target for target in TARGETS if target not in REFUSING.get(name, ())), tmp_path / "out")


@pytest.mark.parametrize("kind", SMALL)
def test_folders_of_transformers(kind: str, tmp_path: Path) -> None:
    library: Any = package()
    saved(kind, library, tmp_path / kind)
    proven(str(tmp_path / kind), tuple(t for t in TARGETS if t not in REFUSING.get(kind, ())), tmp_path / "out")
