"""Train heads of oriented boxes on scenes of long things, on the features of the network that edgekit ships.

    python examples/train_shapes_oriented.py --out oriented.safetensors

Only the heads are trained, so that features are computed once. Scenes and their order come from seeds. Labels are
assigned by task alignment; the losses are the cross-entropy of classes, ProbIoU, distribution focal loss of the sides,
and the angle. Takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.shapes import FIRST_TRAINING_SEED
from edgekit.shapes.bars import LONG_CLASSES, MOST, long_scene
from edgekit.shapes.detector import INPUT_SIZE, REG_MAX, STRIDES, cell_centres
from edgekit.shapes.oriented import OrientedNetwork, untrained_oriented

TOP = 10
"""Anchors of an object that learn it."""


class Scenes(NamedTuple):
    """Features of each level (n, 64, h, w) float16, and labels (n, objects, 6): class (-1: none), oriented box."""

    features: tuple[Tensor, ...]
    labels: Tensor


class Raw(NamedTuple):
    """Heads of all anchors: logits of sides (N, anchors, 4, bins), of classes, angles (N, anchors) in radians, and the
    oriented boxes (N, anchors, 5) that they mean."""

    sides: Tensor
    logits: Tensor
    angles: Tensor
    boxes: Tensor


def seen(model: OrientedNetwork, seeds: range) -> Scenes:
    """The scenes of some seeds, as the frozen features see them."""
    columns: list[list[Tensor]] = [[] for _ in STRIDES]
    labels = torch.full((len(seeds), MOST, 6), -1.0)
    preprocess = Preprocessor(ImageRule(size=(INPUT_SIZE, INPUT_SIZE)))
    with torch.no_grad():
        for row, seed in enumerate(seeds):
            drawn = long_scene(seed)
            pixels = torch.from_numpy(preprocess(drawn.image)[0].copy())
            for column, feature in zip(columns, model.pyramid(*model.backbone(pixels)), strict=True):
                column.append(feature.half())
            labels[row, : len(drawn.boxes), 0] = torch.from_numpy(drawn.class_ids).float()
            labels[row, : len(drawn.boxes), 1:] = torch.from_numpy(drawn.boxes)
    return Scenes(tuple(torch.cat(column) for column in columns), labels)


CENTRES = torch.cat([cell_centres(INPUT_SIZE // stride, INPUT_SIZE // stride, stride) for stride in STRIDES])
SIZES = torch.cat([torch.full(((INPUT_SIZE // stride) ** 2,), float(stride)) for stride in STRIDES])


def decoded(outputs: tuple[Tensor, ...]) -> Raw:
    """What raw outputs mean."""
    flat = [torch.cat([one.flatten(2).transpose(1, 2) for one in outputs[role::3]], 1) for role in range(3)]
    sides = flat[0].unflatten(2, (4, REG_MAX))
    angles = (flat[2][..., 0].sigmoid() - 0.25) * math.pi
    reach = (sides.softmax(3) * torch.arange(REG_MAX)).sum(3)
    shift = turned((reach[..., 2:] - reach[..., :2]) / 2, angles)
    centres, sizes = CENTRES + shift * SIZES[:, None], (reach[..., :2] + reach[..., 2:]) * SIZES[:, None]
    return Raw(sides, flat[1], angles, torch.cat((centres, sizes, angles[..., None]), 2))


def turned(vectors: Tensor, angles: Tensor) -> Tensor:
    """Vectors (..., 2) turned by angles (...)."""
    cos, sin = angles.cos(), angles.sin()
    x, y = vectors.unbind(-1)
    return torch.stack((x * cos - y * sin, x * sin + y * cos), -1)


def covariance(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the Gaussians that ProbIoU takes oriented boxes (..., 5) for."""
    wide, high = boxes[..., 2] ** 2 / 12, boxes[..., 3] ** 2 / 12
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    return wide * cos**2 + high * sin**2, wide * sin**2 + high * cos**2, (wide - high) * cos * sin


def alike(first: Tensor, second: Tensor) -> Tensor:
    """ProbIoU (...) of oriented boxes (..., 5) that broadcast."""
    (a1, b1, c1), (a2, b2, c2) = covariance(first), covariance(second)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    x, y = first[..., 0] - second[..., 0], first[..., 1] - second[..., 1]
    joint = (a * b - c * c).clamp(min=1e-6)
    alone = ((a1 * b1 - c1 * c1).clamp(min=1e-6) * (a2 * b2 - c2 * c2).clamp(min=1e-6)).sqrt()
    far = (a * y * y + b * x * x - 2 * c * x * y) / joint / 4 + (joint / (4 * alone)).clamp(min=1).log() / 2
    return 1 - (1 - (-far.clamp(1e-6, 100)).exp()).sqrt()


