"""Embedding: one vector for the whole image, for re-identification and similarity search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import ContractError
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.runtimes.inputs.images import Transform
from edgekit.runtimes.results import Embedding
from edgekit.runtimes.tasks.decoders import Candidates
from edgekit.runtimes.tasks.detect import Detect

ROLES: tuple[str, ...] = ()
"""Roles of outputs that this task has beside those of its decoder."""

SHARPNESS = 8
"""Power of the cosine that stands for IoU: the gates of .95, .9 and .5 ask for cosines of .994, .987 and .917."""


class Embed(Detect):
    """Postprocessing of one embedding contract.

    Raises:
        ContractError: as `Detect`.
    """

    measure = f"cosine^{SHARPNESS}"
    gives = Embedding

    def suppressed(self, found: Candidates, *, iou: float | None = None, most: int | None = None) -> Candidates:
        """The only candidate."""
        return found

    def similarity(self, first: Candidates, second: Candidates) -> Floats:
        """The cosine (n, m) to the power of `SHARPNESS`, 0 where it is negative."""
        if first.attached is None or second.attached is None:
            raise TypeError("embeddings are compared by their vectors, which these candidates lack")
        cosine: Floats = np.clip(np.einsum("nd,md->nm", first.attached, second.attached), 0, 1)
        return cosine**SHARPNESS

    def result(
        self, outputs: Sequence[Floats], mapping: Transform, *, score: float | None = None, iou: float | None = None
    ) -> Embedding:
        """The vector of the image; ``score`` and ``iou`` mean nothing here."""
        found = self.candidates(outputs, -1.0)
        if found.attached is None:
            raise TypeError("the decoder gives no vector")
        size = (mapping.width, mapping.height)
        return Embedding(vector=found.attached[0], classes=self.contract.classes, size=size)


def open_task(contract: Contract) -> Embed:
    """The embedding task of a contract.

    Raises:
        ContractError: the decoder is not one of vectors.
    """
    task = Embed(contract)
    if contract.decoder.name != "vector":
        raise ContractError(f"decoder {contract.decoder.name!r} gives no vector; valid: vector")
    return task
