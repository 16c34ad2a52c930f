"""Decoders against plain ones that decode every anchor, NMS against a greedy loop, results in original pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgekit.arrays import Floats
from edgekit.errors import ContractError, EngineError
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output, Postprocess
from edgekit.runtimes.inputs.images import Preprocessor, transform
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.decoders import (
    Candidates,
    Frame,
    Heads,
    NoOptions,
    decoder,
    every_decoder,
    logit,
    sigmoid,
    softmax,
)
from edgekit.runtimes.tasks.decoders.base import DECODERS
from edgekit.runtimes.tasks.detect import Detect
from edgekit.runtimes.tasks.nms import non_maximum_suppression

torch = pytest.importorskip("torch", reason="the oracles are written in torch (extra 'convert')")

SIZE = (32, 48)
STRIDES = (8, 16)
PRIORS = (((6.0, 9.0), (12.0, 5.0)), ((20.0, 30.0), (25.0, 14.0)))
CLASSES = 5
THRESHOLDS = (-1.0, 0.0, 0.001, 0.25, 0.5, 0.9, 1.0)
quick = settings(deadline=None, suppress_health_check=list(HealthCheck))
Oracle = list[tuple[float, int, list[float]]]
"""One entry for each anchor, in the network's order: score, class, box."""


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(every_decoder())
    yield
    DECODERS.clear()
    DECODERS.update(before)


def task(
    name: str, options: dict[str, Any], roles: Sequence[tuple[str, int]], classes: int = CLASSES, **post: Any
) -> Detect:
    """A detection task on an input of 32 x 48 pixels (height x width)."""
    return Detect(
        Contract(
            image=ImageRule(size=SIZE),
            classes=tuple(f"c{index}" for index in range(classes)),
            decoder=Decoder(name=name, options=options),
            outputs=tuple(Output(name=f"{role}{level}", role=role, level=level) for role, level in roles),
            postprocess=Postprocess(**post),
        )
    )


