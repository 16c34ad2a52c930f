"""A detection transformer of the shapes world: RT-DETR v2 of transformers on the trained features of edgekit's network,
trained with transformers' own loss (Hungarian matching)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.shapes import CLASSES
from edgekit.shapes.detector import INPUT_SIZE
from edgekit.sources._pretrained import import_transformers

from .networks import Features, Scenes, scenes

WIDTH, STRIDES, STEPS = 64, (16, 32), 300
SMALL = {
    "d_model": WIDTH, "decoder_layers": 2, "decoder_ffn_dim": 128, "decoder_attention_heads": 4, "dropout": 0.0,
    "num_labels": len(CLASSES),
}  # fmt: skip
BACKBONE = {
    "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic", "hidden_sizes": [8, 192, 192, 192],
}  # fmt: skip
"""A backbone of transformers, which `Entry` replaces: its numbers say how many channels the features have."""


class Entry(nn.Module):
    """Stands where transformers has a backbone: features with a mask of no padding, as it gives them."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features, self.given = features, list[Tensor]()

    def forward(self, images: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features of images (N, 3, 256, 256) RGB / 255, or those that were given for training."""
        found = self.given or self.features(images)
        return [(one, mask[:, : one.shape[2], : one.shape[3]].bool()) for one in found]


class Outputs(nn.Module):
    """The two outputs that published files have: logits and boxes of the queries."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (1, 3, 256, 256) to logits (1, queries, classes) and boxes (1, queries, 4)."""
        found = self.network(pixel_values=images)
        return found.logits, found.pred_boxes


def rt_detr(library: Any, entry: Entry) -> Any:
    """RT-DETR v2: the best proposals of two levels become queries, deformable attention refines them."""
    backbone = library.RTDetrResNetConfig(**BACKBONE, out_features=["stage3", "stage4"])
    config = library.RTDetrV2Config(
        backbone_config=backbone, encoder_in_channels=[192] * 2, encoder_hidden_dim=WIDTH, encoder_ffn_dim=128,
        encoder_attention_heads=4, encode_proj_layers=[1], feat_strides=[16, 32], decoder_in_channels=[WIDTH] * 2,
        num_feature_levels=2, decoder_n_levels=2, num_queries=40, num_denoising=40, encoder_layers=1,
        anchor_image_size=[INPUT_SIZE, INPUT_SIZE], **SMALL,
    )  # fmt: skip
    network = library.RTDetrV2ForObjectDetection(config)
    network.model.backbone = entry
    return network


def targets(data: Scenes, chosen: Tensor) -> list[dict[str, Tensor]]:
    """Labels as transformers takes them: classes, and boxes as centre and size, shares of the input."""
    found = []
    for labels in data.labels[chosen]:
        known = labels[labels[:, 0] >= 0]
        corners = known[:, 1:] / INPUT_SIZE
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        found.append({"class_labels": known[:, 0].long(), "boxes": boxes.clamp(0, 1)})
    return found


def trained(count: int = 320, batch: int = 8, say: Callable[[str], None] = print) -> Outputs:
    """The network, all but its features trained, in eval mode; the same seed gives the same weights."""
    torch.manual_seed(0)
    features = Features(STRIDES)
    entry = Entry(features)
    network = rt_detr(import_transformers(Path("tests")), entry)
    data = scenes(features, count, one_class=False)
    own = [value for key, value in network.named_parameters() if ".features." not in key]
    optimiser = torch.optim.AdamW(own, lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, STEPS, pct_start=0.1)
    network.train()
    features.eval()
    images = torch.zeros(batch, 3, INPUT_SIZE, INPUT_SIZE)
    order = torch.randperm(count)
    for step in range(STEPS):
        chosen = order[torch.arange(step * batch, (step + 1) * batch) % count]
        entry.given = [feature[chosen].float() for feature in data.features]
        loss = network(pixel_values=images, labels=targets(data, chosen)).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            say(f"RT-DETR step {step} loss {loss.item():.3f}")
    entry.given = []
    return Outputs(network).eval()
