"""A family that a network seems to belong to: a contract to start from, the reasons, and what to check."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.graph.heads import CutPoint
from edgekit.graph.tails import Tail
from edgekit.runtimes.bundle.manifest import Decoder, Output

HINTS = {
    "classes": re.compile(r"cls|class|score|heat|hm", re.IGNORECASE),
    "objectness": re.compile(r"obj", re.IGNORECASE),
    "boxes": re.compile(r"box|reg|loc", re.IGNORECASE),
    "keypoints": re.compile(r"kps|kpt|keypoint|landm|ldm", re.IGNORECASE),
    "sizes": re.compile(r"wh|size|scale", re.IGNORECASE),
    "offsets": re.compile(r"off|reg", re.IGNORECASE),
    "angles": re.compile(r"angle|theta|rotation", re.IGNORECASE),
}
"""Usual names of heads, by role."""

FACE5 = "five more values of x and y a box: the landmarks of a face"


@dataclass(frozen=True)
class Family:
    """A family that a network seems to belong to.

    Attributes:
        task, decoder: of the contract.
        classes: their number.
        why: what speaks for it.
        doubts: what the file does not say.
        rule: keys of the image rule that differ from the default.
        cut: the raw heads, empty where the network is not cut.
        outputs: of a network that is not cut, in order, where they have to be named.
        skeleton: of poses, as a contract file has it.
        automatic: a conversion finds the same cut itself, and compares it with what the file gives uncut.
        names: of the classes, where the family tells them.
        postprocess: keys that differ from the default.
    """

    task: str
    decoder: Decoder
    classes: int
    why: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    rule: Mapping[str, Any] = field(default_factory=dict)
    cut: tuple[CutPoint, ...] = ()
    outputs: tuple[Output, ...] = ()
    skeleton: str | dict[str, Any] | None = None
    automatic: bool = False
    names: tuple[str, ...] = ()
    postprocess: Mapping[str, Any] = field(default_factory=dict)


def levels_of(tails: Sequence[Tail]) -> list[list[Tail]]:
    """Tensors grouped by grid, finest first."""
    grids = sorted({tail.shape[2:] for tail in tails}, key=lambda grid: -grid[0] * grid[1])
    return [[tail for tail in tails if tail.shape[2:] == grid] for grid in grids]


def assigned(level: Sequence[Tail], channels: Mapping[str, int]) -> tuple[dict[str, Tail], bool]:
    """The tensor of each role: by channels, then by name, then in order; and whether only the order told."""
    left, taken, unsure = list(level), {}, False
    for role, count in channels.items():
        fits = [tail for tail in left if tail.shape[1] == count]
        named = [tail for tail in fits if hinted(tail, role)]
        neutral = [tail for tail in fits if not any(hinted(tail, other) for other in HINTS)]
        taken[role] = (named or neutral or fits)[0]
        unsure = unsure or (len(fits) > 1 and not named)
        left.remove(taken[role])
    return taken, unsure


def is_angle(tail: Tail) -> bool:
    """Whether a tensor is the angle of oriented boxes, by what is computed from it or by its name."""
    return tail.shape[1] == 1 and (tail.turns or hinted(tail, "angles"))


def hinted(tail: Tail, role: str) -> bool:
    """Whether the name of a tensor, or of the one output that it becomes, is one that heads of this role have."""
    names = (tail.tensor, *(tail.outputs if len(tail.outputs) == 1 else ()))
    return role in HINTS and any(HINTS[role].search(name) for name in names)


def cut_of(levels: Sequence[Sequence[Tail]], channels: Sequence[Mapping[str, int]]) -> tuple[CutPoint, ...]:
    """The raw heads of all levels, with the channels of each role on each level."""
    points: list[CutPoint] = []
    for number, (level, counts) in enumerate(zip(levels, channels, strict=True)):
        points += [CutPoint(tail.tensor, role, number) for role, tail in assigned(level, counts)[0].items()]
    return tuple(points)


def listed(items: Iterable[Any]) -> str:
    """Items in a row, separated by commas."""
    return ", ".join(map(str, items))
