"""Keep an accuracy budget: return the most sensitive layers to float until the loss is within it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion.jobs import MeasuredScore
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import Budget, Graph


@dataclass(frozen=True)
class Attempt:
    """A build with some layers back in float: its files, its manifest entry, and what was measured."""

    floats: tuple[str, ...]
    folder: Path
    graph: Graph
    measured: MeasuredScore

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum((self.folder / name).stat().st_size for name in self.graph.files)


def keep(
    wanted: float, source: float, order: Sequence[str], attempt: Callable[[tuple[str, ...]], Attempt], by: str
) -> tuple[Attempt, Budget]:
    """The first build within the budget, or else the build that loses least.

    Layers go back in the order given: none, then 1, 2, 4, 8 ... of them, as long as one is left in INT8.

    Args:
        wanted: the largest loss that is allowed.
        source: the score of the float source.
        order: layers, the most damaging first.
        attempt: builds and measures with the named layers in float.
        by: what the score is.

    Raises:
        ConversionError: the first build failed.
    """
    made: list[Attempt] = []
    for count in _counts(len(order)):
        try:
            made.append(attempt(tuple(order[:count])))
        except ConversionError:  # this target leaves so many others in float that nothing is left in INT8
            if not made:
                raise
            break
        if source - made[-1].measured.score <= wanted:
            break
    best = min(made, key=lambda one: max(source - one.measured.score, wanted))
    drop = source - best.measured.score
    return best, Budget(
        max_drop=wanted,
        by=by,
        before=round(source - made[0].measured.score, 6),
        drop=round(drop, 6),
        kept=drop <= wanted,
        floats=best.floats,
        bytes_before=made[0].bytes,
        bytes=best.bytes,
        milliseconds_before=made[0].measured.milliseconds,
        milliseconds=best.measured.milliseconds,
    )


def _counts(layers: int) -> list[int]:
    counts = [0]
    while counts[-1] < layers - 1:
        counts.append(min(layers - 1, max(1, 2 * counts[-1])))
    return counts
