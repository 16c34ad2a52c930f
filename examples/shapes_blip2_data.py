"""Scenes of shapes for training small BLIP-2 models, drawn once into a cache, in batches of four guises."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekit.shapes.language import KINDS
from edgekit.shapes.talk import CAPTION_PROMPT, OPTIONS, SIZE, prompt_of, talked
from edgekit.shapes.types import COLOURS

FIRST_SEED = 3_000_000
CELLS = OPTIONS.grid
"""The image is a grid of 4 x 4 cells: each is a patch of the vision tower, and has a query of the Q-Former."""

PATCH = SIZE[0] // CELLS

MOST = OPTIONS.max_objects
COLUMNS = 6
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
COLOUR_NAMES = tuple(COLOURS)
SWAPS = ({"left": "right", "right": "left"}, {"above": "below", "below": "above"})
Saying = dict[str, Any]


@dataclass(frozen=True)
class Scenes:
    """Images uint8 (n, 96, 96, 3) RGB; objects float32 (n, 4, 6) class (-1: none), colour, xyxy in [0, 1].

    Sayings: captions and, by kind, questions with their answers.
    """

    images: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.float32]
    sayings: list[Saying]


@dataclass(frozen=True)
class Batch:
    """Pixels float32 (n, 3, 96, 96) normalised; objects and sayings as they hold for the scene's guise."""

    pixels: Tensor
    objects: Tensor
    sayings: list[Saying]


def example(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], str]:
    """One scene: a row of each field of `Scenes`, the saying as JSON."""
    given = talked(seed)
    objects = np.full((MOST, COLUMNS), -1, dtype=np.float32)
    for row, item in enumerate(given.scene.objects):
        objects[row] = (item.class_id, COLOUR_NAMES.index(item.colour), *(item.box / SIZE[0]))
    by_kind = {kind: [(q.text, q.answer) for q in given.questions if q.kind == kind] for kind in KINDS}
    saying = {"captions": given.captions, "questions": {kind: asked for kind, asked in by_kind.items() if asked}}
    return given.scene.image[..., ::-1], objects, json.dumps(saying)


def drawn(count: int, cache: Path, workers: int) -> Scenes:
    """Draw the training scenes into the cache, unless they are there, and open it memory-mapped."""
    folder = cache / f"talk-{count}"
    if not (folder / "sayings.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, *SIZE, 3))
        objects = np.empty((count, MOST, COLUMNS), np.float32)
        partial = folder / "sayings.partial"
        with multiprocessing.get_context("spawn").Pool(workers) as pool, partial.open("w") as stream:
            rows = pool.imap(example, range(FIRST_SEED, FIRST_SEED + count), chunksize=128)
            for index, (image, what, saying) in enumerate(rows):
                images[index], objects[index] = image, what
                stream.write(saying + "\n")
        images.flush()
        np.save(folder / "objects.npy", objects)
        partial.rename(folder / "sayings.jsonl")
    with (folder / "sayings.jsonl").open() as stream:
        sayings = [json.loads(line) for line in stream]
    return Scenes(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "objects.npy"), sayings)


def mirrored(text: str, across: bool, upside: bool) -> str:
    """A text as it holds for the mirrored image. The choice that a question offers is always worded the same way."""
    if " or " in text:
        return text
    words = (SWAPS[0] if across else {}) | (SWAPS[1] if upside else {})
    return re.sub(r"\b(left|right|above|below)\b", lambda found: words.get(found[0], found[0]), text)


def normalised_pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images uint8 (n, H, W, 3) RGB as BLIP-2 takes them: float32 (n, 3, H, W), CLIP's mean and deviation."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - MEAN) / STD


def guise(scenes: Scenes, index: int, across: bool, upside: bool) -> tuple[Any, ...]:
    """One scene, mirrored or not: image, objects and saying."""
    image, objects = scenes.images[index], scenes.objects[index].copy()
    there = objects[:, 0] >= 0
    if across:
        image = image[:, ::-1]
        objects[there, 2], objects[there, 4] = 1 - objects[there, 4], 1 - objects[there, 2]
    if upside:
        image = image[::-1]
        objects[there, 3], objects[there, 5] = 1 - objects[there, 5], 1 - objects[there, 3]
    said = scenes.sayings[index]
    asked = {
        kind: [tuple(mirrored(text, across, upside) for text in one) for one in many]
        for kind, many in said["questions"].items()
    }
    return (
        image,
        objects,
        {
            "captions": [mirrored(text, across, upside) for text in said["captions"]],
            "questions": asked,
        },
    )


def batches(scenes: Scenes, size: int, steps: int, seed: int) -> Iterator[Batch]:
    """Yield batches, each scene in one of four guises (mirrored across, upside down, both, neither)."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(len(scenes.images))])
        chosen, order = order[:size], order[size:]
        flips = rng.random((size, 2)) < 0.5
        rows = [guise(scenes, int(i), bool(a), bool(u)) for i, (a, u) in zip(chosen, flips, strict=True)]
        images, objects, sayings = zip(*rows, strict=True)
        yield Batch(
            normalised_pixels(np.stack(images)),
            torch.from_numpy(np.stack(objects)),
            list(sayings),
        )


def caption_target(captions: list[str]) -> str:
    """The caption to learn of all right ones: what can be seen decides it, which the order of a listing is not.

    The first relation in the order of the alphabet; the listing where no relation is certain.
    """
    return min(captions[1:], default=captions[0])


def exchanges(sayings: list[Saying], asked: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """For each scene: (prompt, answer) of `asked` questions, kinds alike often, and of the caption."""
    result: list[tuple[str, str]] = []
    for saying in sayings:
        kinds = list(saying["questions"])
        for turn in range(asked):
            if turn % len(kinds) == 0:
                rng.shuffle(kinds)
            many = saying["questions"][kinds[turn % len(kinds)]]
            text, answer = many[int(rng.integers(len(many)))]
            result.append((prompt_of(text), answer))
        result.append((CAPTION_PROMPT, caption_target(saying["captions"])))
    return result


def corpus(scenes: Scenes, count: int = 20_000) -> list[str]:
    """Every text of the first scenes: what tokenizers are made from."""
    result: list[str] = []
    for saying in itertools.islice(scenes.sayings, count):
        for text, answer in itertools.chain.from_iterable(saying["questions"].values()):
            result.append(f"{prompt_of(text)} {answer}")
        result += [f"{CAPTION_PROMPT} {text}" for text in saying["captions"]]
    return list(dict.fromkeys(result))