def head(seed: int, channels: int, stride: int, scale: float = 2.0) -> Floats:
    random = np.random.default_rng([seed, channels, stride])
    shape = (1, channels, SIZE[0] // stride, SIZE[1] // stride)
    return (random.standard_normal(shape) * scale).astype(np.float32)


def cells(array: Floats) -> list[tuple[int, int]]:
    return [(row, column) for row in range(array.shape[2]) for column in range(array.shape[3])]


def centred(x: float, y: float, width: float, height: float) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


# --- the families: a task, its heads, and an oracle ---


def anchor_free(seed: int, reg_max: int) -> tuple[Detect, list[Floats], Oracle]:
    """YOLOv8: Ultralytics' DFL and dist2bbox, cell by cell."""
    roles = [(role, level) for level in range(2) for role in ("boxes", "classes")]
    made = task("anchor_free", {"strides": list(STRIDES), "reg_max": reg_max}, roles)
    arrays, oracle = [], []
    for stride in STRIDES:
        boxes, classes = head(seed, 4 * reg_max, stride), head(seed + 1, CLASSES, stride)
        arrays += [boxes, classes]
        for row, column in cells(classes):
            sides = torch.tensor(boxes[0, :, row, column], dtype=torch.float64).reshape(4, reg_max)
            if reg_max > 1:
                sides = (sides.softmax(1) * torch.arange(reg_max)).sum(1, keepdim=True)
            left, top, right, bottom = (float(side) * stride for side in sides)
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            scores = torch.tensor(classes[0, :, row, column], dtype=torch.float64).sigmoid()
            oracle.append((float(scores.max()), int(scores.argmax()), [x - left, y - top, x + right, y + bottom]))
    return made, arrays, oracle


def grid(seed: int, power: float = 1.0) -> tuple[Detect, list[Floats], Oracle]:
    """YOLOX: demo_postprocess of its paper's code. With the power 0.5 the score of OpenCV's FaceDetectorYN."""
    roles = [(role, level) for role in ("classes", "objectness", "boxes") for level in range(2)]
    made = task("grid", {"strides": list(STRIDES), "power": power}, roles)
    arrays = [head(seed, channels, stride) for channels in (CLASSES, 1, 4) for stride in STRIDES]
    oracle = []
    for level, stride in enumerate(STRIDES):
        classes, objectness, boxes = arrays[level], arrays[2 + level], arrays[4 + level]
        for row, column in cells(classes):
            scores = torch.tensor(classes[0, :, row, column], dtype=torch.float64).sigmoid()
            scores = scores * torch.tensor(objectness[0, 0, row, column], dtype=torch.float64).sigmoid()
            x, y, width, height = (float(value) for value in boxes[0, :, row, column])
            box = centred(
                (x + column) * stride, (y + row) * stride, math.exp(width) * stride, math.exp(height) * stride
            )
            oracle.append((float(scores.max()) ** power, int(scores.argmax()), box))
    return made, arrays, oracle


def fastestdet(seed: int, activated: bool) -> tuple[Detect, list[Floats], Oracle]:
    """score = obj^0.6 * max class^0.4, centre = (tanh(x, y) + cell) / grid, size = sigmoid(w, h)."""
    objectness, boxes, classes = head(seed, 1, 16), head(seed, 4, 16), head(seed + 1, CLASSES, 16)
    presence = torch.tensor(objectness).double().sigmoid()
    probability = torch.tensor(classes).double().softmax(1)
    oracle, (rows, columns) = [], classes.shape[2:]
    for row, column in cells(classes):
        score = presence[0, 0, row, column] ** 0.6 * probability[0, :, row, column].max() ** 0.4
        x, y, width, height = torch.tensor(boxes[0, :, row, column]).double()
        box = centred(
            float((x.tanh() + column) / columns) * SIZE[1],
            float((y.tanh() + row) / rows) * SIZE[0],
            float(width.sigmoid()) * SIZE[1],
            float(height.sigmoid()) * SIZE[0],
        )
        oracle.append((float(score), int(probability[0, :, row, column].argmax()), box))
    if activated:
        fused = np.concatenate([presence.numpy(), boxes, probability.numpy()], 1).astype(np.float32)
        return task("fastestdet", {"activated": True}, [("predictions", 0)]), [fused], oracle
    return (
        task("fastestdet", {}, [("objectness", 0), ("boxes", 0), ("classes", 0)]),
        [objectness, boxes, classes],
        oracle,
    )


def ssd(
    seed: int, score: str, background: str = "first", sizes: str = "log", order: str = "xywh"
) -> tuple[Detect, list[Floats], Oracle]:
    """SSD: torchvision's order of priors (row, column, prior) and its box coder; EfficientDet's y, x, h, w; MediaPipe's
    plain sizes. Levels with different numbers of priors."""
    all_priors = (*PRIORS[:1], (*PRIORS[1], (9.0, 9.0)))
    options = {
        "strides": list(STRIDES),
        "priors": [[list(size) for size in level] for level in all_priors],
        "score": score,
        "background": background,
        "variances": [0.1, 0.15, 0.2, 0.25],
        "sizes": sizes,
        "order": order,
    }
    made = task("ssd", options, [("boxes", 0), ("classes", 0), ("boxes", 1), ("classes", 1)])
    kinds, arrays, oracle = CLASSES + (score == "softmax"), [], []
    for stride, priors in zip(STRIDES, all_priors, strict=True):
        boxes, classes = head(seed, 4 * len(priors), stride), head(seed + 1, kinds * len(priors), stride)
        arrays += [boxes, classes]
        for row, column in cells(classes):
            for index, (prior_width, prior_height) in enumerate(priors):
                dx, dy, dw, dh = (float(value) for value in boxes[0, 4 * index : 4 * index + 4, row, column])
                dx, dy, dw, dh = (dx, dy, dw, dh) if order == "xywh" else (dy, dx, dh, dw)
                logits = torch.tensor(classes[0, kinds * index : kinds * (index + 1), row, column]).double()
                scores = logits.softmax(0) if score == "softmax" else logits.sigmoid()
                if score == "softmax":
                    scores = scores[1:] if background == "first" else scores[:-1]
                x = (column + 0.5) * stride + 0.1 * dx * prior_width
                y = (row + 0.5) * stride + 0.15 * dy * prior_height
                grown = math.exp if sizes == "log" else float
                box = centred(x, y, grown(0.2 * dw) * prior_width, grown(0.25 * dh) * prior_height)
                oracle.append((float(scores.max()), int(scores.argmax()), box))
    return made, arrays, oracle


def anchors(seed: int, sizes: str) -> tuple[Detect, list[Floats], Oracle]:
    """YOLOv5's Detect.forward at inference, and YOLOv3's paper, anchor by anchor in its own order of rows."""
    options = {"strides": list(STRIDES), "anchors": [[list(size) for size in level] for level in PRIORS]}
    made = task("anchors", {**options, "sizes": sizes}, [("predictions", 0), ("predictions", 1)])
    arrays, oracle = [], []
    for stride, level in zip(STRIDES, PRIORS, strict=True):
        raw = head(seed, len(level) * (5 + CLASSES), stride)
        arrays.append(raw)
        table = torch.tensor(raw[0], dtype=torch.float64).reshape(len(level), 5 + CLASSES, *raw.shape[2:])
        for (width, height), rows in zip(level, table, strict=True):
            for row, column in cells(raw):
                logits = rows[:, row, column]
                x, y, w, h, presence, *scores = logits.sigmoid().tolist()
                best = presence * max(scores)
                if sizes == "squared":
                    place = ((2 * x - 0.5 + column) * stride, (2 * y - 0.5 + row) * stride)
                    box = centred(*place, (2 * w) ** 2 * width, (2 * h) ** 2 * height)
                else:
                    grown = (math.exp(float(logits[2])) * width, math.exp(float(logits[3])) * height)
                    box = centred((x + column) * stride, (y + row) * stride, *grown)
                oracle.append((best, scores.index(max(scores)), box))
    return made, arrays, oracle


def distances(seed: int, per_cell: int, offset: float, exponential: bool) -> tuple[Detect, list[Floats], Oracle]:
    """mmdet's MlvlPointGenerator and distance2bbox; insightface's SCRFD with its two anchors a cell."""
    options = {"strides": list(STRIDES), "per_cell": per_cell, "cell_offset": offset, "exponential": exponential}
    made = task("distances", options, [("boxes", 0), ("classes", 0), ("boxes", 1), ("classes", 1)])
    arrays, oracle = [], []
    for stride in STRIDES:
        boxes, classes = head(seed, 4 * per_cell, stride), head(seed + 1, CLASSES * per_cell, stride)
        arrays += [boxes, classes]
        for row, column in cells(classes):
            for kind in range(per_cell):
                sides = [float(value) for value in boxes[0, 4 * kind : 4 * kind + 4, row, column]]
                left, top, right, bottom = (stride * (math.exp(side) if exponential else side) for side in sides)
                x, y = (column + offset) * stride, (row + offset) * stride
                logits = torch.tensor(classes[0, CLASSES * kind : CLASSES * (kind + 1), row, column]).double()
                scores = logits.sigmoid()
                oracle.append((float(scores.max()), int(scores.argmax()), [x - left, y - top, x + right, y + bottom]))
    return made, arrays, oracle


def centernet(seed: int, **options: Any) -> tuple[Detect, list[Floats], Oracle]:
    """CenterNet's ctdet_decode and CenterFace's decode, cell by cell, of every cell."""
    made = task("centernet", {"stride": 8, "peaks": False, **options}, [("classes", 0), ("sizes", 0), ("offsets", 0)])
    classes, sizes, offsets = head(seed, CLASSES, 8), head(seed + 1, 2, 8), head(seed + 2, 2, 8)
    oracle = []
    for row, column in cells(classes):
        scores = torch.tensor(classes[0, :, row, column]).double().sigmoid()
        first, second = (float(value) for value in sizes[0, :, row, column])
        right, down = (float(value) for value in offsets[0, :, row, column])
        if options:  # CenterFace's: rows first, exponential, from the centre of the cell
            first, second, right, down = math.exp(second), math.exp(first), down + 0.5, right + 0.5
        box = centred((column + right) * 8, (row + down) * 8, first * 8, second * 8)
        oracle.append((float(scores.max()), int(scores.argmax()), box))
    return made, [classes, sizes, offsets], oracle


def decoded(seed: int, layout: str, **options: Any) -> tuple[Detect, list[Floats], Oracle]:
    """A table of boxes that needs no more than reading."""
    random = np.random.default_rng(seed)
    count, logits = 40, bool(options.get("logits"))
    boxes = np.sort(random.random((count, 2, 2)), 1).reshape(count, 4)  # xyxy, 0..1
    values = random.normal(size=(count, CLASSES)) if logits else random.random((count, CLASSES))
    presence = random.normal(size=(count, 1)) if logits else random.random((count, 1))
    written = boxes * (1 if options.get("normalized") else np.array([SIZE[1], SIZE[0]] * 2))
    if options.get("box_format", "xywh") == "xywh":
        written = np.concatenate([(written[:, :2] + written[:, 2:]) / 2, written[:, 2:] - written[:, :2]], 1)
    activate = (lambda array: 1 / (1 + np.exp(-array))) if logits else (lambda array: array)
    scores = activate(values) * (activate(presence) if options.get("objectness") else 1.0)
    oracle = [
        (float(row.max()), int(row.argmax()), [x1 * SIZE[1], y1 * SIZE[0], x2 * SIZE[1], y2 * SIZE[0]])
        for row, (x1, y1, x2, y2) in zip(scores, boxes, strict=True)
    ]
    options = {"layout": layout, **options}
    if layout == "detections":
        table = np.column_stack([written, scores.max(1), scores.argmax(1)]).astype(np.float32)
        return task("decoded", options, [("predictions", 0)]), [table[None]], oracle
    extra = [presence] if options.get("objectness") else []
    if layout == "separate":
        arrays = [written.astype(np.float32)[None], np.concatenate([*extra, values], 1).astype(np.float32)[None]]
        return task("decoded", options, [("boxes", 0), ("classes", 0)]), arrays, oracle
    table = np.concatenate([written, *extra, values], 1).astype(np.float32)
    table = table if layout == "rows" else table.T
    return task("decoded", options, [("predictions", 0)]), [np.ascontiguousarray(table)[None]], oracle


FAMILIES: dict[str, Any] = {
    "anchor_free with DFL": lambda seed: anchor_free(seed, 16),
    "anchor_free with 7 bins": lambda seed: anchor_free(seed, 7),
    "anchor_free without DFL": lambda seed: anchor_free(seed, 1),
    "grid": grid,
    "fastestdet": lambda seed: fastestdet(seed, False),
    "fastestdet activated": lambda seed: fastestdet(seed, True),
    "ssd softmax": lambda seed: ssd(seed, "softmax"),
    "ssd softmax, background last": lambda seed: ssd(seed, "softmax", "last"),
    "ssd sigmoid": lambda seed: ssd(seed, "sigmoid"),
    "ssd plain sizes": lambda seed: ssd(seed, "sigmoid", sizes="plain"),
    "ssd of EfficientDet": lambda seed: ssd(seed, "sigmoid", order="yxhw"),
    "grid of YuNet": lambda seed: grid(seed, 0.5),
    "anchors squared": lambda seed: anchors(seed, "squared"),
    "anchors exponential": lambda seed: anchors(seed, "exponential"),
    "distances": lambda seed: distances(seed, 1, 0.0, False),
    "distances exponential": lambda seed: distances(seed, 1, 0.5, True),
    "distances of SCRFD": lambda seed: distances(seed, 2, 0.0, False),
    "centernet": centernet,
    "centernet of CenterFace": lambda seed: centernet(seed, sizes="exponential", order="yx", cell_offset=0.5),
    "decoded channels": lambda seed: decoded(seed, "channels"),
    "decoded rows xyxy": lambda seed: decoded(seed, "rows", box_format="xyxy"),
    "decoded rows normalized": lambda seed: decoded(seed, "rows", normalized=True),
    "decoded yolov5": lambda seed: decoded(seed, "rows", objectness=True),
    "decoded yolov5 logits": lambda seed: decoded(seed, "channels", objectness=True, logits=True),
    "decoded logits": lambda seed: decoded(seed, "rows", logits=True),
    "decoded detections": lambda seed: decoded(seed, "detections", box_format="xyxy"),
    "decoded separate": lambda seed: decoded(seed, "separate", box_format="xyxy", normalized=True),
    "decoded separate logits": lambda seed: decoded(seed, "separate", logits=True),
}


def same(found: Candidates, oracle: Oracle, threshold: float) -> None:
    """Exactly the oracle's anchors above the threshold; those within rounding of it may be on either side."""
    sure = {index for index, (score, _, _) in enumerate(oracle) if score > threshold + 1e-5}
    possible = {index for index, (score, _, _) in enumerate(oracle) if score > threshold - 1e-5}
    anchors = found.anchors.tolist()
    assert len(anchors) == len(set(anchors))
    assert sure <= set(anchors) <= possible
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.class_ids.dtype == found.anchors.dtype == np.int64
    assert found.boxes.shape == (len(anchors), 4)
    for index, box, score, class_id in zip(anchors, found.boxes, found.scores, found.class_ids, strict=True):
        expected_score, expected_class, expected_box = oracle[index]
        assert class_id == expected_class
        np.testing.assert_allclose(score, expected_score, atol=2e-6)
        np.testing.assert_allclose(box, expected_box, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_oracle(family: str, threshold: float) -> None:
    made, arrays, oracle = FAMILIES[family](11)
    found = made.candidates(arrays, threshold)
    same(found, oracle, threshold)
    assert len(found) == (len(oracle) if threshold <= 0 else 0 if threshold == 1 else len(found))


def test_an_oracle_would_notice_a_shift() -> None:
    """Negative control: half a cell, and one class."""
    made, arrays, oracle = anchor_free(11, 16)
    with pytest.raises(AssertionError):
        same(made.candidates(arrays, 0.5), [(s, c, [v + 4 for v in box]) for s, c, box in oracle], 0.5)
    with pytest.raises(AssertionError):
        same(made.candidates(arrays, 0.5), [(s, (c + 1) % CLASSES, box) for s, c, box in oracle], 0.5)


@quick
@given(family=st.sampled_from(list(FAMILIES)), seed=st.integers(0, 10**6), threshold=st.floats(0.01, 0.99))
def test_thresholding_first_gives_the_same_set(family: str, seed: int, threshold: float) -> None:
    made, arrays, oracle = FAMILIES[family](seed)
    every = made.candidates(arrays, -1.0)
    same(every, oracle, -1.0)
    assume(np.abs(every.scores - threshold).min() > 1e-6)
    some = made.candidates(arrays, threshold)
    keep = every.scores > threshold
    order, kept = np.argsort(some.anchors), np.argsort(every.anchors[keep])
    for name in ("anchors", "class_ids", "scores", "boxes"):
        got, wanted = getattr(some, name)[order], getattr(every, name)[keep][kept]
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@quick
@given(st.floats(0, 1), st.floats(-80, 80, width=32))
def test_logits_and_probabilities(probability: float, value: float) -> None:
    array = np.array([value], np.float32)
    assert sigmoid(array)[0] == pytest.approx(float(torch.tensor(value).double().sigmoid()), abs=1e-7)
    if 1e-6 < probability < 1 - 1e-6:
        assert sigmoid(np.array([logit(probability)], np.float32))[0] == pytest.approx(probability, abs=1e-6)
    assert (logit(0), logit(-1), logit(1), logit(2)) == (-math.inf, -math.inf, math.inf, math.inf)
    assert softmax(np.array([value, value, -1000.0], np.float32), 0).tolist() == pytest.approx([0.5, 0.5, 0])


def test_own_powers_of_fastestdet() -> None:
    _, arrays, _ = fastestdet(3, False)
    made = task(
        "fastestdet",
        {"objectness_power": 1.0, "class_power": 2.0},
        [("objectness", 0), ("boxes", 0), ("classes", 0)],
    )
    presence = torch.tensor(arrays[0]).sigmoid().flatten()
    best = torch.tensor(arrays[2]).softmax(1).max(1).values.flatten()
    np.testing.assert_allclose(made.candidates(arrays, -1.0).scores, presence * best**2, atol=1e-6)
    assert len(made.candidates(arrays, 0.3)) == int((presence * best**2 > 0.3).sum())


# --- decoders of one's own ---


class MineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gain: float
    kind: str = "plain"


def _mine(heads: Heads, options: MineOptions, frame: Frame, threshold: float) -> Candidates:
    (rows,) = heads["rows"]
    keep = np.flatnonzero(rows[:, 4] * options.gain > threshold)
    return Candidates(rows[keep, :4], rows[keep, 4] * np.float32(options.gain), keep % frame.classes, keep)


def test_own_decoder() -> None:
    decoder("mine")(_mine)
    made = task("mine", {"gain": 0.5}, [("rows", 0)])
    rows = np.array([[1, 2, 3, 4, 0.9], [5, 6, 7, 8, 0.4], [0, 0, 9, 9, 1.0]], np.float32)
    found = made.candidates([rows], 0.3)
    assert found.anchors.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0.45, 0.5])
    with pytest.raises(ContractError, match=r"decoder 'mine': .*missing.*`gain`; its options are: gain, kind"):
        task("mine", {}, [("rows", 0)])
    with pytest.raises(ContractError, match=r"unknown field `gian`.*its options are: gain, kind"):
        task("mine", {"gain": 1.0, "gian": 1.0}, [("rows", 0)])
    with pytest.raises(ContractError, match=r"Expected `float`, got `str` - at `\$.gain`"):
        task("mine", {"gain": "much"}, [("rows", 0)])
    with pytest.raises(ContractError, match="'mine' is registered already; choose another name"):
        decoder("mine")(_mine)