@torch.no_grad()
def assign(raw: Raw, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The object of each anchor (N, anchors), -1 for none, and its target score: as `train_shapes_detector.assign`."""
    truth, classes = labels[..., 1:], labels[..., 0].long()
    away = turned(CENTRES - truth[:, :, None, :2], -truth[:, :, None, 4].expand(-1, -1, len(CENTRES)))
    inside = (away.abs() < truth[:, :, None, 2:4] / 2).all(3) & (classes >= 0)[..., None]
    overlap = alike(truth[:, :, None], raw.boxes[:, None]) * inside
    scores = raw.logits.sigmoid().transpose(1, 2)
    picked = scores.gather(1, classes.clamp(min=0)[..., None].expand(-1, -1, scores.shape[2]))
    metric = picked.sqrt() * overlap.pow(4) * inside
    best = metric.topk(TOP, 2)
    chosen = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 1e-12)
    metric = metric * chosen
    owner = (overlap * chosen).max(1)
    index = torch.where(owner.values > 0, owner.indices, -1)
    aligned = metric * (overlap * chosen).amax(2, True) / (metric.amax(2, True) + 1e-12)
    return index, aligned.gather(1, index.clamp(min=0)[:, None])[:, 0] * (index >= 0)


def as_seen(truth: Tensor, angles: Tensor) -> Tensor:
    """The true boxes (n, 5), their sides so named that the angle is the closest to the predicted one (n,), inside the
    range that the head has."""
    ways = torch.stack([
        torch.cat((truth[:, :2], truth[:, 2:4] if half % 2 == 0 else truth[:, [3, 2]],
                   truth[:, 4:] + half * math.pi / 2), 1)
        for half in range(-1, 3)
    ])  # fmt: skip
    outside = (ways[..., 4] < -math.pi / 4) | (ways[..., 4] > 3 * math.pi / 4)
    away = (ways[..., 4] - angles).abs() + outside * 10
    return ways[away.argmin(0), torch.arange(len(truth))]


def loss_of(raw: Raw, labels: Tensor) -> Tensor:
    """All losses of a batch."""
    index, target = assign(raw, labels)
    total, positive = target.sum().clamp(min=1), index >= 0
    matched = labels.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 6))
    wanted = functional.one_hot(matched[..., 0].long().clamp(min=0), len(LONG_CLASSES)) * target[..., None]
    scores = functional.binary_cross_entropy_with_logits(raw.logits, wanted, reduction="sum") / total
    if not positive.any():
        return scores
    weight, boxes, angles = target[positive], raw.boxes[positive], raw.angles[positive]
    true = as_seen(matched[positive][:, 1:], angles.detach())
    places, strides = CENTRES.expand(len(labels), -1, -1)[positive], SIZES.expand(len(labels), -1)[positive]
    overlap = ((1 - alike(boxes, true)) * weight).sum() / total
    inward = turned(true[:, :2] - places, -true[:, 4])
    distance = torch.cat((true[:, 2:4] / 2 - inward, true[:, 2:4] / 2 + inward), 1) / strides[:, None]
    distance = distance.clamp(0, REG_MAX - 1.01)
    low = distance.floor().long()
    share, log = distance - low, raw.sides[positive].log_softmax(-1)
    nearby = log.gather(2, low[..., None])[..., 0] * (1 - share) + log.gather(2, low[..., None] + 1)[..., 0] * share
    sides = (-nearby.mean(1) * weight).sum() / total
    turn = ((1 - (2 * (angles - true[:, 4])).cos()) * weight).sum() / total
    return 0.5 * scores + 7.5 * overlap + 1.5 * sides + 2 * turn


def score(model: OrientedNetwork, held_out: Scenes) -> str:
    """The share of objects found with a ProbIoU above 0.7 and a score above 0.3, and how many were found in vain."""
    found = total = vain = 0
    model.eval()
    with torch.no_grad():
        for number, labels in enumerate(held_out.labels):
            raw = decoded(model.heads(*(one[number][None].float() for one in held_out.features)))
            values, classes = raw.logits[0].sigmoid().max(1)
            sure = values > 0.3
            there = labels[labels[:, 0] >= 0]
            overlap = alike(there[:, None, 1:], raw.boxes[0][sure][None])
            same = there[:, None, 0] == classes[sure][None]
            total += len(there)
            found += int(((overlap > 0.7) & same).any(1).sum())
            vain += int((~((overlap > 0.5) & same).any(0)).sum())
    return f"found {found / total:.3f} of {total}, {vain} anchors in vain"


def main() -> None:
    """Train with settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("oriented.safetensors"))
    parser.add_argument("--scenes", type=int, default=1_600)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=60, help="scenes to score on")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    began = time.monotonic()
    model = untrained_oriented().eval().requires_grad_(False)
    model.heads.requires_grad_(True)
    scenes = seen(model, range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + given.scenes))
    held_out = seen(model, range(FIRST_TRAINING_SEED - given.held_out, FIRST_TRAINING_SEED))
    print(f"scenes seen in {time.monotonic() - began:.0f} s", flush=True)
    optimiser = torch.optim.AdamW(model.heads.parameters(), lr=given.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, given.learning_rate, given.steps, pct_start=0.1)
    order = np.random.default_rng(given.seed)
    for step in range(1, given.steps + 1):
        chosen = torch.from_numpy(order.choice(given.scenes, given.batch, replace=False))
        model.heads.train()
        raw = decoded(model.heads(*(one[chosen].float() for one in scenes.features)))
        loss = loss_of(raw, scenes.labels[chosen])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.heads.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - began:.0f} s", flush=True)
        if step % 400 == 0 or step == given.steps:
            print(score(model, held_out), flush=True)
            state = {name: value.half().contiguous() for name, value in model.heads.state_dict().items()}
            save_file({name: value for name, value in state.items() if "num_batches" not in name}, given.out)


if __name__ == "__main__":
    main()
