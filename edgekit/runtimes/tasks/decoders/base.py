"""Types of decoders, and their registration."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec
from numpy.typing import NDArray

from edgekit import registry
from edgekit.arrays import Floats, Ints
from edgekit.errors import ContractError, choices
from edgekit.runtimes.bundle.manifest import Align, Decoder
from edgekit.structures import from_builtins

PACKAGE = "edgekit.runtimes.tasks.decoders"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]

Counts = int | tuple[int, ...]
"""Channels or boxes in a cell: of all levels alike, or of each, finest first."""


def at_level(count: Counts, level: int) -> int:
    """A count of one level; a level that there is none for has 0."""
    if isinstance(count, int):
        return count
    return count[level] if level < len(count) else 0


Heads = Mapping[str, Sequence[Floats]]
"""Raw outputs by role, one array per level from the finest stride to the coarsest; (1, channels, h, w) each."""


@dataclass(frozen=True)
class Candidates:
    """Decoded candidates of one image, in input pixels.

    Attributes:
        boxes: (n, 4) float32 xyxy in input pixels.
        scores: (n,) float32 in 0..1.
        class_ids: (n,) int64.
        anchors: (n,) int64, the place in the network's own order of predictions; the same anchor of two runs can be
            compared without matching.
        attached: (n, ...) what the task has beside each box: keypoints (n, k, 3) x, y in input pixels and score 0..1,
            or masks (n, rows, columns) bool at the prototypes' resolution. None for boxes alone.
    """

    boxes: Floats
    scores: Floats
    class_ids: Ints
    anchors: Ints
    attached: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Ints) -> Candidates:
        """The rows at these positions, in that order."""
        return Candidates(
            self.boxes[chosen],
            self.scores[chosen],
            self.class_ids[chosen],
            self.anchors[chosen],
            None if self.attached is None else self.attached[chosen],
        )


class Frame(NamedTuple):
    """The part of the contract that a decoder gets: input size in pixels, number of classes and of keypoints."""

    height: int
    width: int
    classes: int
    keypoints: int = 0


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a decoder that has none."""


Decode = Callable[[Heads, Any, Frame, float], Candidates]

Channels = Callable[[Any, int], Mapping[str, Counts]]
"""``(options, classes)`` -> channels by role."""

Attach = Callable[[Heads, Any, Frame, Ints], Floats]
"""The values of one role at these anchors: ``(heads, options, frame, anchors)`` -> (n, ...)."""


@dataclass(frozen=True)
class Registered:
    """A decoder with the type of its options and the channels its heads have.

    ``channels(options, classes)`` maps each role to its channel count; it is how a cut finds out which raw
    convolution is which. None where the outputs are not raw heads. ``fused(options, shape, classes)`` names the
    decoder of the one tensor that such networks usually return, or None for a shape that is not it; the cut is
    checked with it. ``task`` is the one whose results ``run`` gives whole, ``whole`` the roles
    of the outputs of a graph that is not cut. ``attachments`` decode what other tasks have beside the boxes, by role.
    ``align`` is where the family's training puts a letterboxed image: what a contract file means that does not say.
    ``per_cell(options)`` is the number of boxes in a cell, which tells how many channels their keypoints have.
    """

    name: str
    run: Decode
    options: type[msgspec.Struct]
    channels: Channels | None
    fused: Callable[[dict[str, Any], tuple[int, ...], int], Decoder | None] | None
    task: str = "detect"
    whole: tuple[str, ...] = ("predictions",)
    attachments: dict[str, Attach] = field(default_factory=dict)
    align: Align = "center"
    per_cell: Callable[[Any], Counts] | None = None

    def keypoint_channels(self, options: Any, values: int) -> Counts:
        """Channels of the role ``keypoints``, of ``values`` numbers for each box."""
        boxes = self.per_cell(options) if self.per_cell else 1
        return boxes * values if isinstance(boxes, int) else tuple(count * values for count in boxes)

    def read(self, options: Mapping[str, Any]) -> Any:
        """Validated options.

        Raises:
            ContractError: a wrong key or value, named with the valid ones.
        """
        try:
            return from_builtins(dict(options), self.options)
        except msgspec.ValidationError as error:
            valid = ", ".join(self.options.__struct_fields__) or "none"
            raise ContractError(f"decoder {self.name!r}: {error}; its options are: {valid}") from error


DECODERS: dict[str, Registered] = {}
"""Those registered so far; `every_decoder` has all."""


def every_decoder() -> Mapping[str, Registered]:
    """All decoders by name: one import of every file beside this one, and what the user registered."""
    for name in registry.names(PACKAGE):
        registry.module(PACKAGE, name)
    return DECODERS


def decoder(
    name: str,
    channels: Channels | None = None,
    fused: Callable[[dict[str, Any], tuple[int, ...], int], Decoder | None] | None = None,
    task: str = "detect",
    whole: tuple[str, ...] = ("predictions",),
    align: Align = "center",
    per_cell: Callable[[Any], Counts] | None = None,
) -> Callable[[Decode], Decode]:
    """Register a decoder function under a name. Its options are a msgspec Struct, named by the annotation.

    Raises:
        ContractError: the name is taken.
    """

    def register(run: Decode) -> Decode:
        if not run.__module__.startswith(f"{PACKAGE}."):  # the name must be free whichever of the two comes first
            every_decoder()
        if name in DECODERS:
            raise ContractError(f"a decoder named {name!r} is registered already; choose another name")
        options = typing.get_type_hints(run).get("options", NoOptions)
        DECODERS[name] = Registered(name, run, options, channels, fused, task, whole, align=align, per_cell=per_cell)
        return run

    return register


def attached(name: str, role: str) -> Callable[[Attach], Attach]:
    """Register a function that decodes a further role of a decoder's heads, for the anchors left after NMS."""

    def register(run: Attach) -> Attach:
        DECODERS[name].attachments[role] = run
        return run

    return register


def find(spec: Decoder) -> Registered:
    """The registered decoder of a contract.

    Raises:
        ContractError: no decoder of that name.
    """
    known = every_decoder()
    if spec.name not in known:
        raise ContractError(
            f"decoder {choices(spec.name, sorted(known))}; a decoder of your own is registered by importing its "
            "module first (--import MODULE)"
        )
    return known[spec.name]
