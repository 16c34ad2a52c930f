"""Kinds of networks in torchvision: how each is built, cut to its raw heads, and described by a contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.sources._named import State
from edgekit.sources.class_names import names_for

if TYPE_CHECKING:
    from torch import nn

Size = tuple[int, int]


@dataclass(frozen=True)
class Kind:
    """One kind of network.

    Attributes:
        options: further arguments of its builder, by the name, the weights, and whether these are torchvision's own.
        heads: the network that returns its raw heads.
        image: the image rule, by torchvision's weights, the network and the size that was asked for.
        contract: the contract, by the network, its image rule and what its heads gave.
    """

    options: Callable[[str, State, bool], dict[str, Any]]
    heads: Callable[[Any], nn.Module]
    image: Callable[[Any, Any, Size | None], ImageRule]
    contract: Callable[[Any, ImageRule, Any], Contract]


# --- classifiers ---


def _classifier_options(name: str, state: State, trained: bool) -> dict[str, Any]:
    """Of the two networks with auxiliary classifiers; torchvision's own weights want their input as Inception's."""
    if name not in ("googlenet", "inception_v3"):
        return {}
    auxiliary = any(key.lower().startswith("aux") for key in state)
    return {"aux_logits": auxiliary, "init_weights": False, "transform_input": trained}


def _classifier_image(released: Any, module: Any, size: Size | None) -> ImageRule:
    given = released.transforms()
    crop, whole = given.crop_size[0], given.resize_size[0]
    return ImageRule(
        size=size or (crop, crop),
        resize="crop",
        crop=min(1.0, crop / whole),
        interpolation="bicubic" if given.interpolation.value == "bicubic" else "bilinear",
        mean=tuple(given.mean),
        std=tuple(given.std),
    )


def _classifier_contract(module: Any, image: ImageRule, outputs: Any) -> Contract:
    return Contract(
        task="classify",
        image=image,
        classes=names_for(outputs.shape[1], "imagenet"),
        decoder=Decoder(name="classes"),
        outputs=(Output(name="logits", role="logits"),),
    )


# --- detectors with priors ---


def _ssd_heads(model: Any) -> nn.Module:
    """The convolutions behind each level: boxes (1, 4 priors, h, w) and classes (1, priors * classes, h, w)."""
    from torch import nn

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = model.backbone
            self.boxes = model.head.regression_head.module_list
            self.classes = model.head.classification_head.module_list

        def forward(self, images: Any) -> Any:
            levels = self.backbone(images).values()
            pairs = zip(self.boxes, self.classes, levels, strict=True)
            return tuple(head(level) for boxes, classes, level in pairs for head in (boxes, classes))

    return Heads().eval()


def _ssd_image(released: Any, module: Any, size: Size | None) -> ImageRule:
    rule = module.transform
    own = (rule.fixed_size[1], rule.fixed_size[0])
    return ImageRule(size=size or own, resize="stretch", mean=tuple(rule.image_mean), std=tuple(rule.image_std))


def _ssd_contract(module: Any, image: ImageRule, outputs: Sequence[Any]) -> Contract:
    generator = module.anchor_generator
    height, width = image.size
    levels = range(len(outputs) // 2)
    strides = generator.steps or [width / outputs[2 * level].shape[3] for level in levels]
    pairs = [pair.clamp(0, 1) if generator.clip else pair for pair in generator._wh_pairs]
    priors = [[[float(w) * width, float(h) * height] for w, h in pair] for pair in pairs]
    count = outputs[1].shape[1] // len(priors[0]) - 1  # the first is the background
    return Contract(
        image=image,
        classes=names_for(count, "coco90"),
        decoder=Decoder(name="ssd", options={"strides": [float(one) for one in strides], "priors": priors}),
        outputs=tuple(
            Output(name=f"{role}_{level}", role=role, level=level) for level in levels for role in ("boxes", "classes")
        ),
        postprocess=Postprocess(score=0.25, iou=module.nms_thresh, max_detections=module.detections_per_img),
    )


def _detector_options(name: str, state: State, trained: bool) -> dict[str, Any]:
    return {"weights_backbone": None}


# --- detectors on a feature pyramid ---

_COARSEST = 128
"""Stride of the coarsest level: other sizes give it a grid whose anchors are spaced differently along x and y."""

_PYRAMID_SIZE = (768, 768)
"""The multiple of it that is next to torchvision's 800 pixels for the shorter side."""


def _pyramid_heads(model: Any) -> nn.Module:
    """Of each level boxes and classes, and the centerness of FCOS: (1, anchors * values, h, w) each."""
    from torch import nn

    regression, classification = model.head.regression_head, model.head.classification_head
    fcos = hasattr(regression, "bbox_ctrness")

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = model.backbone
            self.regression, self.classification = regression, classification

        def forward(self, images: Any) -> Any:
            found = []
            for level in self.backbone(images).values():
                seen = self.regression.conv(level)
                boxes = self.regression.bbox_reg(seen)
                found.append(nn.functional.relu(boxes) if fcos else boxes)
                found.append(self.classification.cls_logits(self.classification.conv(level)))
                if fcos:
                    found.append(self.regression.bbox_ctrness(seen))
            return tuple(found)

    return Heads().eval()


