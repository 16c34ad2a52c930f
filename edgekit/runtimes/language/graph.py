"""The graph that generation drives: logits of the next token, over a cache that an engine keeps."""

from __future__ import annotations

from typing import Protocol

from edgekit.arrays import Floats, Ints


class LanguageGraph(Protocol):
    """A language model with its cache, on any engine: one sequence of tokens per row, all of them grown together.

    ``start`` begins anew and drops what an earlier run left; then ``step`` as often as wanted, with any number of
    ``select`` between. What is returned may be a view of the engine's memory: it holds until the next call, and the
    caller never writes to it. The rows do not influence each other. Not thread-safe.
    """

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Read the prompt (prefill).

        A decoder-only model reads the embeddings as its own past; its rows are padded on the left and its positions
        are counted from the first token that the mask shows. An encoder-decoder model runs its encoder over them, and
        its decoder on the start token.

        Args:
            embeddings: float32 (rows, tokens, width); what the mask hides may be anything finite.
            mask: int64 (rows, tokens), 1 where there is a token and 0 where there is padding.

        Returns:
            float32 (rows, vocabulary): logits of the token that follows each row's last.
        """
        ...

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row.

        Args:
            tokens: int64 (rows,), ids of the vocabulary. A row that is finished goes on with the padding token.

        Returns:
            float32 (rows, vocabulary): logits of the token that follows.
        """
        ...

    def select(self, rows: Ints) -> None:
        """Continue with these rows, in this order: the cache of row ``i`` becomes that of the former ``rows[i]``.

        Rows may be repeated (one prompt becomes several beams), reordered and left out. The encoder's side needs
        nothing where every row keeps its own prompt, as it does after the first call of a beam search.

        Args:
            rows: int64 (new number of rows,), indices of the rows there are now.
        """
        ...
