"""HOST: an ultralytics checkpoint (`.pt`): boxes, poses, masks, oriented boxes, classes; YOLOv8, 11, 26, and kin.

The package `ultralytics` is AGPL-3.0 and optional: it is imported only here, only inside functions, and only when a
user gives such a checkpoint. It is imported with its own installer, network probe and settings file switched off.

A `.pt` is a pickle of the model object; `_ultralytics_pickle` reads it without running what is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Origin, Output, Postprocess
from edgekit.runtimes.tasks.skeletons import numbered
from edgekit.sources import Source, SourceRequest, TrainedModel, Uncut, check_size
from edgekit.sources.ultralytics.heads import HEADS, HeadSpec, raw_heads, whole
from edgekit.sources.ultralytics.pickle import pickled_globals, unpickle

if TYPE_CHECKING:
    pass


OTHER_TASKS = {
    "ultralytics.nn.tasks.RTDETRDetectionModel": "RT-DETR",
    "ultralytics.nn.tasks.WorldModel": "YOLO-World",
    "ultralytics.nn.tasks.YOLOEModel": "YOLOE",
}


LARGE = 1 << 24
"""Numbers of a tensor that a few bytes of a file must not stand for, by saying one of them again and again."""


def matches(request: SourceRequest) -> bool:
    """Whether the spelling is that of a checkpoint file."""
    return request.spec.lower().endswith(".pt")


def load(request: SourceRequest) -> TrainedModel:
    """Read a checkpoint and cut its head at the raw convolutions.

    ``heads`` returns boxes_0, classes_0, boxes_1, classes_1, ...: per stride (1, 4 * reg_max, h, w) distances left,
    top, right, bottom in strides (reg_max > 1: logits of the DFL distribution, Li et al. 2020, arXiv:2006.04388) and
    (1, classes, h, w) logits, for poses (1, 3 k, h, w) keypoints_0 and on beside them, for oriented boxes (1, 1, h, w)
    angles_0 and on, for masks coefficients_0 and on, and prototypes last; a classifier's heads are its logits.
    ``module`` returns what ultralytics returns: (1, 4 + classes + further values, anchors) with xywh in input pixels,
    or (1, 300, 6 + further values) rows x1, y1, x2, y2 (of oriented boxes xywh), score, class for heads that need no
    NMS.

    Raises:
        SourceError: the file or ultralytics is missing, the file is damaged, its model has another head, or it contains
            what may not be unpickled without ``request.trust``.
    """

    path = Path(request.spec)
    names = pickled_globals(path)
    for name in names:
        if name in OTHER_TASKS:
            raise SourceError(f"{path}: {_unknown(OTHER_TASKS[name])}")
    checkpoint = unpickle(path, names, request.trust)
    model = _network(path, checkpoint)
    try:
        return _trained_model(path, checkpoint, model, request.size)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{path}: its model does not run with the installed ultralytics ({type(error).__name__}: {error}); install "
            "the version it was trained with"
        ) from error


def _trained_model(path: Path, checkpoint: Any, model: Any, size: tuple[int, int] | None) -> TrainedModel:
    import torch

    head = HEADS[type(model.model[-1]).__name__]
    end2end = _one_to_one(model)
    largest = int(max(model.model[-1].stride)) if head.task != "classify" else 1
    size = _divisible(path, size or _trained_size(checkpoint, model, largest), largest)
    check_size(str(path), size)
    example = torch.zeros(1, 3, *size)
    given, heads = whole(model, end2end), raw_heads(model, head, end2end)
    with torch.no_grad():
        given(example)  # the head computes and keeps its anchors for this size, so that tracing finds them ready
        outputs = given(example)
    return TrainedModel(
        name=path.stem,
        module=given,
        example=example,
        origin=_origin(path),
        contract=_contract(path, model, head, end2end, size),
        heads=heads,
        uncut=_uncut(head, end2end, outputs, len(model.names)),
        notes=("head cut at its last convolutions", *(("one-to-one head: no NMS",) if end2end else ())),
    )


# --- what is in it ---


def _network(path: Path, checkpoint: Any) -> Any:
    """The model of a checkpoint in eval mode and float32."""
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
        raise SourceError(f"{path}: {_unknown(head)}")
    for module in model.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # checkpoints of torch < 1.11
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.numel() > LARGE and value.numel() * value.itemsize > value.untyped_storage().nbytes():
            raise SourceError(
                f"{path}: {name} {list(value.shape)} is more than the file holds of it; the checkpoint is inconsistent"
            )
    return model.float().eval().requires_grad_(False)


def _unknown(what: str) -> str:
    own = "give a network of your own as package.module:factory with --weights and a contract (docs/CONTRACT.md)"
    return f"a model with {what} at its end, where {', '.join(HEADS)} are known; {own}"


def _one_to_one(model: Any) -> bool:
    """Whether to use the one-to-one branch (YOLO26, YOLOv10), as the model's own description says."""
    head = model.model[-1]
    if getattr(head, "one2one_cv2", None) is None:
        return False
    described = (getattr(model, "yaml", None) or {}).get("end2end", True)
    return bool(head.__dict__.get("_end2end", described)) or head.cv2 is None


