"""What edgekit's postprocessing of poses and masks costs, beside hand-tuned cv2 + numpy loops in the same run.

One photograph of 810x1080, letterboxed to 640. Poses: 30 people of a YOLO pose head (17 keypoints). Instances: 40 and
250 of a YOLO segmentation head (32 coefficients, prototypes of 160 x 160). Both sides give their
results in original pixels, and are checked to give the same.

    python benchmarks/overhead_tasks.py
"""

from __future__ import annotations

import cv2
import numpy as np
from overhead import BINS, HEIGHT, SIZE, STRIDES, WIDTH, timed

from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import transform
from edgekit.runtimes.results import Instances, Poses
from edgekit.runtimes.tasks import Task, open_task
from edgekit.runtimes.tasks.skeletons import COCO

ROUNDS = 100
PROTOTYPES, CELL = 32, 4
Heads = dict[str, list[np.ndarray]]


def heads(objects: int, classes: int, extra: int, seed: int = 0) -> Heads:
    """Raw outputs with this many confident anchors on a grid, and boxes of ordinary sizes."""
    rng = np.random.default_rng(seed)
    sides = [SIZE // stride for stride in STRIDES]
    found: Heads = {"boxes": [], "classes": [], "extra": []}
    for side in sides:
        found["boxes"].append(np.zeros((1, 4 * BINS, side, side), np.float32))
        found["classes"].append(rng.normal(-8, 1, (1, classes, side, side)).astype(np.float32))
        found["extra"].append(rng.normal(0, 1, (1, extra, side, side)).astype(np.float32))
    wide = int(np.ceil(np.sqrt(objects)))
    for number in range(objects):
        level = 1 + number % 2
        side = sides[level]
        down, across = divmod(number, wide)  # the letterbox leaves a border on the left and on the right
        row, column = int((down + 0.5) * side / wide), int((0.15 + 0.7 * (across + 0.5) / wide) * side)
        found["classes"][level][0, rng.integers(classes), row, column] = rng.uniform(0, 3)
        reach = rng.uniform(1.0, 3.0 if level == 1 else 2.0, 4)
        for edge in range(4):
            found["boxes"][level][0, edge * BINS + round(reach[edge]), row, column] = 12
    return found


class HandTuned:
    """Everything fixed beforehand for one size and one model; no checks, no types, no result object."""

    def __init__(self, classes: int) -> None:
        ratio = min(SIZE / WIDTH, SIZE / HEIGHT)
        width, height = round(WIDTH * ratio), round(HEIGHT * ratio)
        self.left, self.top, self.ratio = (SIZE - width) // 2, (SIZE - height) // 2, ratio
        self.scale = np.array([width / WIDTH, height / HEIGHT] * 2, np.float32)
        self.offset = np.array([self.left, self.top] * 2, np.float32)
        self.limit = np.array([WIDTH, HEIGHT] * 2, np.float32)
        self.bins = np.arange(BINS, dtype=np.float32)[None, :, None]
        self.classes = classes

    def boxes(self, raw: Heads, score: float = 0.25, iou: float = 0.45) -> tuple[np.ndarray, ...]:
        """Boxes in original pixels, and level and cell of each."""
        cut = np.log(score / (1 - score))
        boxes, scores, kinds, places = [], [], [], []
        for level, stride in enumerate(STRIDES):
            side = SIZE // stride
            logits = raw["classes"][level].reshape(self.classes, side * side)
            best = logits.max(0)
            cells = np.flatnonzero(best > cut)
            values = raw["boxes"][level].reshape(4, BINS, side * side)[:, :, cells]
            weights = np.exp(values - values.max(1, keepdims=True))
            reach = (weights * self.bins).sum(1) / weights.sum(1)
            x, y = cells % side + 0.5, cells // side + 0.5
            corners = np.stack([x - reach[0], y - reach[1], x + reach[2], y + reach[3]], 1)
            boxes.append(corners.astype(np.float32) * stride)
            scores.append(1 / (1 + np.exp(-best[cells])))
            kinds.append(logits[:, cells].argmax(0))
            places.append(np.stack([np.full(len(cells), level), cells], 1))
        box, prob, kind = np.concatenate(boxes), np.concatenate(scores), np.concatenate(kinds)
        corner_size = box.astype(np.float64)
        corner_size[:, 2:] -= corner_size[:, :2]
        kept = cv2.dnn.NMSBoxesBatched(corner_size, prob, kind.astype(np.int32), score, iou)[:300]
        place = np.concatenate(places)[kept]
        return np.clip((box[kept] - self.offset) / self.scale, 0, self.limit), prob[kept], kind[kept], place

    def poses(self, raw: Heads) -> tuple[np.ndarray, np.ndarray]:
        """Boxes and keypoints (n, 17, 3) in original pixels."""
        box, _, _, place = self.boxes(raw)
        points = np.empty((len(box), 17, 3), np.float32)
        for index, (level, cell) in enumerate(place.tolist()):
            side, stride = SIZE // STRIDES[level], STRIDES[level]
            values = raw["extra"][level].reshape(51, -1)[:, cell].reshape(17, 3)
            points[index, :, 0] = ((values[:, 0] * 2 + cell % side) * stride - self.left) / self.scale[0]
            points[index, :, 1] = ((values[:, 1] * 2 + cell // side) * stride - self.top) / self.scale[1]
            points[index, :, 2] = values[:, 2]
        points[..., 2] = 1 / (1 + np.exp(-points[..., 2]))
        return box, points

    def masks(self, raw: Heads, prototypes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Boxes in original pixels, and the bitmap inside each: weighed at prototype resolution, then enlarged."""
        box, _, _, place = self.boxes(raw)
        flat = prototypes[0]
        crops = []
        for (x1, y1, x2, y2), (level, cell) in zip(box.tolist(), place.tolist(), strict=True):
            weights = raw["extra"][level].reshape(PROTOTYPES, -1)[:, cell]
            left, top, right, bottom = int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2))
            fx, fy = self.scale[0] / CELL, self.scale[1] / CELL
            c1, r1 = max(int(left * fx + self.left / CELL) - 1, 0), max(int(top * fy + self.top / CELL) - 1, 0)
            c2, r2 = int(right * fx + self.left / CELL) + 2, int(bottom * fy + self.top / CELL) + 2
            small = np.einsum("m,mhw->hw", weights, flat[:, r1:r2, c1:c2])
            shift_x = (left + 0.5) * fx + self.left / CELL - 0.5 - c1
            shift_y = (top + 0.5) * fy + self.top / CELL - 0.5 - r1
            matrix = np.array([[fx, 0, shift_x], [0, fy, shift_y]])
            size = (right - left, bottom - top)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            crops.append(cv2.warpAffine(small, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) > 0)
        return box, crops


def task_of(name: str, classes: int) -> tuple[Task, str]:
    """edgekit's task of these heads, and the role of what stands beside the boxes."""
    role = {"pose": "keypoints", "segment": "coefficients"}[name]
    outputs = [Output(name=f"{r}_{i}", role=r, level=i) for i in range(3) for r in ("boxes", "classes", role)]
    if name == "segment":
        outputs.append(Output(name="prototypes", role="prototypes"))
    contract = Contract(
        task=name,
        image=ImageRule(size=(SIZE, SIZE)),
        classes=tuple(f"class {i}" for i in range(classes)),
        decoder=Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": BINS}),
        outputs=tuple(outputs),
        skeleton=COCO if name == "pose" else None,
    )
    return open_task(contract), role


def in_order(raw: Heads, more: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays in the contract's order."""
    return [raw[role][level] for level in range(3) for role in ("boxes", "classes", "extra")] + more


def main() -> None:
    """Print the table."""
    mapping = transform(ImageRule(size=(SIZE, SIZE)), WIDTH, HEIGHT)
    print(f"{'task':>9} {'objects':>8} {'hand-tuned ms':>14} {'edgekit ms':>11} {'ratio':>6}")
    for name, objects in (("pose", 30), ("segment", 40), ("segment", 250)):
        classes = 1 if name == "pose" else 80
        raw = heads(objects, classes, 51 if name == "pose" else PROTOTYPES)
        task, _ = task_of(name, classes)
        rival = HandTuned(classes)
        noise = np.random.default_rng(1).normal(0, 1, (1, PROTOTYPES, 20, 20)).astype(np.float32)
        side = SIZE // CELL
        smooth = np.stack([cv2.resize(plane, (side, side), interpolation=cv2.INTER_CUBIC) for plane in noise[0]])[None]
        given = in_order(raw, [smooth] if name == "segment" else [])
        ours = task.result(given, mapping)
        if isinstance(ours, Poses):
            box, points = rival.poses(raw)
            assert np.allclose(ours.boxes, box, atol=1e-2)
            assert np.allclose(ours.keypoints, points, atol=1e-2)
            run = timed(
                ROUNDS,
                rival=lambda raw=raw, rival=rival: rival.poses(raw),
                ours=lambda t=task, g=given: t.result(g, mapping),
            )
        else:
            assert isinstance(ours, Instances)
            box, crops = rival.masks(raw, smooth)
            assert np.allclose(ours.boxes, box, atol=1e-2)
            same = [np.mean(a == b) for a, b in zip(ours.masks.crops, crops, strict=True)]
            assert min(same) > 0.99
            run = timed(
                ROUNDS,
                rival=lambda raw=raw, rival=rival, smooth=smooth: rival.masks(raw, smooth),
                ours=lambda t=task, g=given: t.result(g, mapping),
            )
        print(f"{name:>9} {len(ours):>8} {run['rival']:>14.3f} {run['ours']:>11.3f} {run['ours'] / run['rival']:>6.2f}")


if __name__ == "__main__":
    main()
