"""HOST: an ultralytics detect checkpoint (`.pt`; YOLOv8, YOLO11, YOLO26 and others with the same heads).

The package `ultralytics` is AGPL-3.0 and optional: it is imported only here, only inside functions, and only when a
user gives such a checkpoint. It is imported with its own installer, network probe and settings file switched off.

A `.pt` is a pickle of the model object; `_ultralytics_pickle` reads it without running what is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.manifest import Contract, Decoder, ImageRule, Origin, Output, Postprocess
from edgekit.sources import Request, TrainedModel, Uncut
from edgekit.sources._ultralytics_pickle import pickled_globals, unpickle

if TYPE_CHECKING:
    import torch
    from torch import nn

KIND = "an ultralytics detect checkpoint (.pt)"

OTHER_TASKS = {
    "ultralytics.nn.tasks.SegmentationModel": "segmentation",
    "ultralytics.nn.tasks.PoseModel": "pose",
    "ultralytics.nn.tasks.ClassificationModel": "classification",
    "ultralytics.nn.tasks.OBBModel": "oriented-box",
    "ultralytics.nn.tasks.RTDETRDetectionModel": "RT-DETR",
    "ultralytics.nn.tasks.WorldModel": "YOLO-World",
    "ultralytics.nn.tasks.YOLOEModel": "YOLOE",
}
HEADS = ("Detect", "v10Detect")


def matches(request: Request) -> bool:
    """Whether the spelling is that of a checkpoint file."""
    return request.spec.lower().endswith(".pt")


def load(request: Request) -> TrainedModel:
    """Read a detect checkpoint and cut its head at the raw convolutions.

    ``heads`` returns boxes_0, classes_0, boxes_1, classes_1, ...: per stride (1, 4 * reg_max, h, w) distances left,
    top, right, bottom in strides (reg_max > 1: logits of the DFL distribution, Li et al. 2020, arXiv:2006.04388) and
    (1, classes, h, w) logits. ``module`` returns the one tensor ultralytics returns: (1, 4 + classes, anchors) with
    xywh in input pixels, or (1, 300, 6) rows x1, y1, x2, y2, score, class for heads that need no NMS.

    Raises:
        SourceError: the file or ultralytics is missing, the file is damaged, is not a detect checkpoint, or contains
            what may not be unpickled without ``request.trust``.
    """

    path = Path(request.spec)
    names = pickled_globals(path)
    for name in names:
        if name in OTHER_TASKS:
            raise SourceError(f"{path}: {_not_detect(OTHER_TASKS[name])}")
    checkpoint = unpickle(path, names, request.trust)
    model = _detector(path, checkpoint)
    try:
        return _trained_model(path, checkpoint, model, request.size)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{path}: its model does not run with the installed ultralytics ({type(error).__name__}: {error}); install "
            "the version it was trained with"
        ) from error


def _trained_model(path: Path, checkpoint: Any, model: Any, size: tuple[int, int] | None) -> TrainedModel:
    import torch

    head = model.model[-1]
    end2end = _one_to_one(model)
    size = _divisible(path, size or _trained_size(checkpoint, model, head), int(max(head.stride)))
    example = torch.zeros(1, 3, *size)
    whole, heads = _whole(model, end2end), _raw_heads(model, end2end)
    with torch.no_grad():
        whole(example)  # the head computes and keeps its anchors for this size, so that tracing finds them ready
    return TrainedModel(
        name=path.stem,
        module=whole,
        example=example,
        origin=_origin(path),
        contract=_contract(path, model, end2end, size),
        heads=heads,
        uncut=_uncut(end2end),
        notes=("head cut at its last convolutions", *(("one-to-one head: no NMS",) if end2end else ())),
    )


# --- what is in it ---


def _detector(path: Path, checkpoint: Any) -> Any:
    """The detection model of a checkpoint in eval mode and float32."""
    from torch import nn

    model = checkpoint
    if isinstance(checkpoint, dict):
        model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, nn.Module):
        raise SourceError(
            f"{path}: holds no model object (a state dict?); give the checkpoint that ultralytics saved, or "
            "package.module:factory with --weights"
        )
    model._modules.pop("criterion", None)
    layers = getattr(model, "model", None)
    head = type(layers[-1]).__name__ if isinstance(layers, nn.Sequential) and len(layers) else type(model).__name__
    if head not in HEADS:
        raise SourceError(f"{path}: {_not_detect(head)}")
    for module in model.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # checkpoints of torch < 1.11
    return model.float().eval().requires_grad_(False)


def _not_detect(what: str) -> str:
    return (
        f"a {what} model, not a detector with a YOLO head ({', '.join(HEADS)}); only detect checkpoints are supported"
    )


def _one_to_one(model: Any) -> bool:
    """Whether to use the one-to-one branch (YOLO26, YOLOv10), as the model's own description says."""
    head = model.model[-1]
    if getattr(head, "one2one_cv2", None) is None:
        return False
    described = (getattr(model, "yaml", None) or {}).get("end2end", True)
    return bool(head.__dict__.get("_end2end", described)) or head.cv2 is None


