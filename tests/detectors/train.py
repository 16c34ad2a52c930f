"""Train the detectors of this folder, from nothing, on one thread each, in ten minutes of processor time.

    OMP_NUM_THREADS=1 python -m tests.detectors.train relu
    OMP_NUM_THREADS=1 python -m tests.detectors.train leaky

Run from the repository root. Scenes, order and first weights come from seeds: on the same processor and packages the
same weights come out. Assignment and losses are those of the demo detector (examples/train_shapes_detector.py); the
image is smaller here, 192x192, and 128x128 in the first part. The average of the weights is written, as float16, every
few minutes; the last of these is what is kept, and it is scored on scenes that training never sees.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekit.shapes import FIRST_TRAINING_SEED
from examples.train_shapes_detector import average_into, detection_loss, match, training_example, turn

from .contract import INPUT_SIZE, shapes_contract
from .scores import held_out, score_network

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.float32]
RENDERED_SIZE = 256
SMALL_SIZE, SMALL_PART = 128, 0.5
# Steps of the learning rate's cycle, and where it is left: what 35 minutes of a busy processor came to.
STEPS = {"relu": (5_000, 4_207), "leaky": (7_000, 6_062)}


@dataclass(frozen=True)
class Settings:
    """What a training run depends on, besides the network."""

    scenes: int
    steps: int
    stop: int
    batch: int
    learning_rate: float
    seed: int
    held_out: int


def rendered_scenes(count: int, folder: Path) -> tuple[Pixels, Labels]:
    """Training scenes: images (count, 192, 192, 3) BGR and labels (count, n, 5) class (-1: none), xyxy.

    They are rendered once into a folder and read from there without filling the memory.
    """
    images_path, labels_path = (folder / f"shapes-{count}-{INPUT_SIZE}.{kind}.npy" for kind in ("images", "labels"))
    if not labels_path.is_file():
        images = np.empty((count, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        labels = []
        for index in range(count):
            image, label = training_example(FIRST_TRAINING_SEED + index)
            images[index] = cv2.resize(image, (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_LINEAR)
            label[:, 1:] *= INPUT_SIZE / RENDERED_SIZE
            labels.append(label)
        for path, array in ((images_path, images), (labels_path, np.stack(labels))):  # labels last: they say "done"
            partial = path.with_name(f".{os.getpid()}.{path.name}")
            np.save(partial, array)
            partial.replace(path)
    return np.load(images_path, mmap_mode="r"), np.load(labels_path)


def batches(images: Pixels, labels: Labels, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images float32 (N, 3, side, side) RGB / 255 and labels (N, n, 5), each scene turned and recoloured."""
    rng = np.random.default_rng(settings.seed)
    order = np.empty(0, dtype=np.int64)
    for step in range(settings.stop):
        side = SMALL_SIZE if step < settings.steps * SMALL_PART else INPUT_SIZE
        if len(order) < settings.batch:
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[: settings.batch], order[settings.batch :]
        painted, truth = [], []
        for index in chosen:
            image, label = turn(images[index], labels[index], int(rng.integers(4)), rng.random() < 0.5)
            channels = rng.permutation(3) if rng.random() < 0.5 else np.array([2, 1, 0])
            image = np.ascontiguousarray(image[..., channels])
            if side != INPUT_SIZE:
                image = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
                label[:, 1:] *= side / INPUT_SIZE
            painted.append(image)
            truth.append(label)
        pixels = torch.from_numpy(np.stack(painted)).permute(0, 3, 1, 2).float().div_(255)
        yield pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack(truth))


def save(model: nn.Module, path: Path) -> None:
    """Write the weights (float16 safetensors) so that a reader sees the old file or the new one, never half of one."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.ndim > 0}
    save_file(state, partial)
    partial.replace(path)


def optimiser_of(
    model: nn.Module, settings: Settings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, without decay of biases and BatchNorm, and one cycle of the learning rate."""
    weights = [value for value in model.parameters() if value.ndim > 1]
    rest = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, settings.steps, pct_start=0.08, final_div_factor=50
    )
    return optimiser, schedule


def train(model: nn.Module, settings: Settings, out: Path, cache: Path, minutes: float) -> None:
    """Train a network; progress is printed, and the average of its weights is written every ``minutes``."""
    began = written = time.monotonic()
    images, labels = rendered_scenes(settings.scenes, cache)
    print(f"{settings.scenes} scenes after {time.monotonic() - began:.0f} s", flush=True)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    average = copy.deepcopy(model).eval()
    average.contract = shapes_contract()  # type: ignore[assignment]
    optimiser, schedule = optimiser_of(model, settings)
    running = 0.0
    for step, (pixels, truth) in enumerate(batches(images, labels, settings), start=1):
        model.train()
        outputs = model(pixels)
        loss = detection_loss(outputs, truth, match(outputs, truth))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        average_into(average, model, step)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}/{settings.stop} loss {running:.3f} {time.monotonic() - began:.0f} s", flush=True)
        if time.monotonic() - written > 60 * minutes or step == settings.stop:
            written = time.monotonic()
            save(average, out)
            scored = score_network(
                average, held_out(cache, settings.held_out if step == settings.stop else min(60, settings.held_out))
            )
            print(f"step {step} mAP {scored.map:.4f} mAP50 {scored.map50:.4f}", flush=True)
    print(f"trained in {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=tuple(STEPS))
    parser.add_argument("--out", type=Path, default=None, help="[default: beside this file]")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()), help="where scenes are kept")
    parser.add_argument("--scenes", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=0, help="all of a cycle [default: as kept]")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=300, help="scenes to score on")
    parser.add_argument("--minutes", type=float, default=4, help="between files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    family = importlib.import_module(f".{given.family}", __package__)
    steps, stop = (given.steps, given.steps) if given.steps else STEPS[given.family]
    settings = Settings(given.scenes, steps, stop, given.batch, given.learning_rate, given.seed, given.held_out)
    train(family.network(), settings, given.out or family.WEIGHTS, given.cache, given.minutes)


if __name__ == "__main__":
    main()
