"""COCO run-length encoding of one mask, from and to a window of it: no bitmap of the whole image is made.

The format (https://github.com/cocodataset/cocoapi, ``common/maskApi.c``): the mask is read column by column, and the
lengths of its runs are listed, the first one of background (so it may be 0). Compressed, every length from the fourth
on is replaced by its difference to the length two places before; then each number is written in groups of 5 bits,
lowest first, bit 5 set when another group follows, as the characters from "0" (48) on. The last group's highest bit
is the sign.
"""

from __future__ import annotations

import numpy as np

from edgekit.arrays import Bools, Ints
from edgekit.errors import InputError

GROUPS = 7
"""Most groups of 5 bits that a number may have: COCO's lengths are of 32 bits, and their differences of 33."""


def counts_of(window: Bools, left: int, top: int, size: tuple[int, int]) -> Ints:
    """Lengths of the runs in a mask that is ``window`` with its first pixel at (left, top), and empty around it.

    Args:
        window: bool (h, w), wholly inside the image.
        size: (width, height) of the image.
    """
    width, height = size
    edges = np.zeros((window.shape[1], window.shape[0] + 2), np.int8)
    edges[:, 1:-1] = window.T
    steps = np.diff(edges, axis=1)
    # Runs within each column; both come out in the order of the columns, so they pair up.
    bounds = [
        (left + columns) * height + top + rows for columns, rows in (np.nonzero(steps == 1), np.nonzero(steps == -1))
    ]
    starts, ends = bounds
    if window.shape[0] == height:  # a run that reaches the bottom goes on at the top of the next column
        joined = ends[:-1] == starts[1:]
        starts, ends = starts[np.r_[True, ~joined][: len(starts)]], ends[np.r_[~joined, True][: len(ends)]]
    turns = np.stack([starts, ends], axis=1).ravel()
    if len(turns) and turns[-1] == width * height:
        turns = turns[:-1]
    return np.diff(turns, prepend=0, append=width * height).astype(np.int64)


def window_of(counts: Ints, size: tuple[int, int]) -> tuple[Bools, int, int]:
    """The inverse of `counts_of`, as the smallest window that holds the mask: bitmap (h, w), left, top.

    Raises:
        InputError: the lengths do not cover the image exactly.
    """
    width, height = size
    if counts.size == 0 or counts.min() < 0 or counts.max() > width * height or counts.sum() != width * height:
        raise InputError(f"its runs cover {sum(counts.tolist())} pixels, where the image has {width}x{height}")
    turns = np.cumsum(counts)
    starts, ends = turns[:-1:2], turns[1::2]
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if not len(starts):
        return np.zeros((0, 0), np.bool_), 0, 0
    first, last = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    turns = np.stack([starts, ends], axis=1).ravel() - first * height
    lengths = np.diff(turns, prepend=0, append=(last - first) * height)
    strip = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(last - first, height)
    rows = np.flatnonzero(strip.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return np.ascontiguousarray(strip[:, top:bottom].T), first, top


def compressed(counts: Ints) -> str:
    """Lengths of runs as COCO's string."""
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    going = np.ones(len(rest), np.bool_)
    groups = []
    while going.any():
        group = rest & 31
        rest >>= 5
        more = going & np.where(group & 16, rest != -1, rest != 0)
        groups.append(np.where(going, group + np.where(more, 32, 0) + 48, 0))
        going = more
    letters = np.stack(groups, axis=1).astype(np.uint8).ravel() if groups else np.zeros(0, np.uint8)
    return letters[letters > 0].tobytes().decode("ascii")


def expanded(text: str | bytes) -> Ints:
    """The inverse of `compressed`.

    Raises:
        InputError: not such a string.
    """
    try:
        letters = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise InputError(f"its counts are not COCO's compressed runs ({error})") from error
    if not letters.size or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise InputError(f"its counts {text[:20]!r} are not COCO's compressed runs, or cut short")
    last = np.flatnonzero(letters & 32 == 0)
    first = np.r_[0, last[:-1] + 1]
    groups = last - first + 1
    if groups.max() > GROUPS:
        raise InputError(f"its counts {text[:20]!r} have a number of {5 * groups.max()} bits, more than a run can have")
    place = np.arange(len(letters)) - np.repeat(first, groups)
    counts = np.add.reduceat((letters & 31) << (5 * place), first)
    counts = np.where(letters[last] & 16, counts - (1 << (5 * groups)), counts)
    # Each from the fourth on was written as the difference to the one two before: two running sums.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return np.asarray(counts, np.int64)
