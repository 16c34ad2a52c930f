"""Families whose numbers shapes do not tell: anchors and priors measured, centres, distances; landmarks; bins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("onnxslim", reason="needs the extra 'convert'")

from test_heads import EXAMPLE, STRIDES, Tailed
from test_inspect import SIZE, guessed, looked

from edgekit.conversion.jobs import PrepareJob
from edgekit.conversion.reading import read_source, uncut_task
from edgekit.errors import ContractError
from edgekit.graph.exchange import flatten
from edgekit.graph.heads import cut_automatically
from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.results import Poses
from edgekit.runtimes.tasks import open_task
from edgekit.runtimes.tasks.skeletons import FACE5
from edgekit.sources.contract_file import read_contract

ANCHORS = (((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)), ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
           ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)))  # fmt: skip


class Yolov5(Tailed):
    """YOLOv5's Detect at inference: rows of all anchors, decoded."""

    def __init__(self, classes: int, exponential: bool = False) -> None:
        super().__init__({"predictions": 3 * (5 + classes)})
        self.values, self.exponential = 5 + classes, exponential

    def forward(self, x: Any) -> Any:
        tables = []
        for (head,), stride, anchors in zip(self.raw(x), STRIDES, ANCHORS, strict=True):
            side = head.shape[2]
            logits = head.view(1, 3, self.values, side, side).permute(0, 1, 3, 4, 2)
            y, x_ = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            corner = torch.stack((x_, y), -1).float()
            share = logits.sigmoid()
            sizes = torch.tensor(anchors).view(1, 3, 1, 1, 2)
            if self.exponential:
                boxes = ((share[..., :2] + corner) * stride, logits[..., 2:4].exp() * sizes)
            else:
                boxes = ((share[..., :2] * 2 - 0.5 + corner) * stride, (share[..., 2:4] * 2) ** 2 * sizes)
            tables.append(torch.cat((*boxes, share[..., 4:]), -1).view(1, -1, self.values))
        return torch.cat(tables, 1)


class RawYolov5(Yolov5):
    """As trained: (1, anchors, rows, columns, values) of each level."""

    def forward(self, x: Any) -> Any:
        heads = [head for (head,) in self.raw(x)]
        shape = (1, 3, self.values)
        return tuple(h.view(*shape, *h.shape[2:]).permute(0, 1, 3, 4, 2).contiguous() for h in heads)


class Priors(Tailed):
    """An SSD whose boxes are decoded by variances of its own, written in one of the usual ways."""

    def __init__(self, written: str) -> None:
        super().__init__({"boxes": 8, "classes": 8})
        self.written = written

    def forward(self, x: Any) -> Any:
        boxes, scores = [], []
        for (raw, classes), stride in zip(self.raw(x), STRIDES, strict=True):
            side = raw.shape[2]
            shift = raw.permute(0, 2, 3, 1).reshape(1, -1, 2, 4)
            y, x_ = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            centre = (torch.stack((x_, y), -1).view(1, -1, 1, 2) + 0.5) * stride
            prior = torch.tensor([[2.0 * stride, stride], [3.0 * stride, 4.0 * stride]])
            place = centre + shift[..., :2] * 0.1 * prior
            size = (shift[..., 2:] * 0.25).exp() * prior
            corners = torch.cat((place - size / 2, place + size / 2), -1)
            if self.written == "yxyx, normalised":
                corners = corners[..., [1, 0, 3, 2]] / SIZE
            boxes.append((torch.cat((place, size), -1) if self.written == "xywh" else corners).flatten(1, 2))
            scores.append(classes.permute(0, 2, 3, 1).reshape(1, -1, 4))
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(2)


@pytest.mark.parametrize(("network", "sizes"), [(Yolov5(6), "squared"), (Yolov5(80, True), "exponential")])
def test_anchors_are_measured(network: Any, sizes: str) -> None:
    family = guessed(network)
    assert family is not None
    assert (family.decoder.name, family.classes) == ("anchors", network.values - 5)
    assert family.decoder.options["sizes"] == sizes
    np.testing.assert_allclose(family.decoder.options["anchors"], ANCHORS, atol=0.05)
    assert any("anchors 10x13, 16x30, 33x23 / " in reason for reason in family.why)


def test_raw_heads_get_the_usual_anchors_to_be_checked() -> None:
    family = guessed(RawYolov5(80))
    assert family is not None
    assert family.decoder.options["anchors"][2] == [[116, 90], [156, 198], [373, 326]]
    assert "YOLOv7 has 12x16" in family.doubts[0]