def test_registration_of_one_test_is_gone_in_the_next() -> None:
    assert "mine" not in every_decoder()


def test_a_decoder_without_options_takes_none() -> None:
    def plain(heads: Heads, options: NoOptions, frame: Frame, threshold: float) -> Candidates:
        raise NotImplementedError

    decoder("plain")(plain)
    assert every_decoder()["plain"].options is NoOptions
    with pytest.raises(ContractError, match="its options are: none"):
        task("plain", {"any": 1}, [])


def test_an_own_decoders_nan_is_caught_too() -> None:
    decoder("mine")(_mine)
    made = task("mine", {"gain": 1.0}, [("rows", 0)])
    with pytest.raises(EngineError, match="NaN or infinite"):
        made.candidates([np.array([[1, np.nan, 3, 4, 0.9]], np.float32)], 0.3)


# --- what is refused ---


def test_unknown_decoder() -> None:
    with pytest.raises(ContractError) as caught:
        task("anchor_fre", {}, [])
    for part in (
        "'anchor_fre' is not one of: ",
        "anchor_free, anchors, centernet, classes, decoded, distances, fastestdet, grid, ",
        "--import MODULE",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("anchor_free", {}, "missing required field `strides`"),
        ("anchor_free", {"strides": [8], "regmax": 16}, "unknown field `regmax`; its options are: strides, reg_max"),
        ("anchor_free", {"strides": [0]}, "Expected `int` >= 1"),
        ("anchor_free", {"strides": [8], "reg_max": 0}, "Expected `int` >= 1"),
        ("grid", {"strides": "8"}, "Expected `array`, got `str`"),
        ("fastestdet", {"objectness_power": 0.0}, "Expected `float` > 0"),
        ("fastestdet", {"class_power": -1.0}, "Expected `float` > 0"),
        ("ssd", {"strides": [8], "priors": [[[0.0, 1.0]]]}, "Expected `float` > 0"),
        ("ssd", {"strides": [8], "priors": [[[2.0, 1.0]]], "score": "tanh"}, "Invalid enum value 'tanh'"),
        ("decoded", {"layout": "columns"}, "Invalid enum value 'columns'"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        task(name, options, [])
    assert f"decoder '{name}': " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("family", FAMILIES)
def test_nan_and_infinity_in_any_head(family: str, value: float) -> None:
    """In every output, at an anchor that is decoded: whole channels or cells, as overflow leaves them."""
    _, arrays, _ = FAMILIES[family](5)
    for index in range(len(arrays)):
        made, arrays, _ = FAMILIES[family](5)
        arrays[index] = np.full_like(arrays[index], value)
        with pytest.raises(EngineError, match="NaN or infinite outputs; convert in another precision"):
            made.candidates(arrays, 0.001)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("family", [name for name in FAMILIES if "decoded" not in name])
def test_one_nan_score_is_enough(family: str) -> None:
    """A NaN compares false with every threshold: without a check it would be one detection less."""
    made, arrays, _ = FAMILIES[family](5)
    index = next(i for i, output in enumerate(made.contract.outputs) if output.role in ("classes", "predictions"))
    arrays[index][0, -1, 0, 0] = np.nan
    with pytest.raises(EngineError, match="NaN or infinite"):
        made.candidates(arrays, 0.001)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "decoded" not in name])
