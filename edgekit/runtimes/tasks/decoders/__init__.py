"""What decoders have in common: candidates, the registry, and the selection of anchors worth decoding.

A decoder turns the raw heads of one network family into candidates, in input pixels, before NMS. It is one
function; registering it makes its name valid in contracts:

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        strides: tuple[int, ...]

    @decoder("mine", channels=lambda options, classes: {"boxes": 4, "classes": classes})
    def mine(heads: Heads, options: Options, frame: Frame, threshold: float) -> Candidates:
        ...
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import ContractError, EngineError, choices
from edgekit.runtimes.bundle.manifest import Align, Decoder

Heads = Mapping[str, Sequence[Floats]]
"""Raw outputs by role, one array per level from the finest stride to the coarsest; (1, channels, h, w) each."""


@dataclass(frozen=True)
class Candidates:
    """What was decoded of one image, in input pixels.

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
    """What a decoder needs to know of its contract: input size in pixels, the number of classes and of keypoints."""

    height: int
    width: int
    classes: int
    keypoints: int = 0


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a decoder that has none."""


Decode = Callable[[Heads, Any, Frame, float], Candidates]

Attach = Callable[[Heads, Any, Frame, Ints], Floats]
"""What one role of the heads says of the anchors at these places: ``(heads, options, frame, anchors)`` -> (n, ...)."""


@dataclass(frozen=True)
class Registered:
    """A decoder with the type of its options and the channels its heads have.

    ``channels(options, classes)`` maps each role to its channel count; it is how a cut finds out which raw
    convolution is which. None where the outputs are not raw heads. ``fused(options, shape, classes)`` names the
    decoder of the one tensor that such networks usually return, or None for a shape that is not it; the cut is
    checked with it. ``task`` is the one whose results ``run`` gives whole, ``whole`` the roles
    of the outputs of a graph that is not cut. ``attachments`` decode what other tasks have beside the boxes, by role.
    ``align`` is where the family's training puts a letterboxed image: what a contract file means that does not say.
    """

    name: str
    run: Decode
    options: type[msgspec.Struct]
    channels: Callable[[Any, int], dict[str, int]] | None
    fused: Callable[[dict[str, Any], tuple[int, ...], int], Decoder | None] | None
    task: str = "detect"
    whole: tuple[str, ...] = ("predictions",)
    attachments: dict[str, Attach] = field(default_factory=dict)
    align: Align = "center"

    def read(self, options: Mapping[str, Any]) -> Any:
        """Validated options.

        Raises:
            ContractError: a wrong key or value, named with the valid ones.
        """
        try:
            return msgspec.convert(dict(options), self.options)
        except msgspec.ValidationError as error:
            valid = ", ".join(self.options.__struct_fields__) or "none"
            raise ContractError(f"decoder {self.name!r}: {error}; its options are: {valid}") from error


DECODERS: dict[str, Registered] = {}


def decoder(
    name: str,
    channels: Callable[[Any, int], dict[str, int]] | None = None,
    fused: Callable[[dict[str, Any], tuple[int, ...], int], Decoder | None] | None = None,
    task: str = "detect",
    whole: tuple[str, ...] = ("predictions",),
    align: Align = "center",
) -> Callable[[Decode], Decode]:
    """Register a decoder function under a name. Its options are a msgspec Struct, named by the annotation.

    Raises:
        ContractError: the name is taken.
    """

    def register(run: Decode) -> Decode:
        if name in DECODERS:
            raise ContractError(f"a decoder named {name!r} is registered already; choose another name")
        options = typing.get_type_hints(run).get("options", NoOptions)
        DECODERS[name] = Registered(name, run, options, channels, fused, task, whole, align=align)
        return run

    return register


def attached(name: str, role: str) -> Callable[[Attach], Attach]:
    """Register what decodes a further role of a registered decoder's heads, for the anchors that are left after NMS."""

    def register(run: Attach) -> Attach:
        DECODERS[name].attachments[role] = run
        return run

    return register


def find(spec: Decoder) -> Registered:
    """The registered decoder of a contract.

    Raises:
        ContractError: no decoder of that name.
    """
    if spec.name not in DECODERS:
        raise ContractError(
            f"decoder {choices(spec.name, sorted(DECODERS))}; a decoder of your own is registered by importing its "
            "module first (--import MODULE)"
        )
    return DECODERS[spec.name]


