"""The scenes that the small BLIP-2 models in examples/blip2 speak about, and what is asked of them. HOST code.

Training (examples/train_shapes_blip2.py) and evaluation draw from here, so that both mean the same scenes, prompts and
answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import UsageError
from edgekit.shapes.language import KINDS, Question, captions, plural, questions
from edgekit.shapes.outlines import CLASSES
from edgekit.shapes.types import COLOURS, Scene, SceneOptions
from edgekit.shapes.world import scene

SIZE: tuple[int, int] = (96, 96)
"""Height and width of the scenes, which is also what the models take in."""

OPTIONS = SceneOptions(
    max_objects=4,
    min_size=0.2,
    max_size=0.24,
    min_visibility=0.9,
    backgrounds=("plain", "gradient"),
    distractors=0,
    most_rotation=30,
    grid=4,
)
"""Shapes stand on a grid of 4 x 4: a small transformer learns what they are in minutes where its patches hold one each,
and hardly at all on two cores where each is strewn over several."""

FIRST_EVALUATION_SEED = 500_000
CAPTION_PROMPT = "a photo of"


@dataclass(frozen=True, eq=False)
class Talked:
    """A scene with all its right captions and all its questions."""

    scene: Scene
    captions: tuple[str, ...]
    questions: tuple[Question, ...]


def talked(seed: int) -> Talked:
    """Draw the scene of a seed, uint8 (96, 96, 3) BGR, with its captions and questions; the same on every machine."""
    found = scene(seed, SIZE, OPTIONS)
    return Talked(found, tuple(captions(found)), tuple(questions(found)))


def prompt_of(question: str) -> str:
    """The prompt that BLIP-2 was published with for questions (Li et al. 2023)."""
    return f"Question: {question} Answer:"


def balanced(given: Talked) -> tuple[Question, ...]:
    """At most one question of each kind, drawn by the scene's seed: most questions would be of yes or no otherwise."""
    rng = np.random.default_rng([given.scene.seed, 4])
    by_kind = ([item for item in given.questions if item.kind == kind] for kind in KINDS)
    return tuple(items[int(rng.integers(len(items)))] for items in by_kind if items)


def normalised(text: str) -> str:
    """A caption or an answer as it is compared: lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".")


def contradicted(caption: str, seed: int) -> str:
    """The caption with one colour or one class changed to another, so that it no longer holds for its scene.

    `caption` is a listing (the first of `captions`); the group that is changed becomes one that the listing lacks.
    Raises UsageError for a caption that names no shape.
    """
    words = caption.replace(",", " ,").split()
    names = {plural(name): name for name in CLASSES} | {name: name for name in CLASSES}
    places = [i for i, word in enumerate(words) if word in names]
    if not places:
        raise UsageError(f"caption {caption!r} names no shape: there is nothing in it to contradict")
    there = {(words[i - 1], names[words[i]]) for i in places}
    rng = np.random.default_rng([seed, 5])
    place = places[int(rng.integers(len(places)))]
    colour, name = words[place - 1], names[words[place]]
    if rng.random() < 0.5:
        free = [other for other in COLOURS if (other, name) not in there]
        colour = free[int(rng.integers(len(free)))]
    else:
        free = [other for other in CLASSES if (colour, other) not in there]
        name = free[int(rng.integers(len(free)))]
    many = words[place - 2] not in ("a", "an")
    words[place - 1] = colour
    words[place] = plural(name) if many else name
    if not many:
        words[place - 2] = "an" if colour[0] in "aeiou" else "a"
    return " ".join(words).replace(" ,", ",")
