"""Recall of a comparison by the size of objects: a total hides that a conversion loses the smallest ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Bools, Floats
from edgekit.runtimes.bundle.manifest import Agreement, Gate, SizeAgreement

SIZES = ("small", "medium", "large")
"""COCO's names."""

BOUNDARIES = (32.0**2, 96.0**2)
"""Areas in pixels of the input from which an object is medium, and large.

COCO has the same numbers for photographs of 640 pixels (https://cocodataset.org/#detection-eval). What counts here is
what the network sees: at a stride of 8 a small object has at most 4 x 4 cells, whether the photograph had 12 megapixels
or the input has a side of 256.
"""

ENOUGH_OF_A_SIZE = 10
"""With fewer source detections of a size than this its bound is not asked for."""

ERRORS = 2.0
"""Standard errors by which a share may be below its bound: the luck of few detections is no loss."""


@dataclass
class SizeTally:
    """Counts source detections of each size, and those that were found again."""

    detections: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))

    def add(self, areas: Floats, found: Bools) -> None:
        """Count the source's objects by their areas (n,) in input pixels, and which of them (n,) have a partner."""
        sizes = np.searchsorted(BOUNDARIES, areas, side="right")
        self.detections += np.bincount(sizes, minlength=len(SIZES))
        self.found += np.bincount(sizes[found], minlength=len(SIZES))

    def agreement(self) -> dict[str, SizeAgreement]:
        """By size, of those that the source found."""
        counts = zip(SIZES, self.detections.tolist(), self.found.tolist(), strict=True)
        return {name: SizeAgreement(detections=of, matched=found / of) for name, of, found in counts if of}


def least_share(bound: float, detections: int) -> float:
    """The share of so many detections that keeps a bound, less what chance may take from it."""
    return bound - ERRORS * math.sqrt(bound * (1 - bound) / detections)


def judge_sizes(decoded: Agreement, gate: Gate) -> tuple[str, ...]:
    """Violations of the bounds by size, each as a sentence with the size, how many of how many, and the bound."""
    failures = []
    for name, measured in (decoded.by_size or {}).items():
        bound = gate.by_size.get(name)
        if bound is None or measured.detections < ENOUGH_OF_A_SIZE:
            continue
        least = least_share(bound, measured.detections)
        if measured.matched < least:
            failures.append(
                f"matched {measured.matched:.3f} of the {name} ones ({measured.found} of {measured.detections}) "
                f"{decoded.bound}, at least {least:.3f} ({name} {bound:g} less {ERRORS:g} standard errors)"
            )
    return tuple(failures)


def without_sizes(gate: Gate) -> Gate:
    """The gate of a comparison that knows no sizes."""
    return msgspec.structs.replace(gate, **dict.fromkeys(SIZES, msgspec.UNSET))
