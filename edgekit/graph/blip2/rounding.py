"""Weights rounded to 4 or 8 bits in blocks, as targets do it: to nearest, or by what the layer's inputs tell.

Targets round the weights that they are given to the nearest integers of a block. `gptq`, `clipped` and `rescaled` give
them other weights than the checkpoint's, so that the integers which come out are better ones: every target takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats
from edgekit.errors import ConversionError

Grid = Literal["lowest", "symmetric"]
"""Where a block's value of largest magnitude lies: on the lowest integer (-8 of 4 bits), or on 7 or -7."""

DAMPING = 0.01
"""Share of the mean squared input that is added to each input's own, as GPTQ does."""

MOST_DAMPED = 6
"""How often ten times as much is added where the matrix cannot be factorised; more than its largest entry then."""

CHUNK = 128
"""Columns whose error goes to the ones behind them together."""

ROUNDS = 8
"""How often scales and integers are found in turn."""

SHRUNK = tuple(np.linspace(0.5, 0.95, 10))
"""Shares of a block's largest magnitude at which its weights are cut off, by trial."""


@dataclass(frozen=True)
class Steps:
    """Integers ``low`` to ``high`` of each block: ``scales`` and ``largest`` (outputs, blocks), ``ends`` likewise.

    ``largest`` is the column of a block's largest magnitude, ``ends`` the integer that it lies on. A target that rounds
    weights finds the same scale only where that column holds that integer.
    """

    scales: Floats
    largest: NDArray[np.intp]
    ends: Floats
    low: int
    high: int


def steps(weight: Floats, bits: int, size: int, grid: Grid) -> Steps:
    """The integers of a weight (outputs, inputs); the last block may be shorter."""
    apart = _in_blocks(weight, size)
    places = np.abs(apart).argmax(-1)
    largest = np.take_along_axis(apart, places[..., None], -1)[..., 0]
    half = 1 << (bits - 1)
    if grid == "lowest":
        ends, low = np.full_like(largest, -half), -half
    else:
        ends, low = np.copysign(np.float32(half - 1), largest), 1 - half
    scales = np.where(largest == 0, np.float32(1), largest / ends)
    return Steps(scales, places + size * np.arange(apart.shape[1]), ends, low, half - 1)


def rounded(weight: Floats, bits: int, size: int, grid: Grid) -> Floats:
    """A weight as a target makes it of its integers, each rounded to nearest."""
    found, apart = steps(weight, bits, size, grid), _in_blocks(weight, size)
    integers = np.clip(np.rint(apart / found.scales[..., None]), found.low, found.high)
    made: Floats = (integers * found.scales[..., None]).reshape(len(weight), -1)[:, : weight.shape[1]]
    return made


def errors(weight: Floats, made: Floats, inputs: Floats) -> Floats:
    """Squared error of each output (outputs,) over the inputs (tokens, inputs)."""
    error: Floats = np.square(inputs @ (weight - made).T).sum(0)
    return error


def gptq(weight: Floats, inputs: Floats, bits: int, size: int, grid: Grid) -> Floats:
    """Round a weight column by column; what a column loses goes to the ones that are still to come.

    Frantar et al. 2023, arXiv:2210.17323: ``inputs' inputs`` says how an error of one column is made up for by others.
    Columns with large inputs go first; scales are those of rounding to nearest, found before, and the value that sets a
    block's scale keeps its integer. An output that gets worse by it stays rounded to nearest.

    Args:
        weight: (outputs, inputs).
        inputs: what the layer reads, (tokens, inputs).
        bits: of an integer.
        size: inputs that share a scale.
        grid: the target's.

    Returns:
        the weight as the target makes it of its integers; it finds the same ones again.
    """
    hessian: Floats = inputs.T @ inputs
    order = np.argsort(hessian.diagonal(), kind="stable")[::-1]
    hessian = hessian[np.ix_(order, order)]
    root, found = _inverse_root(hessian), steps(weight, bits, size, grid)
    left, made = weight[:, order], np.empty_like(weight)
    for first in range(0, len(order), CHUNK):
        last = min(first + CHUNK, len(order))
        lost = np.empty((len(weight), last - first), np.float32)
        for place in range(first, last):
            column, block = order[place], order[place] // size
            scale = found.scales[:, block]
            integers = np.clip(np.rint(left[:, place] / scale), found.low, found.high)
            kept = np.where(found.largest[:, block] == column, found.ends[:, block], integers)
            made[:, column] = kept * scale
            error = (left[:, place] - made[:, column]) / root[place, place]
            left[:, place:last] -= error[:, None] * root[place, place:last]
            lost[:, place - first] = error
        left[:, last:] -= lost @ root[first:last, last:]
    return _better(weight, made, rounded(weight, bits, size, grid), inputs)


