"""Sample the next token from the filtered distribution."""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import UsageError
from edgekit.runtimes.language.distributions import probabilities
from edgekit.runtimes.language.options import GenerationOptions
from edgekit.runtimes.language.processors import filter_for_sampling


class Sampler:
    """Draws one token per row; every row has a generator of its own, made of the seed and the row's number.

    So a row draws the same alone, in a batch and streamed, however long its neighbours are. The draws are not those of
    torch, whose generator numpy does not have; the distributions are.
    """

    def __init__(self, options: GenerationOptions, rows: int) -> None:
        self._options = options
        self._generators = [np.random.default_rng(seed) for seed in np.random.SeedSequence(options.seed).spawn(rows)]

    def __call__(self, scores: Floats) -> Ints:
        """Draw from scores (rows, vocabulary) after the penalties.

        Raises:
            UsageError: the penalties left a row no token at all.
        """
        likely = chances(scores, self._options)
        return np.array([drawn(row, one.random()) for row, one in zip(likely, self._generators, strict=True)], np.int64)


def chances(scores: Floats, options: GenerationOptions) -> Floats:
    """Probabilities (rows, vocabulary) of what sampling draws from, for scores after the penalties.

    Raises:
        UsageError: the penalties left a row no token at all.
    """
    empty = np.flatnonzero(np.isneginf(scores.max(-1)))
    if len(empty):
        raise UsageError(
            f"row {empty[0]} has no token left to draw: no_repeat_ngram_size={options.no_repeat_ngram_size} "
            f"and min_new_tokens={options.min_new_tokens} ban all of them; loosen them"
        )
    return probabilities(filter_for_sampling(scores, options))


def drawn(likely: Floats, place: float) -> int:
    """The index at a place (0 to 1) of the cumulative distribution; never one without a chance."""
    possible = np.flatnonzero(likely)
    rising = likely[possible].cumsum(dtype=np.float64)
    found = int(np.searchsorted(rising, place * rising[-1], side="right"))
    return int(possible[min(found, len(possible) - 1)])
