"""A source for the tests of budgets, ``fragile_models:fragile``: whatever layer is INT8, some answers change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tiny_models import CELL, CONTRACT, SIZE, WIDTH, detector

from edgekit.arrays import Image

if TYPE_CHECKING:
    from torch import nn

STEEP = 300.0
OFFSETS = (16.0, 3.7, 5.1, 2.3)
"""Other grids for each layer, or the second would change nothing that the first has rounded."""


def picture(seed: int) -> Image:
    """Cells of any colour, as uint8 (64, 64, 3) BGR: red and green differ by little in many of them."""
    cells = np.random.default_rng(seed).integers(0, 256, (SIZE // CELL, SIZE // CELL, 3)).astype(np.uint8)
    return np.repeat(np.repeat(cells, CELL, 0), CELL, 1)


def write_stack(path: Path, count: int) -> Path:
    """Pictures as one file."""
    np.save(path, np.stack([picture(seed) for seed in range(count)]))
    return path


def fragile() -> nn.Module:
    """The detector of cells, but colours pass through several layers far from zero before they are compared.

    A step of 8 bits is large there, and the comparison at the end is steep.
    """
    import torch
    from torch import nn

    class Fragile(type(detector())):  # type: ignore[misc]
        """More layers that pass on, each of them on a pedestal."""

        def __init__(self) -> None:
            super().__init__()
            self.more = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(2))
            with torch.no_grad():
                for layer in (self.compare, self.carry, *self.more):
                    layer.weight[:, :, 0, 0] = torch.eye(WIDTH)
                    layer.bias.zero_()
                for layer, offset in zip((self.pool[0], self.compare, self.carry, *self.more), OFFSETS, strict=False):
                    layer.bias[:3] = offset
                self.classes.weight[:, :2, 0, 0] = STEEP * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
                self.boxes.bias.fill_(0.35 - 0.12 * sum(OFFSETS))
            self.contract = CONTRACT

        def forward(self, images: torch.Tensor) -> tuple[Any, Any]:
            x = images
            for layer in (*self.pool, self.compare, self.carry, *self.more):
                x = torch.relu(layer(x))
            return self.boxes(x), self.classes(x)

    return Fragile().eval()
