"""The heads of ultralytics models: which task each is for, and its network up to the last convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class HeadSpec:
    """A head: its task, the roles of its outputs at each level, and what its decoder is told.

    ``features`` when the last convolution of the third role stands apart, behind features of its own (YOLO26 poses);
    ``all_levels`` when the prototypes are made of the features of all levels, not of the finest.
    """

    task: str
    roles: tuple[str, ...] = ("boxes", "classes")
    options: dict[str, float | str] = field(default_factory=dict)
    features: bool = False
    all_levels: bool = False


_POSE = ("boxes", "classes", "keypoints")
_ORIENTED = ("boxes", "classes", "angles")
_SEGMENT = ("boxes", "classes", "coefficients")

HEADS: dict[str, HeadSpec] = {
    "Detect": HeadSpec("detect"),
    "v10Detect": HeadSpec("detect"),
    "Pose": HeadSpec("pose", _POSE),
    "Pose26": HeadSpec("pose", _POSE, {"keypoint_scale": 1.0, "keypoint_offset": 0.5}, features=True),
    "Segment": HeadSpec("segment", _SEGMENT),
    "Segment26": HeadSpec("segment", _SEGMENT, all_levels=True),
    "OBB": HeadSpec("obb", _ORIENTED),
    "OBB26": HeadSpec("obb", _ORIENTED, {"angle": "radians"}),
    "Classify": HeadSpec("classify", ("logits",)),
}
"""By the name of the last layer's class."""


def whole(model: Any, end2end: bool) -> nn.Module:
    """The model as it was given, returning its predictions, and the prototypes of masks beside them."""
    from torch import nn

    if bool(getattr(model.model[-1], "end2end", False)) != end2end:
        model.model[-1].end2end = end2end

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, image: torch.Tensor) -> Any:
            result = self.network(image)
            return result[0] if isinstance(result, (tuple, list)) else result

    return Whole().eval()


def raw_heads(model: Any, head: HeadSpec, end2end: bool) -> nn.Module:
    """Backbone and neck of the model, then the last convolutions of each level and nothing after them."""
    layers = _classifier(model.model[-1]) if head.task == "classify" else _levels(model.model[-1], head, end2end)
    return _with_body(model, layers)


def _with_body(model: Any, last: nn.Module) -> nn.Module:
    """The layers before the last, in the order and with the connections that the model has, and then ``last``."""
    from torch import nn

    sources: int | list[int] = model.model[-1].f

    class RawHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model.model[:-1]
            self.last = last

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            saved: list[torch.Tensor] = []
            for layer in self.body:
                wanted = layer.f  # -1 is the layer before; others count from the start
                indices = wanted if isinstance(wanted, list) else [wanted]
                given = [(saved or [image])[-1] if index == -1 else saved[index] for index in indices]
                saved.append(layer(given if isinstance(wanted, list) else given[0]))
            features = [saved[index] for index in (sources if isinstance(sources, list) else [sources])]
            results: tuple[torch.Tensor, ...] = self.last(features)
            return results

    return RawHeads().eval()


def _levels(layer: Any, head: HeadSpec, end2end: bool) -> nn.Module:
    """The last convolutions of all levels, and the prototypes where there are any."""
    from torch import nn

    prefix = "one2one_" if end2end else ""

    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            branches: list[Any] = [getattr(layer, f"{prefix}cv{number}") for number in range(2, 2 + len(head.roles))]
            self.branches = nn.ModuleList(branches)
            self.points: Any = getattr(layer, f"{prefix}cv4_kpts") if head.features else None
            self.prototypes: Any = layer.proto if head.task == "segment" else None

        def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            results: list[torch.Tensor] = []
            branches: Any = self.branches
            for level, feature in enumerate(features):
                found = [branch[level](feature) for branch in branches]
                if self.points is not None:
                    found[-1] = self.points[level](found[-1])
                results += found
            if self.prototypes is not None:
                results.append(self.prototypes(features if head.all_levels else features[0]))
            return tuple(results)

    return Levels()


def _classifier(layer: Any) -> nn.Module:
    """A classification head without its softmax."""
    import torch
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            joined = torch.cat(features, 1) if len(features) > 1 else features[0]
            pooled = self.layer.pool(self.layer.conv(joined))
            return (self.layer.linear(pooled.flatten(1)),)

    return Logits()
