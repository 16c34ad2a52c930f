"""Classifiers, embeddings, semantic segmentation and further detectors of transformers, against transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
Picture = pytest.importorskip("PIL.Image", reason="Pillow resizes as the oracles do")

from tiny_transformers import package

from edgekit.errors import SourceError
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.tasks import open_task
from edgekit.sources import SourceRequest, TrainedModel, load

TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONVOLUTIONS = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 24]}
QUERIES = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 12, "num_labels": 5,
}  # fmt: skip
FEW = {
    "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 64, "decoder_self_attention_heads": 4, "num_queries": 12,
    "decoder_cross_attention_heads": 4, "num_labels": 5, "group_detr": 2, "projector_scale_factors": [1.0],
}  # fmt: skip
BACKBONE = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 64, "patch_size": 16,
    "out_features": ["stage2", "stage4"],
}  # fmt: skip

SMALL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", {**TRANSFORMER, "image_size": 64, "num_labels": 5}),
    "swin": (
        "SwinConfig", "SwinForImageClassification",
        {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "num_labels": 5},
    ),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", {**CONVOLUTIONS, "num_labels": 5}),
    "resnet": ("ResNetConfig", "ResNetForImageClassification", {**CONVOLUTIONS, "embedding_size": 8, "num_labels": 5}),
    "mobilenet_v2": (
        "MobileNetV2Config", "MobileNetV2ForImageClassification", {"depth_multiplier": 0.25, "num_labels": 5},
    ),
    "mobilevit": (
        "MobileViTConfig", "MobileViTForSemanticSegmentation",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32],
         "aspp_out_channels": 16, "num_labels": 5},
    ),
    "efficientnet": (
        "EfficientNetConfig", "EfficientNetForImageClassification",
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320, "num_labels": 5},
    ),
    "dinov2": ("Dinov2Config", "Dinov2Model", {**TRANSFORMER, "image_size": 56, "mlp_ratio": 2}),
    "clip_vision_model": (
        "CLIPVisionConfig", "CLIPVisionModelWithProjection",
        {**TRANSFORMER, "image_size": 64, "patch_size": 16, "projection_dim": 12},
    ),
    "segformer": (
        "SegformerConfig", "SegformerForSemanticSegmentation",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "num_labels": 5,
         "num_attention_heads": [1, 2, 2, 4]},
    ),
    "rf_detr": (
        "RfDetrConfig", "RfDetrForObjectDetection",
        {**FEW, "backbone_config": {**BACKBONE, "model_type": "rf_detr_dinov2", "num_windows": 2,
                                    "window_block_indexes": [0, 1, 3]}},
    ),
    "lw_detr": (
        "LwDetrConfig", "LwDetrForObjectDetection",
        {**FEW, "backbone_config": {**BACKBONE, "model_type": "lw_detr_vit", "pretrain_image_size": 64,
                                    "num_windows": 4, "window_block_indices": [0, 1]}},
    ),
    "conditional_detr": ("ConditionalDetrConfig", "ConditionalDetrForObjectDetection", QUERIES),
    "deformable_detr": ("DeformableDetrConfig", "DeformableDetrForObjectDetection", QUERIES),
}  # fmt: skip
"""Configuration, class and numbers of a small network of each type."""

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 64, "width": 64}}),
    "swin": ("ViTImageProcessorPil", {"size": {"height": 64, "width": 64}, "resample": 3}),
    "convnext": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 56}, "crop_pct": 0.875}),
    "resnet": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
    "mobilenet_v2": (
        "MobileNetV2ImageProcessorPil",
        {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}},
    ),
    "mobilevit": (
        "MobileViTImageProcessorPil",
        {"size": {"height": 64, "width": 64}, "do_center_crop": False},
    ),
    "efficientnet": ("EfficientNetImageProcessorPil", {"size": {"height": 64, "width": 64}, "resample": 3}),
    "dinov2": ("BitImageProcessorPil", {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}),
    "clip_vision_model": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 64}, "crop_size": 64}),
    "segformer": ("SegformerImageProcessorPil", {"size": {"height": 64, "width": 96}}),
    "rf_detr": ("RfDetrImageProcessor", {"size": {"height": 64, "width": 64}}),
    "lw_detr": ("DeformableDetrImageProcessorPil", {"size": {"height": 64, "width": 64}}),
    "conditional_detr": ("ConditionalDetrImageProcessorPil", {"size": {"height": 96, "width": 64}}),
    "deformable_detr": ("DeformableDetrImageProcessorPil", {"size": {"height": 96, "width": 64}}),
}
"""The image processor of each, with settings of its own."""

QUICK = ("vit", "convnext", "mobilenet_v2", "dinov2", "segformer", "conditional_detr")
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.nightly) for kind in SMALL]


@pytest.fixture(scope="module")
def library() -> Any:
    return package()


def small(kind: str, library: Any) -> Any:
    """A network of this type with random weights."""
    configuration, loader, numbers = SMALL[kind]
    if kind in ("conditional_detr", "deformable_detr"):
        backbone = library.ResNetConfig(
            **CONVOLUTIONS, embedding_size=8, layer_type="basic",
            out_features=["stage4"] if kind == "conditional_detr" else ["stage2", "stage3", "stage4"],
        )  # fmt: skip
        numbers = {
            **numbers, "backbone_config": backbone, "use_timm_backbone": False, "use_pretrained_backbone": False,
            "backbone": None,
        }  # fmt: skip
    torch.manual_seed(0)
    network = getattr(library, loader)(getattr(library, configuration)(**numbers)).eval()
    with torch.no_grad():
        for values in network.parameters():  # several layers start at zero, which would hide what they do
            values.add_(torch.randn_like(values) * 0.15 * values.std(unbiased=False).clamp(min=0.3))
    return network


def saved(kind: str, library: Any, folder: Path) -> tuple[Any, Any]:
    """The folder's network and its image processor."""
    network = small(kind, library)
    network.save_pretrained(folder)
    name, settings = PROCESSORS[kind]
    processor = getattr(library, name)(**settings)
    processor.save_pretrained(folder)
    return network, processor


