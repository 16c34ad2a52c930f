"""A folder that Hugging Face transformers saved: detection transformers and ViTPose, with their contract.

Everything is read from the folder: nothing is fetched, and only safetensors are taken for weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.errors import SourceError, choices
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Origin, Output, Postprocess
from edgekit.runtimes.tasks.skeletons import numbered
from edgekit.sources import Source, SourceRequest, TrainedModel, check_size
from edgekit.sources._pretrained import load_pretrained, safetensors_shapes
from edgekit.structures import from_json

if TYPE_CHECKING:
    from torch import nn


CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


@dataclass(frozen=True)
class Family:
    """The class of transformers that loads a type of model, its task, parts of the names of its processors, and how its
    outputs are decoded.
    """

    loader: str
    decoder: Decoder
    task: str = "detect"
    processors: tuple[str, ...] = ("detr", "yolos", "dfine")
    outputs: tuple[tuple[str, str], ...] = (("classes", "logits"), ("boxes", "pred_boxes"))


_SIGMOID = Decoder(name="queries", options={"score": "sigmoid"})
_SOFTMAX = Decoder(name="queries", options={"score": "softmax"})
_HEATMAPS = Decoder(name="heatmaps", options={"refine": "dark", "aligned": True})

FAMILIES: dict[str, Family] = {
    "rt_detr": Family("RTDetrForObjectDetection", _SIGMOID),
    "rt_detr_v2": Family("RTDetrV2ForObjectDetection", _SIGMOID),
    "d_fine": Family("DFineForObjectDetection", _SIGMOID),
    "detr": Family("DetrForObjectDetection", _SOFTMAX),
    "yolos": Family("YolosForObjectDetection", _SOFTMAX),
    "vitpose": Family("VitPoseForPoseEstimation", _HEATMAPS, "pose", ("vitpose",), (("heatmaps", "heatmaps"),)),
}
"""By ``model_type`` of the configuration."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation where the processor normalises and does not say by what."""


class PreprocessorConfig(msgspec.Struct):
    """The keys of a preprocessor's configuration that are used here."""

    size: dict[str, int] | None = None
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = True
    do_center_crop: bool | None = False
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    resample: int = 2
    """Pillow's numbers: 2 is bilinear, 3 bicubic."""


def matches(request: SourceRequest) -> bool:
    """Whether this is a folder with a configuration."""
    return (Path(request.spec) / CONFIG).is_file()


def load(request: SourceRequest) -> TrainedModel:
    """Read the model and derive its contract from its configuration and its processor's.

    Raises:
        SourceError: a type of model that is not known, a missing or damaged file, or transformers is not installed.
    """
    import torch

    folder = Path(request.spec)
    config = _read(folder / CONFIG, dict[str, Any])
    kind = str(config.get("model_type", ""))
    if kind not in FAMILIES:
        raise SourceError(f"{folder / CONFIG}: model_type {choices(kind, FAMILIES)}")
    family = FAMILIES[kind]
    model: Any = _loaded(folder, family, config)
    contract = _contract(folder, family, model, request)
    return TrainedModel(
        name=folder.resolve().name,
        module=_wrapped(model, family),
        example=torch.zeros(1, 3, *contract.image.size),
        origin=Origin(kind="transformers", name=kind, sha256=bundle.sha256(folder / WEIGHTS)),
        contract=contract,
        heads=_wrapped(model, family),
        notes=_notes(contract),
    )


def _read(path: Path, kind: Any) -> Any:
    try:
        return from_json(path.read_bytes(), kind)
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; save the model with save_pretrained()") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error


def _loaded(folder: Path, family: Family, config: dict[str, Any]) -> nn.Module:
    if not (folder / WEIGHTS).is_file():
        raise SourceError(f"{folder / WEIGHTS}: no such file; save the model with save_pretrained()")
    shapes = safetensors_shapes(folder / WEIGHTS)
    model: nn.Module = load_pretrained(folder, family.loader, config, shapes, attn_implementation="eager")
    return model.float()


def _wrapped(model: Any, family: Family) -> nn.Module:
    """The model with its outputs as a tuple of tensors."""
    from torch import nn

    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            given = self.model(pixel_values=images)
            return tuple(getattr(given, name) for _, name in family.outputs)

    return Outputs().eval()


def _contract(folder: Path, family: Family, model: Any, request: SourceRequest) -> Contract:
    config = model.config
    names = {int(key): str(name) for key, name in config.id2label.items()}
    pose = family.task == "pose"
    return Contract(
        task=family.task,
        image=_image(folder, family, config, request),
        classes=("person",) if pose else tuple(names[key] for key in sorted(names)),
        decoder=family.decoder,
        outputs=tuple(Output(name=role, role=role) for role, _ in family.outputs),
        postprocess=Postprocess(score=0.3 if pose else 0.5, nms=False),
        skeleton=numbered(len(names)) if pose else None,
    )


def _image(folder: Path, family: Family, config: Any, request: SourceRequest) -> ImageRule:
    """The image rule of the processor's configuration, or the defaults of its kind."""
    path = folder / PROCESSOR
    given: PreprocessorConfig = _read(path, PreprocessorConfig) if path.is_file() else PreprocessorConfig()
    _check_processor(path, family, given)
    size = given.size or {}
    fixed = "height" in size and "width" in size
    if request.size is not None:
        height, width = request.size
    elif fixed:
        height, width = size["height"], size["width"]
    elif family.task == "pose":
        height, width = config.backbone_config.image_size
    else:  # shortest edge and longest edge: a square has room for both orientations
        height = width = size.get("shortest_edge", 640)
    check_size(str(path), (height, width))
    mean, std = (given.image_mean or IMAGENET[0], given.image_std or IMAGENET[1])
    if not given.do_normalize:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    try:
        return ImageRule(
            size=(height, width),
            resize="stretch" if fixed else "letterbox",
            align="center" if fixed else "corner",  # such processors pad right and below
            interpolation="bicubic" if given.resample == 3 else "linear",
            scale=given.rescale_factor if given.do_rescale else 1.0,
            mean=mean,
            std=std,
            # Such processors fill up with zeros after normalising, which are the mean in grey levels.
            pad=min(255, max(0, round(sum(mean) / 3 / (given.rescale_factor if given.do_rescale else 1.0)))),
        )
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error


def _check_processor(path: Path, family: Family, given: PreprocessorConfig) -> None:
    """Refuse settings of another kind of processor: source and bundle would share them, and no proof would tell.

    Raises:
        SourceError: they are, or crop images, or leave them as they are.
    """
    kind = given.image_processor_type or given.feature_extractor_type
    if kind and not any(word in kind.lower().replace("_", "") for word in family.processors):
        raise SourceError(f"{path}: {kind} is no processor for {family.loader}; save the one that it was trained with")
    if given.do_center_crop or given.do_resize is False:
        key, value = ("do_center_crop", "true") if given.do_center_crop else ("do_resize", "false")
        raise SourceError(f"{path}: {key} is {value}; this model's processors resize the whole image and crop nothing")


def _notes(contract: Contract) -> tuple[str, ...]:
    if contract.image.resize == "letterbox" and contract.task == "detect":
        return ("the network sees the border of a letterboxed image: its processor would have masked it",)
    return ()


SOURCE = Source("a transformers folder (config.json and model.safetensors)", matches, load, order=40)
