"""Networks of the shapes world with the heads of other families: the trained features of edgekit's own network, and new
last convolutions that are trained in seconds.

A family is one class: which heads it has, how they are decoded (in torch, from the paper: an oracle of edgekit's own
decoders, too), and what its published files give. All are trained alike: task-aligned assignment, cross-entropy of
scores, complete IoU of boxes, distances of keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.shapes import CLASSES, FIRST_TRAINING_SEED, KEYPOINTS
from edgekit.shapes.detector import INPUT_SIZE, Head
from edgekit.shapes.tasks import ShapesTasks, trained_tasks
from examples.train_shapes_detector import MOST_OBJECTS, assign, complete_iou, letterboxed_scene

SCENES, STEPS, BATCH = 240, 250, 8
POINTS = len(KEYPOINTS)


class Features(nn.Module):
    """Frozen features at the strides that a head asks for: 4 to 128, 64 or 192 channels."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        tasks: ShapesTasks = trained_tasks()
        self.strides = tuple(strides)
        self.backbone, self.pyramid = tasks.detector.backbone, tasks.detector.pyramid
        heads = [head for head in tasks.detector.heads if isinstance(head, Head)]
        parts = [(head.boxes, head.classes, points) for head, points in zip(heads, tasks.keypoints, strict=True)]
        self.branches = nn.ModuleList(nn.ModuleList(one[:-1] for one in level) for level in parts)  # type: ignore[index]
        if 4 in self.strides:
            self.lateral, self.upsample, self.mix = (
                tasks.prototypes.lateral, tasks.prototypes.upsample, tasks.prototypes.mix
            )  # fmt: skip
        self.eval().requires_grad_(False)

    def channels(self, stride: int) -> int:
        return 64 if stride == 4 else 192

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (N, 3, 256, 256) RGB / 255 to features, finest first."""
        p4 = self.backbone.fine(images)
        levels = self.pyramid(*self.backbone.coarse(p4))
        found = {}
        if 4 in self.strides:
            found[4] = self.mix(self.lateral(p4) + self.upsample(levels[0]))
        for stride, level, branches in zip((8, 16, 32), levels, self.branches, strict=True):
            if stride in self.strides or max(self.strides) > 32:
                found[stride] = torch.cat([branch(level) for branch in branches], 1)
        for stride in (64, 128):
            if stride in self.strides:
                found[stride] = functional.avg_pool2d(found[stride // 2], 2)
        return [found[stride] for stride in self.strides]


class Decoded(NamedTuple):
    """Boxes (N, anchors, 4) xyxy in pixels, probabilities (N, anchors, classes), centres (anchors, 2) of the cells, and
    keypoints (N, anchors, points, 2)."""

    boxes: Tensor
    scores: Tensor
    centres: Tensor
    points: Tensor | None = None


Raw = list[dict[str, Tensor]]
"""Raw heads (N, channels, rows, columns) by role, level after level."""


class Family(nn.Module):
    """The heads of one family."""

    strides: ClassVar[tuple[int, ...]] = (8, 16, 32)
    faces: ClassVar[bool] = False
    rule: ClassVar[dict[str, Any]] = {}
    bias: ClassVar[float] = -4.0
    slow: ClassVar[bool] = False
    """Two layers a head, which learn more slowly, in place of one."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 1 if self.faces else len(CLASSES)
        self.heads = nn.ModuleList()
        for level, stride in enumerate(self.strides):
            inputs = 64 if stride == 4 else 192
            made = {role: self.head(inputs, count) for role, count in self.channels(level).items()}
            self.heads.append(nn.ModuleDict(made))

    def head(self, inputs: int, outputs: int) -> nn.Module:
        """The layers of one role on one level."""
        if not self.slow:
            return nn.Conv2d(inputs, outputs, 1)
        return nn.Sequential(nn.Conv2d(inputs, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, outputs, 1))

    def channels(self, level: int) -> dict[str, int]:
        raise NotImplementedError

    def finished(self) -> None:
        """What is left to do when training is over."""

    def forward(self, features: list[Tensor]) -> Raw:
        """Raw heads."""
        return [
            {role: module(feature) for role, module in heads.items()}  # type: ignore[union-attr, operator]
            for heads, feature in zip(self.heads, features, strict=True)
        ]

    def decode(self, raw: Raw) -> Decoded:
        raise NotImplementedError

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        raise NotImplementedError