def _trained_size(checkpoint: Any, model: Any, stride: int) -> tuple[int, int]:
    """Height and width the model was trained at, rounded up to its largest stride as ultralytics does."""
    arguments = checkpoint.get("train_args") if isinstance(checkpoint, dict) else None
    if not isinstance(arguments, dict):
        arguments = getattr(model, "args", None)
    size = arguments.get("imgsz") if isinstance(arguments, dict) else getattr(arguments, "imgsz", None)
    given: list[Any] = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if len(given) != 2 or not all(isinstance(number, int) and number > 0 for number in given):
        given = [640, 640] if stride > 1 else [224, 224]
    height, width = (-(-int(number) // stride) * stride for number in given)
    return height, width


def _divisible(path: Path, size: tuple[int, int], stride: int) -> tuple[int, int]:
    if any(length < stride or length % stride for length in size):
        raise SourceError(f"{path}: input size {size[0]}x{size[1]} must be a multiple of the largest stride, {stride}")
    return size


def _origin(path: Path) -> Origin:
    from importlib import metadata

    from edgekit.runtimes.bundle.folder import sha256

    notes = (f"read with ultralytics {metadata.version('ultralytics')}",)
    return Origin(kind="ultralytics", name=path.name, sha256=sha256(path), notes=notes)


def _contract(path: Path, model: Any, head: HeadSpec, end2end: bool, size: tuple[int, int]) -> Contract:
    """The contract of the raw heads; thresholds are the defaults of ultralytics' predict."""
    names = model.names
    classes = tuple(str(names[key]) for key in (sorted(names) if isinstance(names, dict) else range(len(names))))
    last = model.model[-1]
    count = last.linear.out_features if head.task == "classify" else last.nc
    if len(classes) != count:
        raise SourceError(f"{path}: {len(classes)} class names for {count} classes; the checkpoint is inconsistent")
    if head.task == "classify":
        return Contract(
            task=head.task,
            image=ImageRule(size=size, resize="crop", color="rgb", scale=1 / 255),
            classes=classes,
            decoder=Decoder(name="classes"),
            outputs=(Output(name="logits", role="logits"),),
        )
    strides = [int(stride) for stride in last.stride]
    outputs = [
        Output(name=f"{role}_{level}", role=role, level=level) for level in range(len(strides)) for role in head.roles
    ]
    if head.task == "segment":
        outputs.append(Output(name="prototypes", role="prototypes"))
    return Contract(
        task=head.task,
        image=ImageRule(size=size, resize="letterbox", color="rgb", scale=1 / 255, pad=114),
        classes=classes,
        decoder=Decoder(name="anchor_free", options={"strides": strides, "reg_max": int(last.reg_max), **head.options}),
        outputs=tuple(outputs),
        postprocess=Postprocess(score=0.25, iou=0.7, max_detections=300, nms=not end2end),
        skeleton=numbered(last.kpt_shape[0]) if head.task == "pose" else None,
    )


def _uncut(head: HeadSpec, end2end: bool, outputs: Any, classes: int) -> Uncut:
    """How to read what the whole model returns."""
    if head.task == "classify":
        decoder = Decoder(name="classes", options={"activated": True})
        return Uncut(decoder=decoder, outputs=(Output(name="logits", role="logits"),))
    predictions = outputs[0] if isinstance(outputs, tuple) else outputs
    options: dict[str, Any] = {"box_format": "xywh", "normalized": False}
    attached = predictions.shape[1] - 4 - classes
    if end2end:
        box_format = "xywh" if head.task == "obb" else "xyxy"
        options = {"box_format": box_format, "normalized": False, "layout": "detections"}
        attached = predictions.shape[2] - 6
    roles = ("predictions", "prototypes") if head.task == "segment" else ("predictions",)
    return Uncut(
        decoder=Decoder(name="decoded", options={**options, "attached": attached} if attached else options),
        outputs=tuple(Output(name=role, role=role) for role in roles),
    )


SOURCE = Source(
    "an ultralytics checkpoint (.pt)", matches, load, order=30, takes=frozenset({"contract", "size", "trust"})
)
