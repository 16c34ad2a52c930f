"""Recognise the family of a network by its last layers, and write a contract to start from.

Every registered decoder says which channels its heads have, so every decoder is tried, those of the user's own too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.conversion.family import FACE5, Family, assigned, hinted, is_angle, levels_of, listed
from edgekit.conversion.known_heads import FACES, NAMES, of_anchors, of_centres, of_distances, of_priors
from edgekit.errors import ContractError
from edgekit.graph.heads import CutPoint, cut_automatically
from edgekit.graph.tails import Ending, Tail
from edgekit.runtimes.bundle.manifest import Decoder, Output
from edgekit.runtimes.tasks.decoders import Registered, at_level, every_decoder, find
from edgekit.sources.class_names import NAMED

if TYPE_CHECKING:
    from torch import fx

BINS = (1, 8, 16, 17)
"""Usual numbers of values for each side of a box: none but the distance itself, NanoDet's, YOLOv8's, GFL's."""

RULES: dict[str, dict[str, Any]] = {
    "grid": {"color": "bgr", "scale": 1.0},
    "fastestdet": {"resize": "stretch", "color": "bgr"},
    "movenet": {"scale": 1.0, "pad": 0},
    "semantic": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "classes": {"resize": "crop", "crop": 0.875, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
"""The image rule that the networks of a decoder are usually trained with, where it is not the default one."""

NANODET = {"color": "bgr", "scale": 1.0, "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]}


@dataclass(frozen=True)
class _Match:
    """A decoder whose heads a network has: channels by role, and what is left over on each level."""

    registered: Registered
    options: dict[str, Any]
    classes: int
    channels: dict[str, int]
    left: Counter[int]
    sure: int


def believed(ending: Ending, size: tuple[int, int]) -> Family | None:
    """The family that fits best, or None.

    Args:
        ending: how the network ends.
        size: (height, width) of its input.
    """
    levels = levels_of(ending.tails)
    found = _of_cells(levels, ending, size)
    for family in (of_anchors, of_centres, of_distances, of_priors, _of_heads) if levels else ():
        found = found or family(levels, ending, size)
    return found or _of_queries(levels, ending) or _of_table(ending) or _of_classes(ending)


def _of_heads(levels: Sequence[Sequence[Tail]], ending: Ending, size: tuple[int, int]) -> Family | None:
    """A decoder of raw heads: every level has the channels that it wants. Prototypes of masks are on a grid of their
    own, finer than all others."""
    prototypes = _prototypes(levels, ending)
    levels = levels[1:] if prototypes else levels
    counts = sorted(tail.shape[1] for tail in levels[0])
    if any(sorted(tail.shape[1] for tail in level) != counts for level in levels):
        return None
    strides = tuple(round(size[0] / level[0].shape[2]) for level in levels)
    matches = list(_matches(counts, strides, ending))
    if not matches:
        return None
    angles = Counter(tail.shape[1] for tail in levels[0] if is_angle(tail))  # not the scores of a single class
    best = min(matches, key=lambda match: (match.left.total(), (angles - match.left).total(), -match.sure))
    family = _family(best, levels, strides, ending)
    return _with_masks(family, best, levels, prototypes, ending) if prototypes else family


def _prototypes(levels: Sequence[Sequence[Tail]], ending: Ending) -> str:
    """The output that has the prototypes of masks; empty where there is none."""
    finest = levels[0]
    if len(levels) < 2 or len(finest) != 1:
        return ""
    return next((name for name, shape in ending.outputs.items() if shape == finest[0].shape), "")


def _with_masks(
    family: Family, match: _Match, levels: Sequence[Sequence[Tail]], prototypes: str, ending: Ending
) -> Family | None:
    """The family with the coefficients and prototypes of masks; None where the decoder has none or they do not fit."""
    count = ending.outputs[prototypes][1]
    if "coefficients" not in match.registered.attachments or match.left != Counter((count,)):
        return None
    read = {point.tensor for point in family.cut}
    coefficients = tuple(
        CutPoint(tail.tensor, "coefficients", number)
        for number, level in enumerate(levels)
        for tail in level
        if tail.tensor not in read
    )
    return replace(
        family,
        task="segment",
        cut=(*family.cut, *coefficients, CutPoint(prototypes, "prototypes")),
        why=(*family.why, f"{count} more channels per level, and as many prototypes of masks in output {prototypes}"),
        doubts=tuple(doubt for doubt in family.doubts if "does not read" not in doubt),
    )


def _matches(counts: list[int], strides: tuple[int, ...], ending: Ending) -> Iterator[_Match]:
    """Every decoder with options and a number of classes for which the heads are all there."""
    for name, registered in every_decoder().items():
        if registered.channels is None or registered.task == "semantic" or name in NAMES:
            continue
        if name == "fastestdet" and len(strides) > 1:
            continue
        for given in _options(registered, counts, strides, ending):
            for classes in sorted(set(counts)):
                try:
                    options = registered.read(given)
                except ContractError:  # it has numbers that shapes do not tell
                    continue
                channels = {role: at_level(count, 0) for role, count in registered.channels(options, classes).items()}
                if Counter(channels.values()) - Counter(counts):
                    continue
                left = Counter(counts) - Counter(channels.values())
                sure = _sure(name, given, classes, ending, len(strides))
                yield _Match(registered, given, classes, channels, left, sure)


def _options(
    registered: Registered, counts: list[int], strides: tuple[int, ...], ending: Ending
) -> Iterator[dict[str, Any]]:
    """Options that the shapes of the heads may mean."""
    fields = registered.options.__struct_fields__
    base: dict[str, Any] = {"strides": list(strides)} if "strides" in fields else {}
    if "reg_max" not in fields:
        yield base
        return
    for count in sorted(set(counts), reverse=True):
        bins, rest = divmod(count, 4)
        if not rest and (bins in ending.softmax or bins in BINS):
            yield {**base, "reg_max": bins}


def _sure(name: str, options: Mapping[str, Any], classes: int, ending: Ending, levels: int) -> int:
    """How much more than channels speaks for a decoder."""
    if name == "fastestdet":
        return 2 if classes in ending.softmax else -1
    if name == "movenet":
        return 2
    bins = options.get("reg_max", 1)
    known = (classes in {len(names) for names in NAMED.values()}) + (levels > 1)
    return known + (2 if bins > 1 and bins in ending.softmax else 0)


def _family(match: _Match, levels: Sequence[Sequence[Tail]], strides: tuple[int, ...], ending: Ending) -> Family:
    """A match with its heads, and the reasons for it."""
    name, options = match.registered.name, match.options
    points, unread, same = [], [], False
    for number, level in enumerate(levels):
        taken, equal = assigned(sorted(level, key=is_angle), match.channels)
        same = same or equal
        points += [CutPoint(tail.tensor, role, number) for role, tail in taken.items()]
        unread += [(number, tail) for tail in level if tail not in taken.values()]
    why = [f"{len(levels)} level{'s' if len(levels) > 1 else ''} of heads, strides {listed(strides)} (input / grid)"]
    why.append(f"channels per level: {listed(f'{role} {count}' for role, count in match.channels.items())}")
    bins = options.get("reg_max", 1)
    if bins > 1:
        seen = "a softmax runs over as many values" if bins in ending.softmax else "a usual number"
        why.append(f"{4 * bins} channels are 4 sides x {bins} bins: reg_max {bins} ({seen})")
    if name == "fastestdet" and match.classes in ending.softmax:
        why.append(f"one level, and a softmax over its {match.classes} classes")
    doubts = ["heads of equal channels are taken in the usual order"] if same else []
    task = match.registered.task
    skeleton: str | dict[str, Any] | None = "coco" if task == "pose" else None
    keypoints = {tail.shape[1] for _, tail in unread}
    able = "keypoints" in match.registered.attachments and len(keypoints) == 1 and len(unread) == len(levels)
    face = keypoints == {10} and match.classes == 1
    named = all(hinted(tail, "keypoints") for _, tail in unread)
    if able and (face or not min(keypoints) % 3 or (named and not min(keypoints) % 2)):
        values = 2 if face or min(keypoints) % 3 else 3
        count = min(keypoints) // values
        task, skeleton = "pose", "face5" if face else _skeleton(count)
        points += [CutPoint(tail.tensor, "keypoints", number) for number, tail in unread]
        score = ", y and score" if values == 3 else " and y"
        why.append(FACE5 if face else f"{values * count} more channels per level: {count} keypoints with x{score}")
    elif "angles" in match.registered.attachments and keypoints == {1} and len(unread) == len(levels):
        task = "obb"
        points += [CutPoint(tail.tensor, "angles", number) for number, tail in unread]
        why.append("1 more channel per level: the angle of oriented boxes")
        doubts.append("angle: sigmoid is YOLOv8's and 11's; YOLO26 has angle: radians")
    elif unread:
        more = listed(f"{tail.tensor} ({tail.shape[1]} channels)" for _, tail in unread)
        doubts.append(f"decoder {name!r} does not read {more}")
    if task == "pose" and name == "anchor_free":
        doubts.append("keypoint_scale and keypoint_offset are YOLOv8's and 11's; YOLO26 has 1 and 0.5")
    if "reg_max" in options and bins == 1:
        doubts.append("heads without bins may be one-to-one (YOLO26): then postprocess: {nms: false}")
    rule = NANODET if name == "anchor_free" and bins == 8 else RULES.get(name, {})
    if name == "anchor_free" and bins == 8 and len(levels) == 4:
        options, rule = {**options, "cell_offset": 0.0}, {**rule, "resize": "stretch"}
        why.append("four levels: NanoDet-Plus, which counts from a cell's corner and is trained on stretched images")
    if name == "grid" and face:
        options = {**options, "power": 0.5}
        why.append("boxes, objectness and one class: YuNet, whose score is the square root of their product")
    return Family(
        task=task,
        decoder=Decoder(name=name, options=options),
        classes=match.classes if task in ("detect", "obb") else 1,
        names=FACES["names"] if face else (),
        postprocess={"score": 0.6, "iou": 0.45} if face else {},
        why=tuple(why),
        doubts=tuple(doubts),
        rule=rule,
        cut=tuple(points),
        skeleton=skeleton,
    )


def cut_by_itself(family: Family, ending: Ending, graph: Callable[[], fx.GraphModule]) -> bool:
    """Whether a conversion finds the raw heads by itself, and can decode what the network gives uncut: then the two are
    compared, which a cut in the contract would prevent for an ONNX file.

    Args:
        family: with its cut.
        ending: how the network ends.
        graph: makes the flat graph, which takes seconds.
    """
    registered = find(family.decoder)
    if registered.channels is None or registered.fused is None or len(ending.outputs) != 1 or family.task != "detect":
        return False
    if any(tail.behind for tail in ending.tails):
        return False
    channels = registered.channels(registered.read(family.decoder.options), family.classes)
    shape = next(iter(ending.outputs.values()))
    if registered.fused(family.decoder.options, shape, family.classes) is None:
        return False
    try:
        found = cut_automatically(graph(), channels, registered.name)
    except ContractError:
        return False
    return [(one.role, one.level) for one in found.outputs] == [(one.role, one.level) for one in family.cut]


def _skeleton(count: int) -> str | dict[str, Any]:
    if count == 17:
        return "coco"
    return {"names": [f"point_{number}" for number in range(count)], "edges": [], "sigmas": [0.05] * count}


def _of_queries(levels: Sequence[Sequence[Tail]], ending: Ending) -> Family | None:
    """DETR and its kin: classes and boxes of a number of queries."""
    tables = {name: shape for name, shape in ending.outputs.items() if len(shape) == 3}
    boxes = [name for name, shape in tables.items() if shape[2] == 4]
    classes = [name for name, shape in tables.items() if shape[2] != 4]
    if len(ending.outputs) != 2 or len(boxes) != 1 or len(classes) != 1 or tables[boxes[0]][1] != tables[classes[0]][1]:
        return None
    count, queries = tables[classes[0]][2], tables[boxes[0]][1]
    cells = sum(level[0].shape[2] * level[0].shape[3] for level in levels)
    if queries > 2000 or (cells and not queries % cells):  # boxes of every cell, such as an SSD's
        return None
    return Family(
        task="detect",
        decoder=Decoder(name="queries", options={"score": "sigmoid"}),
        classes=count,
        why=(f"two outputs: {count} class scores and 4 box values of {queries} queries each",),
        doubts=("score: sigmoid (RT-DETR) or softmax (DETR, whose last class is no object)",),
        postprocess={"nms": False},
        rule={"resize": "stretch"},
        outputs=tuple(Output(name=role, role=role) for name in ending.outputs for role in _role(name, boxes)),
    )


def _role(name: str, boxes: Sequence[str]) -> tuple[str]:
    return ("boxes",) if name in boxes else ("classes",)


def _of_table(ending: Ending) -> Family | None:
    """Finished detections."""
    if len(ending.outputs) != 1 or len(shape := next(iter(ending.outputs.values()))) != 3:
        return None
    rows, values = max(shape[1:]), min(shape[1:])
    layout = "rows" if shape[1] == rows else "channels"
    doubt = "the graph decodes its boxes itself: not for INT8, where every score would become zero"
    if values == 6 and layout == "rows" and rows <= 1000:
        return Family(
            task="detect",
            decoder=Decoder(name="decoded", options={"layout": "detections", "box_format": "xyxy"}),
            classes=80,
            why=(f"one output of {rows} rows with 6 values: x1, y1, x2, y2, score, class",),
            doubts=(doubt, "the number of classes is not in the file"),
        )
    return None


def _of_cells(levels: list[list[Tail]], ending: Ending, size: tuple[int, int]) -> Family | None:
    """Semantic segmentation: the output is the last convolution's, scaled up, or as large as the input."""
    tails = [tail for level in levels for tail in level]
    if len(tails) != 1 or len(ending.outputs) != 1:
        return None
    shape, (name, whole) = tails[0].shape, *ending.outputs.items()
    if len(whole) != 4 or whole[1] != shape[1] or not (whole[2] > shape[2] or tuple(whole[2:]) == size):
        return None
    single = shape[1] == 1
    return Family(
        task="semantic",
        decoder=Decoder(name="semantic", options={"score": "sigmoid"} if single else {}),
        classes=2 if single else shape[1],
        why=(
            f"output {name} of {whole[2]} x {whole[3]} pixels is the last convolution's {shape[2]} x {shape[3]} cells "
            f"with {shape[1]} channel(s)",
        ),
        rule=RULES["semantic"],
        cut=(CutPoint(tails[0].tensor, "logits"),),
    )


def _of_classes(ending: Ending) -> Family | None:
    """A classifier: one vector of scores."""
    if len(ending.outputs) != 1 or len(shape := next(iter(ending.outputs.values()))) != 2 or shape[1] < 2:
        return None
    activated = shape[1] in ending.softmax
    return Family(
        task="classify",
        decoder=Decoder(name="classes", options={"activated": True} if activated else {}),
        classes=shape[1],
        why=(f"one output of {shape[1]} values" + (" behind a softmax" if activated else ""),),
        doubts=("an embedding looks the same: then task: embed, decoder: {name: vector} and classes: []",),
        rule=RULES["classes"],
    )
