"""Families whose decoder options do not follow from shapes alone: anchors and priors, centres, distances.

Where the network itself gives decoded boxes, the numbers are measured: they are what turns the raw heads into them.
Else they are those that the family is usually trained with, marked to be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from edgekit.conversion.family import FACE5, Family, assigned, cut_of, listed
from edgekit.conversion.measured_priors import Measured, anchors_of, priors_of
from edgekit.graph.tails import Ending, Tail
from edgekit.runtimes.bundle.manifest import Decoder

Level = Sequence[Tail]

NAMES = ("anchors", "ssd", "centernet", "distances")
"""The decoders of these families."""

YOLOV5 = {
    3: (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)), ((116, 90), (156, 198), (373, 326))),
    4: (
        ((19, 27), (44, 40), (38, 94)), ((96, 68), (86, 152), (180, 137)),
        ((140, 301), (303, 264), (238, 542)), ((436, 615), (739, 380), (925, 792)),
    ),
}  # fmt: skip
"""Anchors of the published YOLOv5 models, by number of levels."""

RETINAFACE = ((16, 32), (64, 128), (256, 512))
"""Sides of the square priors of the published RetinaFace models."""

FACES: dict[str, Any] = {"task": "pose", "skeleton": "face5", "names": ("face",), "classes": 1}


def of_anchors(levels: Sequence[Level], ending: Ending, size: tuple[int, int]) -> Family | None:
    """YOLOv5, YOLOv7 and YOLOv3: one convolution a level, for several anchors each with an objectness."""
    if len(levels) < 2 or any(len(level) != 1 for level in levels):
        return None
    tails, strides = [level[0] for level in levels], _strides(levels, size)
    cells = sum(tail.shape[2] * tail.shape[3] for tail in tails)
    tables = [shape for shape in ending.outputs.values() if len(shape) == 3 and shape[2] > 5]
    whole = len(ending.outputs) == 1 and len(tables) == 1
    each = {tail.shape[1] // 3 for tail in tails if not tail.shape[1] % 3}
    values = tables[0][2] if whole else min(each, default=0)
    if values < 6 or any(tail.shape[1] % values for tail in tails):
        return None
    counts = [tail.shape[1] // values for tail in tails]
    boxes = sum(count * tail.shape[2] * tail.shape[3] for count, tail in zip(counts, tails, strict=True))
    if whole and (tables[0][1] != boxes or boxes == cells):
        return None
    if not whole and not _raw_anchors(ending, tails, values):
        return None
    why = (
        f"one convolution per level with {listed(dict.fromkeys(tail.shape[1] for tail in tails))} channels: "
        f"{listed(dict.fromkeys(counts))} anchors x (4 box values, objectness, {values - 5} classes)",
        f"{len(levels)} levels, strides {listed(strides)} (input / grid)",
    )
    family = Family(
        task="detect", decoder=Decoder(name="anchors"), classes=values - 5, why=why,
        cut=cut_of(levels, [{"predictions": tail.shape[1]} for tail in tails]),
    )  # fmt: skip
    if whole:
        output = ending.values[next(iter(ending.outputs))]
        found = anchors_of([tail.value for tail in tails], output, strides, values)
        if found is not None:
            options = {"strides": list(strides), "anchors": found[0], "sizes": found[1]}
            told = (f"anchors {_pairs(found[0])}: measured, they turn the convolutions into the output's boxes",)
            return replace(family, decoder=Decoder(name="anchors", options=options), why=why + told)
        decoded = Decoder(name="decoded", options={"layout": "rows", "box_format": "xywh", "objectness": True})
        doubt = "the graph decodes its boxes itself, in a way that no decoder knows: not for INT8"
        return replace(family, decoder=decoded, cut=(), doubts=(doubt,))
    usual = YOLOV5.get(len(levels))
    if usual is None or set(counts) != {3}:
        return None
    given = [[list(pair) for pair in level] for level in usual]
    doubt = (
        "anchors are those of the published YOLOv5; YOLOv7 has 12x16, 19x36, 40x28 / 36x75, 76x55, 72x146 / "
        "142x110, 192x243, 459x401; a network of your own may have others: they are in the configuration of its "
        "training"
    )
    options = {"strides": list(strides), "anchors": given}
    return replace(family, decoder=Decoder(name="anchors", options=options), doubts=(doubt,))


def _raw_anchors(ending: Ending, tails: Sequence[Tail], values: int) -> bool:
    """Whether the outputs are the raw heads of three anchors: (1, 3, rows, columns, values), or the convolutions."""
    shapes = list(ending.outputs.values())
    apart = all(len(shape) == 5 and shape[1] == 3 and shape[4] == values for shape in shapes)
    return len(shapes) == len(tails) and (apart or shapes == [tail.shape for tail in tails])


def of_centres(levels: Sequence[Level], ending: Ending, size: tuple[int, int]) -> Family | None:
    """CenterNet and CenterFace: one level, a heatmap, sizes and offsets."""
    (stride, *more) = _strides(levels, size)
    if more or stride not in (2, 4, 8):
        return None
    counts = [tail.shape[1] for tail in levels[0]]
    left = list(counts)
    for _ in range(2):
        if 2 not in left:
            return None
        left.remove(2)
    face = sorted(left) == [1, 10]
    if not left or (len(left) > 1 and not face):
        return None
    channels = {"classes": 1 if face else left[0], "sizes": 2, "offsets": 2} | ({"keypoints": 10} if face else {})
    (family,) = _roles(levels, [channels])
    why = (f"one level, stride {stride}: a heatmap of {channels['classes']}, sizes of 2, offsets of 2 channels",)
    order = ("the heads of two channels are taken in the usual order, sizes before offsets",) if family[1] else ()
    if face:
        options = {"stride": stride, "sizes": "exponential", "order": "yx", "cell_offset": 0.5, "keypoints": "box"}
        return Family(
            decoder=Decoder(name="centernet", options=options), why=(*why, FACE5, "all of this is CenterFace's"),
            rule={"scale": 1.0, "pad": 0}, cut=cut_of(levels, [channels]), doubts=order,
            postprocess={"score": 0.4, "iou": 0.3}, **FACES,
        )  # fmt: skip
    return Family(
        task="detect", decoder=Decoder(name="centernet", options={"stride": stride}), classes=channels["classes"],
        why=why, cut=cut_of(levels, [channels]), doubts=order,
        rule={"color": "bgr", "mean": [0.408, 0.447, 0.470], "std": [0.289, 0.274, 0.278], "pad": 0},
    )  # fmt: skip


def of_distances(levels: Sequence[Level], ending: Ending, size: tuple[int, int]) -> Family | None:
    """SCRFD, whose cells have two boxes, and RTMDet, which multiplies by the stride what the convolution gives."""
    strides = _strides(levels, size)
    counts = [sorted(tail.shape[1] for tail in level) for level in levels]
    if len(levels) > 1 and all(count in ([2, 8], [2, 8, 20]) for count in counts) and 2 not in ending.softmax:
        landmarks = counts[0] == [2, 8, 20]
        channels = {"boxes": 8, "classes": 2} | ({"keypoints": 20} if landmarks else {})
        why = f"two boxes in each cell of {len(levels)} levels, strides {listed(strides)}, one class: SCRFD"
        family = Family(
            task="detect", classes=1, names=("face",), why=(why, *((FACE5,) if landmarks else ())),
            decoder=Decoder(name="distances", options={"strides": list(strides), "per_cell": 2}),
            rule={"mean": [0.5] * 3, "std": [0.50196] * 3, "pad": 0, "align": "corner"},
            cut=cut_of(levels, [channels] * len(levels)), postprocess={"score": 0.5, "iou": 0.4},
        )  # fmt: skip
        return replace(family, **FACES) if landmarks else family
    plain = len(levels) > 1 and all(len(count) == 2 and 4 in count for count in counts)
    if not plain or len({tuple(count) for count in counts}) > 1:
        return None
    classes = max(counts[0])
    boxes = [assigned(level, {"boxes": 4, "classes": classes})[0]["boxes"] for level in levels]
    exponential = all("exp" in tail.then for tail in boxes)
    if not exponential and not all(tail.by_stride for tail in boxes):
        return None
    way = "the exponential of the distances" if exponential else "the distances"
    options: dict[str, Any] = {"strides": list(strides), "per_cell": 1}
    return Family(
        task="detect", classes=classes,
        decoder=Decoder(name="distances", options=options | ({"exponential": True} if exponential else {})),
        why=(f"4 distances and {classes} classes in each cell, strides {listed(strides)}",
             f"{way} times the stride: RTMDet"),
        doubts=("FCOS has the same heads, but counts from the centre of a cell: then cell_offset: 0.5",),
        rule={"color": "bgr", "scale": 1.0, "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395],
              "align": "corner"},
        cut=cut_of(levels, [{"boxes": 4, "classes": classes}] * len(levels)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Priors:
    """Heads of priors: how many each level has, values of a prior in the scores and behind the box, and the output that
    has their boxes, if there is one."""

    counts: tuple[int, ...]
    scores: int
    points: int
    output: str = ""
    together: bool = False

    def channels(self, level: int) -> dict[str, int]:
        count = self.counts[level]
        behind = self.points if self.together else 0
        channels = {"boxes": count * (4 + behind), "classes": count * self.scores}
        return channels | ({"keypoints": count * self.points} if self.points and not self.together else {})


def of_priors(levels: Sequence[Level], ending: Ending, size: tuple[int, int]) -> Family | None:
    """SSD, RetinaFace, BlazeFace and EfficientDet: boxes and class scores of several priors in each cell."""
    strides = _exact_strides(levels, size)
    for heads in _of_priors(levels, ending):
        softmax = heads.scores in ending.softmax and heads.scores > 1
        channels = [heads.channels(level) for level in range(len(levels))]
        classes = heads.scores - softmax
        boxes = [assigned(level, counts)[0]["boxes"].value for level, counts in zip(levels, channels, strict=True)]
        found = None
        if heads.output and not heads.together:
            found = priors_of(boxes, ending.values[heads.output][..., :4], strides, size, heads.counts)
        known = found or _usual(heads, levels, size, softmax)
        if known is None:
            continue
        options: dict[str, Any] = {"strides": list(strides), **known.options()}
        options |= {} if softmax else {"score": "sigmoid"}
        family = _of_known(heads, classes, options, strides, bool(found))
        return replace(family, cut=cut_of(levels, channels))
    return None


def _of_known(
    heads: _Priors, classes: int, options: Mapping[str, Any], strides: Sequence[float], measured: bool
) -> Family:
    why = [
        f"{listed(dict.fromkeys(heads.counts))} priors a cell on {len(strides)} levels, strides {listed(strides)}: "
        f"boxes {listed(dict.fromkeys(4 * count for count in heads.counts))} and classes "
        f"{listed(dict.fromkeys(heads.scores * count for count in heads.counts))} channels"
    ]
    doubts = []
    if measured:
        why.append("priors and variances: measured, they turn the convolutions into the boxes of the output")
    else:
        doubts.append("priors and variances are those that the family usually has; the file does not contain them")
    if "score" not in options:
        doubts.append("the background is the first class; background: last else")
    family = Family(
        task="detect", decoder=Decoder(name="ssd", options=dict(options)), classes=classes, why=tuple(why),
        doubts=tuple(doubts), rule={"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "stretch"},
    )  # fmt: skip
    if heads.together:
        why.append("six points behind each box: BlazeFace")
        rule, least = {"mean": [0.5] * 3, "std": [0.5] * 3, "pad": 0}, {"score": 0.5, "iou": 0.3}
        return replace(family, **{**FACES, "skeleton": BLAZEFACE}, why=tuple(why), rule=rule, postprocess=least)
    if heads.points == 10:
        rule = {"color": "bgr", "scale": 1.0, "mean": [104, 117, 123], "pad": 0, "align": "corner"}
        given = {"rule": rule, "why": (*family.why, FACE5), "postprocess": {"score": 0.5, "iou": 0.4}, **FACES}
        return replace(family, **given)
    if heads.counts[0] == 9:
        rule = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "pad": 0, "align": "corner"}
        return replace(family, rule=rule, why=(*family.why, "nine priors a cell: EfficientDet"))
    return family


BLAZEFACE = {
    "names": ["left_eye", "right_eye", "nose", "mouth", "left_ear", "right_ear"],
    "edges": [[0, 2], [1, 2], [2, 3], [0, 4], [1, 5]],
    "sigmas": [0.05] * 6,
}
"""MediaPipe's six points of a face, left and right as one sees them in the picture."""


