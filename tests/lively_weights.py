"""Random weights that behave as trained ones do: batch norms that fit their inputs, and outputs that differ by image.

A network with the weights that its library starts from gives nearly the same result for every image. No proof can tell
such a network from a broken one, and `edgekit convert` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGES = 16


def scenes(height: int, width: int) -> Tensor:
    """Scenes of shapes (16, 3, height, width), ImageNet's mean and deviation taken off."""
    import numpy as np
    import torch

    from edgekit.shapes import scene

    pixels = np.stack([scene(500_000 + seed, (height, width)).image[..., ::-1] for seed in range(IMAGES)])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(pixels).float() / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def enliven(
    network: nn.Module, images: Tensor, run: Callable[[Tensor], Any], last: Mapping[str, tuple[float, float]]
) -> None:
    """Fit the batch norms to some images, and the layers that give the outputs to a mean and a deviation.

    Args:
        network: with random weights; left in eval mode.
        images: (n, 3, height, width).
        run: runs the network.
        last: by name of a linear layer or convolution, what its outputs shall have on these images, over all channels.
    """
    import torch
    from torch import nn

    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all that it sees
            nn.init.uniform_(module.weight, 0.5, 1.5)  # some libraries begin near 0, and nothing of the image is left
            module.train()
    with torch.no_grad():
        run(images)
        network.eval()
        for name, (mean, deviation) in last.items():
            layer: Any = network.get_submodule(name)
            seen: list[Tensor] = []
            hook = layer.register_forward_hook(lambda module, given, found, seen=seen: seen.append(found))
            run(images)
            hook.remove()
            _fit(layer, seen, mean, deviation)


def _fit(layer: Any, seen: list[Tensor], mean: float, deviation: float) -> None:
    """Scale and shift each channel of a layer, which runs once for each level of a pyramid."""
    import torch

    convolution = layer.weight.ndim == 4
    rows = torch.cat([(one.movedim(1, -1) if convolution else one).flatten(0, -2) for one in seen])
    factor = deviation / rows.std(0)
    layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    bias = torch.zeros_like(factor) if layer.bias is None else layer.bias
    shifted = (bias - rows.mean(0)) * factor + mean
    if layer.bias is not None:
        layer.bias.copy_(shifted)


def torchvision_weights(
    name: str, path: Path, size: tuple[int, int], last: Mapping[str, tuple[float, float]], classes: int = 5
) -> Path:
    """Write lively weights of a network of torchvision, for the source ``torchvision:name``."""
    import torch

    from edgekit.sources._torchvision import import_torchvision

    library = import_torchvision("tests")
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights_backbone": None} if "_resnet" in name or "lab" in name else {}
    network = library.models.get_model(name, weights=None, num_classes=classes, **options)
    backbone_and_head = hasattr(network, "head") and hasattr(network, "backbone")

    def run(images: Tensor) -> Any:
        return network.head(list(network.backbone(images).values())) if backbone_and_head else network(images)

    enliven(network, scenes(*size), run, last)
    torch.save(network.state_dict(), path)
    return path
