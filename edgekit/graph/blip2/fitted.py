"""A checkpoint whose weights are fitted to calibration data before a target rounds them, and the bits of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import ConversionError
from edgekit.graph.blip2.blip2 import PARTS, Blip2, part_of
from edgekit.graph.blip2.checkpoint import Checkpoint
from edgekit.graph.blip2.folds import Fold, folds, scales
from edgekit.graph.blip2.precision import AWQ, GPTQ, SCALE, PartPrecision
from edgekit.graph.blip2.rounding import Grid, clipped, errors, gptq, rescaled, rounded

MOST_TOKENS = 1024
"""Tokens by which factors are tried and layers are compared: each trial is a product with the weight."""

NARROW, WIDE = 4, 8
"""Bits of a layer."""


class LayerInputs(Protocol):
    """The inputs of linear layers on the calibration data."""

    def __contains__(self, name: object) -> bool:
        """Whether a weight's layer was observed."""
        ...

    def __getitem__(self, name: str) -> Floats:
        """Inputs (tokens, inputs) of the layer with a weight of this name."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Weights of all observed layers, in the order in which they run."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A source with fitted weights, what its layers read, the layers that have 8 bits, and what is to be told of it."""

    source: Blip2
    inputs: LayerInputs
    wide: frozenset[str] = frozenset()
    report: Mapping[str, str] = field(default_factory=dict)


def fit(source: Blip2, graph: str, precision: PartPrecision, inputs: LayerInputs, grid: Grid) -> Fitted:
    """Fit the weights of a graph's part to what its layers read.

    Args:
        source: the model.
        graph: one of the part's graphs.
        precision: of the part; one with a method, or with a budget of bits.
        inputs: what all linear layers of the part read.
        grid: where the target's integers lie.

    Raises:
        ConversionError: nothing was observed.
    """
    made = _FittedCheckpoint(source, PARTS[graph], precision, inputs, grid)
    if not made.layers:
        raise ConversionError(f"{PARTS[graph]} in {precision}: no layer was observed on the calibration images")
    report: dict[str, str] = {}
    if precision.bits is not None:
        made.wide = widest(made.gains(), precision.bits)
        report = _told(made, precision.bits)
    told = report if graph == _last(source, graph) else {}
    return Fitted(source.reading(made), _Moved(made, inputs), made.wide, told)


def _last(source: Blip2, graph: str) -> str:
    """The last graph of a part, which tells of all of it."""
    return [one for one in source.graphs if PARTS[one] == PARTS[graph]][-1]


def _told(made: _FittedCheckpoint, budget: float) -> dict[str, str]:
    sizes = {name: int(np.prod(made.shape(name))) for name in made.layers}
    spent = sum(size * (WIDE if name in made.wide else NARROW) for name, size in sizes.items()) / sum(sizes.values())
    wide, narrow = len(made.wide), len(sizes) - len(made.wide)
    return {"bits": f"{spent:.2f} for each weight, of at most {budget:g}: {narrow} layers in 4, {wide} in 8"}


def widest(gains: Iterable[Gain], budget: float) -> frozenset[str]:
    """The layers that get 8 bits: those first that gain the most for each bit, as long as the mean is in the budget."""
    known = list(gains)
    left = (budget - NARROW) * sum(gain.size for gain in known)
    chosen = set()
    for gain in sorted(known, key=lambda one: one.error / one.size, reverse=True):
        cost = (WIDE - NARROW) * gain.size
        if cost <= left:
            chosen.add(gain.name)
            left -= cost
    return frozenset(chosen)


@dataclass(frozen=True)
class Gain:
    """The error of a layer in 4 bits that 8 bits save, as a share of its output; ``size`` is its number of weights."""

    name: str
    size: int
    error: float


class _Moved:
    """`LayerInputs` with the factors of their channels."""

    def __init__(self, made: _FittedCheckpoint, inputs: LayerInputs) -> None:
        self._made, self._inputs = made, inputs

    def __contains__(self, name: object) -> bool:
        return name in self._inputs

    def __getitem__(self, name: str) -> Floats:
        """See `LayerInputs`."""
        return self._made.seen(name, None)

    @property
    def names(self) -> tuple[str, ...]:
        """See `LayerInputs`."""
        return self._inputs.names


