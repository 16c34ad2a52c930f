"""Decide for each bundle whether a classifier's last layer becomes INT8 too, by the measured cost.

Layers that give the outputs stay in float, because of a detector they are a few per cent of the weights. Of a
classifier it is the product of all features with all classes: 37 % of the weights of MobileNetV2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.calibration.explicit import quantise
from edgekit.calibration.plan import MIXED, LastLayer, Plan, PlannedGraph, TensorRange
from edgekit.calibration.ranges import STEPS
from edgekit.calibration.samples import Samples
from edgekit.calibration.sensitivity import Judge, outputs_of
from edgekit.conversion.jobs import Prepared
from edgekit.conversion.recipes import Trial
from edgekit.conversion.workspace import Workspace
from edgekit.errors import ConversionError
from edgekit.graph.exchange import ONNX

SHARE = 0.05
"""A layer with less of the weights than this is not worth a measurement."""

HARMLESS = 0.01
"""Loss of quality below which two results are alike (docs/EVIDENCE.md)."""

MOST_IMAGES = 64


def measure_last_layer(
    plan: Plan, prepared: Prepared, workspace: Workspace, threads: int, judge_of: Callable[[list[Floats]], Judge]
) -> Plan:
    """The plan with what INT8 costs in the last layer of a classifier, in ONNX Runtime.

    Args:
        plan: in the workspace, as it was made.
        prepared: of the conversion.
        workspace: of the conversion.
        threads: of ONNX Runtime.
        judge_of: makes a judge for images.
    """
    name = _last(plan.mixed, prepared)
    if not name:
        return plan
    images = _images(prepared, workspace)
    try:
        with_float, with_int8 = _outputs(plan, name, images, workspace.plan / MIXED / ONNX, threads)
    except ConversionError:  # its input is constant: no grid holds it
        return plan
    judge = judge_of(images)
    lost = round(max(0.0, judge(with_float) - judge(with_int8)), 6)
    weights = {layer.name: layer.weights for layer in plan.mixed.layers}
    share = round(weights[name] / sum(weights.values()), 4)
    return msgspec.structs.replace(plan, last_layer=LastLayer(name=name, share=share, lost=lost, images=len(images)))


@dataclass(frozen=True)
class Decision:
    """Whether the last layer of a bundle is in INT8, and why, for the bundle's report."""

    int8: bool
    why: str


def decide(last: LastLayer, floats: Trial, integers: Trial, views: int, most_bytes: float) -> Decision:
    """Choose between two builds of one recipe, by their results on the hold-out set.

    Args:
        last: the layer.
        floats: with it in float.
        integers: with it in INT8.
        views: size of the hold-out set.
        most_bytes: what the bundle may have.
    """
    what = f"{last.share:.0%} of the weights"
    if integers.bytes > floats.bytes - last.share * floats.bytes / 2:
        return Decision(False, f"kept in float by the target ({what})")
    lost = floats.quality - integers.quality
    measured = f"{max(0.0, lost):.4f} on {views} hold-out views"
    if integers.evidence.passed >= floats.evidence.passed and lost <= HARMLESS:
        return Decision(True, f"in int8 ({what}): it loses {measured}")
    if floats.bytes > most_bytes and integers.evidence.passed:
        return Decision(True, f"in int8 for --max-size ({what}): it loses {measured}")
    return Decision(False, f"kept in float ({what}): int8 there would lose {measured}")


def _last(graph: PlannedGraph, prepared: Prepared) -> str:
    """The layer in question; empty where there is none."""
    if prepared.contract.task != "classify":
        return ""
    total = sum(layer.weights for layer in graph.layers)
    return next(
        (
            layer.name
            for layer in graph.layers
            if layer.float_reason == "head" and layer.kind in ("Gemm", "MatMul") and layer.weights >= SHARE * total
        ),
        "",
    )


def _images(prepared: Prepared, workspace: Workspace) -> list[Floats]:
    """The hold-out images, and calibration images where they are few: no weight is fitted to either."""
    rule = prepared.contract.image
    held: Iterable[Floats] = workspace.holdout.proof_images(rule) if prepared.holdout_views else ()
    return list(itertools.islice(itertools.chain(held, Samples(workspace.calibration, rule)), MOST_IMAGES))


def _outputs(
    plan: Plan, name: str, images: Sequence[Floats], path: Path, threads: int
) -> tuple[Iterator[Sequence[Floats]], Iterator[Sequence[Floats]]]:
    """Outputs with this layer in float, and with it in INT8 alone: weights, input, and output as integer engines do."""
    import onnx

    model = onnx.load(path)
    ranges = [plan.mixed.tensors.get(output.name) for output in model.graph.output]
    with_float = outputs_of(model.SerializeToString(), images, threads)
    alone = quantise(model, plan.mixed, symmetric=False, layers=(name,))
    with_int8 = outputs_of(alone.SerializeToString(), images, threads)

    def rounded() -> Iterator[Sequence[Floats]]:
        for outputs in with_int8:
            yield [_on_grid(one, ends) for one, ends in zip(outputs, ranges, strict=True)]

    return with_float, rounded()


def _on_grid(values: Floats, ends: TensorRange | None) -> Floats:
    """Values on the 8-bit grid of a range."""
    if ends is None or ends.high <= ends.low:
        return values
    scale = (ends.high - ends.low) / STEPS
    grid: Floats = (np.clip(np.rint((values - ends.low) / scale), 0, STEPS) * scale + ends.low).astype(np.float32)
    return grid
