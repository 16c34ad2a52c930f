"""Captions of scenes, and questions with answers, all derived from the truth.

A sentence is only made where it is certain: things are "above" or "to the left of" others when their boxes are clear of
each other in that direction, "the" names something unique, and counts are asked where every object is well visible.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

from edgekit.shapes.outlines import CLASSES
from edgekit.shapes.types import COLOURS, Scene, SceneObject

Kind = Literal["colour", "count", "position", "yes/no"]
KINDS: tuple[Kind, ...] = ("colour", "count", "position", "yes/no")
NUMBERS: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLEARLY_VISIBLE = 0.5
OPPOSITE: dict[str, str] = {
    "above": "below",
    "below": "above",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
}


@dataclass(frozen=True)
class Question:
    """A question about a scene with its only right answer, lower case. Counts are answered in digits."""

    text: str
    answer: str
    kind: Kind


def plural(name: str) -> str:
    """Return the plural of a class name."""
    return name + "es" if name.endswith("s") else name + "s"


def _phrase(colour: str, name: str, count: int) -> str:
    """'a red circle', 'an orange star', 'two red circles'."""
    if count == 1:
        return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {name}"
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} {colour} {plural(name)}"


def _join(parts: list[str]) -> str:
    """Join parts as English does: 'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def groups(scene: Scene) -> dict[tuple[str, str], list[SceneObject]]:
    """Objects by (colour, class name), in the order of first appearance."""
    found: dict[tuple[str, str], list[SceneObject]] = {}
    for item in scene.objects:
        found.setdefault((item.colour, item.name), []).append(item)
    return found


def relation(first: list[SceneObject], second: list[SceneObject]) -> str | None:
    """Which key of OPPOSITE holds between all boxes of two groups, where exactly one does; else None."""
    a, b = np.array([item.box for item in first]), np.array([item.box for item in second])
    held = [
        name
        for name, holds in (
            ("above", a[:, 3].max() <= b[:, 1].min()),
            ("below", a[:, 1].min() >= b[:, 3].max()),
            ("to the left of", a[:, 2].max() <= b[:, 0].min()),
            ("to the right of", a[:, 0].min() >= b[:, 2].max()),
        )
        if holds
    ]
    return held[0] if len(held) == 1 else None


def captions(scene: Scene) -> list[str]:
    """Describe a scene: everything in it, then each relation between two groups that is beyond doubt.

    An empty scene gives "no shapes". A scene with an object less than half visible gives no caption: whether that
    object should be counted is open.
    """
    if any(item.visibility < CLEARLY_VISIBLE for item in scene.objects):
        return []
    found = groups(scene)
    if not found:
        return ["no shapes"]
    phrases = {key: _phrase(*key, len(items)) for key, items in found.items()}
    result = [_join(list(phrases.values()))]
    for first, second in permutations(found, 2):
        how = relation(found[first], found[second])
        if how is not None:
            result.append(f"{phrases[first]} {how} {phrases[second]}")
    return result


def questions(scene: Scene) -> list[Question]:
    """Ask about a scene what has exactly one right answer: colours, counts, positions, and yes or no.

    Nothing is asked of a scene with an object less than half visible.
    """
    if any(item.visibility < CLEARLY_VISIBLE for item in scene.objects):
        return []
    return [*_colour_questions(scene), *_count_questions(scene), *_position_questions(scene), *_yes_no_questions(scene)]


def _colour_questions(scene: Scene) -> list[Question]:
    counts = Counter(item.name for item in scene.objects)
    return [
        Question(f"What color is the {item.name}?", item.colour, "colour")
        for item in scene.objects
        if counts[item.name] == 1
    ]


def _count_questions(scene: Scene) -> list[Question]:
    names = Counter(item.name for item in scene.objects)
    result = [Question(f"How many {plural(name)} are there?", str(count), "count") for name, count in names.items()]
    result += [
        Question(f"How many {colour} {plural(name)} are there?", str(len(items)), "count")
        for (colour, name), items in groups(scene).items()
    ]
    return result


def _position_questions(scene: Scene) -> list[Question]:
    unique = {key: items for key, items in groups(scene).items() if len(items) == 1}
    result: list[Question] = []
    for first, second in permutations(unique, 2):
        how = relation(unique[first], unique[second])
        if how is None:
            continue
        choice = "above or below" if how in ("above", "below") else "to the left or to the right of"
        text = f"Is the {' '.join(first)} {choice} the {' '.join(second)}?"
        answer = how.removeprefix("to the ").removesuffix(" of")
        result.append(Question(text, answer, "position"))
    return result


def _yes_no_questions(scene: Scene) -> list[Question]:
    """As many "no" as "yes": each true statement is paired with a false one, chosen by the scene's seed."""
    found = groups(scene)
    absent = [(colour, name) for colour in COLOURS for name in CLASSES if (colour, name) not in found]
    rng = np.random.default_rng([scene.seed, scene.frame, 3])
    result: list[Question] = []
    for present, index in zip(found, rng.permutation(len(absent)), strict=False):
        missing = absent[int(index)]
        for (colour, name), answer in ((present, "yes"), (missing, "no")):
            result.append(Question(f"Is there {_phrase(colour, name, 1)}?", answer, "yes/no"))
    unique = {key: items for key, items in found.items() if len(items) == 1}
    for first, second in permutations(unique, 2):
        how = relation(unique[first], unique[second])
        if how is not None:
            ask = f"Is the {' '.join(first)} {{}} the {' '.join(second)}?"
            result.append(Question(ask.format(how), "yes", "yes/no"))
            result.append(Question(ask.format(OPPOSITE[how]), "no", "yes/no"))
    return result
