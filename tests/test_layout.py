"""Graphs from channels-last frameworks: the same numbers without the transposes."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="graphs are torch graphs (extra 'convert')")
from torch import nn

from edgekit.graph.exchange import flatten


def counted(graph: Any) -> collections.Counter[str]:
    return collections.Counter(
        str(getattr(node.target, "__name__", node.target)).partition(".")[0]
        for node in graph.graph.nodes
        if node.op == "call_function"
    )


def to_last(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def to_first(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """As such converters write networks: weights (h, w, in, out), every convolution between two transposes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Parameter(torch.randn(3, 3, 3, 8) * 0.3)
        self.two = nn.Parameter(torch.randn(1, 1, 8, 8) * 0.3)
        self.three = nn.Parameter(torch.randn(3, 3, 8, 8) * 0.3)
        self.mean = nn.Parameter(torch.tensor([[[[0.4, 0.5, 0.6]]]]))
        self.scale = nn.Parameter(torch.rand(8))

    def conv(self, x: Any, weight: Any, pad: Any = None) -> Any:
        x = to_first(x)
        x = nn.functional.pad(x, pad) if pad else x
        return to_last(nn.functional.conv2d(x, weight.permute(3, 2, 0, 1)))

    def forward(self, images: Any) -> Any:
        x = to_last(images).unbind(0)[0].unsqueeze(0).squeeze(0).unsqueeze(0)  # as it is exported
        x = (x - self.mean) / 2.0
        x = nn.functional.relu6(self.conv(x, self.one, (1, 1, 1, 1)))
        shortcut = x
        x = torch.sigmoid(self.conv(x, self.two)) * self.scale
        x = self.conv(x, self.three, (0, 2, 0, 2)) + shortcut
        return to_first(x)


def test_no_transpose_is_left_and_the_numbers_are_the_same() -> None:
    network = ChannelsLast().eval()
    example = torch.rand(1, 3, 16, 12)
    flat = flatten(network, example)
    found = counted(flat)
    assert found["permute"] == 0
    assert found["conv2d"] == 3
    assert found["pad"] == 1, "the one that pads on one side only"
    with torch.no_grad():
        torch.testing.assert_close(flat(example), network(example), rtol=0, atol=1e-6)
    for node in flat.graph.nodes:
        if "conv2d" in node.name:
            assert node.args[1].op == "get_attr", "the weight is a constant"


class OnePart(nn.Module):
    """A split into one part, as deformable attention of one level has."""

    def forward(self, images: Any) -> Any:
        (whole,) = images.split([3], 1)
        return whole + 1


def test_a_split_into_one_part_is_dropped() -> None:
    flat = flatten(OnePart().eval(), torch.rand(1, 3, 4, 4))
    found = counted(flat)
    assert sum(found[name] for name in ("split", "split_with_sizes", "getitem")) == 0
    torch.testing.assert_close(flat(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 2.0))


class Attention(nn.Module):
    """Transposes that mean something."""

    def forward(self, images: Any) -> Any:
        tokens = images.flatten(2).permute(0, 2, 1)
        weights = (tokens @ tokens.permute(0, 2, 1)).softmax(-1)
        return (weights @ tokens).permute(0, 2, 1).reshape(images.shape), tokens.relu().permute(0, 2, 1)


def test_transposes_that_mean_something_stay() -> None:
    network = Attention().eval()
    example = torch.rand(1, 3, 4, 5)
    flat = flatten(network, example)
    assert counted(flat)["permute"] >= 2
    with torch.no_grad():
        for ours, theirs in zip(flat(example), network(example), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class Twice(nn.Module):
    """An activation that is read in both layouts, and two transposes that are not each other's inverse."""

    def forward(self, images: Any) -> Any:
        x = to_last(images).relu()
        return to_first(x), x.mean((1, 2)), images.permute(0, 2, 3, 1).permute(0, 2, 3, 1)


def test_what_cannot_be_cancelled_is_left_right() -> None:
    network = Twice().eval()
    example = torch.randn(1, 3, 6, 5)
    with torch.no_grad():
        for ours, theirs in zip(flatten(network, example)(example), network(example), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_real_movenet(shared_data: Path) -> None:
    from edgekit.sources import SourceRequest, load

    torch.set_num_threads(1)
    model = load(SourceRequest(str(shared_data / "models" / "movenet_lightning.pt2")))
    flat = flatten(model.module, model.example)
    assert counted(flat)["conv2d"] == counted(model.module)["conv2d"]
    assert counted(model.module)["permute"] > 150
    assert counted(flat)["permute"] == 4, "before the decoding of each head"
    image = torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        torch.testing.assert_close(flat(image), model.module(image), rtol=0, atol=1e-5)
