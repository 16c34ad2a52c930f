"""What the detectors of this folder share: their image rule and heads, and how their weights are stored and read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import SourceError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.shapes import CLASSES

if TYPE_CHECKING:
    from torch import nn

INPUT_SIZE = 192
REG_MAX = 16
STRIDES = (8, 16, 32)


def shapes_contract() -> Contract:
    """RGB / 255, letterboxed to 192x192; boxes and classes at strides 8, 16 and 32, as the demo detector gives them."""
    outputs = [
        Output(name=f"{role}_{level}", role=role, level=level)
        for level in range(len(STRIDES))
        for role in ("boxes", "classes")
    ]
    return Contract(
        image=ImageRule(size=(INPUT_SIZE, INPUT_SIZE)),
        classes=tuple(CLASSES),
        decoder=Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": REG_MAX}),
        outputs=tuple(outputs),
        postprocess=Postprocess(iou=0.6),
    )


def with_weights(model: nn.Module, path: Path) -> nn.Module:
    """The network in eval mode with weights (safetensors, float16) as float32, and its ``contract``.

    Raises:
        SourceError: the file is missing or does not fit.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise SourceError(f"{path} is missing: train it with python -m tests.detectors.train {path.stem}")
    try:
        model.load_state_dict({name: value.float() for name, value in load_file(path).items()}, strict=True)
    except RuntimeError as error:
        raise SourceError(f"{path} does not fit the network, train it again: {error}") from error
    model.contract = shapes_contract()  # type: ignore[assignment]
    return model.eval()
