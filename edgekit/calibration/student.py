"""The student of fine-tuning: the network with rounded layer inputs and trainable weights and biases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.arrays import Floats
from edgekit.calibration.grid import LEVELS, from_steps, step_of
from edgekit.calibration.program_layers import ProgramLayer, constant, storage, watch

if TYPE_CHECKING:
    import torch
    from torch import fx


@dataclass
class Trained:
    """A constant of the module that is trained: ``leaf`` takes part in the arithmetic, ``latent`` is optimised.

    The gradient of the latent is that of the leaf times ``unit``: the straight-through estimator for weights, whose
    leaf is the latent rounded, and a scale for biases.
    """

    original: torch.Tensor
    leaf: torch.Tensor
    latent: torch.Tensor
    unit: torch.Tensor
    axis: int
    """Of the weights' output channels; -1 for a bias."""
    fixed: torch.Tensor | None
    """Weights that keep their 127 steps, because the grid hangs on them."""
    best: torch.Tensor

    def take_gradient(self, images: int) -> None:
        """Give the latent its gradient, the mean over some images, and clear the leaf's."""
        import torch

        gradient = self.leaf.grad if self.leaf.grad is not None else torch.zeros_like(self.leaf)
        gradient = gradient * self.unit / images
        self.latent.grad = gradient if self.fixed is None else gradient.masked_fill(self.fixed, 0.0)
        self.leaf.grad = None

    def renew(self) -> None:
        """Make the leaf from the latent."""
        if self.axis < 0:
            self.leaf.data = self.original + self.latent.data * self.unit
        else:
            self.latent.data.clamp_(-LEVELS, LEVELS)
            self.leaf.data = from_steps(self.latent.data.round(), self.original, self.axis)


def trained_weights(module: fx.GraphModule, layers: Iterable[ProgramLayer]) -> dict[int, Trained]:
    """The weights of layers, by their place in memory, rounded to nearest."""
    found: dict[int, Trained] = {}
    for layer in layers:
        original = constant(module, layer.weight).detach()
        unit = step_of(original, layer.axis)
        latent = original / unit.where(unit > 0, unit.new_ones(()))
        fixed = (latent.abs() > LEVELS - 1e-3) | (unit == 0)
        one = Trained(original, original.clone(), latent, unit, layer.axis, fixed, original.clone())
        one.renew()
        one.best.copy_(one.leaf)
        one.leaf.requires_grad_()
        found[storage(module, layer)] = one
    return found


def trained_biases(module: fx.GraphModule, layers: list[ProgramLayer], images: list[Floats]) -> dict[int, Trained]:
    """Biases of all layers, by their place in memory; their unit is the deviation of the layer's output."""
    deviations: dict[str, float] = {}

    def measure(layer: ProgramLayer, _: torch.Tensor, output: torch.Tensor) -> None:
        name = layer.node.name
        deviations[name] = max(deviations.get(name, 0.0), float(output.std(unbiased=False)))

    watch(module, layers, images, measure)
    found: dict[int, Trained] = {}
    for layer in layers:
        bias: Any = layer.option(layer.bias, None) if layer.bias >= 0 else None
        if bias is not None:
            original = constant(module, str(bias.target)).detach()
            unit = original.new_tensor(deviations[layer.node.name])
            leaf = original.clone().requires_grad_()
            found[original.data_ptr()] = Trained(original, leaf, original * 0, unit, -1, None, original.clone())
    return found


@dataclass(frozen=True)
class AffineGrid:
    """An affine grid of 256 steps: ``zero`` is the number (0..255) that stands for 0."""

    step: float
    zero: int


def grid_between(ends: tuple[float, float] | None) -> AffineGrid | None:
    """The grid of 256 steps between two ends, which includes zero; None: not rounded."""
    if ends is None:
        return None
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = (high - low) / 255
    return AffineGrid(step, round(-low / step)) if step > 1e-30 else None


def student(
    module: fx.GraphModule,
    layers: Mapping[fx.Node, ProgramLayer],
    grids: Mapping[fx.Node, AffineGrid],
    leaves: Mapping[int, torch.Tensor],
) -> fx.Interpreter:
    """Runs a network with rounded inputs of layers, and with other constants."""
    import torch
    from torch import fx

    rounded: dict[fx.Node, torch.Tensor] = {}

    class Student(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            layer = layers.get(n)
            if layer is None or layer.source not in grids:
                return super().run_node(n)
            if layer.source not in rounded:
                grid = grids[layer.source]
                rounded[layer.source] = torch.fake_quantize_per_tensor_affine(
                    self.env[layer.source], grid.step, grid.zero, 0, 255
                )
            arguments, _ = self.fetch_args_kwargs_from_env(n)
            pairs = zip(n.args, arguments, strict=True)
            target: Any = n.target
            return target(*(rounded[layer.source] if node is layer.source else value for node, value in pairs))

        def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
            value = super().get_attr(target, args, kwargs)
            if not isinstance(value, torch.Tensor):
                return value
            return leaves.get(value.data_ptr(), value.detach())

    return Student(module)
