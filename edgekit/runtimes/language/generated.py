"""The result of generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.arrays import Bools, Floats, Ints

Stopped = Callable[[Ints], Bools]
"""Which sequences end here for a reason of the caller's, such as a stop text: int64 (n, tokens generated so far) ->
(n,). Asked after every token, for each sequence that could go on; finished rows (padded) may be among them."""


@dataclass(frozen=True)
class Generated:
    """Token ids of ``returned`` sequences for each prompt: those of the first prompt first, the best first.

    Args:
        tokens: int64 (sequences, longest), without the prompt, filled up with the padding token.
        lengths: int64 (sequences,), tokens of each, its end token included where it has one.
        scores: float32 (sequences,), the sum of the tokens' log-probabilities divided by ``length ** length_penalty``.
            Those of a beam search are after the penalties, as transformers' ``sequences_scores``; those of greedy and
            sampling are the model's own, before penalties and filters.
    """

    tokens: Ints
    lengths: Ints
    scores: Floats

    @property
    def sequences(self) -> list[Ints]:
        """The ids of each sequence, without the padding."""
        return [row[:length] for row, length in zip(self.tokens, self.lengths, strict=True)]
