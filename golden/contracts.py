"""Contracts and heads for the cases of decoders: small ones, in few words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess, Skeleton
from golden.cases import Recurrence, Tree

CLASSES = ("person", "bicycle", "car", "bird", "cup")

ARROW = Skeleton(names=("tip", "tail", "left", "right"), edges=((0, 1), (0, 2), (0, 3)), sigmas=(0.05, 0.06, 0.07, 0.1))
"""A skeleton that is not COCO's."""


def contract(
    decoder: str,
    options: Tree,
    roles: Sequence[str],
    *,
    levels: int = 1,
    task: str = "detect",
    image: Tree | None = None,
    classes: Sequence[str] = CLASSES,
    skeleton: Skeleton | None = None,
    once: Sequence[str] = (),
    **post: Any,
) -> Contract:
    """A contract whose outputs are these roles, level after level, and then those that are there once."""
    outputs = [Output(name=f"{role}{level}", role=role, level=level) for level in range(levels) for role in roles]
    return Contract(
        task=task,
        image=ImageRule(**{"size": (64, 96), **(image or {})}),
        classes=tuple(classes),
        decoder=Decoder(name=decoder, options=options),
        outputs=(*outputs, *(Output(name=role, role=role) for role in once)),
        postprocess=Postprocess(**post),
        skeleton=skeleton,
    )


def document(contract: Contract) -> Tree:
    """A contract as the manifest has it, with every default written out."""
    found: Tree = msgspec.json.decode(msgspec.json.encode(contract))
    return found


class Heads:
    """Heads by recurrence, each with another seed, and the places of objects planted in them.

    Args:
        seed: of the first head and of the places.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - places of objects, no secret

    def noise(self, shape: tuple[int, ...], low: float, high: float, peaks: Sequence[tuple[int, float]] = ()) -> Any:
        """Numbers of low..high; at these flat places others."""
        self._seed += 1
        return Recurrence(shape, self._seed, low, high - low, tuple(peaks))

    def peaks(
        self, channels: int, rows: int, columns: int, count: int, low: float = 0.5, high: float = 4.0
    ) -> list[tuple[int, float]]:
        """``count`` places of a head with values of low..high, none twice."""
        places = sorted(self._random.sample(range(channels * rows * columns), count))
        return [(place, round(self._random.uniform(low, high), 3)) for place in places]
