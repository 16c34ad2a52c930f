"""The source itself behind the same `Session` as any engine: PyTorch eager, for evaluation beside its bundles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.arrays import Floats
from edgekit.runtimes.engines import Placement

if TYPE_CHECKING:
    from torch import nn


class TorchSession:
    """Runs a network that returns raw heads in the contract's order."""

    def __init__(self, heads: nn.Module) -> None:
        self._heads = heads
        self.placement = Placement("cpu", arithmetic="float32")

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        """Run once on one NCHW float32 tensor."""
        import torch

        with torch.no_grad():
            outputs = self._heads(torch.from_numpy(inputs[0]))
        tensors = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        return [tensor.float().numpy() for tensor in tensors]
