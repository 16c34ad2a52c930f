"""Captions and questions say what the truth says, and only where it is certain."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.shapes import COLOURS, Scene, SceneObject, SceneOptions, captions, questions, scene
from edgekit.shapes.language import KINDS, NUMBERS, OPPOSITE, plural

FEW = SceneOptions(max_objects=5, backgrounds=("plain",), sensor=False)
WORDS = {name: name for name in ("circle", "square", "triangle", "star", "cross", "heart", "arrow")}
WORDS |= {plural(name): name for name in list(WORDS)}
seeds = st.integers(0, 2000)


def group(found: Scene, phrase: str) -> tuple[list[SceneObject], int]:
    """The objects that a phrase such as 'two red circles' names, and how many it says."""
    number, colour, word = phrase.split()
    count = 1 if number in ("a", "an", "the") else NUMBERS.index(number)
    return [item for item in found.objects if item.colour == colour and item.name == WORDS[word]], count


def clear(first: list[SceneObject], how: str, second: list[SceneObject]) -> bool:
    """Whether every pair of boxes stands in a relation: written pair by pair, unlike the code under test."""
    pairs = [(a.box, b.box) for a in first for b in second]
    if how == "above":
        return all(a[3] <= b[1] for a, b in pairs)
    if how == "below":
        return all(a[1] >= b[3] for a, b in pairs)
    if how == "to the left of":
        return all(a[2] <= b[0] for a, b in pairs)
    return all(a[0] >= b[2] for a, b in pairs)


@given(seed=seeds)
@settings(deadline=None)
def test_captions_hold(seed: int) -> None:
    found = scene(seed, options=FEW)
    everything, *relations = captions(found)
    named = [group(found, phrase) for phrase in re.split(", | and ", everything)]
    assert all(len(items) == count > 0 for items, count in named)
    assert sum(count for _, count in named) == len(found.objects)
    for caption in relations:
        match = re.fullmatch(f"(.+?) ({'|'.join(OPPOSITE)}) (.+)", caption)
        assert match is not None, caption
        (first, first_count), (second, second_count) = group(found, match[1]), group(found, match[3])
        assert (len(first), len(second)) == (first_count, second_count)
        assert clear(first, match[2], second)
        assert not any(clear(first, how, second) for how in OPPOSITE if how != match[2])


def expected(found: Scene, text: str, kind: str) -> str:
    """The answer to a question, worked out from the objects alone."""
    if kind == "colour":
        name = text.removeprefix("What color is the ").removesuffix("?")
        (item,) = [item for item in found.objects if item.name == name]
        return item.colour
    if kind == "count":
        words = text.removeprefix("How many ").removesuffix(" are there?").split()
        colours = {words[0]} if len(words) == 2 else set(COLOURS)
        return str(sum(item.name == WORDS[words[-1]] and item.colour in colours for item in found.objects))
    if text.startswith("Is there "):
        items, _ = group(found, text.removeprefix("Is there ").removesuffix("?"))
        return "yes" if items else "no"
    pattern = f"Is (the .+?) ({'|'.join(['above or below', 'to the left or to the right of', *OPPOSITE])}) (the .+)\\?"
    match = re.fullmatch(pattern, text)
    assert match is not None, text
    (first, _), (second, _) = group(found, match[1]), group(found, match[3])
    assert len(first) == len(second) == 1
    if kind == "yes/no":
        return "yes" if clear(first, match[2], second) else "no"
    (how,) = [how for how in OPPOSITE if clear(first, how, second)]
    assert how.split()[-2 if how.endswith(" of") else 0] in match[2]
    return how.removeprefix("to the ").removesuffix(" of")


@given(seed=seeds)
@settings(deadline=None)
def test_answers_hold_and_no_question_has_two(seed: int) -> None:
    found = scene(seed, options=FEW)
    asked = questions(found)
    assert len({question.text for question in asked}) == len(asked)
    for question in asked:
        assert question.answer == expected(found, question.text, question.kind), question


def test_every_kind_is_asked_and_yes_is_as_frequent_as_no() -> None:
    asked = [question for seed in range(30) for question in questions(scene(seed, options=FEW))]
    assert {question.kind for question in asked} == set(KINDS)
    answers = [question.answer for question in asked if question.kind == "yes/no"]
    assert answers.count("yes") == answers.count("no") > 0


def test_nothing_is_said_of_scenes_that_hide_an_object() -> None:
    found = scene(0)
    assert captions(found)
    assert questions(found)
    item = found.objects[0]
    changed = {name: getattr(item, name) for name in item.__dataclass_fields__} | {"visibility": 0.3}
    hidden = Scene(found.image, (SceneObject(**changed), *found.objects[1:]), found.seed, found.background)
    assert captions(hidden) == []
    assert questions(hidden) == []
    empty = Scene(found.image, (), found.seed, found.background)
    assert captions(empty) == ["no shapes"]
    assert questions(empty) == []