def test_wrong_shapes(family: str) -> None:
    made, arrays, _ = FAMILIES[family](5)
    for index, array in enumerate(arrays):
        wrong = [array[:, :-1], np.concatenate([array, array], 1)]
        if "activated" not in family:  # all in one tensor, whose grid can be of any size
            wrong += [array[..., :-1], array[:, :, :-1]]
        if array.shape[1] > 1:
            wrong += [array[0, 0], array.transpose(0, 2, 3, 1)]
        for one in wrong:
            with pytest.raises(ContractError, match=r"decoder '\w+' cannot read the outputs .*\d+ \(.*\): ."):
                made.candidates([*arrays[:index], one, *arrays[index + 1 :]], 0.1)
    with pytest.raises(ContractError, match="the graph gave 0 outputs, the contract names"):
        made.candidates([], 0.1)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "decoded" in name])
def test_wrong_tables(family: str) -> None:
    made, arrays, _ = FAMILIES[family](5)
    wrong = {
        "transposed": [array.transpose(0, 2, 1) for array in arrays],
        "flat": [array.ravel() for array in arrays],
        "two images": [np.concatenate([array, array]) for array in arrays],
        "cut off": [array[:, :-1, :-1] for array in arrays],
    }
    for outputs in wrong.values():
        with pytest.raises(ContractError, match="decoder 'decoded' cannot read the outputs"):
            made.candidates(outputs, 0.1)