def _trained_size(checkpoint: Any, model: Any, head: Any) -> tuple[int, int]:
    """Height and width the model was trained at, rounded up to its largest stride as ultralytics does."""
    arguments = checkpoint.get("train_args") if isinstance(checkpoint, dict) else None
    if not isinstance(arguments, dict):
        arguments = getattr(model, "args", None)
    size = arguments.get("imgsz") if isinstance(arguments, dict) else getattr(arguments, "imgsz", None)
    given: list[Any] = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if len(given) != 2 or not all(isinstance(number, int) and number > 0 for number in given):
        given = [640, 640]
    stride = int(max(head.stride))
    height, width = (-(-int(number) // stride) * stride for number in given)
    return height, width


def _divisible(path: Path, size: tuple[int, int], stride: int) -> tuple[int, int]:
    if any(length < stride or length % stride for length in size):
        raise SourceError(f"{path}: input size {size[0]}x{size[1]} must be a multiple of the largest stride, {stride}")
    return size


def _origin(path: Path) -> Origin:
    from importlib import metadata

    from edgekit.bundle import sha256

    notes = (f"read with ultralytics {metadata.version('ultralytics')}",)
    return Origin(kind="ultralytics", name=path.name, sha256=sha256(path), notes=notes)


def _contract(path: Path, model: Any, end2end: bool, size: tuple[int, int]) -> Contract:
    """The contract of the raw heads; thresholds are the defaults of ultralytics' predict."""
    head = model.model[-1]
    names = model.names
    classes = tuple(str(names[key]) for key in (sorted(names) if isinstance(names, dict) else range(len(names))))
    if len(classes) != head.nc:
        raise SourceError(f"{path}: {len(classes)} class names for {head.nc} classes; the checkpoint is inconsistent")
    strides = [int(stride) for stride in head.stride]
    roles = ("boxes", "classes")
    return Contract(
        image=ImageRule(size=size, resize="letterbox", color="rgb", scale=1 / 255, pad=114),
        classes=classes,
        decoder=Decoder(name="anchor_free", options={"strides": strides, "reg_max": int(head.reg_max)}),
        outputs=tuple(
            Output(name=f"{role}_{level}", role=role, level=level) for level in range(len(strides)) for role in roles
        ),
        postprocess=Postprocess(score_threshold=0.25, iou_threshold=0.7, max_detections=300, nms=not end2end),
    )


def _uncut(end2end: bool) -> Uncut:
    """How to read what the whole model returns."""
    options: dict[str, Any] = {"box_format": "xywh", "normalized": False}
    if end2end:
        options = {"box_format": "xyxy", "normalized": False, "layout": "detections"}
    output = Output(name="predictions", role="predictions")
    return Uncut(decoder=Decoder(name="decoded", options=options), outputs=(output,))


# --- the two networks ---


def _whole(model: Any, end2end: bool) -> nn.Module:
    """The model as it was given, returning its one tensor of predictions."""
    from torch import nn

    if bool(getattr(model.model[-1], "end2end", False)) != end2end:
        model.model[-1].end2end = end2end

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            result = self.network(image)
            return result[0] if isinstance(result, (tuple, list)) else result  # type: ignore[no-any-return]

    return Whole().eval()


def _raw_heads(model: Any, end2end: bool) -> nn.Module:
    """Backbone and neck of the model, then the last convolutions of each level and nothing after them."""
    from torch import nn

    head = model.model[-1]
    prefix = "one2one_" if end2end else ""
    sources: list[int] = list(head.f)

    class RawHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model.model[:-1]
            self.boxes = getattr(head, f"{prefix}cv2")
            self.classes = getattr(head, f"{prefix}cv3")

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            saved: list[torch.Tensor] = []
            for layer in self.body:
                wanted = layer.f  # -1 is the layer before; others count from the start
                indices = wanted if isinstance(wanted, list) else [wanted]
                given = [(saved or [image])[-1] if index == -1 else saved[index] for index in indices]
                saved.append(layer(given if isinstance(wanted, list) else given[0]))
            results: list[torch.Tensor] = []
            for level, index in enumerate(sources):
                results += [self.boxes[level](saved[index]), self.classes[level](saved[index])]
            return tuple(results)

    return RawHeads().eval()