def rows(head: Tensor, kinds: int = 1) -> Tensor:
    """(N, kinds x values, rows, columns) as (N, rows x columns x kinds, values), cell after cell."""
    count, channels, height, width = head.shape
    return head.reshape(count, kinds, channels // kinds, height * width).permute(0, 3, 1, 2).flatten(1, 2)


def cells(head: Tensor, stride: float, offset: float, kinds: int = 1) -> Tensor:
    """Places (cells x kinds, 2) x, y in pixels."""
    y, x = torch.meshgrid(torch.arange(head.shape[2]), torch.arange(head.shape[3]), indexing="ij")
    return ((torch.stack((x, y), -1).reshape(-1, 2) + offset) * stride).repeat_interleave(kinds, 0)


def joined(parts: Sequence[Decoded]) -> Decoded:
    points = [part.points for part in parts if part.points is not None]
    return Decoded(
        torch.cat([part.boxes for part in parts], 1), torch.cat([part.scores for part in parts], 1),
        torch.cat([part.centres for part in parts]), torch.cat(points, 1) if points else None,
    )  # fmt: skip


def centred(centres: Tensor, sizes: Tensor) -> Tensor:
    return torch.cat((centres - sizes / 2, centres + sizes / 2), -1)


class Yolov5(Family):
    """Three anchors a cell; the published file gives decoded rows, anchor after anchor."""

    anchors = (((12, 14), (20, 20), (28, 26)), ((40, 38), (50, 62), (66, 52)), ((84, 80), (104, 112), (150, 130)))

    def channels(self, level: int) -> dict[str, int]:
        return {"predictions": 3 * (5 + self.classes)}

    def decode(self, raw: Raw) -> Decoded:
        parts = []
        for level, stride, anchors in zip(raw, self.strides, self.anchors, strict=True):
            head = level["predictions"]
            count, _, height, width = head.shape
            table = head.reshape(count, 3, -1, height * width).transpose(2, 3).sigmoid()
            corner = cells(head, 1, 0)
            centres = (table[..., :2] * 2 - 0.5 + corner) * stride
            sizes = (table[..., 2:4] * 2) ** 2 * torch.tensor(anchors, dtype=torch.float32)[:, None]
            scores = (table[..., 4:5] * table[..., 5:]).flatten(1, 2)
            places = ((corner + 0.5) * stride).repeat(3, 1)
            parts.append(Decoded(centred(centres, sizes).flatten(1, 2), scores, places))
        return joined(parts)

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        tables = []
        for level, stride, anchors in zip(raw, self.strides, self.anchors, strict=True):
            head = level["predictions"]
            _, _, height, width = head.shape
            table = head.reshape(1, 3, 5 + self.classes, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            corner = cells(head, 1, 0).reshape(1, 1, height, width, 2)
            centres = (table[..., :2] * 2 - 0.5 + corner) * stride
            sizes = (table[..., 2:4] * 2) ** 2 * torch.tensor(anchors, dtype=torch.float32).reshape(1, 3, 1, 1, 2)
            tables.append(torch.cat((centres, sizes, table[..., 4:]), 4).reshape(1, -1, 5 + self.classes))
        return (torch.cat(tables, 1),)


class NanoDet(Family):
    """One convolution for classes and boxes, taken apart: 8 bins a side."""

    rule: ClassVar[dict[str, Any]] = {
        "color": "bgr", "scale": 1.0, "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]
    }  # fmt: skip

    def channels(self, level: int) -> dict[str, int]:
        return {"both": self.classes + 32}

    def decode(self, raw: Raw) -> Decoded:
        parts = []
        for level, stride in zip(raw, self.strides, strict=True):
            classes, boxes = level["both"].split((self.classes, 32), 1)
            sides = (rows(boxes).unflatten(2, (4, 8)).softmax(3) * torch.arange(8)).sum(3) * stride
            place = cells(classes, stride, 0.5)
            corners = torch.cat((place - sides[..., :2], place + sides[..., 2:]), 2)
            parts.append(Decoded(corners, rows(classes).sigmoid(), place))
        return joined(parts)

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        tables = []
        for level in raw:
            classes, boxes = level["both"].split((self.classes, 32), 1)
            tables.append(torch.cat((classes.sigmoid(), boxes), 1).flatten(2).permute(0, 2, 1))
        return (torch.cat(tables, 1),)


class RtmDet(Family):
    """Distances from the corner of a cell, times the stride."""

    rule: ClassVar[dict[str, Any]] = NanoDet.rule

    def channels(self, level: int) -> dict[str, int]:
        return {"classes": self.classes, "boxes": 4}

    def decode(self, raw: Raw) -> Decoded:
        parts = []
        for level, stride in zip(raw, self.strides, strict=True):
            place, sides = cells(level["boxes"], stride, 0), rows(level["boxes"]) * stride
            corners = torch.cat((place - sides[..., :2], place + sides[..., 2:]), 2)
            parts.append(Decoded(corners, rows(level["classes"]).sigmoid(), place))
        return joined(parts)

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        scaled = [level["boxes"] * stride for level, stride in zip(raw, self.strides, strict=True)]
        return tuple(level["classes"] for level in raw) + tuple(scaled)


class Scrfd(Family):
    """Two boxes a cell, and landmarks; nine outputs."""

    faces = True
    rule: ClassVar[dict[str, Any]] = {"mean": [0.5] * 3, "std": [0.50196] * 3}

    def channels(self, level: int) -> dict[str, int]:
        return {"score": 2, "bbox": 8, "kps": 4 * POINTS}

    def decode(self, raw: Raw) -> Decoded:
        parts = []
        for level, stride in zip(raw, self.strides, strict=True):
            place, sides = cells(level["bbox"], stride, 0, 2), rows(level["bbox"], 2) * stride
            corners = torch.cat((place - sides[..., :2], place + sides[..., 2:]), 2)
            points = rows(level["kps"], 2).unflatten(2, (POINTS, 2)) * stride + place[:, None]
            parts.append(Decoded(corners, rows(level["score"], 2).sigmoid(), place, points))
        return joined(parts)

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        scores = [rows(level["score"], 2).sigmoid() for level in raw]
        return (*scores, *(rows(level["bbox"], 2) for level in raw), *(rows(level["kps"], 2) for level in raw))


class Priors(Family):
    """Heads of an SSD: changes of priors."""

    priors: ClassVar[tuple[tuple[tuple[float, float], ...], ...]] = ()
    variances: ClassVar[tuple[float, float]] = (0.1, 0.2)
    softmax: ClassVar[bool] = True
    plain: ClassVar[bool] = False
    rows_first: ClassVar[bool] = False

    def channels(self, level: int) -> dict[str, int]:
        kinds = len(self.priors[level])
        landmarks = {"landmarks": 2 * POINTS * kinds} if self.faces else {}
        return {"boxes": 4 * kinds, "classes": (self.classes + self.softmax) * kinds, **landmarks}

    def tables(self, raw: Raw) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, logits and landmarks of each level, a row for each prior."""
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for level, priors in zip(raw, self.priors, strict=True):
            for part, role in zip(found, ("boxes", "classes", "landmarks"), strict=True):
                if role in level:
                    part.append(rows(level[role], len(priors)))
        return found

    def boxes(self, tables: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes xyxy in pixels, centres of the priors, and their sides."""
        centres, sides = [], []
        for size, stride, priors in zip(sizes, self.strides, self.priors, strict=True):
            grid = torch.zeros(1, 1, size, size)
            centres.append(cells(grid, stride, 0.5, len(priors)))
            sides.append(torch.tensor(priors, dtype=torch.float32).repeat(size * size, 1))
        place, prior, shift = torch.cat(centres), torch.cat(sides), torch.cat(list(tables), 1)
        if self.rows_first:
            shift = shift[..., [1, 0, 3, 2]]
        ratio = shift[..., 2:] * self.variances[1] if self.plain else (shift[..., 2:] * self.variances[1]).exp()
        return centred(place + shift[..., :2] * self.variances[0] * prior, ratio * prior), place, prior

    def decode(self, raw: Raw) -> Decoded:
        boxes, logits, landmarks = self.tables(raw)
        sizes = [next(iter(level.values())).shape[2] for level in raw]
        corners, place, prior = self.boxes(boxes, sizes)
        whole = torch.cat(logits, 1)
        scores = whole.softmax(2)[..., 1:] if self.softmax else whole.sigmoid()
        points = None
        if landmarks:
            shift = torch.cat(landmarks, 1).unflatten(2, (POINTS, 2)) * self.variances[0]
            points = place[:, None] + shift * prior[:, None]
        return Decoded(corners, scores, place, points)


class Ssd(Priors):
    """SSD as torchvision has it: softmax with a background in front, boxes decoded and normalised."""

    priors = tuple(((side, side), (side * 1.3, side * 1.3), (side * 1.4, side * 0.7), (side * 0.7, side * 1.4))
                   for side in (20.0, 44.0, 90.0))  # fmt: skip
    rule: ClassVar[dict[str, Any]] = {"mean": [0.5] * 3, "std": [0.5] * 3}

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        boxes, logits, _ = self.tables(raw)
        corners, _, _ = self.boxes(boxes, [level["boxes"].shape[2] for level in raw])
        return corners / INPUT_SIZE, torch.cat(logits, 1).softmax(2)


class RetinaFace(Priors):
    """Two square priors a cell, landmarks; boxes and landmarks are raw in the published file."""

    faces = True
    priors = tuple(tuple((side, side) for side in pair) for pair in ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)))
    rule: ClassVar[dict[str, Any]] = {"color": "bgr", "scale": 1.0, "mean": [104, 117, 123]}

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        boxes, logits, landmarks = self.tables(raw)
        return torch.cat(boxes, 1), torch.cat(logits, 1).softmax(2), torch.cat(landmarks, 1)


