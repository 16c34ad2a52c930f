"""Accuracy of answers to questions about images, as VQA v2 counts it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

AGREEING = 3
"""Number of people who must have given an answer for it to count as right."""

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he's how's i'm i've isn't mightn't"
    " might've mustn't must've needn't shan't she's should've shouldn't somebody's someone's something's that's there's"
    " they'd they'll they're they've wasn't we've weren't what's where's who's why's won't would've wouldn't you'd"
    " you'll you're you've"
)
CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTIONS.split()}
"""Spelled without an apostrophe: those that are no other word then ("well" and "were" are)."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=65536)
def normalised(answer: str) -> str:
    """An answer as VQA v2 compares it (https://visualqa.org/evaluation.html).

    Lower case, no full stops but in numbers, number words as digits, no articles, contractions with their apostrophe,
    other punctuation a space; or nothing where it stands beside a space, and where digits are grouped by commas.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    grouped = _GROUPED.search(text) is not None
    spaced = text
    for mark in PUNCTUATION:
        # Looked up in the answer as it was: removing one mark must not decide over the next.
        beside = f"{mark} " in text or f" {mark}" in text
        spaced = spaced.replace(mark, "" if beside or grouped else " ")
    words = [NUMBERS.get(word, word) for word in _FULL_STOP.sub("", spaced).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, given: Sequence[str]) -> float:
    """How right an answer is, 0..1, all answers `normalised`.

    With fewer than `AGREEING` given answers: whether it is one of them. Else min(n / 3, 1) of the n people who gave it,
    averaged over all choices of all people but one, as the evaluation of VQA v2 does (Antol et al. 2015,
    arXiv:1505.00468, and https://visualqa.org/evaluation.html); an answer of three in ten is 0.9 right.
    """
    own = normalised(answer)
    same = sum(normalised(one) == own for one in given)
    people = len(given)
    if people < AGREEING:
        return float(same > 0)
    # Leaving out one of those who agree leaves same - 1 of them, anybody else all.
    left = same * min((same - 1) / AGREEING, 1) + (people - same) * min(same / AGREEING, 1)
    return left / people
