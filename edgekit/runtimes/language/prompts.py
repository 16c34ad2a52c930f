"""Texts as a vision-language model reads them: prompts behind an image for generation, padded texts for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import BundleError, UsageError, choices
from edgekit.runtimes.bundle.manifest import Language
from edgekit.runtimes.language.codec import TextCodec
from edgekit.runtimes.language.prompt import Prompt
from edgekit.runtimes.language.text import left_padded

QUESTION = "Question: {} Answer:"
"""How BLIP-2 is asked where a bundle does not say (Li et al., 2023, arXiv:2301.12597, 4.2)."""


class PromptWriter:
    """Builds prompts: ``[padding, image, prompt]`` in every row, as ids and as embeddings.

    Args:
        language: the contract.
        tokenizer: of the bundle.
        embeddings: (vocabulary, width) float16 or float32, of the tokens; may be memory-mapped, rows are gathered.
    """

    def __init__(self, language: Language, tokenizer: TextCodec, embeddings: NDArray[Any]) -> None:
        self._language, self._tokenizer, self._embeddings = language, tokenizer, embeddings

    def caption(self, prompt: str | None, style: str | None) -> str:
        """The prompt of a caption: as given, or the contract's of a style, or its usual one.

        Raises:
            UsageError: both are given, or there is no such style.
        """
        prompts = self._language.prompts
        if prompt is not None and style is not None:
            raise UsageError(f"prompt={prompt!r} and style={style!r} say the same thing twice; leave one out")
        if prompt is not None:
            return prompt
        styles = [name for name in prompts if name != "ask"]
        if style is not None and style not in styles:
            raise UsageError(f"style {choices(style, styles)}" if styles else f"style {style!r}: this bundle has none")
        return prompts.get(style or "caption", "")

    def question(self, question: str) -> str:
        """The prompt that asks a question."""
        return self._language.prompts.get("ask", QUESTION).replace("{}", question, 1)

    def __call__(self, images: Sequence[Floats], prompts: Sequence[str], max_new_tokens: int) -> Prompt:
        """The prompts behind their images, (queries, width) each.

        Raises:
            UsageError: a prompt that is too long for the model, or holds the image's placeholder.
            BundleError: the tokenizer has tokens that the embeddings do not have, or an image is not of the contract's
                queries and of the embeddings' width.
        """
        language, queries = self._language, self._language.queries
        width = self._embeddings.shape[1]
        for image in images:
            if image.shape != (queries, width):
                raise BundleError(
                    f"the Q-Former gives {image.shape} for an image, the contract says ({queries}, {width}): they are "
                    "not of the same model; convert it again"
                )
        rows = [self._ids(prompt, max_new_tokens) for prompt in prompts]
        ids, mask = left_padded([[language.image] * queries + row for row in rows], language.pad)
        embeddings = np.zeros((*ids.shape, self._embeddings.shape[1]), np.float32)
        for number, (image, row) in enumerate(zip(images, rows, strict=True)):
            start = ids.shape[1] - len(row)
            embeddings[number, start - queries : start] = image
            if row:
                embeddings[number, start:] = self._embeddings[row]
        if language.family == "t5":  # the penalties read what the decoder begins with, not the encoder's prompt
            ids = np.full((len(rows), 1), language.start, np.int64)
        return Prompt(embeddings, mask, ids, np.asarray(language.eos, np.int64), language.pad)

    def _ids(self, prompt: str, max_new_tokens: int) -> list[int]:
        ids, language = self._tokenizer.encode(prompt), self._language
        if language.image in ids:
            raise UsageError(f"prompt {_short(prompt)} holds the image's placeholder, which is put there anyway")
        if ids and max(ids) >= len(self._embeddings):
            raise BundleError(
                f"the tokenizer gave token {max(ids)}, embeddings.npy has {len(self._embeddings)}: "
                "they are not of the same model; convert it again"
            )
        total = len(ids) + language.queries + max_new_tokens
        if language.positions and total > language.positions:
            raise UsageError(
                f"prompt {_short(prompt)}: {len(ids)} tokens, {language.queries} of the image and "
                f"max_new_tokens={max_new_tokens} are {total}, the model takes {language.positions}: "
                "shorten the prompt or lower max_new_tokens"
            )
        return ids


def padded_texts(texts: Sequence[str], tokenizer: TextCodec, language: Language) -> tuple[Ints, Ints]:
    """Ids and mask of texts for retrieval, int64 (texts, longest) both, padded on the right.

    Raises:
        UsageError: a text with more tokens than the model takes.
    """
    rows = [tokenizer.encode(text) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if language.positions and len(row) > language.positions:
            raise UsageError(
                f"text {_short(text)}: {len(row)} tokens, the model takes {language.positions}; shorten it"
            )
    longest = max(map(len, rows))
    ids = np.array([row + [language.pad] * (longest - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64)
    return ids, mask


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