@pytest.mark.parametrize("family", ["decoded channels", "decoded rows xyxy", "decoded yolov5", "decoded separate"])
def test_another_number_of_classes(family: str) -> None:
    made, arrays, _ = FAMILIES[family](5)
    roles = [(output.role, 0) for output in made.contract.outputs]
    wrong = task("decoded", made.contract.decoder.options, roles, classes=CLASSES + 1)
    with pytest.raises(ContractError, match=r"values for each box, but \d+ are needed for 6 classes"):
        wrong.candidates(arrays, 0.1)


def test_detection_rows_are_checked() -> None:
    made = task("decoded", {"layout": "detections", "box_format": "xyxy"}, [("predictions", 0)])
    good = np.array([[[1, 2, 3, 4, 0.9, 4], [0, 0, 0, 0, 0, -1]]], np.float32)
    assert made.candidates([good], 0.1).class_ids.tolist() == [4]
    good[0, 0, 5] = 5
    with pytest.raises(ContractError, match="class 5, but the contract names 5 classes"):
        made.candidates([good], 0.1)
    with pytest.raises(ContractError, match="5 values for each box, but 6 are needed"):
        made.candidates([good[..., :5]], 0.1)


@pytest.mark.parametrize("strides", [[16, 8], [8, 32], [4, 8]])
@pytest.mark.parametrize("name", ["anchor_free", "grid", "ssd"])
def test_strides_that_do_not_fit_the_grids(name: str, strides: list[int]) -> None:
    """A wrong stride moves boxes in the source and in the bundle alike: no comparison would ever see it."""
    made, arrays, _ = {
        "anchor_free": lambda: anchor_free(1, 16),
        "grid": lambda: grid(1),
        "ssd": lambda: ssd(1, "softmax"),
    }[name]()
    roles = [(output.role, output.level) for output in made.contract.outputs]
    wrong = task(name, {**made.contract.decoder.options, "strides": strides}, roles)
    with pytest.raises(ContractError, match=r"stride \d+ does not give a grid of \d+ x \d+ for an input of 32 x 48"):
        wrong.candidates(arrays, 0.1)