def test_yolov5_is_cut_by_itself_and_agrees_with_its_fused_output(tmp_path: Path) -> None:
    network, x = Yolov5(6), torch.rand(1, 3, SIZE, SIZE)
    path = tmp_path / "yolov5.onnx"
    torch.onnx.export(network, (x,), path, dynamo=False, opset_version=17)
    seen = looked(path, tmp_path)
    (tmp_path / "c.yaml").write_text(seen.contract, encoding="utf-8")
    assert not read_contract(tmp_path / "c.yaml").cut
    read = read_source(PrepareJob(folder="", source=str(path), contract=str(tmp_path / "c.yaml")))
    uncut = uncut_task(read.model, read.contract)
    assert uncut is not None
    with torch.no_grad():
        ours = open_task(read.contract).candidates([head.numpy() for head in read.heads(x)], 0.05)
        fused = uncut.candidates([read.model.module(x).numpy()], 0.05)
    assert len(ours) > 10
    np.testing.assert_array_equal(ours.anchors, fused.anchors)
    np.testing.assert_allclose(ours.boxes, fused.boxes, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(ours.scores, fused.scores, atol=1e-5)


@pytest.mark.parametrize("written", ["xyxy", "xywh", "yxyx, normalised"])
def test_priors_and_variances_are_measured(written: str) -> None:
    family = guessed(Priors(written))
    assert family is not None
    assert (family.decoder.name, family.classes) == ("ssd", 3)
    options = family.decoder.options
    np.testing.assert_allclose(options["variances"], [0.1, 0.1, 0.25, 0.25], atol=2e-3)
    for stride, priors in zip(STRIDES, options["priors"], strict=True):
        np.testing.assert_allclose(priors, [[2 * stride, stride], [3 * stride, 4 * stride]], rtol=2e-3)
    assert any("measured" in reason for reason in family.why)


def test_a_learned_scale_belongs_to_the_heads_and_a_stride_does_not() -> None:
    """GFL multiplies what its convolutions give by a learned number of each level, RTMDet by the stride."""

    class Scaled(Tailed):
        factors = (1.5, 0.75, 2.5)

        def __init__(self, channels: int) -> None:
            super().__init__({"boxes": channels, "classes": 5})

        def forward(self, x: Any) -> Any:
            levels = zip(self.raw(x), self.factors, strict=True)
            return tuple(part for (boxes, classes), factor in levels for part in (classes.sigmoid(), boxes * factor))

    class Strided(Scaled):
        factors = STRIDES

    learned, strided = guessed(Scaled(32)), guessed(Strided(4))
    assert learned is not None
    assert strided is not None
    assert (learned.decoder.name, learned.decoder.options["reg_max"]) == ("anchor_free", 8)
    assert [point.tensor[:3] for point in learned.cut if point.role == "boxes"] == ["mul"] * 3
    found = cut_automatically(flatten(Scaled(32), EXAMPLE), {"boxes": 32, "classes": 5}, "anchor_free")
    assert [name[:3] for name in found.tensors] == ["mul", "con"] * 3
    assert (strided.decoder.name, strided.rule["align"]) == ("distances", "corner")
    assert [point.tensor[:4] for point in strided.cut if point.role == "boxes"] == ["conv"] * 3


@pytest.mark.parametrize(
    ("heads", "strides", "decoder", "task"),
    [
        ({"score": 2, "bbox": 8, "kps": 20}, STRIDES, "distances", "pose"),
        ({"score": 2, "bbox": 8}, STRIDES, "distances", "detect"),
        ({"heat": 1, "wh": 2, "off": 2, "landmarks": 10}, (4,), "centernet", "pose"),
        ({"heat": 80, "wh": 2, "reg": 2}, (4,), "centernet", "detect"),
        ({"boxes": 36, "classes": 810}, (8, 16, 32, 64), "ssd", "detect"),
        ({"boxes": 4, "obj": 1, "cls": 1, "kps": 10}, STRIDES, "grid", "pose"),
    ],
)  # fmt: skip
def test_families_by_their_channels(heads: dict[str, int], strides: Any, decoder: str, task: str) -> None:
    family = guessed(Tailed(heads, strides))
    assert family is not None
    assert (family.decoder.name, family.task) == (decoder, task)
    assert family.skeleton == ("face5" if task == "pose" else None)
    assert family.names == (("face",) if task == "pose" or (2 in heads.values() and "bbox" in heads) else ())


# --- keypoints beside boxes ---


def pose(decoder: str, options: dict[str, Any], roles: list[tuple[str, int]], size: tuple[int, int]) -> Any:
    return open_task(
        Contract(
            task="pose", image=ImageRule(size=size), classes=("face",), decoder=Decoder(name=decoder, options=options),
            outputs=tuple(Output(name=f"{role}{level}", role=role, level=level) for role, level in roles),
            skeleton=FACE5,
        )
    )  # fmt: skip


def values(seed: int, *shape: int) -> Any:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * 2).astype(np.float32)