class BlazeFace(Priors):
    """MediaPipe's: plain sizes in pixels, six points behind each box in the same convolution, no background."""

    faces = True
    strides = (16, 32)
    priors = (((256.0, 256.0),) * 2, ((256.0, 256.0),) * 6)
    variances = (1 / 256, 1 / 256)
    softmax, plain = False, True
    rule: ClassVar[dict[str, Any]] = {"mean": [0.5] * 3, "std": [0.5] * 3}

    def channels(self, level: int) -> dict[str, int]:
        kinds = len(self.priors[level])
        return {"regressors": 16 * kinds, "classes": kinds}

    slow: ClassVar[bool] = True
    gain = 16.0
    """In training the layers give sixteenths of a pixel, whose numbers are of the size of other families'."""

    def forward(self, features: list[Tensor]) -> Raw:
        """Raw heads; pixels once training is over (`finished`)."""
        raw = super().forward(features)
        if self.gain == 1:
            return raw
        return [level | {"regressors": level["regressors"] * self.gain} for level in raw]

    def finished(self) -> None:
        with torch.no_grad():
            for level in self.heads:
                for parameter in level["regressors"][-1].parameters():  # type: ignore[index]
                    parameter.mul_(self.gain)
        self.gain = 1.0

    def tables(self, raw: Raw) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        whole = [rows(level["regressors"], len(priors)) for level, priors in zip(raw, self.priors, strict=True)]
        logits = [rows(level["classes"], len(priors)) for level, priors in zip(raw, self.priors, strict=True)]
        return [one[..., :4] for one in whole], logits, [one[..., 4 : 4 + 2 * POINTS] for one in whole]

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        whole = [rows(level["regressors"], len(priors)) for level, priors in zip(raw, self.priors, strict=True)]
        return torch.cat(whole, 1), torch.cat(self.tables(raw)[1], 1)