def test_grids_that_do_not_divide_the_input() -> None:
    """SSD300 has 38, 19, 10, 5, 3 and 1 cells a side at strides 8, 16, 32, 64, 100 and 300."""
    from edgekit.runtimes.tasks.decoders import grid_of

    for cells_a_side, stride in ((38, 8), (19, 16), (10, 32), (5, 64), (3, 100), (1, 300)):
        head_of = np.zeros((1, 1, cells_a_side, cells_a_side), np.float32)
        assert grid_of(head_of, Frame(300, 300, 1), stride) == (cells_a_side, cells_a_side)


def test_missing_role_and_level() -> None:
    made = task("anchor_free", {"strides": [8]}, [("boxes", 0), ("scores", 0)])
    arrays = [head(0, 64, 8), head(0, CLASSES, 8)]
    with pytest.raises(ContractError, match=r"boxes0 \(1, 64, 4, 6\), scores0 .*: no output has the role 'classes'"):
        made.candidates(arrays, 0.1)
    made = task("anchor_free", {"strides": [8, 16]}, [("boxes", 0), ("classes", 0)])
    with pytest.raises(ContractError, match="decoder 'anchor_free' cannot read the outputs"):
        made.candidates(arrays, 0.1)


def test_unknown_task() -> None:
    contract = task("grid", {"strides": [8]}, []).contract
    with pytest.raises(ContractError, match="task 'poses' is not one of: classify, detect, embed, obb, pose, segment"):
        open_task(msgspec.structs.replace(contract, task="poses"))
    assert open_task(contract).contract is contract


