"""Penalties, bans and the filters of sampling, against transformers' own processors; and the draws themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.arrays import Floats, Ints

torch = pytest.importorskip("torch", reason="needs torch, which runs the processors compared with")
pytest.importorskip("transformers", reason="needs transformers, whose processors are compared with")

from transformers.generation import logits_process as theirs

from edgekit.runtimes.language import GenerationOptions
from edgekit.runtimes.language.distributions import highest, log_probabilities, log_probability, probabilities
from edgekit.runtimes.language.processors import (
    Penalties,
    ban_repeated_ngrams,
    ban_tokens,
    filter_for_sampling,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
)
from edgekit.runtimes.language.sampling import Sampler

seeds = st.integers(0, 2**32 - 1)
often = settings(deadline=None)


def scores_and_history(seed: int, ties: bool = False) -> tuple[Floats, Ints]:
    """Random scores, some of them banned already, and a history that repeats itself and leaves the vocabulary."""
    random = np.random.default_rng(seed)
    rows, vocabulary, length = random.integers(1, 4), random.integers(2, 50), random.integers(1, 25)
    scores = random.normal(0, random.choice([0.1, 1, 5, 20]), (rows, vocabulary)).astype(np.float32)
    if ties:
        scores = scores.round()
    scores[:, 1:][random.random((rows, vocabulary - 1)) < random.choice([0, 0.3])] = -np.inf
    return scores, random.integers(0, random.choice([3, vocabulary + 4]), (rows, length))


def by_transformers(processor: Any, scores: Floats, history: Ints) -> Floats:
    result: Floats = processor(torch.from_numpy(history), torch.from_numpy(scores.copy())).numpy()
    return result


@often
@given(seeds, st.floats(0.2, 4))
def test_repetition_penalty(seed: int, penalty: float) -> None:
    scores, history = scores_and_history(seed)
    padding = np.random.default_rng(seed).integers(0, history.shape[1], len(history))
    expected = by_transformers(
        theirs.RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=torch.from_numpy(padding)),
        scores,
        history,
    )
    before = scores.copy()
    np.testing.assert_array_equal(penalise_repetition(history, scores, penalty, padding), expected)
    np.testing.assert_array_equal(scores, before)  # It may be a view of the engine's memory.


@often
@given(seeds, st.integers(1, 5))
def test_repeated_ngrams_are_banned(seed: int, size: int) -> None:
    scores, history = scores_and_history(seed)
    before = scores.copy()
    expected = by_transformers(theirs.NoRepeatNGramLogitsProcessor(size), scores, history)
    np.testing.assert_array_equal(ban_repeated_ngrams(history, scores, size), expected)
    np.testing.assert_array_equal(scores, before)


@often
@given(seeds, st.integers(0, 10), st.lists(st.integers(0, 60), min_size=1, max_size=3))
def test_no_end_before_enough_tokens(seed: int, least: int, eos: list[int]) -> None:
    scores, history = scores_and_history(seed)
    prompt = int(np.random.default_rng(seed).integers(0, history.shape[1] + 1))
    expected = by_transformers(theirs.MinNewTokensLengthLogitsProcessor(prompt, least, eos), scores, history)
    options = GenerationOptions(max_new_tokens=10, min_new_tokens=least)
    before = scores.copy()
    penalties = Penalties(options, np.array(eos), prompt, np.zeros(len(history), np.int64))
    np.testing.assert_array_equal(penalties(history, scores), expected)
    np.testing.assert_array_equal(scores, before)


@often
@given(seeds, st.integers(1, 60), st.booleans())
def test_top_k(seed: int, count: int, ties: bool) -> None:
    scores, history = scores_and_history(seed, ties)
    np.testing.assert_array_equal(
        keep_top_k(scores, count), by_transformers(theirs.TopKLogitsWarper(count), scores, history)
    )


@often
@given(seeds, st.floats(0.01, 0.999))
def test_top_p(seed: int, share: float) -> None:
    scores, history = scores_and_history(seed)
    np.testing.assert_array_equal(
        keep_top_p(scores, share), by_transformers(theirs.TopPLogitsWarper(share), scores, history)
    )


@often
@given(seeds, st.floats(0, 1))
def test_min_p(seed: int, share: float) -> None:
    scores, history = scores_and_history(seed)
    np.testing.assert_array_equal(
        keep_min_p(scores, share), by_transformers(theirs.MinPLogitsWarper(share), scores, history)
    )


@often
@given(seeds, st.floats(0.1, 3), st.integers(0, 20), st.floats(0.3, 1), st.floats(0, 0.4))
def test_the_filters_together_leave_the_distribution_of_transformers(
    seed: int, temperature: float, count: int, share: float, least: float
) -> None:
    scores, history = scores_and_history(seed)
    options = GenerationOptions(sample=True, temperature=temperature, top_k=count, top_p=share, min_p=least)
    warpers = theirs.LogitsProcessorList([theirs.TemperatureLogitsWarper(temperature)])
    warpers += [theirs.TopKLogitsWarper(count)] if count else []
    warpers += [theirs.TopPLogitsWarper(share)] if share < 1 else []
    expected = by_transformers(theirs.LogitsProcessorList([*warpers, theirs.MinPLogitsWarper(least)]), scores, history)
    np.testing.assert_allclose(filter_for_sampling(scores, options), expected, rtol=1e-6)
    softmax = torch.from_numpy(expected).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities(filter_for_sampling(scores, options)), softmax, atol=1e-6)


def test_a_large_vocabulary_is_cut_where_transformers_cuts_it() -> None:
    for seed, share in ((0, 0.9), (1, 0.5), (2, 0.99)):
        scores = np.random.default_rng(seed).normal(0, 2, (2, 50_304)).astype(np.float32)
        expected = by_transformers(theirs.TopPLogitsWarper(share), scores, np.zeros((2, 1), np.int64))
        different = (np.isneginf(keep_top_p(scores, share)) != np.isneginf(expected)).sum()
        assert different <= 2  # exp and the sum round differently in the last place, at the very border.
        count = np.isfinite(expected).sum()
        assert 100 < count < scores.size - 100


def test_what_is_off_changes_nothing() -> None:
    scores, history = scores_and_history(3)
    assert filter_for_sampling(scores, GenerationOptions(sample=True)) is scores
    penalties = Penalties(GenerationOptions(), np.array([1]), 0, np.zeros(len(scores), np.int64))
    assert penalties(history, scores) is scores


def test_penalties_work_together() -> None:
    options = GenerationOptions(repetition_penalty=2, no_repeat_ngram_size=2, min_new_tokens=3)
    history = np.array([[1, 2, 1]])
    scores = np.array([[4, 4, 4, -4, 4]], np.float32)
    made = Penalties(options, np.array([4]), 1, np.zeros(1, np.int64))(history, scores)
    assert made.tolist() == [[4, 2, -np.inf, -4, -np.inf]]


def test_end_tokens_outside_of_the_vocabulary_are_no_candidates() -> None:
    assert ban_tokens(np.zeros((1, 3), np.float32), np.array([1, 7])).tolist() == [[0, -np.inf, 0]]


@often
@given(seeds)
def test_probabilities_are_those_of_torch(seed: int) -> None:
    scores, _ = scores_and_history(seed)
    expected = torch.from_numpy(scores).log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probabilities(scores), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probabilities(scores), np.exp(expected), rtol=1e-4, atol=1e-6)
    first = np.zeros(len(scores), np.int64)
    np.testing.assert_allclose(log_probability(scores, first), expected[:, 0], rtol=1e-5, atol=1e-5)


@often
@given(seeds, st.booleans())
def test_the_highest_are_in_order_and_the_first_of_equals(seed: int, ties: bool) -> None:
    scores, _ = scores_and_history(seed, ties)
    count = int(np.random.default_rng(seed).integers(1, scores.shape[1] + 1))
    expected = [sorted(range(scores.shape[1]), key=lambda place: (-row[place], place))[:count] for row in scores]
    assert highest(scores, count).tolist() == expected


def test_draws_follow_the_distribution() -> None:
    options = GenerationOptions(sample=True, top_k=4, seed=1)
    scores = np.log(np.array([[0.05, 0.4, 0.05, 0.3, 0.2, 1e-9]], np.float32)).repeat(20_000, 0)
    scores[:, 2] -= 0.1  # so that exactly four are kept
    drawn = np.bincount(Sampler(options, 20_000)(scores), minlength=6) / 20_000
    expected = np.array([0.05, 0.4, 0, 0.3, 0.2, 0]) / 0.95
    np.testing.assert_allclose(drawn, expected, atol=0.01)
    assert drawn[2] == drawn[5] == 0


def test_rows_draw_on_their_own_and_go_on_drawing() -> None:
    options, scores = GenerationOptions(sample=True, seed=5), np.zeros((4, 1000), np.float32)
    sampler, again, fewer = Sampler(options, 4), Sampler(options, 4), Sampler(options, 2)
    first, second = sampler(scores), sampler(scores)
    assert len({*first.tolist(), *second.tolist()}) > 5
    assert [again(scores).tolist(), again(scores).tolist()] == [first.tolist(), second.tolist()]
    assert fewer(scores[:2]).tolist() == first[:2].tolist()
