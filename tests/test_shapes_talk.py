"""What the small BLIP-2 models are asked is what the truth of their scenes says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.shapes import CLASSES, COLOURS, FIRST_TRAINING_SEED
from edgekit.shapes.language import KINDS, plural
from edgekit.shapes.talk import (
    FIRST_EVALUATION_SEED,
    OPTIONS,
    SIZE,
    balanced,
    contradicted,
    normalised,
    prompt_of,
    talked,
)

seeds = st.integers(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 10_000)
quick = settings(deadline=None)
SINGULAR = {plural(name): name for name in CLASSES} | {name: name for name in CLASSES}


def listed(caption: str) -> list[tuple[int, str, str]]:
    """How many, colour and class of each group that a listing names."""
    numbers = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
    found = []
    for phrase in re.split(", | and ", caption):
        number, colour, name = phrase.split()
        assert colour in COLOURS
        assert (name in CLASSES) == (number in ("a", "an")), phrase
        assert (number == "an") == (colour == "orange" and numbers[number] == 1), phrase
        found.append((numbers[number], colour, SINGULAR[name]))
    return found


def test_evaluation_is_on_scenes_that_are_held_out() -> None:
    assert FIRST_EVALUATION_SEED + 100_000 <= FIRST_TRAINING_SEED


@quick
@given(seed=seeds)
def test_a_scene_is_the_same_again_and_of_the_size_that_models_take_in(seed: int) -> None:
    first, second = talked(seed), talked(seed)
    assert first.scene.image.shape == (*SIZE, 3)
    assert first.scene.image.dtype == np.uint8
    np.testing.assert_array_equal(first.scene.image, second.scene.image)
    assert (first.captions, first.questions) == (second.captions, second.questions)
    assert 1 <= len(first.scene.objects) <= OPTIONS.max_objects
    assert first.captions, "no object may be hidden so far that nothing is said"


@quick
@given(seed=seeds)
def test_questions_are_balanced(seed: int) -> None:
    scene = talked(seed)
    asked = balanced(scene)
    assert balanced(scene) == asked
    assert set(asked) <= set(scene.questions)
    assert [one.kind for one in asked] == [kind for kind in KINDS if any(q.kind == kind for q in scene.questions)]


@quick
@given(seed=seeds)
def test_a_contradicted_caption_holds_no_longer_and_changes_one_thing(seed: int) -> None:
    scene = talked(seed)
    true, false = listed(scene.captions[0]), listed(contradicted(scene.captions[0], seed))
    assert len(true) == len(false)
    ((before, after),) = [(a, b) for a, b in zip(true, false, strict=True) if a != b]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert after[0] == before[0]
    assert not any((item.colour, item.name) == after[1:] for item in scene.scene.objects)


def test_a_caption_without_shapes_cannot_be_contradicted() -> None:
    with pytest.raises(UsageError, match="'no shapes' names no shape"):
        contradicted("no shapes", 1)


def test_prompts_and_comparison() -> None:
    assert prompt_of("What color is the star?") == "Question: What color is the star? Answer:"
    assert normalised("  A red  Star. ") == "a red star"
