"""A user's module: a decoder of their own, given with ``--import own_decoder``, and a source that uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import tiny_models

from edgekit.runtimes.bundle.manifest import Decoder
from edgekit.runtimes.tasks.decoders import Candidates, Frame, Heads, decoder

if TYPE_CHECKING:
    from torch import nn


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Side of a cell in pixels."""

    cell: int


@decoder("cells")
def cells(heads: Heads, options: Options, frame: Frame, threshold: float) -> Candidates:
    """The whole cell is the box, whatever the network says of its sides."""
    (logits,) = heads["classes"]
    width = logits.shape[3]
    table = 1 / (1 + np.exp(-logits.reshape(logits.shape[1], -1)))
    scores = table.max(0).astype(np.float32)
    keep = np.flatnonzero(scores > threshold)
    corner = np.stack([keep % width, keep // width, keep % width + 1, keep // width + 1], 1)
    return Candidates((corner * options.cell).astype(np.float32), scores[keep], table.argmax(0)[keep], keep)


def detector() -> nn.Module:
    """The detector of cells under the decoder above."""
    module = tiny_models.detector()
    contract = module.contract
    module.contract = msgspec.structs.replace(  # type: ignore[assignment, type-var]
        contract, decoder=Decoder(name="cells", options={"cell": tiny_models.CELL})
    )
    return module
