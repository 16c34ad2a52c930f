"""Sources by name and folders of transformers, converted: random weights, as no trained ones can be had.

Where a library starts its networks so that they give the same result for every image, the weights are made livelier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch, the source of every conversion")

from lively_weights import enliven, scenes, torchvision_weights
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


LIVELY: dict[str, dict[str, tuple[float, float]]] = {
    "torchvision:deeplabv3_mobilenet_v3_large": {"classifier.4": (0.0, 3.0)},
    "mobilenet_v2": {"classifier": (0.0, 3.0)},
    "efficientnet": {"classifier": (0.0, 3.0)},
    "mobilevit": {"segmentation_head.classifier.convolution": (0.0, 3.0)},
    "conditional_detr": {"class_labels_classifier": (-1.0, 2.0), "bbox_predictor.layers.2": (0.0, 1.0)},
}
"""Networks whose results hardly differ by image before they are trained: the mean and the deviation that the layers of
their outputs are given."""
PYRAMIDS: dict[str, dict[str, tuple[float, float]]] = {
    "retinanet_resnet50_fpn": {
        "head.classification_head.cls_logits": (-5.0, 2.0), "head.regression_head.bbox_reg": (0.0, 0.3),
    },
    "fcos_resnet50_fpn": {
        "head.classification_head.cls_logits": (-4.0, 2.0), "head.regression_head.bbox_reg": (2.0, 1.0),
        "head.regression_head.bbox_ctrness": (1.0, 1.0),
    },
}  # fmt: skip


def proven(source: str, targets: tuple[str, ...], out: Path, weights: Path | None = None, **given: Any) -> None:
    """FP32 of every target gives what PyTorch gives."""
    told = {"weights": str(weights)} if weights else {}
    done = convert(Conversion(source=source, targets=targets, precisions=("fp32",), out=out, **told, **given))
    random = any("random" in doubt for doubt in done.prepared.reference.doubts)
    assert random == (":" in source and weights is None)
    for outcome in done.outcomes:
        assert outcome.evidence is not None, (outcome.target, outcome.error)
        assert outcome.evidence.passed, (outcome.target, outcome.evidence.failures)


@pytest.mark.parametrize("name", NAMED)
def test_by_name(name: str, tmp_path: Path) -> None:
    if name.startswith("timm"):
        from edgekit.sources._torchvision import import_torchvision

        import_torchvision("tests")
        pytest.importorskip("timm", reason="needs the optional package timm (tests/requirements-named.txt)")
    weights = None
    if name in LIVELY:
        weights = torchvision_weights(name.partition(":")[2], tmp_path / "weights.pth", (128, 128), LIVELY[name])
    targets = tuple(target for target in TARGETS if target not in REFUSING.get(name, ()))
    proven(name, targets, tmp_path / "out", weights)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_detectors_on_a_pyramid(name: str, tmp_path: Path) -> None:
    """RetinaNet and FCOS of torchvision, smaller than they are usually run."""
    size = (128, 256)
    weights = torchvision_weights(name, tmp_path / "weights.pth", size, PYRAMIDS[name], classes=3)
    proven(f"torchvision:{name}", TARGETS, tmp_path / "out", weights, size=size)


@pytest.mark.parametrize("kind", SMALL)
def test_folders_of_transformers(kind: str, tmp_path: Path) -> None:
    library: Any = package()
    network, processor = saved(kind, library, tmp_path / kind)
    if kind in LIVELY:
        side = processor.crop_size if hasattr(processor, "crop_size") and processor.crop_size else processor.size
        images = scenes(side["height"], side["width"])
        if kind == "conditional_detr":
            network.model.query_position_embeddings.weight.data.mul_(20)  # the queries look at places of their own
        enliven(network, images, lambda images: network(pixel_values=images), LIVELY[kind])
        network.save_pretrained(tmp_path / kind)
    proven(str(tmp_path / kind), tuple(t for t in TARGETS if t not in REFUSING.get(kind, ())), tmp_path / "out")