class EfficientDet(Priors):
    """Nine anchors a cell on five levels, boxes as dy, dx, dh, dw; raw outputs."""

    strides = (8, 16, 32, 64, 128)
    softmax, rows_first = False, True
    variances = (1.0, 1.0)
    priors = tuple(
        tuple((4 * stride * scale * wide, 4 * stride * scale * high)
              for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3)) for wide, high in ((1, 1), (1.4, 0.7), (0.7, 1.4)))
        for stride in strides
    )  # fmt: skip
    rule: ClassVar[dict[str, Any]] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        return tuple(level["classes"] for level in raw) + tuple(level["boxes"] for level in raw)


class CenterNet(Family):
    """A heatmap, sizes in cells and offsets at stride 4."""

    strides = (4,)
    slow: ClassVar[bool] = True
    rule: ClassVar[dict[str, Any]] = {
        "color": "bgr", "mean": [0.408, 0.447, 0.470], "std": [0.289, 0.274, 0.278]
    }  # fmt: skip

    def channels(self, level: int) -> dict[str, int]:
        return {"heat": self.classes, "wh": 2, "reg": 2}

    def decode(self, raw: Raw) -> Decoded:
        (level,) = raw
        corner = cells(level["heat"], 1, 0)
        centres = (corner + rows(level["reg"])) * 4
        return Decoded(centred(centres, rows(level["wh"]) * 4), rows(level["heat"]).sigmoid(), (corner + 0.5) * 4)

    def published(self, raw: Raw) -> tuple[Tensor, ...]:
        (level,) = raw
        return level["heat"].sigmoid(), level["wh"], level["reg"]


