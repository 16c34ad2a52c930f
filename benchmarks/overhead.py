"""What edgekit adds around an inference, beside a hand-tuned cv2 + numpy loop that does the same job in the same run.

One photograph of 810x1080, letterboxed to 640; raw heads of an 80-class detector with DFL (8,400 anchors) with a known
number of objects in them. Both give boxes, scores and classes in original pixels, and are checked to give the same.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from edgekit.runtimes.bundle.manifest import Contract, Decoder, ImageRule, Output
from edgekit.runtimes.inputs.images import Preprocessor, transform
from edgekit.runtimes.tasks.detect import Detect
from edgekit.shapes import scene

SIZE, CLASSES, BINS, STRIDES = 640, 80, 16, (8, 16, 32)
WIDTH, HEIGHT = 810, 1080
ROUNDS = 300


def heads(objects: int, seed: int = 0) -> list[np.ndarray]:
    """Raw outputs with this many confident anchors, spread over the levels."""
    rng = np.random.default_rng(seed)
    outputs = []
    for index, stride in enumerate(STRIDES):
        side = SIZE // stride
        boxes = rng.normal(0, 1, (1, 4 * BINS, side, side)).astype(np.float32)
        classes = rng.normal(-8, 1, (1, CLASSES, side, side)).astype(np.float32)
        share = objects // 2 if index == 0 else objects // 4
        for cell in rng.choice(side * side, share, replace=False):
            classes[0, rng.integers(CLASSES), cell // side, cell % side] = rng.uniform(0, 3)
        outputs += [boxes, classes]
    return outputs


class HandTuned:
    """Everything fixed beforehand for one size and one model; no checks, no types, no result object."""

    def __init__(self) -> None:
        ratio = min(SIZE / WIDTH, SIZE / HEIGHT)
        self.width, self.height = round(WIDTH * ratio), round(HEIGHT * ratio)
        self.left, self.top = (SIZE - self.width) // 2, (SIZE - self.height) // 2
        self.canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
        self.inner = self.canvas[self.top : self.top + self.height, self.left : self.left + self.width]
        self.planes = [np.empty((SIZE, SIZE), np.uint8) for _ in range(3)]
        self.tensor = np.empty((1, 3, SIZE, SIZE), np.float32)
        self.bins = np.arange(BINS, dtype=np.float32)[None, :, None]
        self.scale = np.array([self.width / WIDTH, self.height / HEIGHT] * 2, np.float32)
        self.offset = np.array([self.left, self.top] * 2, np.float32)
        self.limit = np.array([WIDTH, HEIGHT] * 2, np.float32)

    def pre(self, image: np.ndarray) -> np.ndarray:
        cv2.resize(image, (self.width, self.height), dst=self.inner)
        cv2.split(self.canvas, self.planes)
        for channel in range(3):
            np.multiply(self.planes[2 - channel], np.float32(1 / 255), out=self.tensor[0, channel])
        return self.tensor

    def post(self, outputs: list[np.ndarray], score: float = 0.25, iou: float = 0.45) -> tuple[np.ndarray, ...]:
        cut = np.log(score / (1 - score))
        boxes, scores, classes = [], [], []
        for index, stride in enumerate(STRIDES):
            side = SIZE // stride
            logits = outputs[2 * index + 1].reshape(CLASSES, side * side)
            best = logits.max(0)
            cells = np.flatnonzero(best > cut)
            raw = outputs[2 * index].reshape(4, BINS, side * side)[:, :, cells]
            weights = np.exp(raw - raw.max(1, keepdims=True))
            reach = (weights * self.bins).sum(1) / weights.sum(1)
            x, y = cells % side + 0.5, cells // side + 0.5
            corners = np.stack([x - reach[0], y - reach[1], x + reach[2], y + reach[3]], 1)
            boxes.append(corners.astype(np.float32) * stride)
            scores.append(1 / (1 + np.exp(-best[cells])))
            classes.append(logits[:, cells].argmax(0))
        box, prob, kind = np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)
        corner_size = box.astype(np.float64)
        corner_size[:, 2:] -= corner_size[:, :2]
        kept = cv2.dnn.NMSBoxesBatched(corner_size, prob, kind.astype(np.int32), score, iou)[:300]
        box = np.clip((box[kept] - self.offset) / self.scale, 0, self.limit)
        return box, prob[kept], kind[kept]


def timed(rounds: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Median ms of several functions, run in turns so that the machine's mood is shared."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 20):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= 20:
                spent[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in spent.items()}


def main() -> None:
    """Print the table."""
    image = scene(7, (HEIGHT, WIDTH)).image
    rule = ImageRule(size=(SIZE, SIZE))
    outputs = tuple(Output(name=f"{r}_{i}", role=r, level=i) for i in range(3) for r in ("boxes", "classes"))
    decoder = Decoder(name="anchor_free", options={"strides": list(STRIDES), "reg_max": BINS})
    names = tuple(f"class {i}" for i in range(CLASSES))
    task = Detect(Contract(image=rule, classes=names, decoder=decoder, outputs=outputs))
    preprocess, rival, mapping = Preprocessor(rule), HandTuned(), transform(rule, WIDTH, HEIGHT)
    assert np.abs(preprocess(image)[0] - rival.pre(image)).max() < 1e-6
    print(f"{'objects':>8} {'':>6} {'hand-tuned ms':>14} {'edgekit ms':>11} {'ratio':>6}")
    for objects in (40, 250):
        raw = heads(objects)
        ours, theirs = task.result(raw, mapping), rival.post(raw)
        assert np.allclose(ours.boxes, theirs[0], atol=1e-2)
        assert np.array_equal(ours.class_ids, theirs[2])
        pre = timed(ROUNDS, rival=lambda: rival.pre(image), ours=lambda: preprocess(image))
        post = timed(ROUNDS, rival=lambda raw=raw: rival.post(raw), ours=lambda raw=raw: task.result(raw, mapping))
        both = {name: pre[name] + post[name] for name in pre}
        for stage, found in (("pre", pre), ("post", post), ("both", both)):
            ratio = found["ours"] / found["rival"]
            print(f"{len(ours):>8} {stage:>6} {found['rival']:>14.3f} {found['ours']:>11.3f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
