"""The demo detector with its contract: the source ``edgekit.shapes.trained:detector``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.shapes.outlines import CLASSES

if TYPE_CHECKING:
    from torch import nn

SOURCE = f"{__name__}:detector"


def detector() -> nn.Module:
    """The trained detector of shapes, with a ``contract`` attribute.

    Raises:
        SourceError: its weights are missing.
    """
    from edgekit.shapes.detector import INPUT_SIZE, REG_MAX, STRIDES, demo_detector

    model = demo_detector()
    outputs = [
        Output(name=f"{role}_{level}", role=role, level=level)
        for level in range(len(STRIDES))
        for role in ("boxes", "classes")
    ]
    model.contract = Contract(  # type: ignore[assignment]
        image=ImageRule(size=(INPUT_SIZE, INPUT_SIZE)),
        classes=tuple(CLASSES),
        decoder=Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": REG_MAX}),
        outputs=tuple(outputs),
        postprocess=Postprocess(iou_threshold=0.6),
    )
    return model
