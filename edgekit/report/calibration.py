"""A quantisation plan as a page, and the chart of what each layer costs alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from markupsafe import Markup

from edgekit.calibration.plan import Advice, Layer, Plan, PlannedGraph, TensorRange
from edgekit.calibration.split import FEW
from edgekit.errors import UsageError
from edgekit.report.charts import Entry, Panel, bar, bar_chart, curves, interval, log_bar, svg_file
from edgekit.report.numbers import count, number, percent
from edgekit.report.render import (
    write_page,
    write_text,
)

Gains = Mapping[str, Mapping[str, float]]
"""By target, the score (0..1, higher is better) of each variant: `FLOAT`, any others, and `PLAN`."""

FLOAT = "float"
PLAN = "plan"

WIDE = 30.0
"""A channel ratio that is worth a look; one scale holds about 100."""

FAILS = 100.0
NOISY = 0.1
"""A depthwise layer with a channel ratio over `FAILS` loses its small channels in INT8, and so does any layer where
rounding the input makes more than the share `NOISY` of the output's variance."""

WIDEST = 1000.0
"""Where the axis of channel ratios ends."""

COSTLY = 0.005
"""Sensitivity of one layer that is worth a sentence."""

REASONS = {"channels": "channels too unequal for one scale", "places": "places of keypoints"}
"""The plan's words for why a layer stays in float, where they need more of them."""

WORST = 40
"""Layers in the chart of what each costs alone."""

STEEP = 30.0
"""The chart is logarithmic when the worst layer costs so many times more than the median one."""

CALIBRATE = "edgekit calibrate SOURCE --data DIR -o plan/"


def write_report(plan: Plan, path: Path, *, gains: Gains | None = None) -> None:
    """Write a plan as one HTML page that needs no network: open it in any browser, print it, send it.

    Args:
        plan: what was found out.
        path: the file to write, with its folder.
        gains: by target (or whatever was compared), the score (0..1, higher is better) of each variant, for example
            ``{"onnx": {"float": 0.884, "vendor default": 0.246, "plan": 0.880}}``: ``float`` is what others are
            compared with, ``plan`` is this plan; other names are shown as they are.

    Raises:
        UsageError: the file cannot be written.
    """
    plan = plan.for_readers()
    if plan.integer:
        plan = msgspec.structs.replace(plan, integer=_all_int8(plan.integer))
    graphs = [GraphView(plan.mixed)] + ([GraphView(plan.integer)] if plan.integer else [])
    every = [layer for graph in graphs for layer in graph.graph.layers]
    failing = dict.fromkeys(layer.name for layer in every if fails(layer) and not layer.float_reason)
    known = measured(plan.mixed.layers)
    write_page(
        "calibration.html.j2",
        path,
        plan=plan,
        graphs=graphs,
        gained=_gained(gains or {}),
        gains=gains or {},
        known=known,
        failing=list(failing),
        costly=[layer for layer in known if not layer.float_reason and (layer.sensitivity or 0) > COSTLY],
        sensitivity=_sensitivity_chart(plan.mixed.layers) if known else None,
        curve=_curve(plan.advice),
        clipped=clipped,
        reasons=REASONS,
        ratio_bar=_ratio_bar,
        sensitivity_bar=_sensitivity_bar,
        bar=bar,
        interval=interval,
        slowest=max(plan.seconds, key=lambda step: plan.seconds[step], default=""),
        off=_switched_off(plan),
        few=FEW,
        wide=WIDE,
        fails=FAILS,
        widest=WIDEST,
        cost=COSTLY,
        calibrate=CALIBRATE,
    )


