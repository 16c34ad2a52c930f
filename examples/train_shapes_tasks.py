"""Train poses, masks and labels on top of the detector of shapes that edgekit ships, on two cores of a processor.

    python examples/train_shapes_tasks.py --out tasks.safetensors

It starts from the detector's weights and goes on training them, so that features learn what boxes did not need (which
way up a square is). Scenes, their guises and the order come from seeds. Losses: those of the detector, the distance of
keypoints relative to the object's size, cross-entropy of their visibility, of masks inside their boxes, and of the
classes an image shows. Takes about half an hour.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_shapes_detector import (
    FIRST_HELD_OUT_SEED,
    MOST_OBJECTS,
    Matches,
    Settings,
    average_into,
    detection_loss,
    letterboxed_scene,
    match,
    turn,
)

from edgekit.evaluation.coco import SCORE_THRESHOLD
from edgekit.evaluation.labelled import evaluate
from edgekit.runtimes.model import Model
from edgekit.runtimes.tasks.similarity import AREA_SHARE
from edgekit.runtimes.tasks.skeletons import SIGMA
from edgekit.shapes import CLASSES, FIRST_TRAINING_SEED, KEYPOINTS, write_coco
from edgekit.shapes.detector import INPUT_SIZE, demo_detector
from edgekit.shapes.tasks import PROTOTYPE_STRIDE, PROTOTYPES, ShapesTasks, TaskOutputs
from edgekit.shapes.trained import of_tasks
from edgekit.sources.session import TorchSession

MASK_CELL = 2
"""Pixels to a cell of the stored maps of instances; prototypes have `PROTOTYPE_STRIDE`."""

MIRRORED = [KEYPOINTS.index(name) for name in ("centre", "top", "left", "bottom", "right")]
"""Where each keypoint goes in a mirror: every shape is its own mirror image."""


class Scenes(NamedTuple):
    """Images uint8 (n, 256, 256, 3) BGR; labels (n, objects, 5) class (-1: none), xyxy; keypoints (n, objects, 5, 3).

    Maps uint8 (n, 128, 128) tell which object, counted from 1, a cell shows.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    maps: npt.NDArray[np.uint8]


class Truth(NamedTuple):
    """A batch of the same as tensors; masks float32 (N, objects, 64, 64) are the share of each cell that is covered."""

    labels: Tensor
    keypoints: Tensor
    masks: Tensor


def example(seed: int) -> tuple[npt.NDArray[np.uint8], ...]:
    """One scene: a row of each field of `Scenes`."""
    image, drawn, corner = letterboxed_scene(seed)
    labels = np.full((MOST_OBJECTS, 5), -1, dtype=np.float32)
    keypoints = np.zeros((MOST_OBJECTS, len(KEYPOINTS), 3), dtype=np.float32)
    whole = np.zeros((INPUT_SIZE, INPUT_SIZE), dtype=np.uint8)
    left, top = corner.astype(int)
    for row, item in enumerate(drawn.objects[:MOST_OBJECTS]):
        labels[row] = (item.class_id, *(item.box + np.tile(corner, 2)))
        keypoints[row] = item.keypoints + np.array([*corner, 0], dtype=np.float32)
        height, width = item.mask.shape
        whole[top : top + height, left : left + width][item.mask] = row + 1
    return image, labels, keypoints, whole[::MASK_CELL, ::MASK_CELL]


