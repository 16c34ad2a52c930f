"""The image rule of a folder of transformers, from the configuration of its image processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.sources.transformers.families import Family
from edgekit.structures import from_builtins

PROCESSOR = "preprocessor_config.json"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation where the processor normalises and does not say by what."""

USUAL = 0.875
"""The share of the scaled image that classifiers are shown, 224 of 256, where their processor has it built in."""

NEAREST, BILINEAR, BICUBIC = 0, 2, 3
"""Pillow's numbers of ways to resize."""

Triple = tuple[float, float, float]


class PreprocessorConfig(msgspec.Struct):
    """The keys of a preprocessor's configuration that are used here."""

    size: dict[str, int] | int | None = None
    crop_size: dict[str, int] | int | None = None
    crop_pct: float | None = None
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = True
    do_center_crop: bool | None = False
    do_flip_channel_order: bool | None = False
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    rescale_offset: bool = False
    do_normalize: bool = True
    include_top: bool = False
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    resample: int = BILINEAR

    @property
    def kind(self) -> str:
        """Its type in lower case without underscores, empty where it is not said."""
        return (self.image_processor_type or self.feature_extractor_type or "").lower().replace("_", "")


def image_rule(
    path: Path, family: Family, given: PreprocessorConfig, size: tuple[int, int] | None
) -> tuple[ImageRule, tuple[str, ...]]:
    """The image rule of a processor for an input size (its own where it is None), and what it cannot keep.

    Raises:
        SourceError: a processor of another kind of model, or numbers that cannot be.
    """
    _check(path, family, given)
    resize, own, crop = _resizing(given, family)
    mean, std = _normalisation(given)
    scale = given.rescale_factor if given.do_rescale else 1.0
    letterbox = resize == "letterbox"
    try:
        rule = ImageRule(
            size=size or own,
            resize="letterbox" if letterbox else "crop" if resize == "crop" else "stretch",
            align="corner" if letterbox else "center",  # such processors pad right and below
            crop=crop,
            color="bgr" if given.do_flip_channel_order else "rgb",
            interpolation="bicubic" if given.resample == BICUBIC else "bilinear",
            scale=scale,
            mean=mean,
            std=std,
            # Such processors fill up with zeros after normalising: the mean.
            pad=(_level(mean[0], scale), _level(mean[1], scale), _level(mean[2], scale)) if letterbox else 114,
        )
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    said = []
    if given.resample not in (BILINEAR, BICUBIC):
        said.append(f"its processor resizes by method {given.resample} of Pillow's, edgekit bilinearly instead")
    if resize == "crop" and isinstance(given.size, dict) and "height" in given.size:
        said.append("its processor stretches images before it crops them, edgekit keeps their shape")
    if given.do_center_crop and family.task == "semantic":
        said.append("its processor cuts out the middle of an image, edgekit shows the network all of it, letterboxed")
    return rule, tuple(said)


def _level(mean: float, scale: float) -> int:
    """The level of a pixel that becomes zero."""
    return min(255, max(0, round(mean / scale)))


def _resizing(given: PreprocessorConfig, family: Family) -> tuple[str, tuple[int, int], float]:
    """Whether images are stretched, letterboxed or cropped, to which size, and the share that a crop keeps."""
    size = {"shortest_edge": given.size} if isinstance(given.size, int) else given.size or {}
    if isinstance(given.size, int) and not given.do_center_crop:
        size = {"height": given.size, "width": given.size}  # as older files write it
    shortest = size.get("shortest_edge", size.get("height", 0))
    if given.do_center_crop and given.crop_size:
        kept = given.crop_size if isinstance(given.crop_size, dict) else {"height": given.crop_size}
        height = kept.get("height", kept.get("shortest_edge", 224))
        crop = (height, kept.get("width", height))
        if "levit" in given.kind:  # it scales to 256 / 224 of its size first
            shortest = int(256 / 224 * shortest)
        if family.task == "semantic":  # every pixel gets a class
            return "letterbox", crop, 1.0
        return "crop", crop, min(1.0, min(crop) / max(shortest, 1))
    if "height" in size and "width" in size:
        return "stretch", (size["height"], size["width"]), 1.0
    side = shortest or (640 if family.task == "detect" else 224)
    if family.task in ("classify", "embed"):
        if side >= 384 and "convnext" in given.kind:
            return "stretch", (side, side), 1.0
        return "crop", (side, side), given.crop_pct or (USUAL if "convnext" in given.kind else 1.0)
    return "letterbox", (side, side), 1.0  # shortest edge and longest edge: a square has room for both orientations


def _normalisation(given: PreprocessorConfig) -> tuple[Triple, Triple]:
    """Mean and standard deviation after scaling."""
    mean, std = (given.image_mean or IMAGENET[0], given.image_std or IMAGENET[1])
    if not given.do_normalize or "mobilevit" in given.kind:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif given.include_top and "efficientnet" in given.kind:  # it divides by std once more
        std = (std[0] ** 2, std[1] ** 2, std[2] ** 2)
    if given.rescale_offset:  # it takes 1 from what it has scaled
        mean = (mean[0] + 1, mean[1] + 1, mean[2] + 1)
    return mean, std


def _check(path: Path, family: Family, given: PreprocessorConfig) -> None:
    """Refuse settings of another kind of processor: source and bundle would share them, and no proof would tell.

    Raises:
        SourceError: they are, or crop images where all of the image is needed, or leave them as they are.
    """
    if given.kind and family.processors and not any(word in given.kind for word in family.processors):
        said = given.image_processor_type or given.feature_extractor_type
        raise SourceError(f"{path}: {said} is no processor for {family.loader}; save the one that it was trained with")
    cropped = given.do_center_crop and family.task in ("detect", "pose")
    if cropped or given.do_resize is False:
        key, value = ("do_center_crop", "true") if cropped else ("do_resize", "false")
        raise SourceError(f"{path}: {key} is {value}; this model's processors resize the whole image and crop nothing")


def assumed(library: Any, kind: str, config: Mapping[str, Any], family: Family) -> PreprocessorConfig:
    """The default processor of a type of model, for the size in the model's configuration."""
    from transformers.models.auto import image_processing_auto

    names: Mapping[str, Any] = getattr(image_processing_auto, "IMAGE_PROCESSOR_MAPPING_NAMES", {})
    names = names.get(kind) or {}
    named = next((getattr(library, name, None) for name in dict(names).values()), None)
    known = {} if named is None else named().to_dict()
    keys = PreprocessorConfig.__struct_fields__
    plain = {key: getattr(value, "value", value) for key, value in known.items() if key in keys}
    given = from_builtins(plain, PreprocessorConfig, strict=False)
    size = size_of(config)
    if size is None:
        return given
    crop = {"height": size[0], "width": size[1]}
    if given.do_center_crop and family.task in ("classify", "embed"):
        return msgspec.structs.replace(given, size={"shortest_edge": round(min(size) / USUAL)}, crop_size=crop)
    if "convnext" in given.kind:
        return msgspec.structs.replace(given, size={"shortest_edge": min(size)})
    return msgspec.structs.replace(given, size=crop)


def size_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The input size (height, width) in a model's configuration, or in that of its backbone."""
    nested = config.get("backbone_config")
    for place in (config, nested if isinstance(nested, dict) else {}):
        given = place.get("image_size")
        sides = given if isinstance(given, list) else [given, given]
        found = [side for side in sides if isinstance(side, int) and side > 0]
        if len(sides) == len(found) == 2:
            return found[0], found[1]
    return None