def _of_priors(levels: Sequence[Level], ending: Ending) -> Iterator[_Priors]:
    """The possible heads: by the tables that they become, or by their channels alone."""
    tables = {name: shape for name, shape in ending.outputs.items() if len(shape) == 3}
    for name, (_, rows, last) in tables.items():
        if last in (4, 16):
            for other, (_, more, scores) in tables.items():
                if other != name and more == rows and scores != 10:
                    points = 10 if any(shape[1:] == (rows, 10) for shape in tables.values()) and last == 4 else 0
                    points = 12 if last == 16 else points
                    yield from _counted(levels, _Priors((), scores, points, name, last == 16), rows)
        elif last > 5 and len(tables) == 1:
            yield from _counted(levels, _Priors((), last - 4, 0, name), rows)
    if not tables:
        for count, scores, points in ((2, 2, 10), (9, 0, 0)):
            first = [tail.shape[1] for tail in levels[0]]
            scores = scores or next((channels // 9 for channels in first if not channels % 9 and channels != 36), 0)
            heads = _Priors((count,) * len(levels), scores, points)
            if scores and all(_has(level, heads.channels(number)) for number, level in enumerate(levels)):
                yield heads


def _counted(levels: Sequence[Level], heads: _Priors, rows: int) -> Iterator[_Priors]:
    """The heads with the number of priors of each level, where all levels have such heads and the rows are theirs."""
    counts = []
    for level in levels:
        fits = [count for count in range(1, 17) if _has(level, replace(heads, counts=(count,)).channels(0))]
        if len(fits) != 1:
            return
        counts.append(fits[0])
    cells = [level[0].shape[2] * level[0].shape[3] for level in levels]
    several = max(counts) > 1 or heads.points
    if several and sum(count * cell for count, cell in zip(counts, cells, strict=True)) == rows:
        yield replace(heads, counts=tuple(counts))


def _has(level: Level, channels: Mapping[str, int]) -> bool:
    return sorted(tail.shape[1] for tail in level) == sorted(channels.values())


def _usual(heads: _Priors, levels: Sequence[Level], size: tuple[int, int], softmax: bool) -> Measured | None:
    """The priors that such a family is usually trained with."""
    strides = _exact_strides(levels, size)
    if heads.together:
        priors = [[[float(max(size))] * 2 for _ in range(count)] for count in heads.counts]
        return Measured(priors, [round(1 / max(size), 8)] * 4, sizes="plain")
    if heads.counts == (2, 2, 2) and heads.points == 10:
        return Measured([[[float(side)] * 2 for side in pair] for pair in RETINAFACE], [0.1, 0.1, 0.2, 0.2])
    if set(heads.counts) == {9} and not softmax:
        shapes = [(scale * wide, scale * high) for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3))
                  for wide, high in ((1, 1), (1.4, 0.7), (0.7, 1.4))]  # fmt: skip
        priors = [[[round(4 * stride * w, 3), round(4 * stride * h, 3)] for w, h in shapes] for stride in strides]
        return Measured(priors, [1.0] * 4, order="yxhw")
    if set(heads.counts) == {6} and softmax:
        return Measured(_torchvision(len(levels), size), [0.1, 0.1, 0.2, 0.2])
    return None