class _FittedCheckpoint(Checkpoint):
    """Reads weights and fits them, one at a time; nothing but factors of channels is kept."""

    def __init__(self, source: Blip2, part: str, precision: PartPrecision, inputs: LayerInputs, grid: Grid) -> None:
        super().__init__(source.folder)
        self.inputs = inputs
        self.layers = tuple(name for name in inputs.names if part_of(name) == part)
        self.wide: frozenset[str] = frozenset()
        self._precision, self._size, self._grid = precision, precision.block, grid
        self._readers: dict[str, Fold] = {}
        self._givers: dict[str, list[Fold]] = {}
        self._scales: dict[Fold, Floats] = {}
        for fold in folds(source, part) if precision.uses(AWQ) else ():
            if all(name in inputs for name in fold.readers):
                self._readers |= dict.fromkeys(fold.readers, fold)
                for name in fold.givers:
                    self._givers.setdefault(name, []).append(fold)

    def __getitem__(self, name: str) -> Floats:
        """A tensor as it is to be rounded, float32."""
        weight = self._moved(name)
        if name not in self.inputs or name in self.wide:
            return weight
        for method, chosen, most in ((GPTQ, gptq, None), (SCALE, rescaled, MOST_TOKENS)):
            if self._precision.uses(method):
                # Some targets choose other blocks where these do not fill the inputs.
                whole = weight.shape[1] % self._size == 0
                return chosen(weight, self.seen(name, most), NARROW, self._size, self._grid) if whole else weight
        return clipped(weight, self.seen(name), NARROW, self._size, self._grid) if self._precision.method else weight

    def gains(self) -> list[Gain]:
        """The gain of 8 bits for each layer."""
        found = []
        for name in self.layers:
            weight, seen = self._moved(name), self.seen(name)
            narrow, wide = (
                float(errors(weight, rounded(weight, bits, self._size, self._grid), seen).sum())
                for bits in (NARROW, WIDE)
            )
            whole = float(np.square(seen @ weight.T).sum()) or 1.0
            found.append(Gain(name, weight.size, (narrow - wide) / whole))
        return found

    def _moved(self, name: str) -> Floats:
        """A tensor with the factors of its channels."""
        values = super().__getitem__(name)
        for fold in self._givers.get(name, ()):
            factors = self._factors(fold)
            some = slice(fold.first, fold.first + len(factors))
            values[some] /= factors.reshape(-1, *[1] * (values.ndim - 1))
        if name in self._readers:
            values *= self._factors(self._readers[name])
        return values

    def seen(self, name: str, most: int | None = MOST_TOKENS) -> Floats:
        """Inputs of a layer, of some tokens or of all, with the factors of its channels."""
        seen = _some(self.inputs[name], most)
        return seen / self._factors(self._readers[name]) if name in self._readers else seen

    def _factors(self, fold: Fold) -> Floats:
        if fold not in self._scales:
            seen = _some(self.inputs[fold.readers[0]], MOST_TOKENS)
            weights = [super(_FittedCheckpoint, self).__getitem__(name) for name in fold.readers]
            self._scales[fold] = scales(
                weights,
                seen,
                lambda weight: rounded(weight, NARROW, self._size, self._grid),
            )
        return self._scales[fold]


def _some(seen: Floats, most: int | None) -> Floats:
    """Every so many tokens, at most ``most``."""
    return seen if most is None else seen[:: -(-len(seen) // most)]


class StoredInputs:
    """`LayerInputs` in a folder, one file for all layers that read the same; see `edgekit.conversion.layer_inputs`."""

    def __init__(self, folder: Path, files: Mapping[str, tuple[str, int]]) -> None:
        self._folder, self._files = folder, files

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Floats:
        """See `LayerInputs`."""
        file, columns = self._files[name]
        return np.fromfile(self._folder / file, np.float32).reshape(-1, columns)

    @property
    def names(self) -> tuple[str, ...]:
        """See `LayerInputs`."""
        return tuple(self._files)