def write_sensitivity_plot(layers: Sequence[Layer], path: Path) -> None:
    """Write the sensitivity of each layer as an SVG file: the worst `WORST`, the worst first.

    Raises:
        UsageError: none was measured, the name does not end in ``.svg``, or the file cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path}: the plot is an SVG drawing; give it a name that ends in .svg")
    if not measured(layers):
        raise UsageError(
            f"{path}: the sensitivity of none of {count(len(layers), 'layer')} was measured; do it with: "
            f"{CALIBRATE} --sensitivity"
        )
    write_text(svg_file(_sensitivity_chart(layers)), path)


def clipped(found: TensorRange) -> float:
    """The share (0..1) of what was seen of a tensor that lies outside the affine range."""
    span = found.highest - found.lowest
    inside = min(found.high, found.highest) - max(found.low, found.lowest)
    return min(max(1 - inside / span, 0.0), 1.0) if span > 0 else 0.0


def fails(layer: Layer) -> bool:
    """Whether one 8-bit scale cannot hold the input of a layer."""
    return layer.noise_to_signal > NOISY or (layer.depthwise and layer.channel_ratio > FAILS)


def measured(layers: Iterable[Layer]) -> list[Layer]:
    """The layers whose sensitivity is known, the worst first; equals in their order."""
    known = (layer for layer in layers if layer.sensitivity is not None)
    return sorted(known, key=lambda layer: -(layer.sensitivity or 0.0))


def _all_int8(graph: PlannedGraph) -> PlannedGraph:
    """The graph as integer-only targets take it: why a layer would stay in float does not matter to them."""
    layers = tuple(msgspec.structs.replace(layer, float_reason="") for layer in graph.layers)
    return msgspec.structs.replace(graph, layers=layers)


def _switched_off(plan: Plan) -> list[str]:
    methods = plan.methods
    switches = {
        "cross-layer equalization": methods.cross_layer_equalization,
        "bias correction": methods.bias_correction,
        "float fallback": methods.float_fallback,
    }
    return [method for method, on in switches.items() if not on]


@dataclass(frozen=True)
class GraphView:
    """A graph of a plan as the page tells of it."""

    graph: PlannedGraph

    @property
    def wide(self) -> list[Layer]:
        """The layers with a channel ratio over `WIDE`, the widest first."""
        found = (layer for layer in self.graph.layers if layer.channel_ratio > WIDE)
        return sorted(found, key=lambda layer: -layer.channel_ratio)

    @property
    def lost(self) -> list[str]:
        """The wide layers that become INT8 although one scale cannot hold their input."""
        return [layer.name for layer in self.wide if not layer.float_reason and fails(layer)]

    @property
    def widest(self) -> float:
        """The largest channel ratio."""
        return max((layer.channel_ratio for layer in self.graph.layers), default=1.0)

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why layers stay in float, and how many, the most frequent first."""
        layers = (layer.float_reason for layer in self.graph.layers if layer.float_reason)
        return Counter(REASONS.get(reason, reason) for reason in layers).most_common()

    @property
    def float_share(self) -> float:
        """How much of the multiplications (0..1) is in float."""
        total = max(sum(layer.macs for layer in self.graph.layers), 1)
        return sum(layer.macs for layer in self.graph.layers if layer.float_reason) / total

    @property
    def methods(self) -> list[tuple[str, int]]:
        """The three methods that chose most ranges."""
        return Counter(one.method for one in self.graph.tensors.values()).most_common(3)

    @property
    def ranges(self) -> list[tuple[str, TensorRange, float]]:
        """Tensors with their ranges and the share that is cut off, the most cut off first."""
        found = [(tensor, one, clipped(one)) for tensor, one in self.graph.tensors.items()]
        return sorted(found, key=lambda each: -each[2])

    @property
    def cut(self) -> int:
        """Tensors of which rare extremes are cut off."""
        return sum(clipped(one) > 0.005 for one in self.graph.tensors.values())


def _ratio_bar(ratio: float) -> Markup:
    return log_bar(ratio, WIDEST, FAILS, "fill flag" if ratio > WIDE else "fill")


def _sensitivity_bar(layer: Layer, worst: float) -> Markup | str:
    return "" if layer.sensitivity is None else bar(layer.sensitivity / (worst or 1.0), _kind(layer))


def _kind(layer: Layer) -> str:
    """How the bar of a layer's sensitivity is filled: pale: it stays in float; flagged: it costs much."""
    return "pale" if layer.float_reason else "fill flag" if (layer.sensitivity or 0.0) > COSTLY else "fill"


def _sensitivity_chart(layers: Sequence[Layer]) -> Markup:
    known = measured(layers)
    entries = [
        Entry(one.name, one.sensitivity or 0.0, "in float" if one.float_reason else "", _kind(one))
        for one in known[:WORST]
    ]
    values = sorted(entry.value for entry in entries if entry.value > 0)
    steep = bool(values) and values[-1] > STEEP * values[len(values) // 2]
    which = f"the worst {WORST} of {len(known)} layers" if len(known) > WORST else count(len(known), "layer")
    title = f"Sensitivity: cost of each layer alone in INT8, {which}{', logarithmic' if steep else ''}"
    alt = f"{title}. Worst: " + ", ".join(f"{entry.name} {number(entry.value)}" for entry in entries[:5])
    return bar_chart(entries, title=title, alt=alt, logarithmic=steep)


def _gained(gains: Gains) -> dict[str, object]:
    """The target that INT8 costs most, and the one where this plan gains most over another variant."""
    scored = {target: scores for target, scores in gains.items() if FLOAT in scores and PLAN in scores}
    if not scored:
        return {}
    worst = max(scored, key=lambda target: scored[target][FLOAT] - scored[target][PLAN])
    others = [
        (scores[PLAN] - score, target, other, score)
        for target, scores in scored.items()
        for other, score in scores.items()
        if other not in (FLOAT, PLAN)
    ]
    won, target, other, score = max(others, default=(0.0, "", "", 0.0))
    most = {"target": target, "other": other, "score": score, "plan": scored[target][PLAN]} if won > 0 else None
    return {
        "targets": len(scored),
        "worst": worst,
        "plan": scored[worst][PLAN],
        "float": scored[worst][FLOAT],
        "most": most,
    }


def _curve(advice: Advice | None) -> Markup | None:
    if advice is None or not advice.curve:
        return None
    images, distances = zip(*advice.curve, strict=True)
    alt = (
        f"Distance of the ranges from the final ones: {percent(distances[0])} after {count(images[0], 'image')}, "
        f"{percent(distances[-1])} after {images[-1]}."
    )
    panel = Panel(distances, "%", 130.0, dots=True)
    return curves([float(one) for one in images], "", [panel], alt, logarithmic=True)
