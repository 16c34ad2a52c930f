"""Networks that see one object in the middle of their input, as the pose model of a top-down pair does: keypoints of
the shapes world as heatmaps and as SimCC.

The first layers are frozen, from edgekit's own network; all behind stride 8 is trained, which takes a minute or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.shapes import FIRST_TRAINING_SEED, KEYPOINTS, SKELETON, SceneOptions, scene
from edgekit.shapes.tasks import trained_tasks

from .networks import entry

SIDE = 128
CROP = SceneOptions(
    min_objects=1, max_objects=1, min_size=0.5, max_size=0.8, grid=1, classes=("arrow", "heart", "star"),
    most_rotation=45.0, distractors=2,
)  # fmt: skip
"""One shape in the middle, which fills the part by a margin as a detector's box does, upright as people are."""

POINTS, SPLIT = len(KEYPOINTS), 2
COUNT, STEPS, BATCH, RATE = 1600, 400, 32, 3e-3
RULE: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Body(nn.Module):
    """Features at stride 8, 64 channels, that know of the whole input."""

    def __init__(self) -> None:
        super().__init__()
        detector = trained_tasks().detector
        backbone = detector.backbone
        self.frozen = nn.Sequential(backbone.stem, backbone.stage4, backbone.stage8).eval().requires_grad_(False)
        self.stage16, self.stage32, self.pyramid = backbone.stage16, backbone.stage32, detector.pyramid
        del self.pyramid.reduce8, self.pyramid.up16, self.pyramid.reduce16, self.pyramid.up32
        self.requires_grad_(True)
        self.frozen.requires_grad_(False)

    def forward(self, p8: Tensor) -> Tensor:
        """Map frozen features (N, 48, 16, 16) to (N, 64, 16, 16): the pyramid's way down."""
        p16: Tensor = self.stage16(p8)
        pyramid = self.pyramid
        l8, l16, l32 = (lateral(x) for lateral, x in zip(pyramid.lateral, (p8, p16, self.stage32(p16)), strict=True))
        t32 = pyramid.merge32(torch.cat((l32, pyramid.context(l32)), 1))
        t16 = pyramid.down16(torch.cat((l16, pyramid.upsample(t32)), 1))
        found: Tensor = pyramid.down8(torch.cat((l8, pyramid.upsample(t16)), 1))
        return found


def bell(places: Tensor, count: int, sigma: float) -> Tensor:
    """Values (..., count) of a Gaussian of height 1 round each place, in bins."""
    return torch.exp(-((torch.arange(count) - places[..., None]) ** 2) / (2 * sigma**2))


