"""Space-to-depth in front of a convolution becomes part of it, however a network spells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'convert'")

import torch

from edgekit.graph.exchange import flatten, write_exchange
from edgekit.graph.focus import merge_space_to_depth

Form = Callable[[torch.Tensor], torch.Tensor]

EVERY_SECOND = [(0, 0), (1, 0), (0, 1), (1, 1)]


def sliced(x: torch.Tensor, corners: list[tuple[int, int]], step: int = 2) -> torch.Tensor:
    return torch.cat([x[..., row::step, column::step] for row, column in corners], 1)


def reshaped(x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    pixels = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return pixels.reshape(batch, 4 * channels, height // 2, width // 2)


FORMS: dict[str, Form] = {
    "slices": lambda x: sliced(x, EVERY_SECOND),
    "slices in another order": lambda x: sliced(x, EVERY_SECOND[::-1]),
    "pixel_unshuffle": lambda x: torch.nn.functional.pixel_unshuffle(x, 2),
    "reshape and permute": reshaped,
    "blocks of four": lambda x: torch.nn.functional.pixel_unshuffle(x, 4),
}
OTHERS: dict[str, Form] = {
    "one pixel twice": lambda x: sliced(x, [*EVERY_SECOND[:3], (0, 1)]),
    "one pixel missing": lambda x: sliced(x, EVERY_SECOND[:3]),
    "two tensors": lambda x: torch.cat([sliced(x, EVERY_SECOND[:2]), sliced(x + 1, EVERY_SECOND[2:])], 1),
    "halves of the image": lambda x: torch.cat(
        [x[..., :10, :16], x[..., 10:, :16], x[..., :10, 16:], x[..., 10:, 16:]], 1
    ),
    "nothing moved": lambda x: x,
}


class Stem(torch.nn.Module):
    def __init__(self, form: Form, *, stride: int = 1, groups: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.form = form
        inputs = form(torch.zeros(1, 3, 20, 32)).shape[1]
        self.conv = torch.nn.Conv2d(inputs, 4 * groups, kernel, stride, kernel // 2, groups=groups, bias=stride == 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolved: torch.Tensor = self.conv(self.form(x))
        return convolved.relu()


def merged(network: torch.nn.Module) -> tuple[int, float]:
    """How many convolutions are rewritten, and the largest difference at the output, edges of the image included."""
    example = torch.rand(1, 3, 20, 32)
    graph = flatten(network.eval(), example)
    with torch.no_grad():
        expected = network(example)
        count = merge_space_to_depth(graph).get("space-to-depth", 0)
        return count, float((graph(example) - expected).abs().max())


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_merged_exactly(form: str, kernel: int) -> None:
    count, difference = merged(Stem(FORMS[form], kernel=kernel))
    assert count == 1
    assert difference < 2e-6


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_not_space_to_depth_stays(form: str) -> None:
    assert merged(Stem(OTHERS[form]))[0] == 0


def test_strided_and_grouped_convolutions_stay() -> None:
    assert merged(Stem(FORMS["slices"], stride=2))[0] == 0
    assert merged(Stem(FORMS["slices"], groups=3))[0] == 0


def test_an_exchange_file_has_no_slices_and_says_so(tmp_path: Path) -> None:
    import onnx

    exchange = write_exchange(Stem(FORMS["slices"]).eval(), torch.rand(1, 3, 20, 32), ("out",), tmp_path)
    assert exchange.rewrites == {"space-to-depth": 1}
    assert {node.op_type for node in onnx.load(exchange.onnx).graph.node} == {"Conv", "Relu"}
