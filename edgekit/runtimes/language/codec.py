"""The part of a tokenizer that generation needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from edgekit.arrays import Ints


class TextCodec(Protocol):
    """Texts to token ids and back: `edgekit.runtimes.language.text.Tokenizer`, here or in a child process."""

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
        ...

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text; with ``special`` those that the tokenizer puts before and behind are there too."""
        ...

    def decode(self, ids: Sequence[int] | Ints) -> str:
        """The text of ids, without special tokens."""
        ...

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids in pieces, each as soon as no later token can change it."""
        ...