def draw_scenes(count: int, workers: int) -> Scenes:
    """Draw the training scenes."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + count)
        rows = pool.imap(example, seeds, chunksize=64)
        first = next(rows)
        columns = [np.empty((count, *part.shape), part.dtype) for part in first]
        for index, row in enumerate(itertools.chain([first], rows)):
            for column, part in zip(columns, row, strict=True):
                column[index] = part
    return Scenes(*columns)


def turned_points(points: npt.NDArray[np.float32], quarter: int, flip: bool) -> npt.NDArray[np.float32]:
    """Keypoints (objects, 5, 3) of a square image turned by quarters, counter-clockwise, and then mirrored."""
    x, y, seen = (points[..., column].copy() for column in range(3))
    for _ in range(quarter):
        x, y = y, INPUT_SIZE - x
    if not flip:
        return np.stack([x, y, seen], axis=-1)
    return np.stack([INPUT_SIZE - x, y, seen], axis=-1)[:, MIRRORED]


def batches(scenes: Scenes, settings: Settings) -> Iterator[tuple[Tensor, Truth]]:
    """Yield images float32 (N, 3, 256, 256) RGB / 255 and their truth, each scene in a new guise."""
    rng = np.random.default_rng(settings.seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(settings.steps):
        if len(order) < settings.batch:
            order = np.concatenate([order, rng.permutation(len(scenes.images))])
        chosen, order = order[: settings.batch], order[settings.batch :]
        images, labels, keypoints, maps = [], [], [], []
        for i in chosen:
            quarter, flip = int(rng.integers(4)), rng.random() < 0.5
            image, boxes = turn(scenes.images[i], scenes.labels[i], quarter, flip)
            images.append(image[..., rng.permutation(3) if rng.random() < 0.5 else np.array([2, 1, 0])])
            labels.append(boxes)
            keypoints.append(turned_points(scenes.keypoints[i], quarter, flip))
            map_ = np.rot90(scenes.maps[i], quarter)
            maps.append(map_[:, ::-1] if flip else map_)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)
        shown = functional.one_hot(torch.from_numpy(np.stack(maps)).long(), MOST_OBJECTS + 1)[..., 1:]
        masks = functional.avg_pool2d(shown.permute(0, 3, 1, 2).float(), PROTOTYPE_STRIDE // MASK_CELL)
        truth = Truth(torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(keypoints)), masks)
        yield pixels.contiguous(memory_format=torch.channels_last), truth


# ------------------------------------------------------------------------------------------------------------ loss


def flat(outputs: tuple[Tensor, ...]) -> Tensor:
    """Raw outputs (N, C, h, w) of all strides as (N, anchors, C)."""
    return torch.cat([output.flatten(2).transpose(1, 2) for output in outputs], 1)


def keypoint_loss(outputs: TaskOutputs, truth: Truth, found: Matches) -> Tensor:
    """How far keypoints are off, relative to their object, and the cross-entropy of whether they are seen."""
    positive = found.index >= 0
    wanted = truth.keypoints.gather(1, found.index.clamp(min=0)[..., None, None].expand(-1, -1, len(KEYPOINTS), 3))
    wanted, weight = wanted[positive], found.target[positive][:, None]
    values = flat(outputs.keypoints)[positive].reshape(-1, len(KEYPOINTS), 3)
    stride = found.strides.expand(len(positive), -1)[positive][:, None, None]
    corners = found.centres.expand(len(positive), -1, -1)[positive][:, None] / stride - 0.5
    points = (values[..., :2] * 2 + corners) * stride
    boxes = found.matched[positive]
    area = AREA_SHARE * (boxes[:, 2:] - boxes[:, :2]).prod(-1, keepdim=True)
    exponent = (points - wanted[..., :2]).pow(2).sum(-1) / (2 * area * (2 * SIGMA) ** 2 + 1e-6)
    inside = (wanted[..., 2] > 0).float()
    # log(1 + e) has OKS's own slope where points are close, and still one where OKS is flat at 0.
    distance = (exponent.log1p() * inside * weight).sum() / found.total / len(KEYPOINTS)
    seen = functional.binary_cross_entropy_with_logits(values[..., 2], (wanted[..., 2] == 2).float(), reduction="none")
    return distance + 0.5 * (seen * weight).sum() / found.total / len(KEYPOINTS)


def mask_loss(outputs: TaskOutputs, truth: Truth, found: Matches) -> Tensor:
    """Cross-entropy of masks inside their boxes, each box counting alike."""
    coefficients = flat(outputs.coefficients)
    rows, columns = outputs.prototypes.shape[2:]
    y = (torch.arange(rows) + 0.5)[None, :, None] * PROTOTYPE_STRIDE
    x = (torch.arange(columns) + 0.5)[None, None, :] * PROTOTYPE_STRIDE
    losses: list[Tensor] = []
    for prototypes, weights, index, target, matched, masks in zip(
        outputs.prototypes, coefficients, found.index, found.target, found.matched, truth.masks, strict=True
    ):
        positive = index >= 0
        logits = (weights[positive] @ prototypes.reshape(PROTOTYPES, -1)).reshape(-1, rows, columns)
        left, top, right, bottom = (side[:, None, None] for side in matched[positive].unbind(1))
        inside = ((x > left) & (x < right) & (y > top) & (y < bottom)).float()
        loss = functional.binary_cross_entropy_with_logits(logits, masks[index[positive]], reduction="none")
        each = (loss * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        losses.append((each * target[positive]).sum())
    return torch.stack(losses).sum() / found.total


def label_loss(outputs: TaskOutputs, truth: Truth) -> Tensor:
    """Cross-entropy of each class being in the image."""
    shown = functional.one_hot(truth.labels[..., 0].long() + 1, len(CLASSES) + 1).amax(1)[:, 1:]
    return functional.binary_cross_entropy_with_logits(outputs.labels, shown.float())


def loss_of(outputs: TaskOutputs, truth: Truth) -> Tensor:
    """All losses of a batch."""
    found = match(outputs.detections, truth.labels)
    boxes = detection_loss(outputs.detections, truth.labels, found)
    further = 2 * keypoint_loss(outputs, truth, found) + 2 * mask_loss(outputs, truth, found)
    return boxes + further + label_loss(outputs, truth)


# -------------------------------------------------------------------------------------------------------- training


def score(model: ShapesTasks, scenes: Path) -> str:
    """The main figure of every kind that each task can be measured by, on held-out scenes."""
    told: list[str] = []
    for task in ("pose", "segment", "classify"):
        network = of_tasks(task, model)
        opened = Model(network.contract, TorchSession(network))
        for metrics in evaluate(lambda image, opened=opened: opened.predict(image, score=SCORE_THRESHOLD), scenes):
            told.append(f"{task} {next(iter(metrics.figures))} {metrics.main:.4f}")
    return ", ".join(dict.fromkeys(told))


def save(model: nn.Module, path: Path) -> None:
    """Write the weights (float16 safetensors) so that a reader sees the old file or the new one, never half of one."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(state, partial)
    partial.replace(path)


