"""Embedding heads: one vector for the whole input."""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Floats
from edgekit.runtimes.tasks.decoders.arithmetic import check_finite
from edgekit.runtimes.tasks.decoders.base import Candidates, Frame, Heads, NoOptions, decoder


@decoder("vector", task="embed", whole=("vector",))
def vector(heads: Heads, options: NoOptions, frame: Frame, threshold: float) -> Candidates:
    """The vector of the whole input, at unit length.

    Raises:
        ValueError: other than (1, d), (1, d, 1, 1) or (d,).
        EngineError: NaN or infinite values.
    """
    (head,) = heads["vector"]
    if head.size != max(head.shape):
        raise ValueError(f"{head.shape} is not one vector")
    box = np.array([[0, 0, frame.width, frame.height]], np.float32)
    zero = np.zeros(1, np.int64)
    return Candidates(box, np.ones(1, np.float32), zero, zero, unit(head.reshape(1, -1)))


def unit(vectors: Floats) -> Floats:
    """Vectors (n, d) normalised to length 1; zero vectors stay zero.

    Raises:
        EngineError: NaN or infinite values.
    """
    check_finite(vectors)
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # squares of float32 vanish
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)
