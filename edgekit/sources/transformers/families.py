"""Networks of transformers that edgekit reads, by the ``model_type`` of their configuration, and why others are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.runtimes.bundle.manifest import Decoder


@dataclass(frozen=True)
class Family:
    """A class of transformers that loads a type of model.

    Attributes:
        loader: its name, which the configuration has among its ``architectures``.
        decoder: how its outputs are decoded.
        task: of the contract.
        processors: parts of the names of its image processors, in lower case without underscores; empty for any.
        outputs: role and attribute of each output.
    """

    loader: str
    decoder: Decoder
    task: str = "detect"
    processors: tuple[str, ...] = ("detr", "yolos", "dfine")
    outputs: tuple[tuple[str, str], ...] = (("classes", "logits"), ("boxes", "pred_boxes"))


_SIGMOID = Decoder(name="queries", options={"score": "sigmoid"})
_SOFTMAX = Decoder(name="queries", options={"score": "softmax"})
_HEATMAPS = Decoder(name="heatmaps", options={"refine": "dark", "aligned": True})


def _classifier(loader: str) -> Family:
    return Family(loader, Decoder(name="classes"), "classify", (), (("logits", "logits"),))


def _embedding(loader: str, output: str = "pooler_output") -> Family:
    return Family(loader, Decoder(name="vector"), "embed", (), (("vector", output),))


def _semantic(loader: str) -> Family:
    return Family(loader, Decoder(name="semantic"), "semantic", (), (("logits", "logits"),))


FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "rt_detr": (Family("RTDetrForObjectDetection", _SIGMOID),),
    "rt_detr_v2": (Family("RTDetrV2ForObjectDetection", _SIGMOID),),
    "d_fine": (Family("DFineForObjectDetection", _SIGMOID),),
    "detr": (Family("DetrForObjectDetection", _SOFTMAX),),
    "conditional_detr": (Family("ConditionalDetrForObjectDetection", _SIGMOID),),
    "deformable_detr": (Family("DeformableDetrForObjectDetection", _SIGMOID),),
    "dab-detr": (Family("DabDetrForObjectDetection", _SIGMOID),),
    "lw_detr": (Family("LwDetrForObjectDetection", _SIGMOID),),
    "rf_detr": (Family("RfDetrForObjectDetection", _SIGMOID),),
    "yolos": (Family("YolosForObjectDetection", _SOFTMAX),),
    "vitpose": (Family("VitPoseForPoseEstimation", _HEATMAPS, "pose", ("vitpose",), (("heatmaps", "heatmaps"),)),),
    "vit": (_classifier("ViTForImageClassification"),),
    "deit": (_classifier("DeiTForImageClassification"), _classifier("DeiTForImageClassificationWithTeacher")),
    "beit": (_classifier("BeitForImageClassification"), _semantic("BeitForSemanticSegmentation")),
    "data2vec-vision": (
        _classifier("Data2VecVisionForImageClassification"),
        _semantic("Data2VecVisionForSemanticSegmentation"),
    ),
    "swin": (_classifier("SwinForImageClassification"),),
    "swinv2": (_classifier("Swinv2ForImageClassification"),),
    "convnext": (_classifier("ConvNextForImageClassification"),),
    "convnextv2": (_classifier("ConvNextV2ForImageClassification"),),
    "mobilenet_v1": (_classifier("MobileNetV1ForImageClassification"),),
    "mobilenet_v2": (
        _classifier("MobileNetV2ForImageClassification"),
        _semantic("MobileNetV2ForSemanticSegmentation"),
    ),
    "mobilevit": (_classifier("MobileViTForImageClassification"), _semantic("MobileViTForSemanticSegmentation")),
    "mobilevitv2": (_classifier("MobileViTV2ForImageClassification"), _semantic("MobileViTV2ForSemanticSegmentation")),
    "efficientnet": (_classifier("EfficientNetForImageClassification"),),
    "resnet": (_classifier("ResNetForImageClassification"),),
    "regnet": (_classifier("RegNetForImageClassification"),),
    "levit": (_classifier("LevitForImageClassification"), _classifier("LevitForImageClassificationWithTeacher")),
    "pvt_v2": (_classifier("PvtV2ForImageClassification"),),
    "dinov2": (_embedding("Dinov2Model"), _classifier("Dinov2ForImageClassification")),
    "dinov2_with_registers": (
        _embedding("Dinov2WithRegistersModel"),
        _classifier("Dinov2WithRegistersForImageClassification"),
    ),
    "dinov3_vit": (_embedding("DINOv3ViTModel"),),
    "clip_vision_model": (_embedding("CLIPVisionModelWithProjection", "image_embeds"),),
    "siglip_vision_model": (_embedding("SiglipVisionModel"),),
    "segformer": (_semantic("SegformerForSemanticSegmentation"), _classifier("SegformerForImageClassification")),
    "upernet": (_semantic("UperNetForSemanticSegmentation"),),
    "dpt": (_semantic("DPTForSemanticSegmentation"),),
}
"""By ``model_type``; the first is meant where the configuration names no architecture."""

_TEXTS = "it compares images with texts, and edgekit has no task for that except BLIP-2's"
_MASKS = "it gives a mask for each of its queries, for which edgekit has no decoder; take a SegFormer or a YOLO instead"
_DEPTH = "it estimates depth, for which edgekit has no task"
_VISION = "save its vision tower alone: {}.from_pretrained(FOLDER).save_pretrained(NEW)"

REFUSED: Mapping[str, str] = {
    "owlvit": _TEXTS,
    "owlv2": _TEXTS,
    "grounding-dino": _TEXTS,
    "mm-grounding-dino": _TEXTS,
    "omdet-turbo": _TEXTS,
    "clipseg": _TEXTS,
    "blip": _TEXTS,
    "clip": f"{_TEXTS}; {_VISION.format('CLIPVisionModelWithProjection')}",
    "siglip": f"{_TEXTS}; {_VISION.format('SiglipVisionModel')}",
    "mask2former": _MASKS,
    "maskformer": _MASKS,
    "oneformer": _MASKS,
    "eomt": _MASKS,
    "depth_anything": _DEPTH,
    "zoedepth": _DEPTH,
    "glpn": _DEPTH,
    "sam": "it needs points or boxes besides the image, and a bundle has one image for its input",
    "sam2": "it needs points or boxes besides the image, and a bundle has one image for its input",
    "timm_wrapper": "it is a network of timm; give timm:NAME with --weights FOLDER/model.safetensors",
}
"""Why well-known types of models are not read."""

ELSE = (
    "export it to ONNX and say in a contract what comes out (docs/CONTRACT.md), or give a module:factory that returns "
    "plain tensors"
)
"""Advice for a network that edgekit cannot read."""


def family_of(kind: str, config: Mapping[str, Any]) -> tuple[Family | None, str]:
    """The family of a configuration of a type of model; None with the reason where there is none."""
    if kind in REFUSED:
        return None, f"model_type {kind!r} cannot be converted: {REFUSED[kind]}. Otherwise {ELSE}"
    if kind not in FAMILIES:
        known = ", ".join([*FAMILIES, "blip-2"])
        return None, f"model_type {kind!r} is not one of: {known}. {ELSE[0].upper()}{ELSE[1:]}"
    known_here = FAMILIES[kind]
    given = config.get("architectures") or ()
    names = [str(name) for name in given] if isinstance(given, list | tuple) else []
    for family in known_here:
        if family.loader in names or not names:
            return family, ""
    able = " or ".join(family.loader for family in known_here)
    return None, f"architectures: {', '.join(names)}: of a {kind!r} edgekit reads {able}. Otherwise {ELSE}"
