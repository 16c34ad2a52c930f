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
        empty = np.flatnonzero(np.isneginf(scores.max(-1)))
        if len(empty):
            raise UsageError(
                f"row {empty[0]} has no token left to draw: no_repeat_ngram_size={self._options.no_repeat_ngram_size} "
                f"and min_new_tokens={self._options.min_new_tokens} ban all of them; loosen them"
            )
        chances = probabilities(filter_for_sampling(scores, self._options))
        drawn = [_draw(row, generator) for row, generator in zip(chances, self._generators, strict=True)]
        return np.array(drawn, np.int64)


def _draw(chances: Floats, generator: np.random.Generator) -> int:
    """An index, by inversion of the cumulative distribution; never one without a chance."""
    possible = np.flatnonzero(chances)
    rising = chances[possible].cumsum(dtype=np.float64)
    place = int(np.searchsorted(rising, generator.random() * rising[-1], side="right"))
    return int(possible[min(place, len(possible) - 1)])
