"""Logits as distributions: probabilities, and the highest of many scores."""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError


def checked_logits(logits: Floats, rows: int) -> Floats:
    """The logits of a language graph, checked.

    Raises:
        EngineError: not one row of logits per sequence, or a row that is no distribution (NaN, +inf, or all -inf).
    """
    if logits.ndim != 2 or len(logits) != rows:
        raise EngineError(
            f"the language graph gave logits of shape {logits.shape}, not ({rows}, vocabulary): check its outputs"
        )
    peaks = logits.max(1)
    if not np.isfinite(peaks).all():
        row = int(np.flatnonzero(~np.isfinite(peaks))[0])
        raise EngineError(
            f"the language graph gave {peaks[row]} as its highest logit in row {row}: its numbers overflowed; "
            "convert the language graph with a wider precision"
        )
    return logits if logits.dtype == np.float32 else logits.astype(np.float32)


def log_probabilities(logits: Floats) -> Floats:
    """Logarithm of the softmax of each row, float32 (rows, vocabulary)."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def log_probability(logits: Floats, tokens: Ints) -> Floats:
    """Log-probability of one token per row: (rows, vocabulary) and (rows,) -> float32 (rows,)."""
    peaks = logits.max(-1)
    chosen = np.take_along_axis(logits, tokens[:, None], 1)[:, 0]
    result: Floats = chosen - peaks - np.log(np.exp(logits - peaks[:, None]).sum(-1))
    return result


def probabilities(scores: Floats) -> Floats:
    """Softmax of each row, float32; -inf is probability 0. A row needs one score that is finite."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result: Floats = weights / weights.sum(-1, keepdims=True)
    return result


def highest(scores: Floats, count: int) -> Ints:
    """Indices (rows, count) of each row's highest scores, the highest first; of equal scores the first index.

    The order is the same on every machine, which a plain partition does not promise: INT8 logits are often equal.
    """
    limits = np.partition(scores, -count, axis=-1)[:, -count]
    found = np.empty((len(scores), count), np.int64)
    for row, limit, result in zip(scores, limits, found, strict=True):
        candidates = np.flatnonzero(row >= limit)
        result[:] = candidates[np.argsort(-row[candidates], kind="stable")[:count]]
    return found