def logit(probability: float) -> float:
    """The logit of a probability, with 0 and 1 mapped to infinities: thresholds are compared before any sigmoid."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def sigmoid(values: Floats) -> Floats:
    """Logistic function of float32 values, without overflow."""
    result: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * values) + np.float32(1))
    return result


def softmax(values: Floats, axis: int) -> Floats:
    """Softmax along one axis."""
    shifted = np.exp(values - values.max(axis, keepdims=True))
    result: Floats = shifted / shifted.sum(axis, keepdims=True)
    return result


class Survivors(NamedTuple):
    """Cells of one level whose best class passed: flat indices, that class, and its logit."""

    cells: Ints
    class_ids: Ints
    logits: Floats


def survivors(logits: Floats, threshold: float) -> Survivors:
    """Cells whose best class logit is above ``threshold``; nothing else is ever decoded.

    Args:
        logits: (classes, cells).
        threshold: a logit.

    Raises:
        EngineError: a logit is NaN or infinite.
    """
    best = logits.max(0)
    check_finite(best)
    cells = np.flatnonzero(best > threshold)
    return Survivors(cells, logits[:, cells].argmax(0), best[cells])


def check_finite(values: Floats) -> None:
    """Refuse NaN and infinities, which compare false with every threshold and would vanish without a word.

    Raises:
        EngineError: found one.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: the error says it, a warning need not
        # In float64 only where the float32 sum is not finite: that may be its own overflow.
        finite = math.isfinite(values.sum()) or math.isfinite(values.sum(dtype=np.float64))
    if not finite:
        raise EngineError("the graph gave NaN or infinite outputs; convert in another precision, or verify the bundle")


def grid_of(head: Floats, frame: Frame, stride: int) -> tuple[int, int]:
    """Rows and columns of a head (1, channels, rows, columns).

    A wrong stride would move every box alike in the source and in the bundle: no comparison of the two can see it.

    Raises:
        ValueError: a grid that this stride cannot have on this input.
    """
    rows, columns = head.shape[2:]
    if abs(rows * stride - frame.height) >= stride or abs(columns * stride - frame.width) >= stride:
        raise ValueError(
            f"stride {stride} does not give a grid of {rows} x {columns} for an input of {frame.height} x {frame.width}"
        )
    return rows, columns


def planes(head: Floats, channels: int, grid: tuple[int, int]) -> Floats:
    """A head (1, channels, rows, columns) as (channels, cells).

    Raises:
        ValueError: another shape; reshaping alone would take NHWC or another level for it.
    """
    wanted = (1, channels, *grid)
    if head.shape != wanted:
        raise ValueError(f"{head.shape} where {wanted} is needed")
    return head.reshape(channels, grid[0] * grid[1])


def cell_corners(cells: Ints, width: int) -> tuple[Floats, Floats]:
    """Column and row of flat cell indices, as float32."""
    return (cells % width).astype(np.float32), (cells // width).astype(np.float32)


def from_centres(x: Floats, y: Floats, width: Floats, height: Floats) -> Floats:
    """Boxes (n, 4) xyxy from centres and sizes."""
    half_width, half_height = width * np.float32(0.5), height * np.float32(0.5)
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1)


def at_anchors(heads: Sequence[Floats], anchors: Ints) -> tuple[Floats, Ints]:
    """Values of one role at places counted over all levels, finest first, row after row.

    Args:
        heads: (1, channels, rows, columns) each.
        anchors: (n,).

    Returns:
        (n, channels), and the level of each (n,).
    """
    ends = np.cumsum([head.shape[2] * head.shape[3] for head in heads])
    levels = np.searchsorted(ends, anchors, side="right")
    values = np.empty((len(anchors), heads[0].shape[1]), np.float32)
    for level in np.unique(levels).tolist():
        chosen = levels == level
        first = ends[level - 1] if level else 0
        head = heads[level]
        values[chosen] = head.reshape(head.shape[1], -1)[:, anchors[chosen] - first].T
    return values, levels


def gather(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of all levels as one."""
    if len(parts) == 1:
        return parts[0]
    return Candidates(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        np.concatenate([part.anchors for part in parts]),
    )
