"""A folder that Hugging Face transformers saved: detectors, poses, classifiers, embeddings and semantic segmentation.

Everything is read from the folder: nothing is fetched, and only safetensors are taken for weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.errors import SourceError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.runtimes.bundle.manifest import Contract, ImageRule, Origin, Output, Postprocess
from edgekit.runtimes.tasks.skeletons import numbered
from edgekit.sources import Source, SourceRequest, TrainedModel, check_size
from edgekit.sources._pretrained import import_transformers, load_pretrained, reason, safetensors_shapes
from edgekit.sources.transformers.families import Family, family_of
from edgekit.sources.transformers.processor import PROCESSOR, PreprocessorConfig, assumed, image_rule, size_of
from edgekit.structures import from_json

if TYPE_CHECKING:
    from torch import nn


CONFIG, WEIGHTS = "config.json", "model.safetensors"


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
    family, why = family_of(kind, config)
    if family is None:
        raise SourceError(f"{folder / CONFIG}: {why}")
    model: Any = _loaded(folder, family, config)
    image, doubts = _image(folder, family, config, request)
    contract = _contract(family, model.config, image)
    heads = _wrapped(model, family)
    example = torch.zeros(1, 3, *image.size)
    _try(folder, heads, example)
    return TrainedModel(
        name=folder.resolve().name,
        module=heads,
        example=example,
        origin=Origin(kind="transformers", name=kind, sha256=bundle.sha256(folder / WEIGHTS)),
        contract=contract,
        heads=heads,
        notes=_notes(contract),
        doubts=doubts,
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


def _try(folder: Path, heads: nn.Module, example: Any) -> None:
    """Run the network once.

    Raises:
        SourceError: it takes no image of the contract's size.
    """
    import torch

    try:
        with torch.no_grad():
            heads(example)
    except (AssertionError, RuntimeError, ValueError) as error:
        height, width = example.shape[2:]
        raise SourceError(f"{folder}: takes no image of {height}x{width}: {reason(error)}") from error


def _contract(family: Family, config: Any, image: ImageRule) -> Contract:
    names = {int(key): str(name) for key, name in config.id2label.items()}
    pose = family.task == "pose"
    classes = () if family.task == "embed" else tuple(names[key] for key in sorted(names))
    single = family.task != "detect" and not pose
    return Contract(
        task=family.task,
        image=image,
        classes=("person",) if pose else classes,
        decoder=family.decoder,
        outputs=tuple(Output(name=role, role=role) for role, _ in family.outputs),
        postprocess=Postprocess() if single else Postprocess(score=0.3 if pose else 0.5, nms=False),
        skeleton=numbered(len(names)) if pose else None,
    )


def _image(
    folder: Path, family: Family, config: dict[str, Any], request: SourceRequest
) -> tuple[ImageRule, tuple[str, ...]]:
    """The image rule of the processor's configuration, or the defaults of its kind; and what to warn of."""
    path = folder / PROCESSOR
    missing = not path.is_file()
    given: PreprocessorConfig
    if missing:
        given = assumed(import_transformers(folder), str(config.get("model_type", "")), config, family)
    else:
        given = _read(path, PreprocessorConfig)
    own = size_of(config) if family.task == "pose" and not given.size else None
    rule, doubts = image_rule(path, family, given, request.size or own)
    check_size(str(path), rule.size)
    if not missing:
        return rule, doubts
    said = (
        f"{path} is missing: the image rule is assumed (size {rule.size[0]}x{rule.size[1]}, {rule.resize}, mean "
        f"{list(rule.mean)}, std {list(rule.std)}), and no proof can see it if that is wrong; save the model's "
        "processor beside it (processor.save_pretrained)"
    )
    return rule, (said, *doubts)


def _notes(contract: Contract) -> tuple[str, ...]:
    if contract.image.resize == "letterbox" and contract.task == "detect":
        return ("the network sees the border of a letterboxed image: its processor would have masked it",)
    return ()


SOURCE = Source("a transformers folder (config.json and model.safetensors)", matches, load, order=40)
