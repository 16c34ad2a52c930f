"""Assign detections to tracks: the one-to-one choice of pairs with the greatest total gain.

Solved exactly. Where no two pairs compete, they are the choice. Else those that are in every best choice are taken
first (almost all of them, in a video); what is left goes to the solver of `lap` or SciPy, or to an own one on a device
that has neither. All three give the same pairs: a fixed perturbation far below any measured difference decides between
choices that are equally good.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Doubles, Ints

Solver = Callable[[Doubles], Ints]

TIE = 1e-9
"""Greatest perturbation of a gain (gains are similarities of 0..1); float64 leaves seven digits of it."""


def assign(gains: NDArray[np.floating], solver: Solver | None = None) -> tuple[Ints, Ints]:
    """Rows and columns (k,) of the chosen pairs, by row.

    Args:
        gains: (n, m), what each pair is worth; pairs at 0 or below are never chosen.
        solver: for what the certain pairs leave over; by default the first of `solvers` that is installed.

    A pair worth more than the best alternative of its row and that of its column together is in every best choice: to
    leave it out frees the two, and what they could gain elsewhere is less.
    """
    rows, columns = (gains > 0).nonzero()
    if not compete(rows, columns):
        return rows, columns
    chosen = np.empty(gains.shape[0], np.int64)
    chosen.fill(-1)
    left, free = _take_certain(gains, chosen)
    if len(left) and len(free):
        _solve(gains, left, free, chosen, solver or default_solver())
    rows = (chosen >= 0).nonzero()[0]
    return rows, chosen[rows]


def compete(rows: Ints, columns: Ints) -> bool:
    """Whether any of these pairs (k,) has its row or its column in common with another."""
    return len(set(rows.tolist())) < len(rows) or len(set(columns.tolist())) < len(columns)


def _take_certain(gains: NDArray[np.floating], chosen: Ints) -> tuple[Ints, Ints]:
    """Write the certain pairs into ``chosen`` (n,); return the rows and columns still to be solved."""
    columns = gains.argmax(1)
    best = np.maximum.reduce(gains, 1)
    mutual = gains.argmax(0)[columns] == np.arange(len(gains))
    mutual &= best > 0
    rows = mutual.nonzero()[0]
    at = columns[rows]
    others = gains.copy()
    others[rows, at] = 0
    alternative = np.maximum.reduce(others, 1)[rows] + np.maximum.reduce(others, 0)[at]
    certain = (best[rows] > alternative).nonzero()[0]
    chosen[rows[certain]] = at[certain]
    untaken = np.ones(gains.shape[1], np.bool_)
    untaken[at[certain]] = False
    return ((chosen < 0) & (best > 0)).nonzero()[0], untaken.nonzero()[0]


def _solve(gains: NDArray[np.floating], rows: Ints, columns: Ints, chosen: Ints, solver: Solver) -> None:
    left = gains[rows[:, None], columns].astype(np.float64)
    possible = left > 0
    some_row, some_column = possible.any(1), possible.any(0)
    if not some_row.any():
        return
    left, possible = left[some_row][:, some_column], possible[some_row][:, some_column]
    rows, columns = rows[some_row], columns[some_column]
    left = np.where(possible, left + TIE * _tie_breaks(*left.shape), 0.0)
    wide = len(rows) <= len(columns)
    partner = solver(left if wide else left.T)
    first, second = np.arange(len(partner)), partner
    row, column = (first, second) if wide else (second, first)
    real = possible[row, column]
    chosen[rows[row[real]]] = columns[column[real]]


def _tie_breaks(rows: int, columns: int) -> Doubles:
    """A fixed number in 0..1 for each pair (rows, columns), by 32-bit integers: the same on any device."""
    mixed = np.arange(rows, dtype=np.uint32)[:, None] * 0x9E3779B1 ^ np.arange(columns, dtype=np.uint32) * 0x85EBCA77
    mixed ^= mixed >> 16
    mixed *= 0xC2B2AE3D
    mixed ^= mixed >> 15
    return mixed.astype(np.float64) * 2.0**-32


@functools.cache
def default_solver() -> Solver:
    """The first of `solvers` whose package is installed."""
    for package, solver in SOLVERS.items():
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        return solver
    return shortest_augmenting_paths


def by_lap(gains: Doubles) -> Ints:
    """Columns (n,) of the best full choice for gains (n, m), n <= m, by ``lap.lapjv``."""
    costs = gains.max() - gains
    partner = importlib.import_module("lap").lapjv(costs, extend_cost=True)[1]
    return np.asarray(partner, np.int64)


def by_scipy(gains: Doubles) -> Ints:
    """Columns (n,) of the best full choice for gains (n, m), n <= m, by ``scipy.optimize.linear_sum_assignment``."""
    columns = importlib.import_module("scipy.optimize").linear_sum_assignment(gains, maximize=True)[1]
    return np.asarray(columns, np.int64)


def shortest_augmenting_paths(gains: Doubles) -> Ints:
    """Columns (n,) of the best full choice for gains (n, m), n <= m, in numpy alone.

    Jonker and Volgenant's shortest augmenting paths for rectangular problems (D. F. Crouse, On implementing 2D
    rectangular assignment algorithms, IEEE TAES 52(4), 2016).
    """
    costs = gains.max() - gains
    count, width = costs.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    row_of, column_of = np.full(width, -1, np.int64), np.full(count, -1, np.int64)
    for start in range(count):
        length, path = np.full(width, np.inf), np.full(width, -1, np.int64)
        done, visited = np.zeros(width, np.bool_), [start]
        row, reached = start, 0.0
        while True:
            through = reached + costs[row] - row_price[row] - column_price
            better = ~done & (through < length)
            path[better], length[better] = row, through[better]
            column = int(np.where(done, np.inf, length).argmin())
            reached = float(length[column])
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            visited.append(row)
        row_price[start] += reached
        for other in visited[1:]:
            row_price[other] += reached - length[column_of[other]]
        column_price[done] -= reached - length[done]
        while True:
            row = int(path[column])
            row_of[column], column_of[row], column = row, column, int(column_of[row])
            if row == start:
                break
    return column_of


SOLVERS: MappingProxyType[str, Solver] = MappingProxyType({"lap": by_lap, "scipy.optimize": by_scipy})
"""Solvers by the package they need, in the order they are looked for."""
