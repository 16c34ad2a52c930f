"""Embedding: a vector that is close to the vectors of similar images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import UsageError
from edgekit.runtimes.results.columns import Size, column, columns
from edgekit.runtimes.results.result import Result, converted


class _Vector(msgspec.Struct):
    vector: list[float]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Embedding(Result):
    """The embedding vector of one image.

    Args:
        vector: float32 (d,) of length 1.
        classes: of no use here, usually empty.
        size, source, time, timings: as for every `Result`.

    Raises:
        UsageError: other than one or more finite numbers.
    """

    vector: Floats = field(metadata=column("value", np.float32))

    def __post_init__(self) -> None:
        super().__post_init__()
        given = np.asarray(self.vector, np.float32)
        if given.ndim != 1 or not given.size:
            raise UsageError(f"vector must have the shape (d,), not {given.shape}")
        checked = columns(type(self))["vector"].checked("vector", given, len(given), self.size)
        object.__setattr__(self, "vector", checked)

    def __repr__(self) -> str:
        return f"{self.source + ': ' if self.source else ''}a vector of {len(self.vector)}"

    def similarity(self, other: Embedding) -> float:
        """Cosine of the angle between two vectors, -1..1.

        Raises:
            UsageError: vectors of different lengths, which are of different models.
        """
        if len(self.vector) != len(other.vector):
            raise UsageError(
                f"vectors of {len(self.vector)} and of {len(other.vector)} numbers are not of the same model"
            )
        return float((self.vector * other.vector).sum())

    def draw(self, image: Image, *, labels: bool = True, scores: bool = True, thickness: int | None = None) -> Image:
        """A copy of the image: there is nothing to draw."""
        self._check_image(image)
        return image.copy()

    def _body(self) -> dict[str, Any]:
        return {"vector": columns(type(self))["vector"].written(self.vector)}

    @classmethod
    def _from_body(cls, document: dict[str, Any], size: Size) -> dict[str, Any]:
        return {"vector": np.array(converted(document, _Vector).vector, np.float32)}