def train(settings: Settings, out: Path, check_every: int) -> None:
    """Train, print progress, and write the average of the weights at every check."""
    torch.manual_seed(settings.seed)
    began = time.monotonic()
    scenes = draw_scenes(settings.scenes, os.cpu_count() or 1)
    held_out = Path(tempfile.mkdtemp(prefix="shapes-held-out-"))
    write_coco(held_out, range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + settings.held_out))
    print(f"{settings.scenes} scenes drawn in {time.monotonic() - began:.0f} s", flush=True)
    model = ShapesTasks()
    model.detector.load_state_dict(demo_detector().state_dict())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    average = copy.deepcopy(model).eval()
    known = set(model.detector.parameters())
    groups = [
        {"params": [value for value in model.parameters() if value in known], "lr": settings.learning_rate / 4},
        {"params": [value for value in model.parameters() if value not in known], "lr": settings.learning_rate},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, settings.steps, pct_start=0.08, final_div_factor=50
    )
    running = math.nan
    for step, (pixels, truth) in enumerate(batches(scenes, settings), start=1):
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(pixels)
        outputs = TaskOutputs(
            *(tuple(one.float() for one in part) if isinstance(part, tuple) else part.float() for part in raw)
        )
        loss = loss_of(outputs, truth)
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
            save(average, out)
            print(f"step {step} {score(average, held_out)}", flush=True)
    print(f"trained in {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Train with settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tasks.safetensors"))
    parser.add_argument("--scenes", type=int, default=8_000)
    parser.add_argument("--steps", type=int, default=2_400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=100, help="scenes to score on")
    parser.add_argument("--check-every", type=int, default=400, help="steps between scores")
    given = parser.parse_args()
    settings = Settings(given.scenes, given.steps, given.batch, given.learning_rate, given.seed, given.held_out)
    train(settings, given.out, given.check_every)


if __name__ == "__main__":
    main()
