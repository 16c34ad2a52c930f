"""Train the detector of shapes that edgekit ships, from nothing, on two cores of a processor.

    python examples/train_shapes_detector.py --out detector.safetensors

Scenes are drawn from seeds, so nothing is downloaded and every run sees the same images. Labels are assigned by task
alignment (TOOD, arXiv 2108.07755); the loss is binary cross-entropy on classes, complete IoU (arXiv 1911.08287) and
distribution focal loss (arXiv 2006.04388) on boxes. An exponential moving average of the weights is what is scored
(pycocotools, on scenes whose seeds training never uses) and written.

Takes about a quarter of an hour of two cores to itself. Where other programs share the processor, start it with
OMP_WAIT_POLICY=PASSIVE in the environment, or its threads spend their time waiting for each other.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.shapes import CLASSES, FIRST_TRAINING_SEED, Scene, SceneOptions, scene
from edgekit.shapes.dataset import coco_dataset
from edgekit.shapes.detector import INPUT_SIZE, REG_MAX, STRIDES, ShapesDetector, cell_centres, decode

FIRST_HELD_OUT_SEED = 500_000
MOST_OBJECTS = 12
# The first part of the training sees the scenes at a smaller size, which costs 0.4 of the time a step.
SMALL_SIZE, SMALL_PART = 160, 0.5
GREY = 114
# More shapes to a scene than in the world's default: more to learn from each image.
CROWDED = SceneOptions(min_objects=4, max_objects=10, max_size=0.36)


@dataclass(frozen=True)
class Settings:
    """What a training run depends on."""

    scenes: int
    steps: int
    batch: int
    learning_rate: float
    seed: int
    held_out: int


# ---------------------------------------------------------------------------------------------------------- scenes


def letterboxed_scene(seed: int) -> tuple[npt.NDArray[np.uint8], Scene, npt.NDArray[np.float32]]:
    """One letterboxed image uint8 (256, 256, 3) BGR, the scene on it, and where its corner is, float32 (2,) x, y."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 9])
    height = width = INPUT_SIZE
    if rng.random() < 0.2:  # not square: the detector has to know the grey of a letterbox
        short = int(rng.integers(INPUT_SIZE // 2, INPUT_SIZE))
        height, width = (short, INPUT_SIZE) if rng.random() < 0.5 else (INPUT_SIZE, short)
    drawn = scene(seed, (height, width), CROWDED if rng.random() < 0.6 else None)
    top, left = (INPUT_SIZE - height) // 2, (INPUT_SIZE - width) // 2
    image = np.full((INPUT_SIZE, INPUT_SIZE, 3), GREY, dtype=np.uint8)
    image[top : top + height, left : left + width] = drawn.image
    return image, drawn, np.array([left, top], dtype=np.float32)


def training_example(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """One letterboxed image uint8 (256, 256, 3) BGR; its labels float32 (MOST_OBJECTS, 5): class (-1: none), xyxy."""
    image, drawn, corner = letterboxed_scene(seed)
    labels = np.full((MOST_OBJECTS, 5), -1, dtype=np.float32)
    for row, item in enumerate(drawn.objects[:MOST_OBJECTS]):
        labels[row] = (item.class_id, *(item.box + np.tile(corner, 2)))
    return image, labels


def draw_scenes(count: int, workers: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Draw the training scenes: images (count, 256, 256, 3) and labels (count, MOST_OBJECTS, 5)."""
    images = np.empty((count, INPUT_SIZE, INPUT_SIZE, 3), dtype=np.uint8)
    labels = np.empty((count, MOST_OBJECTS, 5), dtype=np.float32)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + count)
        for index, (image, label) in enumerate(pool.imap(training_example, seeds, chunksize=64)):
            images[index], labels[index] = image, label
    return images, labels


def turn(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.float32], quarter: int, flip: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Turn a square image by quarters, counter-clockwise, then mirror it; boxes follow exactly."""
    image = np.rot90(image, quarter)
    labels, size = labels.copy(), float(image.shape[0])
    x1, y1, x2, y2 = (labels[:, column].copy() for column in range(1, 5))
    for _ in range(quarter):
        x1, y1, x2, y2 = y1, size - x2, y2, size - x1
    if flip:
        image = image[:, ::-1]
        x1, x2 = size - x2, size - x1
    labels[:, 1:] = np.stack([x1, y1, x2, y2], axis=1)
    return image, labels


def batches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.float32], settings: Settings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images float32 (N, 3, side, side) RGB / 255 and labels (N, MOST_OBJECTS, 5), each scene in a new guise."""
    rng = np.random.default_rng(settings.seed)
    order = np.empty(0, dtype=np.int64)
    for step in range(settings.steps):
        side = SMALL_SIZE if step < settings.steps * SMALL_PART else INPUT_SIZE
        if len(order) < settings.batch:
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[: settings.batch], order[settings.batch :]
        turned = [turn(images[i], labels[i], int(rng.integers(4)), rng.random() < 0.5) for i in chosen]
        colours = [rng.permutation(3) if rng.random() < 0.5 else np.array([2, 1, 0]) for _ in chosen]
        painted = [image[..., channels] for (image, _), channels in zip(turned, colours, strict=True)]
        if side != INPUT_SIZE:
            painted = [
                np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
                for image in painted
            ]
        truth = np.stack([label for _, label in turned])
        truth[..., 1:] *= side / INPUT_SIZE
        pixels = torch.from_numpy(np.stack(painted)).permute(0, 3, 1, 2).float().div_(255)
        yield pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(truth)


# ------------------------------------------------------------------------------------------------------------ loss


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """Complete IoU of paired boxes xyxy (..., 4)."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    size1, size2 = first[..., 2:] - first[..., :2], second[..., 2:] - second[..., :2]
    iou = overlap / (size1.prod(-1) + size2.prod(-1) - overlap + 1e-7)
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).pow(2).sum(-1) / 4
    angle = torch.atan(size1[..., 0] / (size1[..., 1] + 1e-7)) - torch.atan(size2[..., 0] / (size2[..., 1] + 1e-7))
    shape = 4 / math.pi**2 * angle.pow(2)
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-7)
    return iou - apart / (hull.pow(2).sum(-1) + 1e-7) - weight * shape


@torch.no_grad()
def assign(
    boxes: Tensor, scores: Tensor, centres: Tensor, labels: Tensor, top: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    """Task-aligned assignment of anchors to objects.

    Of the anchors inside a box, its `top` best by score^0.5 * IoU^6 learn it. Returns the object's index (N, anchors),
    -1 where there is none; the target score (N, anchors): alignment, scaled so that an object's best equals its IoU;
    and the matched boxes (N, anchors, 4).
    """
    classes, truth = labels[..., 0].long(), labels[..., 1:]
    present = classes >= 0
    inside = (centres[None, None] > truth[..., None, :2]).all(-1) & (centres[None, None] < truth[..., None, 2:]).all(-1)
    inside &= present[..., None]
    iou = complete_iou(truth[:, :, None], boxes[:, None]).clamp(min=0) * inside
    picked = scores.transpose(1, 2).gather(1, classes.clamp(min=0)[..., None].expand(-1, -1, boxes.shape[1]))
    metric = picked.sqrt() * iou.pow(6) * inside
    best = metric.topk(top, -1)
    chosen = torch.zeros_like(metric, dtype=torch.bool).scatter_(-1, best.indices, best.values > 1e-12)
    # An anchor that several objects want learns the one that it overlaps most.
    owner = torch.where(chosen, iou, torch.full_like(iou, -1.0)).max(1)
    index = torch.where(owner.values >= 0, owner.indices, torch.full_like(owner.indices, -1))
    mine = functional.one_hot(index.clamp(min=0), truth.shape[1]).transpose(1, 2).bool() & (index >= 0)[:, None]
    metric, iou = metric * mine, iou * mine
    target = (metric * iou.amax(-1, True) / (metric.amax(-1, True) + 1e-12)).amax(1)
    matched = truth.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    return index, target, matched


@dataclass(frozen=True)
class Matches:
    """Decoded boxes (N, anchors, 4) and where anchors are; what `assign` gave each; the sum of target scores."""

    boxes: Tensor
    centres: Tensor
    strides: Tensor
    index: Tensor
    target: Tensor
    matched: Tensor
    total: Tensor


def match(outputs: tuple[Tensor, ...], labels: Tensor) -> Matches:
    """Decide which anchors of raw outputs learn which labels (N, MOST_OBJECTS, 5)."""
    boxes, scores = decode(outputs)
    shapes = [(outputs[2 * i].shape[2], outputs[2 * i].shape[3], stride) for i, stride in enumerate(STRIDES)]
    centres = torch.cat([cell_centres(*shape) for shape in shapes])
    strides = torch.cat([torch.full((height * width,), float(stride)) for height, width, stride in shapes])
    index, target, matched = assign(boxes.detach(), scores.detach(), centres, labels)
    return Matches(boxes, centres, strides, index, target, matched, target.sum().clamp(min=1))


def detection_loss(outputs: tuple[Tensor, ...], labels: Tensor, found: Matches) -> Tensor:
    """Class, box and distribution losses of raw outputs against labels (N, MOST_OBJECTS, 5)."""
    index, target, matched, total = found.index, found.target, found.matched, found.total
    logits = torch.cat([outputs[2 * i + 1].flatten(2).transpose(1, 2) for i in range(len(STRIDES))], 1)
    classes = labels[..., 0].long().clamp(min=0).gather(1, index.clamp(min=0))
    wanted = functional.one_hot(classes, logits.shape[-1]) * target[..., None]
    class_loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / total
    positive = index >= 0
    if not positive.any():
        return class_loss
    weight = target[positive]
    box_loss = ((1 - complete_iou(found.boxes[positive], matched[positive])) * weight).sum() / total
    sides = torch.cat([outputs[2 * i].flatten(2).transpose(1, 2) for i in range(len(STRIDES))], 1)
    sides = sides[positive].reshape(-1, 4, REG_MAX)
    place = found.centres.expand(len(labels), -1, -1)[positive]
    size = found.strides.expand(len(labels), -1)[positive][:, None]
    distance = torch.cat((place - matched[positive][:, :2], matched[positive][:, 2:] - place), 1) / size
    distance = distance.clamp(0, REG_MAX - 1.01)
    low = distance.floor().long()
    upper = distance - low
    log = sides.log_softmax(-1)
    nearby = log.gather(-1, low[..., None])[..., 0] * (1 - upper) + log.gather(-1, low[..., None] + 1)[..., 0] * upper
    focal_loss = (-nearby.mean(-1) * weight).sum() / total
    return 0.5 * class_loss + 7.5 * box_loss + 1.5 * focal_loss


# ----------------------------------------------------------------------------------------------------------- score


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Greedy non-maximum suppression: indices kept, best first, of boxes (n, 4) sorted by falling score."""
    kept: list[int] = []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(scores)):
        if not alive[i]:
            continue
        kept.append(i)
        overlap = (torch.minimum(boxes[i, 2:], boxes[:, 2:]) - torch.maximum(boxes[i, :2], boxes[:, :2])).clamp(min=0)
        shared = overlap.prod(-1)
        alive &= shared / (area[i] + area - shared) <= threshold
    return kept


@torch.no_grad()
def detect(model: nn.Module, image: npt.NDArray[np.uint8]) -> list[tuple[int, float, list[float]]]:
    """Detections (class, score, xyxy) of one image uint8 (256, 256, 3) BGR, NMS within each class."""
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    boxes, scores = (part[0] for part in decode(model(pixels)))
    boxes = boxes.clamp(0, INPUT_SIZE)
    found: list[tuple[int, float, list[float]]] = []
    for class_id in range(len(CLASSES)):
        ranked, order = scores[:, class_id].sort(descending=True)
        order = order[ranked > 0.001][:300]
        for i in suppress(boxes[order], scores[order, class_id], 0.6):
            found.append((class_id, float(scores[order[i], class_id]), boxes[order[i]].tolist()))
    return sorted(found, key=lambda item: -item[1])[:100]


def score(model: nn.Module, count: int) -> tuple[float, float]:
    """COCO mAP (0.50:0.95) and mAP50 on `count` held-out scenes, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model.eval()
    held_out = [scene(seed) for seed in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + count)]
    results = [
        {"image_id": number, "category_id": kind, "score": value, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, item in enumerate(held_out, start=1)
        for kind, value, (x1, y1, x2, y2) in detect(model, item.image)
    ]
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dict(coco_dataset((f"{item.seed}.png", item) for item in held_out))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


# -------------------------------------------------------------------------------------------------------- training


def save(model: nn.Module, path: Path) -> None:
    """Write the weights (float32 safetensors) so that a reader sees the old file or the new one, never half of one."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(state, partial)
    partial.replace(path)


def average_into(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the averaged weights and statistics towards the model's, slowly once some steps have passed."""
    decay = 0.998 * (1 - math.exp(-step / 300))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def train(settings: Settings, out: Path, check_every: int) -> nn.Module:
    """Train a detector and return its average; progress is printed, and the weights are written as they improve."""
    torch.manual_seed(settings.seed)
    began = time.monotonic()
    images, labels = draw_scenes(settings.scenes, os.cpu_count() or 1)
    print(f"{settings.scenes} scenes drawn in {time.monotonic() - began:.0f} s", flush=True)
    model: nn.Module = ShapesDetector()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    average = copy.deepcopy(model).eval()
    weights = [value for value in model.parameters() if value.ndim > 1]
    rest = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, settings.steps, pct_start=0.08, final_div_factor=50
    )
    running = 0.0
    for step, (pixels, truth) in enumerate(batches(images, labels, settings), start=1):
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(pixels)
        outputs = tuple(output.float() for output in outputs)
        loss = detection_loss(outputs, truth, match(outputs, truth))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        average_into(average, model, step)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}/{settings.steps} loss {running:.3f} {time.monotonic() - began:.0f} s", flush=True)
        if step % check_every == 0 or step == settings.steps:
            everything = step == settings.steps
            result = score(average, settings.held_out if everything else min(100, settings.held_out))
            print(f"step {step} mAP50-95 {result[0]:.4f} mAP50 {result[1]:.4f}", flush=True)
            save(average, out)
    print(f"trained in {time.monotonic() - began:.0f} s", flush=True)
    return average


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("detector.safetensors"))
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=400, help="scenes to score on")
    parser.add_argument("--check-every", type=int, default=400, help="steps between scores")
    given = parser.parse_args()
    settings = Settings(given.scenes, given.steps, given.batch, given.learning_rate, given.seed, given.held_out)
    train(settings, given.out, given.check_every)


if __name__ == "__main__":
    main()
