"""The layers of a BLIP-2's networks, for any file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.arrays import Floats
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.forms import Form

MASKED = float(np.finfo(np.float32).min)
"""The value added to the score of a masked key, as transformers does."""


@dataclass(frozen=True)
class Heads:
    """Shape of a decoder's attention: ``layers`` of ``count`` heads of ``size``; scores are multiplied by ``scale``."""

    layers: int
    count: int
    size: int
    scale: float

    @property
    def width(self) -> int:
        """Of all heads together."""
        return self.count * self.size


class Cache(Protocol):
    """Adds attention over earlier tokens to a graph. One is made for each graph, before its first layer."""

    def attend(self, layers: Layers, number: int, query: str, key: str, value: str, bias: str = "") -> str:
        """Attention of layer ``number``: (rows, tokens, width) each, ``bias`` (1, heads, tokens, all tokens)."""
        ...

    def last(self, x: str) -> str:
        """(rows, tokens, width) to (rows, width): that of each row's last token."""
        ...

    def distances(self, x: str) -> str:
        """int64 (tokens, all tokens): how far each key is from each of the tokens ``x`` (rows, tokens, width)."""
        ...

    def hiding(self, layers: Layers, name: str) -> str:
        """Declare an input that says where an encoder's output is padding: as a bias of scores (rows, 1, 1, tokens)."""
        ...


class Layers(Protocol):
    """Writes the layers of one graph from one checkpoint, in one format of files.

    Tensors are handed around by name; unless it is said otherwise they are float32 (rows, tokens, width). A method
    that takes ``prefix`` or the name of a weight reads it from the checkpoint.
    """

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the weights come from."""
        ...

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declare an input; -1 is any size."""
        ...

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        ...

    def cache(self, heads: Heads) -> Cache:
        """Declare the inputs of a cache."""
        ...

    def prompt(self, x: str) -> tuple[str, str]:
        """Declare what an encoder is told of its tokens ``x``.

        Returns:
            where they are padding, as a bias of scores (rows, 1, 1, tokens), and how far they are from each other,
            key less query, int64 (tokens, tokens).
        """
        ...

    def linear(self, x: str, prefix: str, form: Form | None = None) -> str:
        """``x @ weight.T + bias``; the bias only where the checkpoint has one. ``form``: of this one weight."""
        ...

    def normalisation(self, x: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; without weights where the checkpoint has none (some OPT)."""
        ...

    def root_mean_square(self, x: str, name: str, epsilon: float) -> str:
        """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""
        ...

    def normalised_linear(self, x: str, normalisation: str, linear: str, epsilon: float) -> str:
        """A layer normalisation and the one linear layer that reads it."""
        ...

    def activation(self, x: str, name: str) -> str:
        """One of the activations of the field, by the name that transformers gives it.

        Raises:
            SourceError: another one.
        """
        ...

    def add(self, x: str, y: str) -> str:
        """The sum of two tensors, of one shape but for axes of length 1."""
        ...

    def multiply(self, x: str, y: str) -> str:
        """The product of two tensors of one shape, element by element."""
        ...

    def scaled(self, x: str, factor: float) -> str:
        """All elements times a number."""
        ...

    def split(self, x: str, heads: int, size: int) -> str:
        """(rows, tokens, heads x size) to (rows, heads, tokens, size)."""
        ...

    def join(self, x: str, width: int) -> str:
        """The inverse of `split`."""
        ...

    def thirds(self, x: str, names: Sequence[str]) -> Sequence[str]:
        """The first, middle and last third of the width, under these names."""
        ...

    def attention(self, query: str, key: str, value: str, scale: float, bias: str = "") -> str:
        """``softmax(query key' scale + bias) value`` over split heads (Vaswani et al. 2017, arXiv:1706.03762)."""
        ...

    def biases(self, name: str, table: Floats, away: str) -> str:
        """Biases of scores (1, heads, queries, keys) by distances int64 (queries, keys).

        ``table`` (2 x reach + 1, heads), kept under ``name``, has those of -reach to reach; what is farther away has
        those of the ends.
        """
        ...

    def hiding(self, mask: str, shown: int = 0) -> str:
        """An int64 mask (rows, keys), 1 where there is a token, as a bias of scores (rows, 1, 1, ``shown`` + keys).

        The first ``shown`` keys have no mask: they may be looked at.
        """
        ...

    def patches(self, pixels: str, prefix: str, size: int, name: str, positions: Floats) -> str:
        """Squares of ``size`` pixels of images (rows, 3, height, width) through a convolution, behind a place of zeros.

        ``positions`` (1, 1 + patches, width), kept under ``name``, are added; the first is that of the zeros.
        """
        ...

    def repeated(self, name: str, like: str) -> str:
        """A weight (1, tokens, width) for each row of ``like``."""
        ...

    def looked_up(self, name: str, ids: str, offset: int = 0) -> str:
        """Rows ``ids`` + ``offset`` of a table, ids int64 (rows, tokens)."""
        ...

    def begun(self, name: str, like: str) -> str:
        """The first rows of a table, as many as ``like`` (rows, tokens, width) has tokens."""
        ...

    def tokens(self, x: str, start: int, end: int) -> str:
        """Those from ``start`` to before ``end``."""
        ...

    def token(self, x: str, place: int) -> str:
        """One of them, (rows, width)."""
        ...

    def joined(self, x: str, y: str) -> str:
        """The tokens of both, one behind the other."""
        ...

    def appended(self, x: str, y: str) -> str:
        """The tokens of both, split over heads: (rows, heads, tokens, size)."""
        ...

    def picked(self, pick: str, x: str) -> str:
        """The token at which ``pick`` (rows, 1, tokens) is 1, (rows, width)."""
        ...

    def mean(self, x: str) -> str:
        """Over the tokens, (rows, width)."""
        ...

    def unit(self, x: str) -> str:
        """Divided by the length of each token's vector."""
        ...
