"""Notices about a conversion for its user, as soon as they are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgekit import converters
from edgekit.calibration.plan import Plan
from edgekit.calibration.split import FEW
from edgekit.conversion.jobs import Prepared
from edgekit.sources import WHOLE

if TYPE_CHECKING:
    from edgekit.conversion.bundle_builder import Outcome
    from edgekit.conversion.selection import Selection

Notice = Callable[[str], None]
"""Called with one sentence. It may be called from several threads."""


def ignored(text: str) -> None:
    """Discard a notice."""


def of_selection(selection: Selection) -> Iterator[str]:
    """Notes on the chosen precisions of parts, before any is made."""
    chosen = dict.fromkeys(
        (part.target, part.precision.partition("-")[0])
        for spec in selection.bundles
        for role, part in spec.parts.items()
        if role != WHOLE
    )
    for target, precision in chosen:
        if note := converters.target(target).part_notes.get(precision):
            yield f"{target} {precision}: {note}"


def of_source(prepared: Prepared) -> Iterator[str]:
    """Notes, doubts and warnings from the preparation of the source."""
    for note in prepared.origin.notes:
        yield f"source: {note}"
    for doubt in prepared.reference.doubts:
        yield f"warning: {doubt}"
    if prepared.half:
        named = ", ".join(f"{one.tensor} ({one.reason}, {one.largest:.3g})" for one in prepared.half[:3])
        more = f" and {len(prepared.half) - 3} more" if len(prepared.half) > 3 else ""
        yield (
            f"float16 cannot hold {named}{more}: their operators stay in float32 where the target can do that (onnx, "
            "web, tensorrt)"
        )
    calibration = prepared.calibration
    if calibration and calibration.count + calibration.held < FEW:
        yield (
            f"warning: calibrated on {calibration.count} images; {FEW} or more, like those the device will see, keep "
            "INT8 more accurate"
        )


def of_plan(plan: Plan) -> Iterator[str]:
    """Decisions of the plan."""
    if plan.last_layer is not None:
        yield plan.last_layer.sentence()


def of_outcome(outcome: Outcome) -> Iterator[str]:
    """Notes on one bundle: kept, budget, last layer, SiLU, an uncertain choice."""
    what = f"{outcome.target} {outcome.precision}"
    if outcome.kept:
        yield f"{what}: kept: {outcome.kept}"
    if outcome.evidence is not None and outcome.evidence.budget is not None:
        yield f"{what}: {outcome.evidence.budget.sentence()}"
    if outcome.bundle is not None:
        reports = [graph.report for graph in outcome.bundle.manifest.graphs]
        for said in ("last layer", "SiLU"):
            yield from (f"{what}: {said} {report[said]}" for report in reports if said in report)
    if outcome.doubt:
        yield f"warning: {what}: {outcome.doubt}"


def of_speed(outcome: Outcome) -> Iterator[str]:
    """A notice if a bundle is not faster than its float form."""
    speed = outcome.bundle.manifest.speed if outcome.bundle is not None else None
    if speed is not None and not speed.faster and not outcome.kept:
        yield f"{outcome.target} {outcome.precision}: {speed.sentence()}"