SIZES = (32, 48)
GRIDS = ((8, 4, 6), (16, 2, 3))


def landmarks_of(name: str) -> tuple[Any, list[Any], list[list[tuple[float, float]]]]:
    """A task, its heads, and the five points of every anchor, from the published code, by loops."""
    kinds = {"scrfd": 2, "retinaface": 2, "blazeface": 2}.get(name, 1)
    priors = ((16.0, 32.0), (64.0, 128.0))
    heads, points = [], []
    for level, (stride, rows, columns) in enumerate(GRIDS[: 1 if name == "centerface" else 2]):
        kps, boxes = values(3, 1, 10 * kinds, rows, columns), values(4, 1, 4 * kinds, rows, columns)
        both = zip(np.split(boxes, kinds, 1), np.split(kps, kinds, 1), strict=True)
        whole = np.concatenate([part for pair in both for part in pair], 1)
        if name == "centerface":
            sizes, offsets = values(5, 1, 2, rows, columns), values(6, 1, 2, rows, columns)
            heads += [values(7, 1, 1, rows, columns), sizes, offsets, kps]
        elif name == "yunet":
            heads += [boxes, values(7, 1, 1, rows, columns), values(8, 1, 1, rows, columns), kps]
        elif name == "blazeface":
            heads += [whole, values(7, 1, kinds, rows, columns)]
        else:
            count = kinds * (1 + (name == "retinaface"))
            heads += [boxes, values(7, 1, count, rows, columns), kps]
        for row in range(rows):
            for column in range(columns):
                for kind in range(kinds):
                    each = kps[0, 10 * kind : 10 * kind + 10, row, column].astype(float)
                    found = []
                    for i in range(5):
                        x, y = each[2 * i], each[2 * i + 1]
                        if name in ("yunet", "scrfd"):
                            found.append(((x + column) * stride, (y + row) * stride))
                        elif name == "centerface":
                            y, x = x, y
                            high, wide = (math.exp(value) * stride for value in sizes[0, :, row, column])
                            left = (column + offsets[0, 1, row, column] + 0.5) * stride - wide / 2
                            top = (row + offsets[0, 0, row, column] + 0.5) * stride - high / 2
                            found.append((left + x * wide, top + y * high))
                        else:
                            side = 256.0 if name == "blazeface" else priors[level][kind]
                            scale = 1 / 256 if name == "blazeface" else 0.1
                            found.append(
                                ((column + 0.5) * stride + x * scale * side, (row + 0.5) * stride + y * scale * side)
                            )
                    points.append(found)
    strides = [8, 16]
    options: dict[str, dict[str, Any]] = {
        "yunet": {"strides": strides, "power": 0.5},
        "scrfd": {"strides": strides, "per_cell": 2},
        "centerface": {
            "stride": 8, "sizes": "exponential", "order": "yx", "cell_offset": 0.5, "keypoints": "box", "peaks": False
        },
        "retinaface": {"strides": strides, "priors": [[[side, side] for side in pair] for pair in priors]},
        "blazeface": {
            "strides": strides, "priors": [[[256.0, 256.0]] * 2] * 2, "variances": [1 / 256] * 4, "sizes": "plain",
            "score": "sigmoid",
        },
    }  # fmt: skip
    roles = {
        "yunet": ("boxes", "objectness", "classes", "keypoints"), "scrfd": ("boxes", "classes", "keypoints"),
        "centerface": ("classes", "sizes", "offsets", "keypoints"), "retinaface": ("boxes", "classes", "keypoints"),
        "blazeface": ("boxes", "classes"),
    }[name]  # fmt: skip
    decoder = {"yunet": "grid", "scrfd": "distances", "centerface": "centernet"}.get(name, "ssd")
    levels = 1 if name == "centerface" else 2
    task = pose(decoder, options[name], [(role, level) for level in range(levels) for role in roles], SIZES)
    return task, heads, points


