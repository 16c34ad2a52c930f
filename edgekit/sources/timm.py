"""``timm:NAME`` with ``--weights``: classifiers and backbones of timm (PyTorch Image Models). Nothing is downloaded.

NAME may have the tag of its weights (``mobilenetv3_small_100.lamb_in1k``), which decides the image rule.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.sources import Source, SourceRequest, TrainedModel, _torchvision
from edgekit.sources._named import Build, State, built, doubts_of, name_of, origin_of, run_once, state_of
from edgekit.sources.class_names import names_for

if TYPE_CHECKING:
    from torch import nn

LIBRARY = "timm"


def matches(request: SourceRequest) -> bool:
    """Whether it is spelled ``timm:NAME``."""
    return bool(name_of(request, LIBRARY))


def load(request: SourceRequest) -> TrainedModel:
    """Build the network, load the weights, and derive the contract from timm's description of them.

    Weights without a classifier make a backbone, whose pooled features are an embedding.

    Raises:
        SourceError: no model of that name, weights that do not fit, one that gives no vector, or timm is not installed.
    """
    import torch

    library = _library(request)
    name = name_of(request, LIBRARY)
    _check_name(request, library, name)
    state = state_of(request)
    module = built(request, _build(library, name, state, request.size), state)
    described: Mapping[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    rule = _image(described, request.size)
    outputs = run_once(request, module, rule)
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        shape = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise SourceError(f"{request.spec}: gives {shape}, not the scores of classes or a vector; give a classifier")
    return TrainedModel(
        name=name.replace("_", "-").replace(".", "-"),
        module=module,
        example=torch.zeros(1, 3, *rule.size),
        origin=origin_of(request, LIBRARY, name, module),
        contract=_contract(module, rule, outputs.shape[1]),
        heads=module,
        notes=(f"the image rule is that of timm's {described.get('tag') or 'only'} weights", *_torchvision.notes()),
        doubts=doubts_of(request),
    )


def _library(request: SourceRequest) -> ModuleType:
    """The package, which needs torchvision.

    Raises:
        SourceError: one of the two is not installed.
    """
    _torchvision.import_torchvision(request.spec)
    try:
        import timm
    except ImportError as error:
        raise SourceError(f"{request.spec}: needs the optional package timm; pip install --no-deps timm") from error
    library: ModuleType = timm
    return library


def _check_name(request: SourceRequest, library: ModuleType, name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        SourceError: with names near it, and the tags where only the tag is unknown.
    """
    architecture, _, tag = name.partition(".")
    if not library.is_model(architecture):
        near = ", ".join(difflib.get_close_matches(architecture, library.list_models(), n=5)) or "none"
        raise SourceError(f"{request.spec}: timm {library.__version__} has no model {architecture!r}; near it: {near}")
    tags = [one.partition(".")[2] for one in library.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise SourceError(f"{request.spec}: timm knows no weights {tag!r} of it; it knows: {', '.join(tags) or 'none'}")


def _build(library: ModuleType, name: str, state: State, size: tuple[int, int] | None) -> Build:
    known = library.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": size} if size and known and known.fixed_input_size else {}

    def build(classes: int | None) -> nn.Module:
        # Weights in which nothing grows with the number of classes are those of a backbone.
        counted = {"num_classes": classes or 0} if state else {}
        made: nn.Module = library.create_model(name, pretrained=False, **options, **counted)
        return made

    return build


def _image(described: Mapping[str, Any], size: tuple[int, int] | None) -> ImageRule:
    """The image rule of timm's evaluation: squashed to the input, or cut from the middle of the scaled image."""
    squash = described.get("crop_mode") == "squash"
    return ImageRule(
        size=size or tuple(described["input_size"][1:]),
        resize="stretch" if squash else "crop",
        crop=1.0 if squash else float(described["crop_pct"]),
        interpolation="bicubic" if described["interpolation"] == "bicubic" else "bilinear",
        mean=tuple(described["mean"]),
        std=tuple(described["std"]),
    )


def _contract(module: Any, image: ImageRule, values: int) -> Contract:
    if not module.num_classes:
        vector = (Output(name="vector", role="vector"),)
        return Contract(task="embed", image=image, decoder=Decoder(name="vector"), outputs=vector)
    return Contract(
        task="classify",
        image=image,
        classes=names_for(values, "imagenet"),
        decoder=Decoder(name="classes"),
        outputs=(Output(name="logits", role="logits"),),
    )


SOURCE = Source(
    "timm:NAME with --weights FILE",
    matches,
    load,
    order=45,
    takes=frozenset({"contract", "size", "weights", "trust"}),
)
