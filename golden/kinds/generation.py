"""Tokens chosen from logits: greedy, beams, what sampling draws from, and options that are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError, UsageError
from edgekit.runtimes.language import generate, generation_options
from edgekit.runtimes.language.sampling import chances, drawn
from golden.cases import Case, Planned, Recurrence, Tree
from golden.closeness import apart

TOLERANCE = {"scores": 1e-5, "probabilities": 1e-6}
STATES, VOCABULARY = 61, 24
ENDS = [9, 4, 2, 20]
PROMPT = [23, 23, 7, 2, 7]
"""Token 23 is as an image's placeholder."""


class TableGraph:
    """A language model that is a table (states, vocabulary) of logits; the tokens of a row lead from state to state."""

    def __init__(self, table: Floats, start: int) -> None:
        self._table, self._begin = table, start
        self._states: Ints = np.zeros(0, np.int64)

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Logits of the first state, whatever the prompt."""
        self._states = np.full(len(mask), self._begin, np.int64)
        return self._table[self._states]

    def step(self, tokens: Ints) -> Floats:
        """Logits of the state that a token leads to."""
        self._states = (5 * self._states + tokens + 1) % len(self._table)
        return self._table[self._states]

    def select(self, rows: Ints) -> None:
        """Rows with their states."""
        self._states = self._states[rows]


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    yield from _greedy()
    yield from _beams()
    yield from _sampling()
    yield from _refused()
    yield from _controls()


def _greedy() -> Iterator[Planned]:
    yield _search("greedy", "the likeliest token, to the end of the room", eos=[])
    yield _search("greedy-ends", "an end token ends it, and is part of it", eos=[9, 4])
    yield _search("greedy-one", "room for one token", max_new_tokens=1)
    yield _search("greedy-least", "no end token before eight tokens", eos=[9, 4], min_new_tokens=8)
    yield _search("greedy-repetition", "tokens of prompt and text are less likely", repetition_penalty=1.7, seed=12)
    yield _search("greedy-repetition-below", "a penalty below 1 makes them likelier", repetition_penalty=0.6)
    yield _search("greedy-bigrams", "no pair of tokens twice", table=coarse(4, 13), no_repeat_ngram_size=2)
    yield _search("greedy-once", "no token twice, nor one of the prompt", no_repeat_ngram_size=1, max_new_tokens=10)
    yield _search("greedy-length", "the score is divided by the length squared", length_penalty=2.0)
    yield _search("greedy-ties", "the first of equally likely tokens", table=coarse(3, 14))
    yield _search("greedy-banned", "a token of -infinity, and one that is far ahead", table=holes())


def _beams() -> Iterator[Planned]:
    yield _search("beams-2", "two beams", beams=2)
    yield _search("beams-5", "five beams, all returned", beams=5, returned=5, eos=ENDS)
    yield _search(
        "beams-first", "ends with as many finished as beams", beams=4, returned=4, early_stopping=True, eos=ENDS
    )
    yield _search("beams-never", "ends when none can improve", beams=3, returned=3, early_stopping="never", eos=ENDS)
    yield _search("beams-long", "favours long texts", beams=4, returned=2, length_penalty=2.5, eos=[9, 4])
    yield _search("beams-short", "favours short texts", beams=4, returned=2, length_penalty=-1.0, eos=[9, 4, 11])
    yield _search("beams-sum", "the sum alone decides", beams=3, returned=3, length_penalty=0.0)
    yield _search("beams-endless", "without an end token", beams=3, returned=2, eos=[])
    yield _search("beams-least", "no end token before six tokens", beams=3, returned=3, min_new_tokens=6, eos=[4, 9])
    yield _search("beams-repetition", "with a penalty", beams=4, returned=2, repetition_penalty=1.4, seed=15)
    yield _search("beams-trigrams", "no three tokens twice", beams=3, no_repeat_ngram_size=3, eos=[], max_new_tokens=40)
    yield _search("beams-ties", "the first of equal sums", beams=4, returned=4, table=coarse(3, 17))
    yield _search("beams-one-token", "room for one token", beams=3, returned=3, max_new_tokens=1)


def _sampling() -> Iterator[Planned]:
    yield _filter("sample", "the distribution as it is")
    yield _filter("sample-temperature", "warmer", temperature=1.8)
    yield _filter("sample-cold", "colder", temperature=0.4)
    yield _filter("sample-top-k", "five likeliest", top_k=5)
    yield _filter("sample-top-k-ties", "equals of the last stay", scores=coarse(2, 18)[0], top_k=3)
    yield _filter("sample-top-p", "the fewest that make up 0.7", top_p=0.7)
    yield _filter("sample-top-p-little", "at least one stays", top_p=0.01)
    yield _filter("sample-min-p", "a tenth of the likeliest", min_p=0.1)
    yield _filter("sample-all", "one after the other", temperature=1.3, top_k=12, top_p=0.9, min_p=0.05)
    yield _filter("sample-banned", "without a chance is never drawn", scores=holes()[0])
    nothing = np.full(VOCABULARY, -np.inf, np.float32)
    yield _filter("sample-nothing", "no token is left: refused", scores=nothing)


def _refused() -> Iterator[Planned]:
    wrong: dict[str, Tree] = {
        "beams": {"beams": 0},
        "unknown": {"beam": 2},
        "type": {"max_new_tokens": 2.5},
        "returned": {"beams": 2, "returned": 3},
        "sampled-beams": {"beams": 2, "sample": True},
        "least": {"max_new_tokens": 3, "min_new_tokens": 4},
        "temperature": {"temperature": 0.5},
        "cold": {"sample": True, "temperature": 0},
        "share": {"sample": True, "top_p": 1.5},
        "stopping": {"early_stopping": "always"},
        "stop": {"stop": [""]},
    }
    for name, options in wrong.items():
        yield _search(f"refused-{name}", "options that are refused", **options)
    yield _search(
        "refused-vocabulary", "fewer tokens than continuations", table=coarse(4, 19)[:, :2], beams=3, eos=[0, 1]
    )
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        table = coarse(4, 20)
        table[0, 3] = value
        yield _search(f"broken-{name}", "logits that are no distribution", table=table)


def _controls() -> Iterator[Planned]:
    def token(expected: Tree) -> None:
        expected["sequences"][0]["tokens"][-1] ^= 1

    def score(expected: Tree) -> None:
        expected["scores"][1] += np.float32(1e-3)

    def probability(expected: Tree) -> None:
        expected["probabilities"][int(expected["probabilities"].argmax())] -= np.float32(1e-4)

    def allowed(expected: Tree) -> None:
        expected["error"] = "engine"

    controls = (
        (token, _search("must-fail-token", "planted: another last token", eos=[9, 4])),
        (score, _search("must-fail-score", "planted: another score", beams=3, returned=2)),
        (probability, _filter("must-fail-probability", "planted: another probability", top_k=5)),
        (allowed, _search("must-fail-error", "planted: another kind of error", beams=0)),
    )
    for spoil, plan in controls:
        yield dataclasses.replace(plan, spoil=spoil)


def _search(
    name: str, about: str, *, eos: list[int] | None = None, table: Floats | None = None, seed: int = 11, **options: Any
) -> Planned:
    """A text of at most 16 tokens from a table of logits."""
    given = {
        "table": Recurrence((STATES, VOCABULARY), seed, -6, 12) if table is None else table,
        "start": 0,
        "prompt": PROMPT if table is None or table.shape[1] > max(PROMPT) else [0, 1],
        "eos": [9] if eos is None else eos,
        "pad": 1,
        "options": {"max_new_tokens": 16, **options},
    }
    return Planned(name, about, given, dict(TOLERANCE))


def _filter(name: str, about: str, scores: Floats | None = None, **options: Any) -> Planned:
    """What is drawn from one row of scores."""
    given = {
        "scores": Recurrence((VOCABULARY,), 31, -3, 6) if scores is None else scores,
        "options": {"sample": True, **options},
        "draws": [0.0, 0.031, 0.25, 0.5, 0.77, 0.96, 0.9999999],
    }
    return Planned(name, about, given, dict(TOLERANCE))


def coarse(levels: int, seed: int) -> Floats:
    """A table of few levels, so that many logits are equal, as in INT8."""
    even = Recurrence((STATES, VOCABULARY), seed, 0, levels).array()
    return np.floor(even).astype(np.float32)


def holes() -> Floats:
    """A table with tokens that cannot be, and in its first row one that is far ahead."""
    table = Recurrence((STATES, VOCABULARY), 21, -6, 12).array()
    table[:, ::5] = -np.inf
    table[0, 6] = 90
    return table


def answer(given: Tree, folder: Path) -> Tree:
    """Sequences with their scores, or probabilities and drawn tokens, or ``error``: usage or engine."""
    try:
        options = generation_options(given["options"])
        if "draws" in given:
            probabilities = chances(given["scores"][None], options)
            tokens = [drawn(probabilities[0], one) for one in given["draws"]]
            return {"probabilities": probabilities[0], "tokens": tokens}
        count = len(given["prompt"])
        embeddings, mask = np.zeros((1, count, 1), np.float32), np.ones((1, count), np.int64)
        made = generate(
            TableGraph(given["table"], given["start"]), embeddings, mask, np.array([given["prompt"]]), options,
            eos=given["eos"], pad=given["pad"],
        )  # fmt: skip
    except UsageError:
        return {"error": "usage"}
    except EngineError:
        return {"error": "engine"}
    return {"sequences": [{"tokens": one.tolist()} for one in made.sequences], "scores": made.scores}


def differences(case: Case, answered: Tree) -> list[str]:
    """Other tokens, or scores that are further apart than the case allows."""
    return apart(case.expected, answered, case.tolerance)