def _inverse_root(hessian: Floats) -> Floats:
    """The upper triangle U with U' U the inverse of a matrix, which is damped in place: it may be large.

    Raises:
        ConversionError: the inputs hold NaN or infinite values.
    """
    damping = DAMPING * hessian.diagonal().mean() or 1
    for _ in range(MOST_DAMPED):
        hessian[np.diag_indices_from(hessian)] += damping
        damping *= 10
        try:
            # Upside down, a lower triangle is an upper one: one factorisation, and no inverse of the matrix itself.
            root: Floats = np.linalg.inv(np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1])
        except np.linalg.LinAlgError:  # a few inputs are so large that rounding errors drown the others
            continue
        if np.isfinite(root).all():
            return root
    raise ConversionError("GPTQ: a layer reads NaN or infinite values on the calibration data; take other images")


def clipped(weight: Floats, inputs: Floats, bits: int, size: int, grid: Grid) -> Floats:
    """A weight whose blocks are cut off where that makes the layer's output better: the others get finer steps.

    As AWQ does it (Lin et al. 2023, arXiv:2306.00978). Blocks are judged one by one, outputs as a whole.

    Args:
        weight, inputs, bits, size, grid: see `gptq`.

    Returns:
        the weight to be rounded to nearest.
    """
    apart, count = _in_blocks(weight, size), -(-weight.shape[1] // size)
    squares = _squares(inputs, size)
    largest = np.abs(apart).max(-1, keepdims=True)
    best, least = apart.copy(), np.full(apart.shape[:2], np.inf, np.float32)
    for share in (1.0, *SHRUNK):
        cut = np.clip(apart, -share * largest, share * largest).astype(np.float32)
        gap = apart - _in_blocks(rounded(cut.reshape(len(weight), -1), bits, size, grid), size)
        error = _block_errors(gap, squares)
        better = error < least
        best, least = np.where(better[..., None], cut, best), np.where(better, error, least)
    made = best.reshape(len(weight), count * size)[:, : weight.shape[1]]
    good = errors(weight, rounded(made, bits, size, grid), inputs)
    plain = errors(weight, rounded(weight, bits, size, grid), inputs)
    return np.where((good < plain)[:, None], made, weight)


def rescaled(weight: Floats, inputs: Floats, bits: int, size: int, grid: Grid) -> Floats:
    """A weight whose blocks have the scales with the least error of their outputs, and the integers that go with them.

    For given integers that scale is a ratio of two products (least squares over the block's inputs); for a given scale
    the integers are the nearest. The two are found in turn, as k-means does. The value that sets a block's scale keeps
    its integer. A block keeps the best of all turns, and an output that gets worse by it stays rounded to nearest.

    Args:
        weight, inputs, bits, size, grid: see `gptq`.

    Returns:
        the weight as the target makes it of its integers; it finds the same ones again.
    """
    apart, found = _in_blocks(weight, size), steps(weight, bits, size, grid)
    squares = _squares(inputs, size)
    largest = (found.largest % size)[..., None]
    scales, plain = found.scales, rounded(weight, bits, size, grid)
    best = _in_blocks(plain, size)
    least = _block_errors(apart - best, squares)
    for _ in range(ROUNDS):
        integers = np.clip(np.rint(apart / scales[..., None]), found.low, found.high)
        np.put_along_axis(integers, largest, found.ends[..., None], -1)
        made = integers * scales[..., None]
        error = _block_errors(apart - made, squares)
        best, least = np.where((error < least)[..., None], made, best), np.minimum(error, least)
        turned = np.einsum("obk,bkj->obj", integers, squares)
        whole, part = (np.einsum("obk,obk->ob", turned, one) for one in (integers, apart))
        ratio = np.divide(part, whole, out=scales.copy(), where=whole > 0)
        # A scale of the other sign would turn the block's end around.
        scales = np.where(ratio * scales > 0, ratio, scales).astype(np.float32)
    made = best.reshape(len(weight), -1)[:, : weight.shape[1]].astype(np.float32)
    return _better(weight, made, plain, inputs)


def _squares(inputs: Floats, size: int) -> Floats:
    """Products of the inputs of each block with each other, summed over tokens: (blocks, size, size)."""
    seen = _in_blocks(inputs, size).transpose(1, 0, 2)
    return seen.transpose(0, 2, 1) @ seen


def _block_errors(gap: Floats, squares: Floats) -> Floats:
    """Squared errors (outputs, blocks) of a gap (outputs, blocks, size) between two weights."""
    turned = gap.transpose(1, 0, 2)
    error: Floats = np.einsum("bok,bok->ob", turned @ squares, turned)
    return error


def _better(weight: Floats, made: Floats, plain: Floats, inputs: Floats) -> Floats:
    """Of each output the form with the smaller error."""
    wins = errors(weight, made, inputs) < errors(weight, plain, inputs)
    return np.where(wins[:, None], made, plain)


def _in_blocks(array: Floats, size: int) -> Floats:
    """(rows, columns) as (rows, blocks, size), filled up with zeros."""
    rows, columns = array.shape
    return np.pad(array, ((0, 0), (0, -columns % size))).reshape(rows, -1, size)
