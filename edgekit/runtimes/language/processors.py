"""Logits processors: penalties and bans, then the filters of sampling.

Every function takes float32 scores (rows, vocabulary), logits or log-probabilities, and returns new ones; a token that
may not follow has -inf. Order and meaning are those of transformers 5. ``history`` is int64 (rows, tokens): the prompt
and what was generated so far. Ids outside of the vocabulary, such as a placeholder of an image, are no candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.runtimes.language.distributions import highest, probabilities
from edgekit.runtimes.language.options import GenerationOptions

BANNED = np.float32(-np.inf)


@dataclass(frozen=True)
class Penalties:
    """The penalties and bans that the options ask for, for rows whose prompt has ``prompt_length`` tokens.

    ``padding`` (rows,) is how many of them are padding on the left. Greedy and sampling apply them to logits, a beam
    search to log-probabilities.
    """

    options: GenerationOptions
    eos: Ints
    prompt_length: int
    padding: Ints

    def __call__(self, history: Ints, scores: Floats) -> Floats:
        """Scores (rows, vocabulary) of what may follow the history (rows, tokens)."""
        options = self.options
        if options.repetition_penalty != 1:
            scores = penalise_repetition(history, scores, options.repetition_penalty, self.padding)
        if options.no_repeat_ngram_size:
            scores = ban_repeated_ngrams(history, scores, options.no_repeat_ngram_size)
        if history.shape[1] - self.prompt_length < options.min_new_tokens:
            scores = ban_tokens(scores, self.eos)
        return scores


def penalise_repetition(history: Ints, scores: Floats, penalty: float, padding: Ints) -> Floats:
    """Divide the scores of tokens in the history by the penalty, or multiply where they are negative.

    Keskar et al., CTRL, 2019 (arXiv:1909.05858, 4.1). The padding (rows,) on the left is no history: transformers 5
    leaves it out here, and only here.
    """
    seen = (history < scores.shape[1]) & (np.arange(history.shape[1]) >= padding[:, None])
    rows, columns = np.nonzero(seen)
    tokens = history[rows, columns]
    found = scores[rows, tokens]
    scores = scores.copy()
    scores[rows, tokens] = np.where(found < 0, found * np.float32(penalty), found / np.float32(penalty))
    return scores


def ban_repeated_ngrams(history: Ints, scores: Floats, size: int) -> Floats:
    """Ban each token that would complete an n-gram which the history has already.

    Paulus et al., A Deep Reinforced Model for Abstractive Summarization, 2017 (arXiv:1705.04304, 2.5).
    """
    length = history.shape[1]
    if length < size:
        return scores
    ngrams = np.lib.stride_tricks.sliding_window_view(history, size, axis=1)
    # The n-gram that the next token completes begins with the last size - 1 tokens; with size 1 that is none of them.
    begun = history[:, length + 1 - size :]
    rows, places = np.nonzero((ngrams[..., :-1] == begun[:, None]).all(-1))
    tokens = ngrams[rows, places, -1]
    possible = tokens < scores.shape[1]
    scores = scores.copy()
    scores[rows[possible], tokens[possible]] = BANNED
    return scores


def ban_tokens(scores: Floats, tokens: Ints) -> Floats:
    """Ban tokens (n,) in every row: the end tokens, while a sequence is too short (no paper; as transformers does)."""
    scores = scores.copy()
    scores[:, tokens[tokens < scores.shape[1]]] = BANNED
    return scores


def filter_for_sampling(scores: Floats, options: GenerationOptions) -> Floats:
    """Scores of what sampling draws from: temperature, then top-k, top-p and min-p, each on what the last one left."""
    if options.temperature != 1:
        scores = scores / np.float32(options.temperature)
    if options.top_k:
        scores = keep_top_k(scores, options.top_k)
    if options.top_p < 1:
        scores = keep_top_p(scores, options.top_p)
    if options.min_p:
        scores = keep_min_p(scores, options.min_p)
    return scores


def keep_top_k(scores: Floats, count: int) -> Floats:
    """Keep the ``count`` highest scores, and what equals the lowest of them.

    Fan et al., Hierarchical Neural Story Generation, 2018 (arXiv:1805.04833, 5.4).
    """
    lowest = np.take_along_axis(scores, highest(scores, min(count, scores.shape[1]))[:, -1:], 1)
    return np.where(scores < lowest, BANNED, scores)


def keep_top_p(scores: Floats, share: float) -> Floats:
    """Keep the fewest likeliest tokens whose probabilities make up the share, at least one.

    Holtzman et al., The Curious Case of Neural Text Degeneration (nucleus sampling), 2019 (arXiv:1904.09751, 3.1).
    """
    order = np.argsort(scores, -1, kind="stable")
    rising = probabilities(np.take_along_axis(scores, order, 1))
    # Summed in float64 and compared in float32, as torch does: in float32 a large vocabulary shifts the border.
    removed = rising.cumsum(-1, dtype=np.float64).astype(np.float32) <= np.float32(1 - share)
    removed[:, -1] = False
    back = np.empty_like(removed)
    np.put_along_axis(back, order, removed, 1)
    return np.where(back, BANNED, scores)


def keep_min_p(scores: Floats, share: float) -> Floats:
    """Keep the tokens that are at least ``share`` times as likely as the likeliest.

    Nguyen et al., Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs, 2024 (arXiv:2407.01082).
    """
    likely = probabilities(scores)
    return np.where(likely < np.float32(share) * likely.max(-1, keepdims=True), BANNED, scores)