# --- non-maximum suppression ---


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def greedy(boxes: Any, scores: Any, ids: Any, limit: float, agnostic: bool) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all((ids[index] != ids[k] and not agnostic) or iou(boxes[index], boxes[k]) <= limit for k in kept):
            kept.append(index)
    return kept


@settings(deadline=None)
@given(
    count=st.integers(0, 40),
    seed=st.integers(0, 10**6),
    limit=st.floats(0, 1),
    classes=st.integers(1, 90),
    agnostic=st.booleans(),
    ties=st.booleans(),
    offset=st.sampled_from([0.0, -60.0, -1000.0, 5000.0]),
)
def test_nms_is_the_greedy_loop(
    count: int, seed: int, limit: float, classes: int, agnostic: bool, ties: bool, offset: float
) -> None:
    random = np.random.default_rng(seed)
    corner = random.integers(0, 60, (count, 2)) + offset
    boxes = np.concatenate([corner, corner + random.integers(1, 40, (count, 2))], 1).astype(np.float32)
    scores = random.integers(1, 4, count) / 4 if ties else random.permutation(count) / max(count, 1)
    scores = scores.astype(np.float32)
    ids = random.integers(0, classes, count)
    pairs = [iou(a, b) for a in boxes for b in boxes]
    assume(all(abs(value - limit) > 1e-5 for value in pairs))
    kept = non_maximum_suppression(boxes, scores, ids, limit, class_agnostic=agnostic)
    assert kept.dtype == np.int64
    assert kept.tolist() == greedy(boxes.tolist(), scores.tolist(), ids.tolist(), limit, agnostic)


def test_nms_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]], np.float32)
    scores, ids = np.array([0.5, 0.9, 0.1, 0.4], np.float32), np.array([0, 0, 0, 1])
    assert non_maximum_suppression(boxes, scores, ids, 0.5).tolist() == [1, 3, 2]
    assert non_maximum_suppression(boxes, scores, ids, 0.5, class_agnostic=True).tolist() == [1, 2]
    assert non_maximum_suppression(boxes, scores, ids, 0.9).tolist() == [1, 0, 3, 2]


