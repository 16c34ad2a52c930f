"""The same functions, made hard to quantise on purpose: channels of one tensor whose sizes differ a hundred times more.

Behind a convolution, through an activation, the channels are multiplied by s (log-uniform in 0.1 to 10) and the weights
of the convolutions that read them divided by it, which is weight equalisation (Nagel et al., arXiv 1906.04721) run
backwards. In float nothing changes but the last digits; one 8-bit scale per tensor loses the small channels.

ReLU, LeakyReLU and no activation at all commute with s > 0. SiLU does not: there x * sigmoid(x) becomes
x * sigmoid(x / s). The demo detector has no pair without SiLU: its linear projections are all read by a sum as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

SEED = 26
"""Of 0 to 29 the one whose least spread, measured over all pairs of the three detectors, is largest: 105. Where the
trained channels happen to differ the other way round, another seed leaves a pair at 60."""

LEAST, MOST = 0.1, 10.0

Through = Literal["nothing", "relu", "silu"]


@dataclass(frozen=True)
class Pair:
    """A tensor that can be scaled, by names of modules: what makes it, what activates it, what reads it.

    ``norm`` is the BatchNorm behind ``producer``, ``activation`` what follows; empty where there is none. ``readers``
    are convolutions, directly or behind a max-pool or an upsampling, and nothing else reads the tensor.
    """

    producer: str
    norm: str
    activation: str
    readers: tuple[str, ...]
    through: Through

    @property
    def name(self) -> str:
        """The module whose output is the tensor."""
        return self.activation or self.norm or self.producer


class ScaledSiLU(nn.Module):
    """x * sigmoid(x / s), with one s per channel: s * SiLU(x / s), so it commutes with s as ReLU does.

    The division is a 1x1 depthwise convolution, whose weights have a scale per channel: with a Mul, the one scale of
    its constant would be what fails in INT8, and not the sizes of the channels.
    """

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.divide = nn.Conv2d(len(scale), len(scale), 1, groups=len(scale), bias=False)
        with torch.no_grad():
            self.divide.weight.copy_(1 / scale.reshape(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW float32 to the same shape."""
        return x * torch.sigmoid(self.divide(x))


def pairs(network: nn.Module) -> list[Pair]:
    """Every tensor between convolutions of a network that can be scaled without changing the function."""
    graph = fx.symbolic_trace(network).graph
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    modules = dict(network.named_modules())
    return [pair for node in graph.nodes if (pair := _pair(node, modules, calls)) is not None]


def _pair(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[str]) -> Pair | None:
    if not isinstance(_module(node, modules), nn.Conv2d):
        return None
    last, norm, activation = node, "", ""
    through: Through = "nothing"
    following = _only_user(last)
    if following is not None and isinstance(_module(following, modules), nn.BatchNorm2d):
        last, norm = following, str(following.target)
        following = _only_user(last)
    found = _module(following, modules) if following is not None else None
    if following is not None and isinstance(found, nn.ReLU | nn.LeakyReLU | nn.SiLU):
        last, activation = following, str(following.target)
        through = "silu" if isinstance(found, nn.SiLU) else "relu"
    readers = _readers(last, modules)
    names = (str(node.target), norm, activation, *readers)
    if not readers or any(calls[name] > 1 for name in names if name):  # a layer used twice has two inputs
        return None
    return Pair(str(node.target), norm, activation, readers, through)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _readers(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """Names of the convolutions that read a tensor; none if anything else reads it."""
    found: list[str] = []
    for user in node.users:
        module = _module(user, modules)
        if isinstance(module, nn.Conv2d):
            found.append(str(user.target))
        elif isinstance(module, nn.MaxPool2d | nn.Upsample) and (behind := _readers(user, modules)):
            found += behind
        else:
            return ()
    return tuple(found)


def scales(channels: int, draw: torch.Generator) -> Tensor:
    """One s per channel, log-uniform in LEAST to MOST, both ends among them; float64 (channels,)."""
    places = torch.rand(channels, generator=draw, dtype=torch.float64)
    order = torch.randperm(channels, generator=draw)
    places[order[0]], places[order[1]] = 0.0, 1.0
    result: Tensor = LEAST * (MOST / LEAST) ** places
    return result


def harden(network: nn.Module, through: tuple[Through, ...], seed: int = SEED) -> dict[str, Tensor]:
    """Scale every `Pair` with one of the given activations, in place; s (channels,) by the pair's name."""
    draw = torch.Generator().manual_seed(seed)
    done = {}
    for pair in pairs(network):
        if pair.through in through:
            producer = network.get_submodule(pair.producer)
            assert isinstance(producer, nn.Conv2d)
            done[pair.name] = scales(producer.out_channels, draw)
            _scale(network, pair, done[pair.name])
    return done


@torch.no_grad()
def _scale(network: nn.Module, pair: Pair, scale: Tensor) -> None:
    for parameter in _producing(network.get_submodule(pair.norm or pair.producer)):
        shape = (-1, *[1] * (parameter.ndim - 1))
        parameter.copy_(parameter.double() * scale.reshape(shape))
    for name in pair.readers:
        reader = network.get_submodule(name)
        assert isinstance(reader, nn.Conv2d)
        weight, groups = reader.weight, reader.groups
        inputs = scale.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(*weight.shape[:2], 1, 1)
        weight.copy_(weight.double() / inputs)
    if pair.through == "silu":
        network.set_submodule(pair.activation, ScaledSiLU(scale))


def _producing(module: nn.Module) -> Iterator[nn.Parameter]:
    """What scales the output channels: weight and bias of a convolution, or of the BatchNorm behind it."""
    return (parameter for _, parameter in module.named_parameters(recurse=False))


def detector() -> nn.Module:
    """The trained detector with ReLU, made hard.

    Raises:
        SourceError: its weights are missing.
    """
    from .relu import detector as easy

    return _hardened(easy(), ("nothing", "relu"))


def leaky_detector() -> nn.Module:
    """The trained detector with LeakyReLU, made hard.

    Raises:
        SourceError: its weights are missing.
    """
    from .leaky import detector as easy

    return _hardened(easy(), ("nothing", "relu"))


def silu_detector() -> nn.Module:
    """The demo detector, made hard behind its SiLUs.

    Raises:
        SourceError: its weights are missing.
    """
    from edgekit.shapes.trained import detector as easy

    return _hardened(easy(), ("silu",))


def _hardened(network: nn.Module, through: tuple[Through, ...]) -> nn.Module:
    network.eval()
    harden(network, through)
    return network
