"""``torchvision:NAME`` with ``--weights``: classifiers, one-stage detectors and semantic segmentation of
torchvision.

Nothing is downloaded. Networks of two stages, of video and of pairs of images are refused.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.runtimes.bundle import folder as bundle
from edgekit.sources import Source, SourceRequest, TrainedModel, _torchvision
from edgekit.sources._named import Build, State, built, doubts_of, name_of, origin_of, run_once, state_of
from edgekit.sources.torchvision.kinds import KINDS, Kind

if TYPE_CHECKING:
    from torch import nn

LIBRARY = "torchvision"

_TWO_STAGES = (
    "it has two stages, and the second looks at regions that the first has found, which no graph of fixed shapes can "
    "do. Take a detector of one stage: torchvision:ssdlite320_mobilenet_v3_large, an RT-DETR of transformers, a YOLO"
)

REFUSED = {
    "detection.faster_rcnn": _TWO_STAGES,
    "detection.mask_rcnn": f"{_TWO_STAGES}; for masks a YOLO of the task segment",
    "detection.keypoint_rcnn": f"{_TWO_STAGES}; for keypoints a YOLO of the task pose, MoveNet or RTMPose",
    "quantization": "it is quantised already; give the float network, named without quantized_",
    "optical_flow": "it compares two images, and a bundle has one image for its input",
    "video": "it takes many frames at once, and a bundle has one image for its input",
}
"""Why models of these modules of ``torchvision.models`` are not taken, and what else one can do."""


def matches(request: SourceRequest) -> bool:
    """Whether it is spelled ``torchvision:NAME``."""
    return bool(name_of(request, LIBRARY))


def load(request: SourceRequest) -> TrainedModel:
    """Build the network, load the weights, and derive the contract from both.

    The image rule is that of torchvision's own weights: of those whose file was given, else of the first of that name.

    Raises:
        SourceError: no model of that name, one that is refused, weights that do not fit, or torchvision is not
            installed.
    """
    import torch

    library = _torchvision.import_torchvision(request.spec)
    name = name_of(request, LIBRARY)
    kind = _kind(request, library, name)
    state = state_of(request)
    released, same = _released(request, library, name)
    module = built(request, _build(library, name, kind, state, trained=same), state)
    heads = kind.heads(module)
    rule = kind.image(released, module, request.size)
    outputs = run_once(request, heads, rule)
    contract = kind.contract(module, rule, outputs)
    known = f"the image rule is that of torchvision's {released}" + ("" if same else ", whose file this is not")
    return TrainedModel(
        name=name.replace("_", "-"),
        module=heads,
        example=torch.zeros(1, 3, *rule.size),
        origin=origin_of(request, LIBRARY, name, module),
        contract=contract,
        heads=heads,
        notes=(known, *_torchvision.notes()),
        doubts=doubts_of(request),
    )


def _kind(request: SourceRequest, library: ModuleType, name: str) -> Kind:
    """The kind of network that a name stands for.

    Raises:
        SourceError: there is no such model, or it is refused.
    """
    names = library.models.list_models()
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, n=5)) or "none"
        raise SourceError(f"{request.spec}: torchvision {library.__version__} has no model {name!r}; near it: {near}")
    module = library.models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
    for prefix, why in REFUSED.items():
        if module == prefix or module.startswith(f"{prefix}."):
            raise SourceError(f"{request.spec}: cannot be converted: {why}")
    folder = module.rpartition(".")[0]
    return KINDS[module if module in KINDS else folder]


def _build(library: ModuleType, name: str, kind: Kind, state: State, *, trained: bool) -> Build:
    builder = library.models.get_model_builder(name)
    options: dict[str, Any] = kind.options(name, state, trained)

    def build(classes: int | None) -> nn.Module:
        counted = {} if classes is None else {"num_classes": classes}
        made: nn.Module = builder(weights=None, **options, **counted)
        return made

    return build


def _released(request: SourceRequest, library: ModuleType, name: str) -> tuple[Any, bool]:
    """Of torchvision's weights for a model those whose file was given, else the first; and whether it is that file.

    Their addresses end in the first digits of the file's SHA-256.
    """
    every = list(library.models.get_model_weights(name))
    digits = bundle.sha256(request.weights) if request.weights is not None else ""
    for one in every:
        if digits and digits.startswith(Path(one.url).stem.rpartition("-")[2]):
            return one, True
    return every[0], False


SOURCE = Source(
    "torchvision:NAME with --weights FILE",
    matches,
    load,
    order=46,
    takes=frozenset({"contract", "size", "weights", "trust"}),
)