class Heatmaps(nn.Module):
    """A deconvolution and a heatmap of each keypoint at stride 4, as SimpleBaseline, HRNet and ViTPose give it."""

    contract: ClassVar[dict[str, Any]] = {
        "decoder": {"name": "heatmaps", "refine": "dark"}, "outputs": [{"name": "heatmaps", "role": "heatmaps"}]
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(64, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, POINTS, 1)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Heatmaps (N, points, 32, 32)."""
        return (self.layers(features),)

    def loss(self, found: tuple[Tensor, ...], points: Tensor) -> Tensor:
        """The squared difference to Gaussians of two cells."""
        # Cells are counted from their corners, as the decoder counts without `aligned`.
        across, down = (bell((points[..., axis] - 0.5) / 4, SIDE // 4, 2.0) for axis in (0, 1))
        wanted = down[..., None] * across[..., None, :]
        return ((found[0] - wanted) ** 2).sum((2, 3)).mean()

    def places(self, found: tuple[Tensor, ...]) -> Tensor:
        """Keypoints (N, points, 2) to the nearest cell."""
        best = found[0].flatten(2).argmax(2)
        return torch.stack((best % (SIDE // 4), best // (SIDE // 4)), 2) * 4 + 0.5


class SimCC(nn.Module):
    """Two classifications of each keypoint, as RTMPose gives them: a large convolution, cells as vectors, bins."""

    contract: ClassVar[dict[str, Any]] = {
        "decoder": {"name": "simcc", "split": SPLIT},
        "outputs": [{"name": "simcc_x", "role": "x"}, {"name": "simcc_y", "role": "y"}],
    }

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(64, POINTS, 7, 1, 3)
        self.hidden = nn.Sequential(nn.Linear((SIDE // 8) ** 2, 128), nn.ReLU())
        self.x, self.y = nn.Linear(128, SIDE * SPLIT), nn.Linear(128, SIDE * SPLIT)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Bins (N, points, 256) of x and of y."""
        hidden = self.hidden(self.cells(features).flatten(2))
        return self.x(hidden), self.y(hidden)

    def loss(self, found: tuple[Tensor, ...], points: Tensor) -> Tensor:
        """The divergence of two softmaxes, as RTMPose; and a term that keeps the best bin, the score, at 1."""
        total = torch.zeros(())
        for axis, values in enumerate(found):
            wanted = bell((points[..., axis] - 0.5) * SPLIT, SIDE * SPLIT, 6.0)
            apart = functional.kl_div((10 * values).log_softmax(-1), (10 * wanted).softmax(-1), reduction="batchmean")
            total = total + apart / POINTS + 10 * functional.mse_loss(values, wanted)
        return total

    def places(self, found: tuple[Tensor, ...]) -> Tensor:
        """Keypoints (N, points, 2) to the nearest bin."""
        return torch.stack([values.argmax(2) for values in found], 2) / SPLIT + 0.5


class Whole(nn.Module):
    """A network as published files are: an image rule in front, its own outputs behind."""

    def __init__(self, body: Body, head: Heatmaps | SimCC) -> None:
        super().__init__()
        self.entry, self.body, self.head = entry(RULE), body, head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (1, 3, 128, 128) by `RULE` to the outputs."""
        outputs: tuple[Tensor, ...] = self.head(self.body(self.body.frozen(self.entry(images))))
        return outputs


@torch.no_grad()
def crops(body: Body, count: int, first: int) -> tuple[Tensor, Tensor]:
    """Frozen features (n, 48, 16, 16) float16 of crops and their keypoints (n, points, 2) in pixels."""
    kept, points = [], []
    for seed in range(first, first + count):
        drawn = scene(seed, (SIDE, SIDE), CROP)
        true = drawn.objects[0].keypoints
        if len(drawn.objects) != 1 or not true[:, 2].all():
            continue
        pixels = torch.from_numpy(drawn.image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        kept.append(body.frozen(pixels)[0].half())
        points.append(torch.from_numpy(true[:, :2].astype(np.float32)))
    return torch.stack(kept), torch.stack(points)


def trained(kind: type[Heatmaps] | type[SimCC], say: Callable[[str], None] = print) -> Whole:
    """A network of this kind in eval mode; the same seed gives the same weights."""
    torch.manual_seed(0)
    body, head = Body(), kind()
    features, points = crops(body, COUNT, FIRST_TRAINING_SEED)
    weights = [one for part in (body, head) for one in part.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    body.train()
    head.train()
    body.frozen.eval()
    for step in range(STEPS):
        chosen = torch.randint(len(points), (BATCH,))
        loss = head.loss(head(body(features[chosen].float())), points[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            say(f"{kind.__name__} step {step} loss {loss.item():.3f}")
    network = Whole(body, head).eval()
    say(f"{kind.__name__}: keypoints off by {distance(network):.2f} pixels in the mean of unseen crops")
    return network


@torch.no_grad()
def distance(network: Whole, count: int = 60) -> float:
    """How far keypoints of unseen crops are off in the mean, pixels, before they are refined between cells."""
    features, points = crops(network.body, count, 0)
    found = network.head.places(network.head(network.body(features.float())))
    return float((found - points).norm(dim=2).mean())


def contract(kind: type[Heatmaps] | type[SimCC]) -> dict[str, Any]:
    """The contract of a kind's file, as its maker writes it by hand."""
    shape = {"names": list(KEYPOINTS), "edges": [list(edge) for edge in SKELETON], "sigmas": [0.05] * POINTS}
    image = {"size": [SIDE, SIDE], **RULE}
    return {"task": "pose", "image": image, "classes": ["shape"], "skeleton": shape, **kind.contract}


KINDS: dict[str, type[Heatmaps] | type[SimCC]] = {kind.__name__.lower(): kind for kind in (Heatmaps, SimCC)}
"""By the name that a row gives."""
