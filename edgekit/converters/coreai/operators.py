"""A torch.export program in the operators that coreai-torch converts, each to what torch computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program by Apple's own table of decompositions, which keeps SiLU, softmax and layer normalisation whole.

    Spelled out are ELU and grid sampling, which coreai-torch 0.4.3 does not know, and averages that it writes wrong.
    """
    import coreai_torch
    import torch

    aten = torch.ops.aten
    table: dict[Any, Any] = coreai_torch.get_decomp_table()
    table.update(torch._decomp.get_decompositions([aten.elu, aten.grid_sampler_2d]))
    table[aten.avg_pool2d.default] = _average
    found: ExportedProgram = program.run_decompositions(table)
    return found


def _average(
    images: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil: bool = False,
    counted: bool = True,
    divisor: int | None = None,
) -> Any:
    """Average pooling in the two cases that coreai-torch 0.4.3 does not read: padding that does not count (it writes
    another result, without an error), and windows over the edge (an error).

    The mean over a padded image, divided by the share of each window that counts.
    """
    import torch

    kernel, padding = _two(kernel), _two(padding)
    stride = _two(stride or kernel)
    if divisor is not None or not (ceil or (any(padding) and not counted)):
        return NotImplemented
    (left, right), (top, bottom) = (
        _sides(images.shape[axis], kernel[axis], stride[axis], padding[axis], ceil) for axis in (-1, -2)
    )
    pad = torch.nn.functional.pad
    ones = torch.ones(1, 1, *images.shape[-2:], dtype=images.dtype)
    inside = pad(ones, (padding[1], padding[1], padding[0], padding[0]), value=float(counted))
    inside = pad(inside, (0, right - padding[1], 0, bottom - padding[0]))
    means = torch.ops.aten.avg_pool2d.default(pad(images, (left, right, top, bottom)), kernel, stride)
    shares = torch.ops.aten.avg_pool2d.default(inside, kernel, stride)
    return means / shares


def _sides(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> tuple[int, int]:
    """Padding before and behind one axis."""
    steps = (size + 2 * padding - kernel) / stride
    last = math.ceil(steps) if ceil else math.floor(steps)
    if last * stride >= size + padding:  # the last window has to begin inside
        last -= 1
    return padding, max(padding, last * stride + kernel - size - padding)


def _two(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])
