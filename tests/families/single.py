"""Networks that see one object, with the heads of single-person poses and of embeddings, on the trained features of
edgekit's network: new last layers that are trained in seconds on images of one shape each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.shapes import FIRST_TRAINING_SEED, KEYPOINTS, SKELETON, SceneOptions, scene
from edgekit.shapes.detector import INPUT_SIZE

from .networks import Features, entry

ONE = SceneOptions(min_objects=1, max_objects=1, min_size=0.35, max_size=0.7)
"""Scenes as a detector's boxes cut them out of an image: one shape, which fills much of it."""

POINTS, SIDE, SPLIT = len(KEYPOINTS), INPUT_SIZE, 2
COUNT, STEPS, BATCH = 320, 300, 16
RULE: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
IMAGE: dict[str, Any] = {"size": [SIDE, SIDE], **RULE}
SHAPE: dict[str, Any] = {
    "names": list(KEYPOINTS), "edges": [list(edge) for edge in SKELETON], "sigmas": [0.05] * POINTS
}  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """Features (n, channels, rows, columns) float16, keypoints (n, points, 2) in pixels, classes (n,)."""

    features: Tensor
    points: Tensor
    class_ids: Tensor


class Single(nn.Module):
    """The last layers of one kind of network."""

    stride: ClassVar[int] = 8
    contract: ClassVar[dict[str, Any]] = {}

    def loss(self, found: tuple[Tensor, ...], points: Tensor, class_ids: Tensor) -> Tensor:
        raise NotImplementedError


def bell(places: Tensor, count: int, sigma: float) -> Tensor:
    """Values (..., count) of a Gaussian of height 1 round each place, in bins."""
    return torch.exp(-((torch.arange(count) - places[..., None]) ** 2) / (2 * sigma**2))


class Heatmaps(Single):
    """A deconvolution and a heatmap for each keypoint at stride 4, as SimpleBaselines, HRNet and ViTPose give it."""

    contract: ClassVar[dict[str, Any]] = {
        "decoder": {"name": "heatmaps", "refine": "dark"}, "outputs": [{"name": "heatmaps", "role": "heatmaps"}]
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(192, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, POINTS, 1)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Heatmaps (N, points, 64, 64)."""
        return (self.layers(features),)

    def loss(self, found: tuple[Tensor, ...], points: Tensor, class_ids: Tensor) -> Tensor:
        cells = (points - 0.5) / 4
        across, down = (bell(cells[..., axis], SIDE // 4, 2.0) for axis in (0, 1))
        return 100 * functional.mse_loss(found[0], down[..., None] * across[..., None, :])


class SimCC(Single):
    """Two classifications for each keypoint, as RTMPose gives them: a large convolution, cells as vectors, bins."""

    contract: ClassVar[dict[str, Any]] = {
        "decoder": {"name": "simcc", "split": SPLIT},
        "outputs": [{"name": "simcc_x", "role": "x"}, {"name": "simcc_y", "role": "y"}],
    }

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(192, POINTS, 7, 1, 3)
        self.hidden = nn.Linear((SIDE // self.stride) ** 2, 128)
        self.x, self.y = nn.Linear(128, SIDE * SPLIT), nn.Linear(128, SIDE * SPLIT)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Bins (N, points, 512) of x and of y."""
        hidden = self.hidden(self.cells(features).flatten(2))
        return self.x(hidden), self.y(hidden)

    def loss(self, found: tuple[Tensor, ...], points: Tensor, class_ids: Tensor) -> Tensor:
        # As RTMPose: the divergence of two softmaxes, here with a term that keeps the best bin at 1, the score.
        total = torch.zeros(())
        for axis, values in enumerate(found):
            wanted = bell((points[..., axis] - 0.5) * SPLIT, SIDE * SPLIT, 6.0)
            apart = functional.kl_div((10 * values).log_softmax(-1), (10 * wanted).softmax(-1), reduction="batchmean")
            total = total + apart / POINTS + functional.mse_loss(values, wanted)
        return total


class Vector(Single):
    """A vector that is near those of the same class, as networks of re-identification give it."""

    stride: ClassVar[int] = 32
    contract: ClassVar[dict[str, Any]] = {
        "task": "embed", "classes": [], "decoder": {"name": "vector"}, "outputs": [{"name": "vector", "role": "vector"}]
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 64)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Vectors (N, 64)."""
        return (self.last(features.mean((2, 3))),)

    def loss(self, found: tuple[Tensor, ...], points: Tensor, class_ids: Tensor) -> Tensor:
        # Supervised contrastive learning (Khosla et al. 2020): the others of the class against all others.
        unit = functional.normalize(found[0], dim=1)
        alone = torch.eye(len(unit), dtype=torch.bool)
        alike = (class_ids[:, None] == class_ids) & ~alone
        near = (unit @ unit.T / 0.1).masked_fill(alone, -1e4).log_softmax(1)
        return -(near * alike).sum() / alike.sum().clamp(min=1)


class Whole(nn.Module):
    """A network as published files are: an image rule in front, its own outputs behind."""

    def __init__(self, features: Features, last: Single) -> None:
        super().__init__()
        self.entry, self.features, self.last = entry(RULE), features, last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (1, 3, 256, 256) by `RULE` to the outputs."""
        outputs = self.last(self.features(self.entry(images))[0])
        return outputs if len(outputs) > 1 else outputs[0]  # type: ignore[no-any-return]


@torch.no_grad()
def shapes(features: Features, count: int, first: int = FIRST_TRAINING_SEED) -> Shapes:
    """Images of one shape each, as frozen features see them."""
    kept, points, class_ids = [], [], []
    for seed in range(first, first + count):
        drawn = scene(seed, (SIDE, SIDE), ONE)
        pixels = torch.from_numpy(drawn.image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        kept.append(features(pixels)[0][0].half())
        points.append(torch.from_numpy(drawn.objects[0].keypoints[:, :2].astype("float32")))
        class_ids.append(drawn.objects[0].class_id)
    return Shapes(torch.stack(kept), torch.stack(points), torch.tensor(class_ids))


def trained(kind: type[Single], say: Callable[[str], None] = print) -> Whole:
    """A network of this kind, its last layers trained, in eval mode; the same seed gives the same weights."""
    torch.manual_seed(0)
    features, last = Features((kind.stride,)), kind()
    data = shapes(features, COUNT)
    optimiser = torch.optim.AdamW(last.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, STEPS, pct_start=0.1)
    order = torch.randperm(COUNT)
    for step in range(STEPS):
        chosen = order[torch.arange(step * BATCH, (step + 1) * BATCH) % COUNT]
        loss = last.loss(last(data.features[chosen].float()), data.points[chosen], data.class_ids[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            say(f"{kind.__name__} step {step} loss {loss.item():.3f}")
    return Whole(features, last).eval()


def contract(kind: type[Single]) -> dict[str, Any]:
    """The contract of a kind's file, as its maker writes it by hand."""
    pose = {"task": "pose", "classes": ["shape"], "skeleton": SHAPE}
    return {"image": IMAGE, **(pose if "task" not in kind.contract else {}), **kind.contract}


KINDS: dict[str, type[Single]] = {kind.__name__.lower(): kind for kind in (Heatmaps, SimCC, Vector)}
"""By the name that a row gives."""
