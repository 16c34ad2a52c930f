"""Raw heads become results in the pixels of the original: every decoder and every task, real heads and hostile ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ContractError, EngineError
from edgekit.runtimes.bundle.manifest import Contract, Skeleton
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.results import (
    Classification,
    Detections,
    Embedding,
    Instances,
    LabelMap,
    Masks,
    OrientedBoxes,
    Poses,
)
from edgekit.runtimes.tasks import open_task
from edgekit.structures import from_builtins
from golden.cases import CASE, Case, Planned, Tree, read
from golden.closeness import apart
from golden.contracts import ARROW, CLASSES, Heads, contract, document

TOLERANCE = {"box": 1e-3, "score": 1e-6, "keypoint": 1e-3, "angle": 1e-5, "mask_pixels": 4, "label_pixels": 8}
"""Pixels of the original, differences of scores, radians, pixels of each mask and of a whole label map."""

NETWORKS = "GOLDEN_NETWORKS"
"""With this in the environment the trained networks are run again; otherwise their heads are kept as they stand."""

GRIDS = ((8, 12), (4, 6), (2, 3))
"""Rows and columns at strides 8, 16 and 32 of an input of 64 x 96."""

STRIDES = [8, 16, 32]


def planned(recorded: Path) -> Iterator[Planned]:
    """All cases; see `golden.kinds`."""
    yield from _trained(recorded)
    for family in FAMILIES:
        yield from family()
    yield from _hostile()
    yield from _controls(recorded)


def _case(
    name: str, about: str, rule: Contract, outputs: Sequence[Any], size: tuple[int, int] = (150, 110), **more: Any
) -> Planned:
    """A case for an original of ``size`` (width, height)."""
    given = {"contract": document(rule), "outputs": list(outputs), "width": size[0], "height": size[1], **more}
    return Planned(name, about, given, dict(TOLERANCE))


# Heads of trained networks.

TRAINED = (
    ("detect", "detector", 1, (150, 110)),
    ("detect-tall", "detector", 4, (96, 160)),
    ("pose", "pose", 1, (150, 110)),
    ("segment", "segment", 4, (150, 110)),
    ("classify", "classify", 2, (96, 96)),
    ("semantic", "semantic", 4, (120, 100)),
)
"""Name, network of `edgekit.shapes.trained`, seed of the scene, size (width, height) of the picture."""

INPUT = 96


def _trained(recorded: Path) -> Iterator[Planned]:
    for name, network, seed, size in TRAINED:
        about = f"heads of the trained network of shapes ({network}), float32"
        folder = recorded / f"trained-{name}"
        if os.environ.get(NETWORKS) or not (folder / CASE).is_file():
            rule, outputs = _run(network, seed, size)
        else:
            given = read(folder).given
            rule, outputs = from_builtins(given["contract"], Contract), given["outputs"]
        yield _case(f"trained-{name}", about, rule, outputs, size)


def _run(network: str, seed: int, size: tuple[int, int]) -> tuple[Contract, list[Any]]:
    """Contract and raw outputs of a trained network on a scene, at a small input."""
    import msgspec
    import torch

    from edgekit.runtimes.inputs.images import Preprocessor
    from edgekit.shapes import trained, world

    model: Any = getattr(trained, network)()
    image = msgspec.structs.replace(model.contract.image, size=(INPUT, INPUT))
    tensor, _ = Preprocessor(image)(np.ascontiguousarray(world.scene(seed, size[::-1]).image))
    with torch.inference_mode():
        found = model(torch.from_numpy(tensor.copy()))
    outputs = [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]
    return msgspec.structs.replace(model.contract, image=image), outputs


# Families of detectors, with heads by recurrence.


def _pyramid(heads: Heads, roles: dict[str, tuple[int, float, float, int]]) -> list[Any]:
    """Heads level after level; a role has channels, low, high, and how many peaks on the finest level (then fewer)."""
    found = []
    for level, (rows, columns) in enumerate(GRIDS):
        for channels, low, high, count in roles.values():
            peaks = heads.peaks(channels, rows, columns, count >> level) if count else []
            found.append(heads.noise((1, channels, rows, columns), low, high, peaks))
    return found


def _anchor_free() -> Iterator[Planned]:
    n = len(CLASSES)
    dfl = contract("anchor_free", {"strides": STRIDES, "reg_max": 16}, ("boxes", "classes"), levels=3)
    roles = {"boxes": (64, -2.0, 2.0, 0), "classes": (n, -9.0, -3.0, 24)}
    yield _case("anchor-free-dfl", "YOLOv8 and 11: distances as distributions", dfl, _pyramid(Heads(100), roles))
    plain = contract(
        "anchor_free", {"strides": STRIDES, "reg_max": 1}, ("boxes", "classes"), levels=3, nms=False, max_detections=9
    )
    roles = {"boxes": (4, 0.2, 2.5, 0), "classes": (n, -9.0, -3.0, 24)}
    yield _case(
        "anchor-free-plain", "YOLO26: plain distances, no NMS, nine at most", plain, _pyramid(Heads(110), roles)
    )
    nano = contract(
        "anchor_free", {"strides": STRIDES, "reg_max": 8, "cell_offset": 0.0}, ("boxes", "classes"), levels=3
    )
    roles = {"boxes": (32, -2.0, 2.0, 0), "classes": (n, -9.0, -3.0, 24)}
    yield _case("anchor-free-corner", "NanoDet-Plus: from the corner of a cell", nano, _pyramid(Heads(120), roles))
    agnostic = contract(
        "anchor_free",
        {"strides": STRIDES, "reg_max": 1},
        ("boxes", "classes"),
        levels=3,
        class_agnostic=True,
        image={"resize": "crop", "crop": 0.875},
    )
    roles = {"boxes": (4, 0.5, 3.5, 0), "classes": (n, -9.0, -3.0, 40)}
    yield _case(
        "anchor-free-agnostic", "NMS across classes, a crop", agnostic, _pyramid(Heads(130), roles), score=0.4, iou=0.3
    )
    for name, options, values in (
        ("anchor-free-keypoints", {}, 3),
        ("anchor-free-keypoints-26", {"keypoint_scale": 1.0, "keypoint_offset": 0.5}, 2),
    ):
        pose = contract(
            "anchor_free",
            {"strides": STRIDES, "reg_max": 1, **options},
            ("boxes", "classes", "keypoints"),
            levels=3,
            task="pose",
            skeleton=ARROW,
            classes=("arrow",),
            image={"resize": "stretch"},
        )
        roles = {
            "boxes": (4, 0.2, 2.5, 0),
            "classes": (1, -9.0, -3.0, 8),
            "keypoints": (values * len(ARROW.names), -1.5, 1.5, 0),
        }
        about = f"keypoints of {values} values with a skeleton of four"
        yield _case(name, about, pose, _pyramid(Heads(140 + values), roles))
    segment = contract(
        "anchor_free",
        {"strides": STRIDES, "reg_max": 1},
        ("boxes", "classes", "coefficients"),
        levels=3,
        task="segment",
        once=("prototypes",),
        image={"align": "corner"},
    )
    roles = {"boxes": (4, 0.5, 2.5, 0), "classes": (n, -9.0, -3.0, 16), "coefficients": (6, -1.0, 1.0, 0)}
    heads = Heads(150)
    outputs = [*_pyramid(heads, roles), heads.noise((1, 6, 16, 24), -1, 1)]
    yield _case("anchor-free-masks", "masks of noise: the most pixels at edges", segment, outputs, (200, 120))


def _oriented() -> Iterator[Planned]:
    n = len(CLASSES)
    for name, options, low, high in (("dfl", {"reg_max": 16}, -3.0, 3.0), ("radians", {"reg_max": 1}, -0.7, 2.2)):
        if name == "radians":
            options = {**options, "angle": "radians"}
        rule = contract(
            "anchor_free",
            {"strides": STRIDES, **options},
            ("boxes", "classes", "angles"),
            levels=3,
            task="obb",
            image={"resize": "stretch" if name == "radians" else "letterbox"},
            nms=name == "dfl",
        )
        boxes = (64, -2.0, 2.0, 0) if name == "dfl" else (4, 0.3, 2.5, 0)
        roles = {"boxes": boxes, "classes": (n, -9.0, -3.0, 24), "angles": (1, low, high, 0)}
        yield _case(f"oriented-{name}", f"boxes at any angle: {name}", rule, _pyramid(Heads(160 + n), roles))
    whole = contract("decoded", {"attached": 1}, ("predictions",), task="obb", classes=("ship",))
    heads = Heads(170)
    table = np.concatenate(
        [
            one.array()
            for one in (heads.noise((1, 4, 30), 8, 60), heads.noise((1, 1, 30), 0, 1), heads.noise((1, 1, 30), -2, 2))
        ],
        1,
    )
    yield _case("oriented-decoded", "decoded by the graph, the angle behind the class", whole, [table])


def _anchors() -> Iterator[Planned]:
    sizes = [[[10, 13], [16, 30]], [[30, 61], [62, 45]], [[59, 40], [80, 60]]]
    n = 2 * (5 + len(CLASSES))
    for way in ("squared", "exponential"):
        rule = contract("anchors", {"strides": STRIDES, "anchors": sizes, "sizes": way}, ("predictions",), levels=3)
        outputs = _pyramid(Heads(200), {"predictions": (n, -2.5, 1.5, 60)})
        yield _case(f"anchors-{way}", f"YOLOv5 and v7, or YOLOv3: {way} sizes", rule, outputs, score=0.5)


def _grid() -> Iterator[Planned]:
    n = len(CLASSES)
    rule = contract(
        "grid", {"strides": STRIDES}, ("boxes", "objectness", "classes"), levels=3, image={"align": "corner"}
    )
    roles = {"boxes": (4, -0.5, 1.5, 0), "objectness": (1, -3.0, 2.0, 16), "classes": (n, -6.0, 1.0, 40)}
    yield _case("grid-yolox", "YOLOX: objectness times class", rule, _pyramid(Heads(300), roles))
    face = contract(
        "grid",
        {"strides": STRIDES, "power": 0.5},
        ("boxes", "objectness", "classes", "keypoints"),
        levels=3,
        task="pose",
        classes=("face",),
        skeleton=ARROW,
    )
    roles = {
        "boxes": (4, -0.5, 1.5, 0),
        "objectness": (1, -5.0, 1.0, 8),
        "classes": (1, -6.0, 1.0, 8),
        "keypoints": (8, -1.0, 2.0, 0),
    }
    yield _case("grid-yunet", "YuNet: the square root, landmarks", face, _pyramid(Heads(310), roles), score=0.4)


def _distances() -> Iterator[Planned]:
    n = len(CLASSES)
    rule = contract("distances", {"strides": STRIDES}, ("boxes", "classes"), levels=3)
    roles = {"boxes": (4, 0.2, 2.5, 0), "classes": (n, -9.0, -2.0, 24)}
    yield _case("distances-rtmdet", "RTMDet: plain distances", rule, _pyramid(Heads(400), roles))
    large = contract("distances", {"strides": STRIDES, "exponential": True}, ("boxes", "classes"), levels=3)
    roles = {"boxes": (4, -1.0, 1.0, 0), "classes": (n, -9.0, -2.0, 24)}
    yield _case("distances-exponential", "RTMDet's larger models: exponential", large, _pyramid(Heads(410), roles))
    fcos = contract(
        "distances",
        {"strides": STRIDES, "cell_offset": 0.5, "centerness": True, "power": 0.5},
        ("boxes", "classes", "centerness"),
        levels=3,
    )
    roles = {"boxes": (4, 0.2, 2.5, 0), "classes": (n, -9.0, -2.0, 24), "centerness": (1, -2.0, 2.0, 0)}
    yield _case("distances-fcos", "FCOS: a centerness, the square root", fcos, _pyramid(Heads(430), roles))
    face = contract(
        "distances",
        {"strides": STRIDES, "per_cell": 2},
        ("boxes", "classes", "keypoints"),
        levels=3,
        task="pose",
        classes=("face",),
        skeleton=ARROW,
    )
    roles = {"boxes": (8, 0.2, 2.5, 0), "classes": (2, -9.0, -2.0, 12), "keypoints": (16, -1.0, 1.0, 0)}
    yield _case("distances-scrfd", "SCRFD: two boxes a cell, landmarks", face, _pyramid(Heads(420), roles))


def _ssd() -> Iterator[Planned]:
    n, priors = len(CLASSES), [[[12, 12], [20, 10]], [[30, 30], [40, 20]], [[60, 60], [80, 40]]]
    base: Tree = {"strides": STRIDES, "priors": priors}
    for name, options in (
        ("softmax-first", {}),
        ("softmax-last", {"background": "last"}),
        ("sigmoid", {"score": "sigmoid", "order": "yxhw", "variances": [1.0, 1.0, 1.0, 1.0]}),
        ("corner", {"score": "sigmoid", "cell_offset": 0.0}),
    ):
        count = 2 * (n + (options.get("score") != "sigmoid"))
        rule = contract("ssd", {**base, **options}, ("boxes", "classes"), levels=3)
        roles = {"boxes": (8, -1.0, 1.0, 0), "classes": (count, -5.0, -2.0, 40)}
        yield _case(f"ssd-{name}", f"SSD priors: {name}", rule, _pyramid(Heads(500 + count), roles))
    for name, roles in (
        ("ssd-landmarks", {"boxes": (8, -1.0, 1.0, 0), "classes": (4, -4.0, 0.0, 20), "keypoints": (16, -2.0, 2.0, 0)}),
        ("ssd-blazeface", {"boxes": (24, -0.5, 0.5, 0), "classes": (2, -9.0, -2.0, 12)}),
    ):
        own = {"score": "sigmoid", "sizes": "plain", "variances": [1, 1, 1, 1]} if name == "ssd-blazeface" else {}
        face = contract("ssd", {**base, **own}, tuple(roles), levels=3, task="pose", classes=("face",), skeleton=ARROW)
        yield _case(name, "landmarks in heads of their own, or behind the box", face, _pyramid(Heads(520), roles))


def _centernet() -> Iterator[Planned]:
    def outputs(seed: int, classes: int, low: float, high: float, more: int = 0) -> list[Any]:
        heads, grid = Heads(seed), (16, 24)
        found = [
            heads.noise((1, classes, *grid), -8, -2, heads.peaks(classes, *grid, 20)),
            heads.noise((1, 2, *grid), low, high),
            heads.noise((1, 2, *grid), 0, 1),
        ]
        return [*found, heads.noise((1, more, *grid), -1, 2)] if more else found

    roles = ("classes", "sizes", "offsets")
    rule = contract("centernet", {}, roles, nms=False)
    yield _case("centernet", "CenterNet: peaks, plain sizes", rule, outputs(600, len(CLASSES), 1, 6))
    face = contract(
        "centernet",
        {"sizes": "exponential", "order": "yx", "cell_offset": 0.5, "keypoints": "box", "peaks": False},
        (*roles, "keypoints"),
        task="pose",
        classes=("face",),
        skeleton=ARROW,
    )
    yield _case("centernet-face", "CenterFace: exponential sizes, landmarks in boxes", face, outputs(610, 1, 0, 2, 8))
    cell = contract(
        "centernet", {"keypoints": "cell"}, (*roles, "keypoints"), task="pose", classes=("arrow",), skeleton=ARROW
    )
    yield _case("centernet-keypoints", "keypoints in cells from the cell's corner", cell, outputs(620, 1, 1, 6, 8))


def _fastestdet() -> Iterator[Planned]:
    n, grid, heads = len(CLASSES), (4, 6), Heads(700)
    rule = contract("fastestdet", {}, ("objectness", "boxes", "classes"))
    outputs = [heads.noise((1, 1, *grid), -4, 3), heads.noise((1, 4, *grid), -2, 1), heads.noise((1, n, *grid), -3, 3)]
    yield _case("fastestdet", "FastestDet's raw heads", rule, outputs, score=0.3)
    whole = contract("fastestdet", {"activated": True}, ("predictions",))
    yield _case("fastestdet-activated", "before its cut", whole, [heads.noise((1, 5 + n, *grid), 0, 1)], score=0.6)


def _decoded() -> Iterator[Planned]:
    n, count = len(CLASSES), 40
    heads = Heads(800)
    rule = contract("decoded", {}, ("predictions",))
    rows = [(4 * count + place, value) for place, value in heads.peaks(n, 1, count, 12, 0.3, 0.9)]
    yield _case(
        "decoded-channels",
        "a graph that decodes, (1, 4 + classes, n), centre and size",
        rule,
        [_spread(heads, (1, 4 + n, count), rows)],
    )
    yolo5 = contract("decoded", {"layout": "rows", "objectness": True, "normalized": True}, ("predictions",))
    yield _case("decoded-rows", "rows with an objectness, in shares", yolo5, [heads.noise((1, count, 5 + n), 0, 0.99)])
    apart_ = contract(
        "decoded", {"layout": "separate", "box_format": "xyxy", "logits": True}, ("boxes", "classes"), nms=True
    )
    outputs = [heads.noise((1, count, 4), 0, 64), heads.noise((1, count, n), -6, 1)]
    yield _case("decoded-separate", "corners in any order, logits", apart_, outputs, iou=0.5)
    end = contract("decoded", {"layout": "detections", "box_format": "xyxy"}, ("predictions",), nms=False)
    table = [
        [4.5, 8.25, 40.0, 50.5, 0.9, 1], [10, 12, 60, 60, 0.75, 4], [0, 0, 96, 64, 0.5, 0], [-9, -3, 120, 90, 0.31, 2],
        [1, 1, 2, 2, 0.25, 3], [0, 0, 0, 0, 0, -1],
    ]  # fmt: skip
    found = np.array([table], np.float32)
    yield _case("decoded-detections", "rows of an end-to-end graph, one at the threshold, one of padding", end, [found])
    pose = contract(
        "decoded",
        {"attached": 12},
        ("predictions",),
        task="pose",
        classes=("arrow",),
        skeleton=ARROW,
    )
    rows = [(4 * count + place, value) for place, value in heads.peaks(1, 1, count, 6, 0.3, 0.9)]
    yield _case("decoded-keypoints", "keypoints behind the class", pose, [_spread(heads, (1, 17, count), rows)])


def _spread(heads: Heads, shape: tuple[int, int, int], peaks: Sequence[tuple[int, float]]) -> Any:
    """Boxes within the input, classes near nothing but for peaks; what follows lies within the input, too."""
    whole = heads.noise(shape, 0, 60).array().copy()
    classes = slice(4, shape[1] if shape[1] < 17 else 5)
    whole[:, classes] /= 600
    for place, value in peaks:
        whole.reshape(-1)[place] = value
    return whole


def _queries() -> Iterator[Planned]:
    n, heads = len(CLASSES), Heads(900)
    for way in ("sigmoid", "softmax"):
        rule = contract("queries", {"score": way}, ("classes", "boxes"), nms=False, image={"resize": "stretch"})
        logits = heads.noise((1, 30, n + (way == "softmax")), -6, -1, heads.peaks(30, 1, n, 12))
        yield _case(f"queries-{way}", f"a detection transformer: {way}", rule, [logits, heads.noise((1, 30, 4), 0, 1)])


# Poses of one person, whole images.

POINTS = Skeleton(names=("a", "b", "c", "d", "e"))


def _person() -> Iterator[Planned]:
    heads, image = Heads(1000), {"size": (64, 48)}
    for name, options in (
        ("none", {"refine": "none"}),
        ("quarter", {}),
        ("dark", {"refine": "dark", "kernel": 3}),
        ("dark-udp", {"refine": "dark", "kernel": 11, "aligned": True}),
    ):
        rule = contract(
            "heatmaps", options, ("heatmaps",), task="pose", classes=("person",), skeleton=POINTS, image=image
        )
        maps = np.stack([_bump(16, 12, 3.3 + 2 * k, 2.2 + 1.7 * k, 0.95 - 0.1 * k) for k in range(5)])
        yield _case(
            f"heatmaps-{name}", f"heatmaps, refined by {name}", rule, [maps[None].astype(np.float32)], score=0.1
        )
    simcc = contract("simcc", {}, ("x", "y"), task="pose", classes=("person",), skeleton=POINTS, image=image)
    outputs = [heads.noise((1, 5, 96), 0, 0.9), heads.noise((1, 5, 128), 0, 1.2)]
    yield _case("simcc", "two classifications a keypoint", simcc, outputs)
    table = np.array(
        [[[0.25, 0.5, 0.9], [0.3, 0.6, 0.8], [0.9, 0.1, 0.1], [1.1, 0.2, 0.6], [0.5, 0.5, 0.3]]], np.float32
    )
    for order in ("xys", "yxs"):
        rule = contract(
            "keypoints",
            {"order": order},
            ("predictions",),
            task="pose",
            classes=("person",),
            skeleton=POINTS,
            image=image,
        )
        yield _case(f"keypoints-{order}", "keypoints of one person, one of them unsure", rule, [table])
    coco = tuple(f"k{number}" for number in range(17))
    move = contract(
        "movenet",
        {},
        ("centers", "regressions", "heatmaps", "offsets"),
        task="pose",
        classes=("person",),
        skeleton=Skeleton(names=coco),
        image={"size": (48, 48)},
    )
    grid = (12, 12)
    outputs = [
        heads.noise((1, 1, *grid), -4, 1),
        heads.noise((1, 34, *grid), -4, 4),
        heads.noise((1, 17, *grid), -4, 3),
        heads.noise((1, 34, *grid), -1, 1),
    ]
    yield _case("movenet", "MoveNet's raw heads", move, outputs, score=0.1)


def _bump(rows: int, columns: int, y: float, x: float, height: float) -> Any:
    row, column = np.mgrid[0:rows, 0:columns]
    return np.round(height * np.exp(-((row - y) ** 2 + (column - x) ** 2) / 4.5), 6)


def _whole() -> Iterator[Planned]:
    logits = np.array([[1.5, -2.0, 1.5, 4.25, 0.0]], np.float32)
    for name, options, values in (
        ("softmax", {}, logits),
        ("sigmoid", {"activation": "sigmoid"}, logits),
        ("activated", {"activated": True}, np.array([[0.1, 0.2, 0.2, 0.4, 0.1]], np.float32)),
    ):
        rule = contract("classes", options, ("logits",), task="classify")
        yield _case(f"classes-{name}", f"classification, {name}, with a tie", rule, [values])
    rule = contract("vector", {}, ("vector",), task="embed", classes=())
    yield _case("vector", "an embedding at unit length", rule, [Heads(1100).noise((1, 48, 1, 1), -3, 3)])
    yield _case("vector-zero", "a vector of zeros stays", rule, [np.zeros((1, 8), np.float32)])
    for way in ("softmax", "sigmoid"):
        channels = len(CLASSES) - (way == "sigmoid")
        label = contract("semantic", {"score": way}, ("logits",), task="semantic")
        values = np.stack([_bump(16, 24, 3 + 3 * k, 4 + 4 * k, 6) for k in range(channels)])[None] - 2.0
        yield _case(f"semantic-{way}", f"a label map: {way}", label, [values.astype(np.float32)], (90, 130))


FAMILIES: tuple[Callable[[], Iterator[Planned]], ...] = (
    _anchor_free, _oriented, _anchors, _grid, _distances, _ssd, _centernet, _fastestdet, _decoded, _queries, _person,
    _whole,
)  # fmt: skip


# What goes wrong, and what is large.


def _hostile() -> Iterator[Planned]:
    n = len(CLASSES)
    rule = contract("anchor_free", {"strides": STRIDES, "reg_max": 1}, ("boxes", "classes"), levels=3)

    def same(value: float, low: float = 0.5, high: float = 2.5) -> list[Any]:
        return _pyramid(Heads(1200), {"boxes": (4, low, high, 0), "classes": (n, value, value, 0)})

    yield _case("hostile-empty", "nothing above the threshold", rule, same(-9.0))
    yield _case(
        "hostile-all", "everything above the threshold, all scores equal: first come, first kept", rule, same(2.0)
    )
    yield _case("hostile-all-one-place", "all boxes alike but for their cells", rule, same(2.0, 1.0, 1.0), iou=0.1)
    capped = contract(
        "anchor_free", {"strides": STRIDES, "reg_max": 1}, ("boxes", "classes"), levels=3, max_detections=5
    )
    yield _case("hostile-capped", "five detections at most", capped, same(2.0))
    yield _case("hostile-nothing-inside", "boxes without an area", rule, same(1.0, -1.0, -1.0))
    yield _case("hostile-zero-threshold", "a threshold of 0", rule, same(-3.0), score=0.0)
    yield _case("hostile-one-threshold", "a threshold of 1", rule, same(9.0), score=1.0)
    for name, value in (("nan", np.nan), ("infinity", np.inf)):
        heads = [one.array().copy() for one in same(-9.0)]
        heads[3][0, 1, 2, 3] = value
        broken = _case(f"hostile-{name}-class", f"a score that is {name}", rule, heads)
        yield dataclasses.replace(broken, expected={"error": "not-finite"})
    heads = [one.array().copy() for one in same(2.0)]
    heads[0][0, 1, 2, 3] = np.nan
    broken = _case("hostile-nan-box", "a box that is NaN", rule, heads)
    yield dataclasses.replace(broken, expected={"error": "not-finite"})
    heads = [one.array().copy() for one in same(-9.0)]
    heads[0][0, 1, 2, 3] = np.nan
    yield _case("hostile-nan-unread", "NaN in a box that nobody reads", rule, heads)
    outputs = same(2.0)
    shaped = _case("hostile-shape", "an output of another shape", rule, [outputs[0], *outputs[2:], outputs[1]])
    yield dataclasses.replace(shaped, expected={"error": "contract"})
    few = _case("hostile-few", "an output is missing", rule, outputs[:-1])
    yield dataclasses.replace(few, expected={"error": "contract"})
    yield _large()


def _large() -> Planned:
    """A detector of 640 x 640, 80 classes and 8,400 anchors."""
    classes = tuple(f"class {number}" for number in range(80))
    rule = contract(
        "anchor_free",
        {"strides": STRIDES, "reg_max": 16},
        ("boxes", "classes"),
        levels=3,
        classes=classes,
        image={"size": (640, 640)},
    )
    heads, outputs = Heads(1300), []
    for side, count in ((80, 40), (40, 20), (20, 10)):
        outputs.append(heads.noise((1, 64, side, side), -3, 3))
        outputs.append(heads.noise((1, 80, side, side), -12, -4, heads.peaks(80, side, side, count, -1, 4)))
    return _case("large-8400", "8,400 anchors of 80 classes", rule, outputs, (1280, 853))


def _controls(recorded: Path) -> Iterator[Planned]:
    (source,) = (plan for plan in _anchor_free() if plan.name == "anchor-free-dfl")
    (mask,) = (plan for plan in _trained(recorded) if plan.name == "trained-segment")
    (pose,) = (plan for plan in _anchor_free() if plan.name == "anchor-free-keypoints")
    oriented = next(_oriented())

    def half(expected: Tree) -> None:
        expected["boxes"] = expected["boxes"] + np.float32(0.5)

    def less(expected: Tree) -> None:
        expected["scores"][0] -= 1e-4

    def other(expected: Tree) -> None:
        expected["class_ids"][0] = (expected["class_ids"][0] + 1) % len(CLASSES)

    def doubled(expected: Tree) -> None:
        for name in ("boxes", "scores", "class_ids"):
            expected[name] = np.concatenate([expected[name], expected[name][-1:]])

    def swapped(expected: Tree) -> None:
        expected["keypoints"] = expected["keypoints"][:, [1, 0, 2, 3]].copy()

    def turned(expected: Tree) -> None:
        expected["oriented"][0, 4] += 0.001

    def moved(expected: Tree) -> None:
        first = expected["masks"][0]
        shifted = np.roll(Masks.from_rle([first]).bitmap(0), 1, 1)
        expected["masks"][0] = Masks.from_bitmaps(shifted[None]).to_rle()[0]

    for name, plan, spoil in (
        ("half-pixel", source, half),
        ("score", source, less),
        ("class", source, other),
        ("one-too-many", source, doubled),
        ("keypoints-swapped", pose, swapped),
        ("mask-moved", mask, moved),
        ("turned", oriented, turned),
    ):
        yield dataclasses.replace(plan, name=f"must-fail-{name}", about=f"planted: {name}", spoil=spoil)


# Reading.


def answer(given: Tree, folder: Path) -> Tree:
    """The decoded result."""
    rule = from_builtins(given["contract"], Contract)
    mapping = transform(rule.image, given["width"], given["height"])
    try:
        found = open_task(rule).result(given["outputs"], mapping, score=given.get("score"), iou=given.get("iou"))
    except EngineError:
        return {"error": "not-finite"}
    except ContractError:
        return {"error": "contract"}
    if isinstance(found, LabelMap):
        return {"labels": found.labels}
    if isinstance(found, Embedding):
        return {"vector": found.vector}
    if isinstance(found, Classification):
        top, labels = found.top_ids(len(found.classes)), found.labels()
        return {"scores": found.scores, "top_ids": np.array(top), "labels": labels}
    if not isinstance(found, Detections):
        raise TypeError(f"no answer of {type(found).__name__}")
    answer: Tree = {"boxes": found.boxes, "scores": found.scores, "class_ids": found.class_ids}
    if isinstance(found, OrientedBoxes):
        answer["oriented"] = found.oriented
    if isinstance(found, Poses):
        answer["keypoints"] = found.keypoints
    if isinstance(found, Instances) and found.masks is not None:
        answer["masks"] = found.masks.to_rle()
    return answer


def differences(case: Case, answered: Tree) -> list[str]:
    """Boxes, scores, keypoints, masks and labels that are further apart than the case allows."""
    expected, tolerance = dict(case.expected), case.tolerance
    if expected.keys() != answered.keys():
        return [f"gives {sorted(answered)}, not {sorted(expected)}"]
    answered = dict(answered)
    found = []
    if "masks" in expected:
        found += _masks(expected.pop("masks"), answered.pop("masks"), tolerance["mask_pixels"])
    if "labels" in expected and "scores" not in expected:
        one, other = expected.pop("labels"), answered.pop("labels")
        count = int((one != other).sum()) if one.shape == other.shape else one.size
        if count > tolerance["label_pixels"]:
            found.append(f"labels: {count} pixels differ, {tolerance['label_pixels']} may")
    if "keypoints" in expected:
        one, other = expected.pop("keypoints"), answered.pop("keypoints")
        found += apart({"places": one[..., :2]}, {"places": other[..., :2]}, {"places": tolerance["keypoint"]})
        found += apart({"visible": one[..., 2]}, {"visible": other[..., 2]}, {"visible": tolerance["score"]})
    if "oriented" in expected:
        one, other = expected.pop("oriented"), answered.pop("oriented")
        found += apart({"oriented": one[:, :4]}, {"oriented": other[:, :4]}, {"oriented": tolerance["box"]})
        found += apart({"angles": one[:, 4]}, {"angles": other[:, 4]}, {"angles": tolerance["angle"]})
    allowed = {"boxes": tolerance["box"], "scores": tolerance["score"], "vector": tolerance["score"]}
    return found + apart(expected, answered, allowed)


def _masks(expected: list[Tree], answered: list[Tree], most: int) -> list[str]:
    if len(expected) != len(answered):
        return [f"masks: {len(answered)}, not {len(expected)}"]
    pairs = zip(expected, answered, strict=True)
    counts = [int((Masks.from_rle([a]).bitmap(0) != Masks.from_rle([b]).bitmap(0)).sum()) for a, b in pairs]
    return [f"masks[{i}]: {count} pixels differ, {most} may" for i, count in enumerate(counts) if count > most]
