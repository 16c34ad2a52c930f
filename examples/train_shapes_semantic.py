"""Train the head that labels every pixel of a scene of shapes, on the features of the network that edgekit ships.

    python examples/train_shapes_semantic.py --out semantic.safetensors

Only the head is trained, so that features are computed once. Scenes and their order come from seeds. The loss is the
cross-entropy of cells. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from train_shapes_detector import FIRST_HELD_OUT_SEED, letterboxed_scene

from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.shapes import FIRST_TRAINING_SEED
from edgekit.shapes.detector import INPUT_SIZE
from edgekit.shapes.semantic import LABELS, SemanticNetwork
from edgekit.shapes.tasks import trained_tasks

CELL = 4
"""Pixels to a cell of the truth, as to one of the logits."""


def example(seed: int) -> tuple[Tensor, Tensor]:
    """A scene as the network sees it (1, 3, 256, 256), and the class of each cell, int64 (1, 64, 64)."""
    image, drawn, corner = letterboxed_scene(seed)
    labels = np.zeros((INPUT_SIZE, INPUT_SIZE), dtype=np.int64)
    left, top = corner.astype(int)
    for item in drawn.objects:
        height, width = item.mask.shape
        labels[top : top + height, left : left + width][item.mask] = item.class_id + 1
    pixels, _ = Preprocessor(ImageRule(size=(INPUT_SIZE, INPUT_SIZE)))(image)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(labels[CELL // 2 :: CELL, CELL // 2 :: CELL].copy())[None]


def features(model: SemanticNetwork, seeds: range) -> tuple[Tensor, ...]:
    """What the head is given of each scene, in float16, and the truth."""
    rows = []
    with torch.no_grad():
        for seed in seeds:
            pixels, labels = example(seed)
            p4 = model.backbone.fine(pixels)
            given = (p4, *model.pyramid(*model.backbone.coarse(p4)))
            rows.append((*(one.half() for one in given), labels.to(torch.uint8)))
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def score(model: SemanticNetwork, held_out: tuple[Tensor, ...]) -> float:
    """Mean IoU over classes on scenes that were not trained on."""
    shared, either = torch.zeros(len(LABELS)), torch.zeros(len(LABELS))
    model.eval()
    with torch.no_grad():
        for *given, truth in zip(*held_out, strict=True):
            found = model.labels(*(one[None].float() for one in given)).argmax(1)[0]
            for class_id in range(len(LABELS)):
                one, other = found == class_id, truth == class_id
                shared[class_id] += (one & other).sum()
                either[class_id] += (one | other).sum()
    return float((shared / either.clamp(min=1)).mean())


def main() -> None:
    """Train with settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("semantic.safetensors"))
    parser.add_argument("--scenes", type=int, default=1_600)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=60, help="scenes to score on")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    began = time.monotonic()
    model = SemanticNetwork(trained_tasks()).eval()
    known = features(model, range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + given.scenes))
    held_out = features(model, range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + given.held_out))
    print(f"features of {given.scenes} scenes in {time.monotonic() - began:.0f} s", flush=True)
    optimiser = torch.optim.AdamW(model.labels.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, given.learning_rate, given.steps, pct_start=0.1)
    for step in range(1, given.steps + 1):
        model.labels.train()
        rows = torch.randint(len(known[0]), (given.batch,))
        *parts, truth = (part[rows] for part in known)
        if step % 2:  # mirrored features are nearly those of the mirrored scene
            parts, truth = [part.flip(3) for part in parts], truth.flip(2)
        loss = functional.cross_entropy(model.labels(*(part.float() for part in parts)), truth.long())
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
    print(f"mIoU {score(model, held_out):.4f}", flush=True)
    state = {name: value.half().contiguous() for name, value in model.labels.state_dict().items()}
    save_file({name: value for name, value in state.items() if "num_batches" not in name}, given.out)


if __name__ == "__main__":
    main()