def test_classes_left_of_the_image_stay_apart() -> None:
    """OpenCV moves each class by the largest coordinate, which is small when all boxes reach out to the left."""
    boxes = np.array([[-20, -20, 1, 1], [-18, -18, 3, 3]], np.float32)
    kept = non_maximum_suppression(boxes, np.array([0.9, 0.8], np.float32), np.array([1, 0]), 0.1)
    assert kept.tolist() == [0, 1]


def test_nms_of_nothing_and_of_equals() -> None:
    empty = non_maximum_suppression(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), 0.5)
    assert (empty.shape, empty.dtype) == ((0,), np.int64)
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (6, 1)) + np.arange(6, dtype=np.float32)[:, None] * 100
    scores, ids = np.full(6, 0.5, np.float32), np.zeros(6, np.int64)
    assert non_maximum_suppression(boxes, scores, ids, 0.5).tolist() == list(range(6))


def test_a_box_turned_inside_out_suppresses_nobody() -> None:
    boxes = np.array([[10, 10, 0, 60], [0, 0, 5, 5]], np.float32)
    kept = non_maximum_suppression(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), 0.5)
    assert 1 in kept.tolist()


# --- from outputs to original pixels ---


def detections_of(rows: list[list[float]], **post: Any) -> tuple[Detect, list[Floats]]:
    options = {"layout": "detections", "box_format": "xyxy"}
    return task("decoded", options, [("predictions", 0)], **post), [np.array([rows], np.float32)]


ROWS = [[0, 0, 10, 10, 0.5, 0], [1, 0, 11, 10, 0.9, 0], [20, 20, 30, 30, 0.3, 1], [0, 0, 10, 10, 0.4, 2]]


def test_one_to_one_contracts_are_not_suppressed() -> None:
    made, arrays = detections_of(ROWS, nms=False)
    found = made.suppressed(made.candidates(arrays, 0.1))
    assert found.anchors.tolist() == [1, 0, 3, 2]
    assert made.suppressed(made.candidates(arrays, 0.1), most=2).anchors.tolist() == [1, 0]
    made, arrays = detections_of(ROWS)
    assert made.suppressed(made.candidates(arrays, 0.1)).anchors.tolist() == [1, 3, 2]


def test_thresholds_of_the_contract_and_of_the_call() -> None:
    mapping = transform(ImageRule(size=SIZE), SIZE[1], SIZE[0])
    made, arrays = detections_of(ROWS, score=0.35, iou=0.95)
    assert made.result(arrays, mapping).scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
    assert len(made.result(arrays, mapping, score=0.1)) == 4
    assert len(made.result(arrays, mapping, iou=0.5)) == 2
    made, arrays = detections_of(ROWS, class_agnostic=True, max_detections=1, score=0.0)
    assert made.result(arrays, mapping).class_ids.tolist() == [0]


@pytest.mark.parametrize(("width", "height"), [(48, 32), (1000, 500), (333, 777), (50, 20)])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_planted_boxes_are_found_where_they_were_planted(width: int, height: int, resize: Any) -> None:
    rule = ImageRule(size=SIZE, resize=resize)
    _, mapping = Preprocessor(rule)(np.zeros((height, width, 3), np.uint8))
    planted = np.array([[0.1, 0.1, 0.4, 0.5], [0.5, 0.6, 1.0, 1.0]]) * [width, height, width, height]
    inside = mapping.to_input(planted.astype(np.float32))
    made, arrays = detections_of([[*box, 0.9 - 0.1 * index, index] for index, box in enumerate(inside)])
    result = made.result(arrays, mapping)
    np.testing.assert_allclose(result.boxes, planted, atol=1e-2)
    assert result.size == (width, height)
    assert [detection.name for detection in result] == ["c0", "c1"]
    assert (inside[:, [0, 2]] <= SIZE[1] + 1e-3).all()
    assert (inside[:, [1, 3]] <= SIZE[0] + 1e-3).all()


def test_boxes_that_leave_the_image_are_clipped() -> None:
    mapping = transform(ImageRule(size=SIZE), 480, 320)
    made, arrays = detections_of([[-5, -5, 60, 40, 0.9, 0]])
    assert made.result(arrays, mapping).boxes.tolist() == [[0, 0, 480, 320]]


def test_nothing_found() -> None:
    mapping = transform(ImageRule(size=SIZE), 480, 320)
    for family in FAMILIES:
        made, arrays, _ = FAMILIES[family](2)
        result = made.result(arrays, mapping, score=1.0)
        assert (len(result), result.boxes.shape) == (0, (0, 4))
