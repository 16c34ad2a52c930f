"""Beam search as transformers 5 does it: for every prompt the ``beams`` best sequences, finished ones kept apart.

The scores that decide are sums of log-probabilities, of finished sequences divided by ``length ** length_penalty``
(a plain form of the length normalisation of Wu et al., GNMT, 2016, arXiv:1609.08144, 7). The numbers are float32, and
what is out of the race has -1e9 added, as there; of equal scores the first wins, where torch leaves it open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Bools, Floats, Ints
from edgekit.errors import UsageError
from edgekit.runtimes.language.distributions import checked_logits, highest, log_probabilities
from edgekit.runtimes.language.generated import Generated, Stopped
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.language.options import GenerationOptions
from edgekit.runtimes.language.processors import Penalties
from edgekit.runtimes.language.prompt import Prompt

OUT = np.float32(-1e9)


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of each prompt: (prompts, kept) rows, the best first.

    ``history`` (prompts, kept, tokens) ends with the new token, ``beams`` say which beam each continues, ``ended``
    which cannot go on.
    """

    history: Ints
    scores: Floats
    beams: Ints
    ended: Bools


@dataclass(frozen=True)
class _Finished:
    """The best finished sequences of each prompt, (prompts, beams) rows; ``real`` where there is one already."""

    history: Ints
    lengths: Ints
    scores: Floats
    real: Bools


def beam_search(
    graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, stopped: Stopped | None = None
) -> Generated:
    """Search with ``options.beams`` beams for each prompt.

    Raises:
        EngineError: the graph gave something unusable.
        UsageError: a vocabulary that is smaller than the continuations looked at.
    """
    prompts, beams = len(prompt.ids), options.beams
    start, limit = prompt.ids.shape[1], prompt.ids.shape[1] + options.max_new_tokens
    copies = np.repeat(np.arange(prompts), beams)
    penalties = Penalties(options, prompt.eos, start, prompt.padding[copies])
    logits = checked_logits(graph.start(prompt.embeddings, prompt.mask), prompts)[copies]
    running = np.full((prompts, beams, limit), prompt.pad, np.int64)
    running[..., :start] = prompt.ids[:, None]
    # The beams of a prompt are equal at first: only the first may be continued, or all would stay equal.
    scores = np.where(np.arange(beams) > 0, OUT, np.float32(0))[None].repeat(prompts, 0)
    finished = _nothing_finished(running)
    improvable = np.ones((prompts, 1), np.bool_)
    for end in range(start + 1, limit + 1):
        likely = penalties(running[..., : end - 1].reshape(len(copies), -1), log_probabilities(logits))
        found = _continued(running, likely, scores, end, prompt, stopped)
        finished = _with_just_finished(finished, found, improvable, end - start, options)
        running, scores, origins = _going_on(found, beams)
        improvable &= _may_improve(scores, finished, end - start, options)
        full = options.early_stopping is True and bool(finished.real.all())
        if full or not improvable.any() or found.ended.all():
            break
        _reorder(graph, origins, first=end == start + 1)
        logits = checked_logits(graph.step(running[..., end - 1].reshape(-1)), len(copies))
    return _returned(finished, start, options.returned)


def _nothing_finished(running: Ints) -> _Finished:
    shape = running.shape[:2]
    return _Finished(running, np.zeros(shape, np.int64), np.full(shape, OUT), np.zeros(shape, np.bool_))


