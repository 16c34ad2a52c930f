"""Sources for the tests of conversion: ``tiny_models:NAME``. Each gives a network whose answers are known beforehand.

The detector sees coloured cells of 16x16 pixels: red ones are of class ``red``, green ones of class ``green``, and a
cell's box grows with its blue. It needs no training: its weights average colours down and compare them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Image
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess

if TYPE_CHECKING:
    from torch import nn

SIZE, CELL = 64, 16
CLASSES = ("red", "green")
WIDTH = 8

CONTRACT = Contract(
    image=ImageRule(size=(SIZE, SIZE), resize="stretch"),
    classes=CLASSES,
    decoder=Decoder(name="anchor_free", options={"strides": [CELL], "reg_max": 1}),
    outputs=(Output(name="boxes", role="boxes"), Output(name="classes", role="classes")),
    postprocess=Postprocess(iou=0.6),
)


def picture(seed: int) -> Image:
    """Random cells, about half of them empty, as uint8 (64, 64, 3) BGR."""
    random = np.random.default_rng(seed)
    cells = np.zeros((SIZE // CELL, SIZE // CELL, 3), np.uint8)
    kind = random.integers(0, 4, cells.shape[:2])
    for place in np.ndindex(kind.shape):
        bright, dark, blue = random.integers(200, 256), random.integers(0, 60), random.integers(0, 256)
        if kind[place] < 2:
            cells[place] = (blue, dark, bright) if kind[place] == 0 else (blue, bright, dark)
    return np.repeat(np.repeat(cells, CELL, 0), CELL, 1)


def detector() -> nn.Module:
    """The detector of cells."""
    return _detector()


def recoloured() -> nn.Module:
    """Another training of the same network: the two classes are the other way round."""
    module = _detector()
    weight = module.classes.weight.data
    weight[:, :2] = weight[:, :2].flip(1)
    return module


def blind_in_the_dark() -> nn.Module:
    """Divides by the mean brightness: NaN for a black image, and only there."""
    return _detector(ending="nan")


def endless_boxes_in_the_dark() -> nn.Module:
    """Scores are sound and boxes infinite in a black image."""
    return _detector(ending="infinite")


def untranslatable() -> nn.Module:
    """Has an operator that the ONNX exporter cannot write: ``amax`` over everything."""
    return _detector(ending="amax")


def sorting() -> nn.Module:
    """Sorts every row of its features, as a DETR picks its best queries: not every target can."""
    return _detector(ending="sort")


def mixing() -> nn.Module:
    """Subtracts the mean over its batch: nothing of one image, and what is common of several."""
    return _detector(ending="mixing")


def aborting() -> nn.Module:
    """What a failing check in C++ does to a process."""
    os.abort()


def segfaulting() -> nn.Module:
    """What a wild pointer does to a process."""
    import ctypes

    ctypes.string_at(0)
    raise RuntimeError("still alive")


def leaving() -> nn.Module:
    """Ends the process as if all were well."""
    os._exit(0)


def noisy() -> nn.Module:
    """Prints to stdout from Python and below it, where the events of a child go."""
    print('{"type":"done","result":null}', flush=True)
    os.write(1, b"not json at all\n")
    return _detector()


def failing() -> nn.Module:
    """A factory with an ordinary mistake in it."""
    raise ZeroDivisionError("the factory divides by nothing")


def _detector(ending: str = "") -> Any:
    import torch
    from torch import nn

    class CellDetector(nn.Module):
        """Four averaging convolutions, one that compares colours, one that passes on, and the heads."""

        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.ModuleList(nn.Conv2d(3 if not index else WIDTH, WIDTH, 2, 2) for index in range(4))
            self.compare = nn.Conv2d(WIDTH, WIDTH, 1)
            self.carry = nn.Conv2d(WIDTH, WIDTH, 1)
            self.boxes = nn.Conv2d(WIDTH, 4, 1)
            self.classes = nn.Conv2d(WIDTH, 2, 1)
            self.contract = CONTRACT
            with torch.no_grad():
                self._set()

        def _set(self) -> None:
            for parameter in self.parameters():
                parameter.zero_()
            for layer in self.pool:
                for channel in range(3):
                    layer.weight[channel, channel] = 0.25
            for row, (red, green, blue) in enumerate([(1, -1, 0), (-1, 1, 0), (0, 0, 1), (0.5, 0.5, 0)]):
                self.compare.weight[row, :3, 0, 0] = torch.tensor([red, green, blue], dtype=torch.float32)
            self.carry.weight[:, :, 0, 0] = torch.eye(WIDTH)
            self.boxes.bias.fill_(0.35)
            self.boxes.weight[:, 2, 0, 0] = 0.12
            self.classes.bias.fill_(-3.0)
            self.classes.weight[0, 0], self.classes.weight[1, 1] = 8.0, 8.0

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = images
            for layer in self.pool:
                x = torch.relu(layer(x))
            x = torch.relu(self.carry(torch.relu(self.compare(x))))
            if ending == "sort":
                x = x.sort(3).values
            if ending == "mixing":
                x = x + (x.mean(0, keepdim=True) - x)
            return _ended(ending, images, self.boxes(x), self.classes(x))

    return CellDetector().eval()


def _ended(ending: str, images: Any, boxes: Any, classes: Any) -> Any:
    """The outputs, spoilt in the way that ``ending`` says."""
    if ending == "nan":
        classes = classes * (images.mean() / images.mean())
    if ending == "amax":
        classes = classes * images.amax()
    if ending == "infinite":
        sign = images.mean().sign()
        boxes, classes = boxes / sign, classes + 8 * (1 - sign)
    return boxes, classes
