"""The negative control of a comparison: results that were damaged on purpose have to fail the gate.

A comparison that looked at the source twice by mistake, or a gate that nothing can fail, would call every bundle
proven. So each comparison is made once more, by the same code, of one proof image with damaged raw outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import ConversionError
from edgekit.runtimes.bundle.manifest import FLOATS, Gate, NegativeControl, OutputDrift

BLINDED = "each channel of the raw outputs at its least value, as if the network saw nothing"
NEGATED = "the raw outputs with the opposite sign"


def blinded(outputs: Sequence[Floats]) -> list[Floats]:
    """Raw outputs of one image in which nothing is found: the least value of each channel, everywhere."""
    return [np.broadcast_to(one.min(_places(one), keepdims=True), one.shape).copy() for one in outputs]


def negated(outputs: Sequence[Floats]) -> list[Floats]:
    """Raw outputs of one image with the opposite sign: another class, another vector, a cosine of -1."""
    return [-one for one in outputs]


def passed_control(damage: str, failures: tuple[str, ...], gate: Gate) -> NegativeControl:
    """The control for the evidence.

    Raises:
        ConversionError: the damaged results did not fail.
    """
    if not failures:
        bounds = f"matched {gate.matched:g}, score_drift {gate.score_drift:g}, extra {gate.extra:g}"
        raise ConversionError(
            f"negative control: damaged results ({damage}) pass the gate ({bounds}) too, so passing it proves nothing; "
            "give bounds that can be broken (--gate), or, if they are the usual ones, report this as a defect"
        )
    return NegativeControl(damage=damage, failures=failures)


def refuse_identical(precision: str, outputs: Sequence[OutputDrift]) -> None:
    """Refuse raw outputs of integers that equal the source's in every bit, as if the source was compared with itself.

    Raises:
        ConversionError: they do.
    """
    if precision not in FLOATS and outputs and all(output.max_error == 0 for output in outputs):
        raise ConversionError(
            f"negative control: the raw outputs of this {precision} bundle equal the source's in every bit, as if the "
            "source was compared with itself; report this as a defect"
        )


def _places(output: Floats) -> tuple[int, ...]:
    """The axes of an output that count places: rows and columns, or the longest axis behind the batch."""
    if output.ndim > 3:
        return tuple(range(2, output.ndim))
    return (int(np.argmax(output.shape[1:])) + 1,) if output.ndim > 1 else (0,)
