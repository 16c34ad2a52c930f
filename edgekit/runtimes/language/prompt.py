"""A batch of prompts for generation, validated once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import UsageError


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts.

    Args:
        embeddings: float32 (rows, tokens, width), what the graph reads.
        mask: int64 (rows, tokens), 1 where there is a token, 0 where there is padding.
        ids: int64, what the penalties read. Of a decoder-only model (rows, tokens), the image's placeholders included;
            of an encoder-decoder model (rows, 1), the token that its decoder starts with.
        eos: int64 (n,), the tokens that end a sequence; may be none.
        pad: the token that finished rows go on with.

    Raises:
        UsageError: shapes that do not belong together, a mask that is not 0 and 1 or, for a decoder-only model, not
            padded on the left alone.
    """

    embeddings: Floats
    mask: Ints
    ids: Ints
    eos: Ints
    pad: int

    def __post_init__(self) -> None:
        shape = self.embeddings.shape
        if len(shape) != 3 or 0 in shape:
            raise UsageError(f"prompt embeddings of shape {shape}: expected (rows, tokens, width), none of them 0")
        if self.mask.shape != shape[:2]:
            raise UsageError(f"prompt mask of shape {self.mask.shape}: expected {shape[:2]}, as the embeddings")
        if self.ids.shape not in (shape[:2], (shape[0], 1)):
            raise UsageError(
                f"prompt ids of shape {self.ids.shape}: expected {shape[:2]} for a decoder-only model, "
                f"{(shape[0], 1)} (its start token) for an encoder-decoder model"
            )
        if not np.isin(self.mask, (0, 1)).all() or not self.mask.any(1).all():
            raise UsageError("prompt mask: expected 0 and 1, with at least one 1 in every row")
        if self.ids.shape == self.mask.shape and (np.diff(self.mask, axis=1) < 0).any():
            raise UsageError("prompt mask: expected the padding on the left, not after a token; pad the other side")
        for name, ids in (("prompt ids", self.ids), ("eos", self.eos), ("pad", np.array([self.pad]))):
            if (ids < 0).any():
                raise UsageError(f"{name} {int(ids.min())}: expected token ids of 0 and above")

    @property
    def padding(self) -> Ints:
        """Number of ids (rows,) on the left that are padding; the start token of an encoder-decoder model never is.

        Where the ids could be both, one wide, the mask has no padding.
        """
        if self.ids.shape != self.mask.shape:
            return np.zeros(len(self.ids), np.int64)
        padding: Ints = self.mask.argmax(1).astype(np.int64)
        return padding


def prompt_of(embeddings: Floats, mask: Ints, ids: Ints, eos: Sequence[int], pad: int) -> Prompt:
    """A `Prompt` of arrays of any integer type.

    Raises:
        UsageError: as `Prompt`.
    """
    return Prompt(
        embeddings, np.asarray(mask, np.int64), np.asarray(ids, np.int64), np.asarray(list(eos), np.int64), int(pad)
    )
