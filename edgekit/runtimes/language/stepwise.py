"""The loop that greedy decoding and sampling share: one token after the other, each final."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Bools, Floats, Ints
from edgekit.runtimes.language.distributions import checked_logits, log_probability
from edgekit.runtimes.language.generated import Generated, Stopped
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.language.options import GenerationOptions
from edgekit.runtimes.language.processors import Penalties
from edgekit.runtimes.language.prompt import Prompt

Choose = Callable[[Floats], Ints]
"""One token per row, from the scores (rows, vocabulary) after the penalties."""


@dataclass(frozen=True)
class GenerationStep:
    """One token of every row: ``tokens`` (rows,) with their ``log_probabilities``; ``alive`` where they count."""

    tokens: Ints
    log_probabilities: Floats
    alive: Bools


def greedy(scores: Floats) -> Ints:
    """The likeliest token of each row, the first of equal ones."""
    tokens: Ints = scores.argmax(-1).astype(np.int64)
    return tokens


def steps(
    graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, choose: Choose, stopped: Stopped | None = None
) -> Iterator[GenerationStep]:
    """Choose tokens until every row has ended; each prompt is ``options.returned`` rows, side by side.

    Nothing runs before the first token is asked for, and nothing after the last one that is: who stops asking stops
    the work.

    Raises:
        EngineError: the graph gave something unusable.
    """
    copies = np.repeat(np.arange(len(prompt.ids)), options.returned)
    length = prompt.ids.shape[1]
    penalties = Penalties(options, prompt.eos, length, prompt.padding[copies])
    history = np.full((len(copies), length + options.max_new_tokens), prompt.pad, np.int64)
    history[:, :length] = prompt.ids[copies]
    alive = np.ones(len(copies), np.bool_)
    logits = checked_logits(graph.start(prompt.embeddings, prompt.mask), len(prompt.ids))[copies]
    for end in range(length + 1, history.shape[1] + 1):
        tokens = np.where(alive, choose(penalties(history[:, : end - 1], logits)), prompt.pad)
        history[:, end - 1] = tokens
        yield GenerationStep(tokens, log_probability(logits, tokens), alive)
        alive = alive & ~np.isin(tokens, prompt.eos)
        if stopped is not None:
            alive &= ~stopped(history[:, length:end])
        if not alive.any() or end == history.shape[1]:
            return
        if end == length + 1 and options.returned > 1:
            graph.select(copies)
        logits = checked_logits(graph.step(tokens), len(copies))


def collected(made: Iterator[GenerationStep], length_penalty: float) -> Generated:
    """All steps as sequences with their scores."""
    every = list(made)
    alive = np.stack([step.alive for step in every], 1)
    lengths = alive.sum(1)
    log_probabilities = np.stack([step.log_probabilities for step in every], 1).astype(np.float64)
    scores = np.where(alive, log_probabilities, 0).sum(1) / lengths**length_penalty
    return Generated(np.stack([step.tokens for step in every], 1), lengths, scores.astype(np.float32))