def _torchvision(levels: int, size: tuple[int, int]) -> list[list[list[float]]]:
    """Priors of torchvision's SSDLite: scales 0.2 to 0.95, each also between two, ratios 2 and 3 and their inverses."""
    scales = [0.2 + 0.75 * number / max(levels - 1, 1) for number in range(levels)] + [1.0]
    priors = []
    for own, following in pairwise(scales):
        shapes = [(own, own), ((own * following) ** 0.5,) * 2]
        for ratio in (2, 3):
            root = ratio**0.5
            shapes += [(own * root, own / root), (own / root, own * root)]
        priors.append([[round(min(w, 1) * size[1], 3), round(min(h, 1) * size[0], 3)] for w, h in shapes])
    return priors


def _strides(levels: Sequence[Level], size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(round(size[0] / level[0].shape[2]) for level in levels)


def _exact_strides(levels: Sequence[Level], size: tuple[int, int]) -> tuple[float, ...]:
    """Input pixels a cell; powers of two and whole numbers as such, for grids that are rounded up."""
    exact = [size[0] / level[0].shape[2] for level in levels]
    whole = [2 ** round(level.bit_length() - 1) for level in map(int, exact)]
    steps = [
        power if -(-size[0] // power) == level[0].shape[2] and abs(power - step) < power / 4 else round(step, 5)
        for power, step, level in zip(whole, exact, levels, strict=True)
    ]
    return tuple(int(step) if step == int(step) else step for step in steps)


def _roles(levels: Sequence[Level], channels: Sequence[Mapping[str, int]]) -> list[tuple[dict[str, Tail], bool]]:
    return [assigned(level, counts) for level, counts in zip(levels, channels, strict=True)]


def _pairs(anchors: Sequence[Sequence[Sequence[float]]]) -> str:
    return " / ".join(listed(f"{width:g}x{height:g}" for width, height in level) for level in anchors)
