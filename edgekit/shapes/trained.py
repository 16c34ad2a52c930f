"""The trained networks of shapes with their contracts, as sources: ``edgekit.shapes.trained:detector`` and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess, Skeleton
from edgekit.shapes.outlines import CLASSES, KEYPOINTS, SKELETON

if TYPE_CHECKING:
    from torch import nn

    from edgekit.shapes.tasks import ShapesTasks

SOURCE = f"{__name__}:detector"


def detector() -> nn.Module:
    """The trained detector of shapes, with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    from edgekit.shapes.detector import demo_detector

    model = demo_detector()
    model.contract = _of_boxes("detect", ("boxes", "classes"))  # type: ignore[assignment]
    return model


def pose() -> nn.Module:
    """The trained network of the shapes' keypoints, with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    return of_tasks("pose")


def segment() -> nn.Module:
    """The trained network of the shapes' masks, with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    return of_tasks("segment")


def classify() -> nn.Module:
    """The trained network of the classes that an image shows, any number of them, with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    return of_tasks("classify")


def semantic() -> nn.Module:
    """The trained network of the class of every pixel, a background before the shapes, with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    from edgekit.shapes.detector import INPUT_SIZE
    from edgekit.shapes.semantic import LABELS, trained_semantic

    model: nn.Module = trained_semantic()
    model.contract = Contract(  # type: ignore[assignment]
        task="semantic",
        image=ImageRule(size=(INPUT_SIZE, INPUT_SIZE)),
        classes=LABELS,
        decoder=Decoder(name="semantic"),
        outputs=(Output(name="logits", role="logits"),),
    )
    return model


def obb() -> nn.Module:
    """The trained network of the oriented boxes of long things (`edgekit.shapes.bars`), with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    from edgekit.shapes.bars import LONG_CLASSES
    from edgekit.shapes.oriented import trained_oriented

    model: nn.Module = trained_oriented()
    contract = _of_boxes("obb", ("boxes", "classes", "angles"))
    model.contract = msgspec.structs.replace(contract, classes=LONG_CLASSES)  # type: ignore[assignment]
    return model


def of_tasks(task: Literal["pose", "segment", "classify"], tasks: ShapesTasks | None = None) -> nn.Module:
    """The network of one task, with its contract, of the trained network of all tasks or of the one given."""
    from edgekit.shapes.tasks import ClassifyNetwork, PoseNetwork, SegmentNetwork, trained_tasks

    tasks = tasks or trained_tasks()
    model: nn.Module
    if task == "pose":
        model, contract = PoseNetwork(tasks), _of_boxes("pose", ("boxes", "classes", "keypoints"))
    elif task == "segment":
        model, contract = SegmentNetwork(tasks), _of_boxes("segment", ("boxes", "classes", "coefficients"))
    else:
        model, contract = ClassifyNetwork(tasks), _of_labels()
    model.contract = contract  # type: ignore[assignment]
    return model.eval()


def _of_boxes(task: str, roles: tuple[str, ...]) -> Contract:
    from edgekit.shapes.detector import INPUT_SIZE, REG_MAX, STRIDES

    outputs = [
        Output(name=f"{role}_{level}", role=role, level=level) for level in range(len(STRIDES)) for role in roles
    ]
    if task == "segment":
        outputs.append(Output(name="prototypes", role="prototypes"))
    return Contract(
        task=task,
        image=ImageRule(size=(INPUT_SIZE, INPUT_SIZE)),
        classes=tuple(CLASSES),
        skeleton=Skeleton(names=KEYPOINTS, edges=SKELETON) if task == "pose" else None,
        decoder=Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": REG_MAX}),
        outputs=tuple(outputs),
        postprocess=Postprocess(iou=0.6),
    )


def _of_labels() -> Contract:
    from edgekit.shapes.detector import INPUT_SIZE

    return Contract(
        task="classify",
        image=ImageRule(size=(INPUT_SIZE, INPUT_SIZE)),
        classes=tuple(CLASSES),
        decoder=Decoder(name="classes", options={"activation": "sigmoid"}),
        outputs=(Output(name="labels", role="logits"),),
        postprocess=Postprocess(score=0.5),
    )