def _continued(
    running: Ints, likely: Floats, scores: Floats, end: int, prompt: Prompt, stopped: Stopped | None
) -> _Candidates:
    """The best continuations by one token. More than the beams, so that beams are left when the best of them end."""
    prompts, beams, limit = running.shape
    vocabulary = likely.shape[-1]
    kept = max(2, 1 + len(prompt.eos)) * beams
    if kept > beams * vocabulary:
        raise UsageError(
            f"a beam search with {len(prompt.eos)} end token(s) needs a vocabulary of {kept // beams} or more, "
            f"this one has {vocabulary}: take beams=1"
        )
    sums = (likely.reshape(prompts, beams, vocabulary) + scores[..., None]).reshape(prompts, -1)
    best = highest(sums, kept)
    history = np.take_along_axis(running, (best // vocabulary)[..., None], 1)
    history[..., end - 1] = best % vocabulary
    ended: Bools = np.isin(history[..., end - 1], prompt.eos) | (end == limit)
    if stopped is not None:
        start = prompt.ids.shape[1]
        ended |= stopped(history[..., start:end].reshape(prompts * kept, -1)).reshape(prompts, kept)
    return _Candidates(history, np.take_along_axis(sums, best, 1), best // vocabulary, ended)


def _going_on(found: _Candidates, beams: int) -> tuple[Ints, Floats, Ints]:
    """History, scores and origins of the best that have not ended; rows that all ended go on with nothing to win."""
    scores: Floats = found.scores + np.where(found.ended, OUT, np.float32(0))
    best = highest(scores, beams)
    return (
        np.take_along_axis(found.history, best[..., None], 1),
        np.take_along_axis(scores, best, 1),
        np.take_along_axis(found.beams, best, 1),
    )


def _with_just_finished(
    finished: _Finished, found: _Candidates, improvable: Bools, length: int, options: GenerationOptions
) -> _Finished:
    """Let what has just ended into the finished ones, where it is better.

    Only the first ``beams`` continuations may: the others are there to go on.
    """
    entering = found.ended & (np.arange(found.ended.shape[1]) < options.beams)
    full = finished.real.all(1, keepdims=True) & (options.early_stopping is True)
    scores = found.scores / np.float32(length**options.length_penalty)
    for excluded in (full, ~improvable, ~entering):
        scores = scores + np.where(excluded, OUT, np.float32(0))
    merged = np.concatenate([finished.scores, scores], 1)
    best = highest(merged, options.beams)
    history = np.concatenate([finished.history, found.history], 1)
    lengths = np.concatenate([finished.lengths, np.full(scores.shape, length)], 1)
    real = np.concatenate([finished.real, entering], 1)
    return _Finished(
        np.take_along_axis(history, best[..., None], 1),
        np.take_along_axis(lengths, best, 1),
        np.take_along_axis(merged, best, 1),
        np.take_along_axis(real, best, 1),
    )


def _may_improve(scores: Floats, finished: _Finished, length: int, options: GenerationOptions) -> Bools:
    """Whether the best running beam of a prompt (prompts, 1) might end better than the worst finished one.

    With ``early_stopping="never"`` it is given the most that it could reach; a length penalty above 0 makes that the
    score it would have at full length. Else it is taken at its present length, which may give up too early.
    """
    if options.early_stopping == "never" and options.length_penalty > 0:
        length = options.max_new_tokens
    reachable: Floats = scores[:, :1] / np.float32(length**options.length_penalty)
    worst: Floats = np.where(finished.real, finished.scores.min(1, keepdims=True), OUT)
    better: Bools = reachable > worst.min(1, keepdims=True)
    return better


def _reorder(graph: LanguageGraph, origins: Ints, *, first: bool) -> None:
    """Give every beam (prompts, beams) the cache of the one that it continues. Nothing is copied in vain."""
    prompts, beams = origins.shape
    if first:  # The graph has one row per prompt so far.
        graph.select(np.repeat(np.arange(prompts), beams))
        return
    rows = (origins + np.arange(prompts)[:, None] * beams).reshape(-1)
    if (rows != np.arange(len(rows))).any():
        graph.select(rows)


def _returned(finished: _Finished, start: int, count: int) -> Generated:
    """The best sequences of every prompt, without the prompt."""
    lengths = finished.lengths[:, :count].reshape(-1)
    tokens = finished.history[:, :count, start : start + lengths.max()].reshape(len(lengths), -1)
    return Generated(tokens, lengths, finished.scores[:, :count].reshape(-1))