class Whole(nn.Module):
    """A family's network as its published files are: its own image rule in front, its own outputs behind."""

    def __init__(self, features: Features, family: Family) -> None:
        super().__init__()
        self.entry, self.features, self.family = entry(family.rule), features, family

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (1, 3, 256, 256) by the family's rule to its outputs."""
        outputs = self.family.published(self.family(self.features(self.entry(images))))
        return outputs if len(outputs) > 1 else outputs[0]  # type: ignore[return-value]


def entry(rule: dict[str, Any]) -> nn.Conv2d:
    """A convolution from an image by this rule to RGB / 255, which the features were trained on."""
    mean, std = (np.array(rule.get(key, (usual,) * 3), np.float64) for key, usual in (("mean", 0.0), ("std", 1.0)))
    scale = 255 * rule.get("scale", 1 / 255)
    order = [2, 1, 0] if rule.get("color") == "bgr" else [0, 1, 2]
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.weight.zero_()
        for target, source in enumerate(order):
            layer.weight[target, source] = float(std[source] / scale)
            layer.bias[target] = float(mean[source] / scale)
    return layer.requires_grad_(False)


@dataclass(frozen=True)
class Scenes:
    """Features by level (n, channels, rows, columns) float16, labels (n, objects, 5), keypoints (n, objects, k, 2)."""

    features: list[Tensor]
    labels: Tensor
    points: Tensor


@torch.no_grad()
def scenes(features: Features, count: int, one_class: bool) -> Scenes:
    """The scenes of the first training seeds, as frozen features see them."""
    kept: list[list[Tensor]] = [[] for _ in features.strides]
    labels = torch.full((count, MOST_OBJECTS, 5), -1.0)
    points = torch.zeros(count, MOST_OBJECTS, POINTS, 2)
    for number in range(count):
        image, drawn, corner = letterboxed_scene(FIRST_TRAINING_SEED + number)
        pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        for store, feature in zip(kept, features(pixels), strict=True):
            store.append(feature[0].half())
        for row, item in enumerate(drawn.objects[:MOST_OBJECTS]):
            labels[number, row, 0] = 0 if one_class else item.class_id
            labels[number, row, 1:] = torch.from_numpy(item.box + np.tile(corner, 2))
            points[number, row] = torch.from_numpy(item.keypoints[:, :2] + corner)
    return Scenes([torch.stack(store) for store in kept], labels, points)