def _pyramid_image(released: Any, module: Any, size: Size | None) -> ImageRule:
    """torchvision pads at the right and at the bottom with what is 0 once it is normalised: the mean.

    Raises:
        SourceError: a size that is no multiple of the coarsest stride.
    """
    height, width = size or _PYRAMID_SIZE
    if height % _COARSEST or width % _COARSEST:
        raise SourceError(f"--size {height}x{width}: must be a multiple of the largest stride, {_COARSEST}")
    rule = module.transform
    mean, std = tuple(rule.image_mean), tuple(rule.image_std)
    red, green, blue = (round(255 * one) for one in mean)
    return ImageRule(size=(height, width), align="corner", pad=(red, green, blue), mean=mean, std=std)


def _retinanet_contract(module: Any, image: ImageRule, outputs: Sequence[Any]) -> Contract:
    anchors = [
        [[float(x2 - x1), float(y2 - y1)] for x1, y1, x2, y2 in level] for level in module.anchor_generator.cell_anchors
    ]
    options: dict[str, Any] = {"priors": anchors, "variances": [1.0] * 4, "score": "sigmoid", "cell_offset": 0.0}
    return _pyramid_contract(module, image, outputs, "ssd", options, ("boxes", "classes"))


def _fcos_contract(module: Any, image: ImageRule, outputs: Sequence[Any]) -> Contract:
    options = {"centerness": True, "power": 0.5, "cell_offset": 0.0}
    return _pyramid_contract(module, image, outputs, "distances", options, ("boxes", "classes", "centerness"))


def _pyramid_contract(
    module: Any, image: ImageRule, outputs: Sequence[Any], decoder: str, options: dict[str, Any], roles: Sequence[str]
) -> Contract:
    levels = range(len(outputs) // len(roles))
    strides = [image.size[0] // outputs[len(roles) * level].shape[2] for level in levels]
    count = module.head.classification_head.num_classes  # the first is a background that is never found
    return Contract(
        image=image,
        classes=names_for(count, "coco91"),
        decoder=Decoder(name=decoder, options={"strides": strides, **options}),
        outputs=tuple(Output(name=f"{role}_{level}", role=role, level=level) for level in levels for role in roles),
        postprocess=Postprocess(score=0.25, iou=module.nms_thresh, max_detections=module.detections_per_img),
    )


# --- semantic segmentation ---


def _segmenter_options(name: str, state: State, trained: bool) -> dict[str, Any]:
    auxiliary = any(key.startswith("aux_classifier.") for key in state)
    return {"weights_backbone": None, **({} if name.startswith("lraspp") else {"aux_loss": auxiliary})}


def _segmenter_heads(model: Any) -> nn.Module:
    """The classifier's logits (1, classes, h, w) before they are scaled to the input; the auxiliary one is left out."""
    from torch import nn

    alone = type(model).__name__ == "LRASPP"  # its classifier reads two levels

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.classifier = model.backbone, model.classifier

        def forward(self, images: Any) -> Any:
            levels = self.backbone(images)
            return self.classifier(levels if alone else levels["out"])

    return Heads().eval()


def _segmenter_image(released: Any, module: Any, size: Size | None) -> ImageRule:
    given = released.transforms()
    side = given.resize_size[0]
    mean, std = tuple(given.mean), tuple(given.std)
    return ImageRule(size=size or (side, side), interpolation="bilinear", mean=mean, std=std)


def _segmenter_contract(module: Any, image: ImageRule, outputs: Any) -> Contract:
    return Contract(
        task="semantic",
        image=image,
        classes=names_for(outputs.shape[1], "voc21"),
        decoder=Decoder(name="semantic"),
        outputs=(Output(name="logits", role="logits"),),
    )


_SSD = Kind(_detector_options, _ssd_heads, _ssd_image, _ssd_contract)

KINDS: Mapping[str, Kind] = {
    "": Kind(_classifier_options, lambda model: model, _classifier_image, _classifier_contract),
    "detection.fcos": Kind(_detector_options, _pyramid_heads, _pyramid_image, _fcos_contract),
    "detection.retinanet": Kind(_detector_options, _pyramid_heads, _pyramid_image, _retinanet_contract),
    "detection.ssd": _SSD,
    "detection.ssdlite": _SSD,
    "segmentation": Kind(_segmenter_options, _segmenter_heads, _segmenter_image, _segmenter_contract),
}
"""By module of ``torchvision.models``: a file, a folder, or those beside the folders."""
