"""Texts to token ids and back, by a ``tokenizer.json``, and texts that end a generation."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Bools, Ints
from edgekit.errors import BundleError, EngineError
from edgekit.runtimes.language.codec import TextCodec
from edgekit.runtimes.language.generated import Stopped

STATE = ("padding", "truncation")
"""Settings that a file of Hugging Face's may have left from its last use. They are no part of a model: transformers
sets both again at each call. A bundle has neither: numbers in them can end the process."""


class Tokenizer:
    """A tokenizer file of Hugging Face's format.

    Args:
        path: ``tokenizer.json``.
        source: it belongs to a checkpoint and not to a bundle: what is left from its last use is dropped.

    Raises:
        EngineError: the package tokenizers is not installed.
        BundleError: no such file, not one that tokenizers reads, or one with padding or truncation.
    """

    def __init__(self, path: str | os.PathLike[str], *, source: bool = False) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise EngineError("texts need the package tokenizers: pip install edgekit[language]") from error
        self._name = os.fspath(path)
        try:
            content = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{self._name}: cannot be read as a tokenizer: {error}") from error
        with self._told("not a tokenizer that tokenizers reads"):
            document = json.loads(content)
            if left := [name for name in STATE if document.get(name) is not None]:
                if not source:
                    raise BundleError(f"{self._name}: has {' and '.join(left)}, which belong to a call; convert again")
                content = without_state(content)
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content)

    @contextlib.contextmanager
    def _told(self, problem: str) -> Iterator[None]:
        """Raise what tokenizers raises as `BundleError`: it knows nothing narrower than Exception, and panics."""
        try:
            yield
        except BundleError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleError(f"{self._name}: {problem}: {error}") from error

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text; with ``special`` those that the tokenizer puts before and behind are there too."""
        with self._told("cannot encode a text"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int] | Ints) -> str:
        """The text of ids, without special tokens."""
        with self._told("cannot decode tokens"):
            text: str = self._tokenizer.decode([int(one) for one in ids], skip_special_tokens=True)
        return text

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids in pieces, each as soon as no later token can change it. What is never whole is left out:
        the first bytes of a character, when nothing follows."""
        decoded = self.pieces()
        for one in ids:
            piece = decoded(int(one))
            if piece:
                yield piece

    def pieces(self) -> Callable[[int], str | None]:
        """Decodes one text id by id: what is new and sure after each, None where nothing is."""
        from tokenizers.decoders import DecodeStream

        decoder = DecodeStream(skip_special_tokens=True)

        def piece(one: int) -> str | None:
            with self._told("cannot decode tokens"):
                new: str | None = decoder.step(self._tokenizer, one)
            return new

        return piece


def without_state(content: str) -> str:
    """A tokenizer file without what its last use left."""
    document = json.loads(content)
    return json.dumps({**document, **dict.fromkeys(STATE)}, ensure_ascii=False)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Ints, Ints]:
    """Ids and mask, int64 (rows, longest) both, with the padding on the left."""
    longest = max(map(len, rows), default=0)
    ids = np.full((len(rows), longest), pad, np.int64)
    mask = np.zeros_like(ids)
    for row, one in enumerate(rows):
        ids[row, longest - len(one) :] = one
        mask[row, longest - len(one) :] = 1
    return ids, mask


def ending(tokenizer: TextCodec, stop: Sequence[str]) -> Stopped | None:
    """A check that ends a sequence when one of these texts occurs in it; None without texts."""
    if not stop:
        return None

    def stopped(tokens: Ints) -> Bools:
        texts = (tokenizer.decode(row) for row in tokens)
        return np.array([any(one in text for one in stop) for text in texts], np.bool_)

    return stopped


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of these stop texts; the whole text if none occurs."""
    places = [place for place in (text.find(one) for one in stop) if place >= 0]
    return text[: min(places)] if places else text


def before(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """`cut` for a text in pieces. A possible beginning of a stop text is held back until it is decided."""
    held = ""
    for piece in pieces:
        held += piece
        whole = cut(held, stop)
        if whole != held:
            if whole:
                yield whole
            return
        sure = len(held) - _begun(held, stop)
        if sure:
            yield held[:sure]
            held = held[sure:]
    if held:
        yield held


def _begun(text: str, stop: Sequence[str]) -> int:
    """Length of the longest suffix of a text that is a prefix of one of the stop texts."""
    return max(
        (size for one in stop for size in range(1, min(len(one), len(text)) + 1) if text.endswith(one[:size])),
        default=0,
    )