def loss_of(found: Decoded, labels: Tensor, points: Tensor) -> Tensor:
    """Scores, boxes and keypoints against the truth."""
    index, target, matched = assign(found.boxes.detach(), found.scores.detach(), found.centres, labels)
    total, positive = target.sum().clamp(min=1), index >= 0
    classes = labels[..., 0].long().clamp(min=0).gather(1, index.clamp(min=0))
    wanted = functional.one_hot(classes, found.scores.shape[2]) * target[..., None]
    scores = functional.binary_cross_entropy(found.scores.clamp(1e-6, 1 - 1e-6), wanted, reduction="sum") / total
    # Far anchors decode to boxes anywhere; a first push of every anchor in an object towards it.
    if not positive.any():
        return scores
    boxes = ((1 - complete_iou(found.boxes[positive], matched[positive])) * target[positive]).sum() / total
    loss = scores + 5 * boxes
    if found.points is not None:
        where = index.clamp(min=0)[..., None, None].expand(-1, -1, *points.shape[2:])
        true, size = points.gather(1, where)[positive], matched[positive]
        side = (size[:, 2:] - size[:, :2]).mean(1)[:, None, None]
        away = functional.smooth_l1_loss(found.points[positive] / side, true / side, beta=0.05, reduction="none")
        loss = loss + 5 * (away.mean((1, 2)) * target[positive]).sum() / total
    return loss


def started(family: Family) -> Family:
    """Objects are rare, and boxes a few strides wide: where training begins."""
    with torch.no_grad():
        for level, stride in zip(family.heads, family.strides, strict=True):
            for role, module in level.items():  # type: ignore[operator, union-attr]
                last = module[-1] if isinstance(module, nn.Sequential) else module
                last.weight.mul_(0.1)
                last.bias.zero_()
                if isinstance(family, Yolov5 | NanoDet):
                    last.bias.copy_(first_biases(family, len(last.bias)))
                elif role in ("classes", "score", "heat"):
                    last.bias.fill_(family.bias)
                elif isinstance(family, RtmDet | Scrfd) and role in ("boxes", "bbox"):
                    last.bias.fill_(1.5)
                elif role == "wh":
                    last.bias.fill_(8.0)
                elif role == "regressors":
                    last.bias.copy_(
                        torch.tensor([0.0, 0, stride / 5, stride / 5, *[0.0] * 12]).repeat(len(last.bias) // 16)
                    )
    return family


def first_biases(family: Family, count: int) -> Tensor:
    biases = torch.zeros(count)
    if isinstance(family, Yolov5):
        biases.reshape(3, -1)[:, 4] = -4.0
    else:
        biases[: family.classes] = family.bias
    return biases


def train(family: Family, features: Features, data: Scenes, steps: int, say: Callable[[str], None] = print) -> Family:
    """Train the heads alone; the same weights come out of the same seed."""
    torch.manual_seed(0)
    started(family)
    rate = 3e-3 if family.slow else 1e-2
    optimiser = torch.optim.AdamW(family.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    scale = [torch.ones(()) for _ in data.features]
    order = torch.randperm(len(data.labels))
    for step in range(steps):
        chosen = order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(order)]
        given = [feature[chosen].float() * one for feature, one in zip(data.features, scale, strict=True)]
        loss = loss_of(family.decode(family(given)), data.labels[chosen], data.points[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(family.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            say(f"{type(family).__name__} step {step} loss {loss.item():.3f}")
    family.finished()
    return family.eval()


def trained(kind: type[Family], count: int = SCENES, steps: int = STEPS, say: Callable[[str], None] = print) -> Whole:
    """A family's network, its heads trained, in eval mode."""
    features = Features(kind.strides)
    family = train(kind(), features, scenes(features, count, kind.faces), steps, say)
    return Whole(features, family).eval()


def best_overlaps(network: Whole, count: int, first: int) -> float:
    """The share of objects of unseen scenes that the best box of a score above 0.3 overlaps by half: is it trained?"""
    found = total = 0
    data = [letterboxed_scene(first + number) for number in range(count)]
    for image, drawn, corner in data:
        pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            decoded = network.family.decode(network.family(network.features(pixels)))
        sure = decoded.boxes[0][decoded.scores[0].max(1).values > 0.3]
        for item in drawn.objects:
            box = torch.from_numpy(item.box + np.tile(corner, 2))[None]
            total += 1
            found += bool(len(sure)) and float(complete_iou(sure, box).max()) > 0.5
    return found / max(total, 1)


FAMILIES: dict[str, type[Family]] = {
    kind.__name__.lower(): kind
    for kind in (Yolov5, NanoDet, RtmDet, Ssd, EfficientDet, CenterNet, Scrfd, RetinaFace, BlazeFace)
}
"""By the name that a row gives."""
