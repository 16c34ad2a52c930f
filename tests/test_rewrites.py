"""Exact rewrites: each gives the same outputs, leaves what only looks like it, and is dropped where it would not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'convert'")

import torch
from torch import fx, nn

from edgekit.graph import rewrites
from edgekit.graph.exchange import flatten, write_exchange
from edgekit.graph.nodes import operator_name

Function = Callable[[torch.Tensor], torch.Tensor]
F = nn.functional


class Calls(nn.Module):
    """Functions of what a convolution gives, exported at once: an export takes half a second."""

    def __init__(self, *functions: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.functions = nn.Conv2d(3, 4, 1), functions
        self.register_buffer("three", torch.tensor([3.0]))
        self.register_buffer("six", torch.tensor(6.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.conv(x) * 6
        constants = (x * torch.clamp(x + self.three, 0, 6) / self.six,)  # as ONNX files have them
        return (*constants, *(function(x) for function in self.functions))


def done(network: nn.Module) -> tuple[dict[str, int], list[str], float]:
    """What was rewritten, the operators then, and the largest difference relative to the largest output."""
    example = torch.rand(1, 3, 21, 18, generator=torch.Generator().manual_seed(1))
    given = flatten(network.eval(), example)
    graph, counts = rewrites.rewritten(given, example)
    with torch.no_grad():
        pairs = list(zip(graph(example), network(example), strict=True))
    off = max(float((new - old).abs().max() / old.abs().max()) for new, old in pairs)
    return counts, [operator_name(node) for node in graph.graph.nodes if node.op == "call_function"], off


ACTIVATIONS: dict[str, Function] = {
    "SiLU": lambda x: x * torch.sigmoid(x),
    "SiLU the other way round": lambda x: torch.sigmoid(x) * x,
    "hard swish": lambda x: x * F.relu6(x + 3) / 6,
    "hard swish, divided first": lambda x: x * (torch.clamp(3 + x, 0, 6) / 6),
    "hard swish, times a sixth": lambda x: x * F.hardtanh(x + 3, 0, 6) * (1 / 6),
    "hard swish of a hard sigmoid": lambda x: x * F.hardsigmoid(x),
    "hard sigmoid": lambda x: F.relu6(x + 3) / 6,
}
NO_ACTIVATIONS: tuple[Function, ...] = (
    lambda x: x * torch.sigmoid(2 * x),
    lambda x: (x + 1) * torch.sigmoid(x),
    lambda x: x * F.relu6(x + 3) / 5,
    lambda x: x * F.relu6(x + 2) / 6,
    lambda x: x * torch.clamp(x + 3, 0, 5) / 6,
    lambda x: x * torch.clamp(x + 3, 0) / 6,
    lambda x: x * F.relu6(x * 3) / 6,
)


def test_activations_that_are_spelled_out_become_one_operator() -> None:
    counts, operators, off = done(Calls(*ACTIVATIONS.values()))
    assert counts == {"SiLU": 2, "hard swish": 5, "hard sigmoid": 1}
    assert sorted(operators) == ["conv2d", *["hardsigmoid"], *["hardswish"] * 5, "mul", "silu", "silu"]
    assert off < 1e-6


def test_what_only_looks_like_an_activation_stays() -> None:
    counts, operators, off = done(Calls(*NO_ACTIVATIONS))
    assert counts == {"hard swish": 1}  # that of the network itself
    assert operators.count("relu6") == 3
    assert off < 1e-6


def test_a_sigmoid_that_others_read_stays_for_them() -> None:
    counts, operators, _ = done(Calls(lambda x: x * torch.sigmoid(x) + torch.sigmoid(x)))
    assert counts == {"SiLU": 1, "hard swish": 1}
    assert {"silu", "sigmoid"} <= set(operators)


def pools(*sides: int) -> Function:
    return lambda x: torch.cat([x, *(F.max_pool2d(x, side, 1, side // 2) for side in sides)], 1)


def test_parallel_pools_become_a_chain() -> None:
    """Borders included: windows larger than the image are among them."""
    functions = [lambda x, i=i, sides=sides: pools(*sides)(x + i) for i, sides in enumerate(CHAINS)]
    counts, operators, off = done(Calls(*functions))
    assert counts["chained pool"] == sum(CHAINS.values())
    assert operators.count("max_pool2d") == sum(len(set(sides)) for sides in CHAINS)
    assert off < 1e-6


CHAINS = {(5, 9, 13): 2, (13, 9, 5): 2, (3, 3, 7): 1, (9, 5, 9): 1, (5, 25): 1}
"""Windows, and how many of them become smaller."""


def test_an_average_over_more_than_there_is_is_one_over_all() -> None:
    """As EfficientNet ends in transformers; windows that leave several results, or are padded otherwise, stay."""
    counts, operators, off = done(
        Calls(
            lambda x: F.avg_pool2d(x, 320, ceil_mode=True),
            lambda x: F.avg_pool2d(x + 1, 3, 2, 1),
            lambda x: F.avg_pool2d(x + 2, (320, 1), ceil_mode=True),
        )
    )
    assert counts == {"hard swish": 1, "whole pool": 1}
    assert operators.count("avg_pool2d") == 2
    assert off < 1e-6


def test_other_pools_stay() -> None:
    counts, _, _ = done(
        Calls(
            lambda x: pools(5)(x + 1),
            lambda x: pools(5, 5)(x + 2),
            lambda x: F.max_pool2d(x + 3, 3, 2, 1) + F.max_pool2d(x + 3, 5, 2, 2),
            lambda x: torch.cat([F.max_pool2d(x, 5, 1, 2), F.max_pool2d(x + 4, 9, 1, 4)], 1),
            lambda x: F.max_pool2d(x + 5, 3, 1, 1).amax() + F.max_pool2d(x + 5, 5, 1, 1).amax(),
        )
    )
    assert counts == {"hard swish": 1}


class Branches(nn.Module):
    """RepVGG's block before it is merged."""

    def __init__(
        self, *sides: int, norm: bool = True, stride: int = 1, groups: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(8, 8, side, stride, side // 2 if padding is None else padding, groups=groups, bias=False),
                nn.BatchNorm2d(8),
            )
            for side in sides
        )
        self.norm = nn.BatchNorm2d(8) if norm else None
        for one in self.modules():
            if isinstance(one, nn.BatchNorm2d):
                for tensor in (one.weight, one.bias, one.running_mean, one.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        total = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return (total if self.norm is None else total + self.norm(x)).relu()


class Together(nn.Module):
    """Several networks of one input."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(network(x) for network in self.networks)


def test_parallel_convolutions_become_one() -> None:
    networks = (
        Branches(3, 1),
        Branches(3, 1, norm=False, stride=2),
        Branches(1, 3, 5, 3),
        Branches(3, 1, groups=8),
        Branches(3, 1, groups=2, norm=False),
        Branches(3),
    )
    counts, operators, off = done(Together(*networks))
    assert counts == {"parallel convolution": 2 + 1 + 4 + 2 + 1 + 1}
    assert operators == ["conv2d", "conv2d", "relu"] * len(networks)
    assert off < 1e-5


class Residual(nn.Module):
    """Two convolutions, of different tensors or one after the other; one of them read twice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.a(x)
        if self.how == "read twice":
            return first + self.b(x) + first.relu()
        return first + self.b(x + 1 if self.how == "another tensor" else first)


def test_other_sums_stay() -> None:
    sums = [Residual(how) for how in ("read twice", "another tensor", "one after the other")]
    others = [Branches(4, 4, norm=False), Branches(3, 3, norm=False, padding=0), Branches(3, groups=2)]
    assert done(Together(*sums, *others))[0] == {}


def test_an_exchange_file_counts_its_rewrites(tmp_path: Path) -> None:
    class Network(Branches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = super().forward(x)
            return pools(5, 9)(x * torch.sigmoid(x))

    exchange = write_exchange(Network(3, 1).eval(), torch.rand(1, 3, 16, 16), ("out",), tmp_path)
    assert exchange.rewrites == {"parallel convolution": 2, "SiLU": 1, "chained pool": 1}


def test_a_rewrite_that_changes_the_outputs_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: fx.GraphModule) -> dict[str, int]:
        for value in graph.parameters():
            value.data.mul_(1.01)
        return {"wrong": 1}

    monkeypatch.setattr(rewrites, "REWRITES", (wrong, *rewrites.REWRITES))
    counts, _, off = done(Calls())
    assert counts == {"hard swish": 1}
    assert off < 1e-6