def photograph(width: int, height: int) -> Any:
    """An image without fine grain, RGB."""
    coarse = np.random.default_rng(width).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Picture.fromarray(coarse).resize((width, height), Picture.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_results_as_transformers(kind: str, library: Any, tmp_path: Path) -> None:
    """From a photograph on: its processor and its network against the derived image rule and heads."""
    network, processor = saved(kind, library, tmp_path)
    model = load(SourceRequest(str(tmp_path)))
    assert isinstance(model, TrainedModel)
    assert model.contract is not None
    assert model.heads is not None
    image = photograph(480, 240)  # both halves of what a crop leaves out are whole pixels
    theirs = processor(images=image, return_tensors="pt")["pixel_values"]
    ours, _ = Preprocessor(model.contract.image)(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
    assert ours.shape == tuple(theirs.shape)
    # One grey level, where rounding differs; none on average.
    level = float(np.max(model.contract.image.scale / np.array(model.contract.image.std)))
    difference = np.abs(ours - theirs.numpy())
    assert difference.max() <= 1.01 * level
    assert difference.mean() <= 0.02 * level
    with torch.no_grad():
        wanted = network(pixel_values=theirs)
        found = model.heads(theirs)
    names = {"classify": ["logits"], "semantic": ["logits"], "detect": ["logits", "pred_boxes"]}
    outputs = names.get(model.contract.task, ["image_embeds" if kind.startswith("clip") else "pooler_output"])
    for name, output in zip(outputs, found, strict=True):
        torch.testing.assert_close(output, getattr(wanted, name))
    task = open_task(model.contract)
    assert len(task.candidates([output.numpy() for output in found], -1.0))
    assert model.doubts == ()


def test_classes_have_the_names_of_the_configuration(library: Any, tmp_path: Path) -> None:
    network, _ = saved("vit", library, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(number): f"bird {number}" for number in range(5)}
    config["label2id"] = {f"bird {number}": number for number in range(5)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load(SourceRequest(str(tmp_path)))
    assert model.contract is not None  # type: ignore[union-attr]
    assert model.contract.classes == tuple(f"bird {number}" for number in range(5))  # type: ignore[union-attr]
    assert network.config.num_labels == 5


def test_without_a_processor_a_user_is_warned(library: Any, tmp_path: Path) -> None:
    """The size is the configuration's, the rest what the processor of the type does by default."""
    small("vit", library).save_pretrained(tmp_path)
    model = load(SourceRequest(str(tmp_path)))
    assert isinstance(model, TrainedModel)
    assert model.contract is not None
    rule = model.contract.image
    assert (rule.size, rule.resize, rule.mean, rule.interpolation) == ((64, 64), "stretch", (0.5, 0.5, 0.5), "bilinear")
    (doubt,) = model.doubts
    assert "preprocessor_config.json is missing: the image rule is assumed (size 64x64, stretch, mean [0.5, " in doubt
    assert "no proof can see it if that is wrong; save the model's processor beside it" in doubt


def test_what_a_processor_does_and_edgekit_cannot_is_said(library: Any, tmp_path: Path) -> None:
    saved("vit", library, tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": {"height": 64, "width": 64}, "resample": 0}))
    assert load(SourceRequest(str(tmp_path))).doubts == (  # type: ignore[union-attr]
        "its processor resizes by method 0 of Pillow's, edgekit bilinearly instead",
    )
    cropped = {"size": {"height": 73, "width": 73}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}
    path.write_text(json.dumps(cropped))
    model = load(SourceRequest(str(tmp_path)))
    assert model.doubts == (  # type: ignore[union-attr]
        "its processor stretches images before it crops them, edgekit keeps their shape",
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model_type": "owlvit"}, "compares images with texts, .* Otherwise export it to ONNX"),
        ({"model_type": "clip"}, "save its vision tower alone: CLIPVisionModelWithProjection"),
        ({"model_type": "mask2former"}, "a mask for each of its queries, .* take a SegFormer or a YOLO"),
        ({"model_type": "depth_anything"}, "estimates depth, for which edgekit has no task"),
        ({"model_type": "bert"}, "is not one of: rt_detr, .*, blip-2. Export it to ONNX"),
        (
            {"model_type": "swin", "architectures": ["SwinModel"]},
            "of a 'swin' edgekit reads SwinForImageCl",
        ),
    ],
)
def test_types_that_are_refused(config: dict[str, Any], problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=problem):
        load(SourceRequest(str(tmp_path)))


def test_a_size_that_the_network_cannot_take(library: Any, tmp_path: Path) -> None:
    saved("vit", library, tmp_path)
    with pytest.raises(SourceError, match="takes no image of 96x96: Input image size"):
        load(SourceRequest(str(tmp_path), size=(96, 96)))