@pytest.mark.parametrize("name", ["yunet", "scrfd", "centerface", "retinaface", "blazeface"])
def test_landmarks_are_where_the_published_code_puts_them(name: str) -> None:
    task, heads, points = landmarks_of(name)
    found = task.comparable(heads, task.candidates(heads, -1.0))
    assert len(found) == len(points)
    assert found.attached.shape == (len(points), 5, 3)
    wanted = np.array(points)[found.anchors]
    np.testing.assert_allclose(found.attached[..., :2], wanted, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(found.attached[..., 2], 1)
    result = task.result(heads, transform(task.contract.image, SIZES[1], SIZES[0]), score=0.5)
    assert isinstance(result, Poses)


@pytest.mark.parametrize("seed", range(5))
def test_peaks_are_those_of_max_pooling(seed: int) -> None:
    """CenterNet's own way: a cell is kept that equals the 3x3 maximum of its class. Ties are kept, and left to NMS."""
    heat = values(seed, 1, 3, 6, 7).round() if seed else np.zeros((1, 3, 6, 7), np.float32)
    task = open_task(
        Contract(
            image=ImageRule(size=(24, 28)),
            classes=("a", "b", "c"),
            decoder=Decoder(name="centernet"),
            outputs=tuple(Output(name=role, role=role) for role in ("classes", "sizes", "offsets")),
        )
    )
    rest = [np.ones((1, 2, 6, 7), np.float32)] * 2
    found = task.candidates([heat, *rest], 0.4)
    pooled = torch.nn.functional.max_pool2d(torch.tensor(heat), 3, 1, 1).numpy()[0]
    best = heat[0].argmax(0)
    wanted = [
        row * 7 + column
        for row in range(6)
        for column in range(7)
        if heat[0, best[row, column], row, column] == pooled[best[row, column], row, column]
        and 1 / (1 + math.exp(-heat[0, best[row, column], row, column])) > 0.4
    ]
    assert sorted(found.anchors.tolist()) == wanted
    assert len(task.candidates([heat, *rest], 1.0)) == 0


def test_keypoints_without_a_score_are_found_where_the_network_is_cut(tmp_path: Path) -> None:
    """Five points have 10 channels, not 15: the automatic cut tries both."""
    network = Tailed({"boxes": 4, "objectness": 1, "classes": 1, "keypoints": 10})
    path, contract = tmp_path / "faces.onnx", tmp_path / "faces.yaml"
    torch.onnx.export(network, (torch.rand(1, 3, SIZE, SIZE),), path, dynamo=False, opset_version=17)
    contract.write_text(
        f"task: pose\nimage: {{size: [{SIZE}, {SIZE}]}}\nclasses: [face]\nskeleton: face5\n"
        f"decoder: {{name: grid, strides: {list(STRIDES)}}}\n"
    )
    read = read_source(PrepareJob(folder="", source=str(path), contract=str(contract)))
    assert [output.role for output in read.contract.outputs] == ["boxes", "objectness", "classes", "keypoints"] * 3
    contract.write_text(contract.read_text().replace("face5", "coco"))
    with pytest.raises(
        ContractError, match=r"keypoints with 51 channels.*\(keypoints without scores, x and y only, work"
    ):
        read_source(PrepareJob(folder="", source=str(path), contract=str(contract)))


# --- bins ---


def test_the_papers_reg_max_is_told_from_the_number_of_bins(tmp_path: Path) -> None:
    network = Tailed({"boxes": 32, "classes": 5})
    path, contract = tmp_path / "n.onnx", tmp_path / "n.yaml"
    torch.onnx.export(network, (torch.rand(1, 3, SIZE, SIZE),), path, dynamo=False, opset_version=17)
    text = (
        f"image: {{size: [{SIZE}, {SIZE}]}}\nclasses: [a, b, c, d, e]\n"
        f"decoder: {{name: anchor_free, strides: {list(STRIDES)}, reg_max: 7}}\n"
    )
    contract.write_text(text)
    job = PrepareJob(folder="", source=str(path), contract=str(contract))
    with pytest.raises(ContractError, match=r"reg_max: 7 bins per side need 28 .* have 32: write reg_max: 8 \(GFL and"):
        read_source(job)
    task = open_task(
        Contract(
            image=ImageRule(size=(32, 48)),
            classes=("a",),
            outputs=(Output(name="b", role="boxes"), Output(name="c", role="classes")),
            decoder=Decoder(name="anchor_free", options={"strides": [8], "reg_max": 7}),
        )
    )
    with pytest.raises(ContractError, match=r"reg_max: 7 needs 28 channels .* 32: reg_max: 8 \(GFL"):
        task.candidates([values(1, 1, 32, 4, 6), values(2, 1, 1, 4, 6)], 0.5)
