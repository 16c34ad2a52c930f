"""Generate texts from image features and prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.runtimes.bundle.manifest import Language
from edgekit.runtimes.language import Generated, GenerationOptions, LanguageGraph, generate, stream
from edgekit.runtimes.language.codec import TextCodec
from edgekit.runtimes.language.prompts import PromptWriter
from edgekit.runtimes.language.text import before, cut, ending
from edgekit.runtimes.language.timed_graph import GraphLender
from edgekit.runtimes.results import Text


class TextGenerator:
    """A language model with its tokenizer. It has one cache: a stream ends where the next text begins.

    Args:
        language: the contract.
        graph: the language model.
        embeddings: (vocabulary, width) float16 or float32, of its tokens.
        tokenizer: of the bundle.
    """

    def __init__(
        self, language: Language, graph: LanguageGraph, embeddings: NDArray[Any], tokenizer: TextCodec
    ) -> None:
        self.prompts = PromptWriter(language, tokenizer, embeddings)
        self._language, self._tokenizer = language, tokenizer
        self._lender = GraphLender(graph)

    def write(
        self, images: Sequence[Floats], prompts: Sequence[str], options: GenerationOptions, vision: float = 0.0
    ) -> list[Text]:
        """One `Text` for each image and prompt, in one batch.

        Args:
            images: (queries, width) each, in the language model's embedding space.
            prompts: as many.
            options: which search, and how.
            vision: milliseconds that the images took, for the timings.

        Raises:
            UsageError: a prompt that is too long.
            EngineError: the engine failed, or gave something unusable.
        """
        ready = self.prompts(images, prompts, options.max_new_tokens)
        graph = self._lender.lend()
        made = generate(
            graph, ready.embeddings, ready.mask, ready.ids, options,
            eos=self._language.eos, pad=ready.pad, stopped=ending(self._tokenizer, options.stop),
        )  # fmt: skip
        texts = self._texts(made, options.stop)
        timings, count = graph.timings(vision), options.returned
        groups = [texts[start : start + count] for start in range(0, len(texts), count)]
        return [
            msgspec.structs.replace(best, prompt=prompt, others=tuple(others), timings=timings)
            for prompt, (best, *others) in zip(prompts, groups, strict=True)
        ]

    def stream(self, image: Floats, prompt: str, options: GenerationOptions) -> Iterator[str]:
        """The pieces of one text as they are generated.

        Raises:
            UsageError: a prompt that is too long, or beams; while iterating: another text was begun meanwhile.
        """
        ready = self.prompts([image], [prompt], options.max_new_tokens)
        graph = self._lender.lend()
        ends = self._language.eos
        tokens = stream(graph, ready.embeddings, ready.mask, ready.ids, options, eos=ends, pad=ready.pad)
        # An end token need not be a special one: that of BLIP-2's OPT is a line break.
        kept = itertools.takewhile(lambda token: token not in ends, tokens)
        return before(self._tokenizer.stream(kept), options.stop)

    def _texts(self, made: Generated, stop: Sequence[str]) -> list[Text]:
        ends = np.asarray(self._language.eos, np.int64)
        texts = []
        for tokens, score in zip(made.sequences, made.scores, strict=True):
            words = self._tokenizer.decode(tokens[~np.isin(tokens, ends)])
            texts.append(Text(text=cut(words, stop).strip(), score=float(score), tokens=tuple(map(int, tokens))))
        return texts
