"""The tables of a calibration report: layers, equalised channels, ranges, float16 and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.calibration.plan import HalfTrouble, Layer, PlannedGraph, Range, Tuning
from edgekit.report.calibration import report_sentences as sentences
from edgekit.report.calibration.report_sentences import COSTLY, FAILS, REASONS, WIDE, count, fails, naming
from edgekit.report.charts import bar, figure, interval, log_share
from edgekit.report.page import Cell, Column, Html, Row, command, join, legend, number, percent, table, tag

WIDEST = 1000.0
"""Where the axis of spreads ends."""


def graph_parts(graph: PlannedGraph) -> Html:
    """All that is known of one graph: wide inputs, layers, equalised channels, ranges."""
    parts = (tag("h3", "Layers"), _layers(graph.layers), tag("h3", "Channels made equal"), _equalised(graph))
    return join(_wide(graph), *parts, tag("h3", "Ranges of tensors"), _ranges(graph.tensors))


def damage_kind(layer: Layer) -> str:
    """How the bar of a layer's damage is filled: pale: it stays in float; flagged: it costs much."""
    return "pale" if layer.stays else "fill flag" if (layer.damage or 0.0) > COSTLY else "fill"


def _wide(graph: PlannedGraph) -> Html:
    found = sentences.wide(graph)
    if not found:
        return tag("p", f"No layer reads channels that differ more than {WIDE:g} times: one scale holds each input.")
    lost = [layer.name for layer in found if not layer.stays and fails(layer)]
    told = join(
        tag("span", f"▲ {count(len(found), 'layer')}", _class="flag"),
        f" read channels that differ more than {WIDE:g} times (one 8-bit scale holds about {FAILS:g}): ",
        naming([f"{layer.name} {number(layer.spread, 2)}×" for layer in found], 6),
        ". ",
        join("In INT8 small channels are lost before ", naming(lost), ".") if lost else "",
    )
    return tag("p", told)


def _layers(layers: Sequence[Layer]) -> Html:
    damaged = any(layer.damage is not None for layer in layers)
    columns = [
        Column("Layer"),
        Column("#", numeric=True),
        Column("Kind"),
        Column("Spread of input", numeric=True, first="descending", kind="chart"),
        Column("Noise", numeric=True, first="descending"),
        *([Column("Damage alone", numeric=True, first="descending", kind="chart")] if damaged else []),
        Column("Work", numeric=True, first="descending"),
        Column("Computed in"),
    ]
    worst = max((layer.damage or 0.0 for layer in layers), default=0.0)
    total = max(sum(layer.products for layer in layers), 1)
    rows = [
        Row(_layer(layer, place, worst if damaged else None, total), flagged=layer.spread > WIDE)
        for place, layer in enumerate(layers, 1)
    ]
    damage = " Damage alone: what it costs the decoded results when only this layer is INT8." if damaged else ""
    note = (
        f"In the order of the graph. Spread: largest over smallest channel, ▲ over {WIDE:g}; the axis goes from 1 to "
        f"{WIDEST:,g}, with a tick at {FAILS:g}. Noise: share of the output's variance that rounding the input makes."
        f"{damage} Work: share of the multiplications."
    )
    return table("Layers", columns, rows, note)


def _layer(layer: Layer, place: int, worst: float | None, total: int) -> list[Cell]:
    spread = f"{number(layer.spread)}×"
    told = tag("span", f"▲ {spread}", _class="flag") if layer.spread > WIDE else spread
    cells = [
        Cell(layer.name, layer.name, "name"),
        Cell(place, place, "number soft"),
        Cell(f"depthwise {layer.kind}" if layer.depthwise else layer.kind, layer.kind, "kind"),
        Cell(figure(told, _spread_bar(layer.spread)), layer.spread, "chart"),
        Cell(percent(layer.noise), layer.noise, "number"),
    ]
    if worst is not None:
        drawn = bar((layer.damage or 0.0) / (worst or 1.0), damage_kind(layer)) if layer.damage is not None else Html()
        cells.append(Cell(figure(number(layer.damage), drawn), layer.damage, "chart"))
    share = layer.products / total
    where = (
        join("float: ", tag("span", REASONS.get(layer.stays, layer.stays), _class="soft")) if layer.stays else "INT8"
    )
    return [*cells, Cell(percent(share), share, "number"), Cell(where, layer.stays, "long" if layer.stays else "")]


def _spread_bar(spread: float) -> Html:
    kind = "fill flag" if spread > WIDE else "fill"
    return bar(log_share(spread, 1, WIDEST), kind, mark=log_share(FAILS, 1, WIDEST))


def _equalised(graph: PlannedGraph) -> Html:
    if not graph.equalised:
        return tag("p", "None in this graph.", _class="soft")
    rows = [
        Row(
            [
                Cell(one.layer, one.layer, "name"),
                Cell(join(*one.readers, by=", "), ", ".join(one.readers), "name"),
                Cell(one.through or "nothing", one.through),
                Cell(f"{number(one.before)}×", one.before, "number"),
                Cell(f"{number(one.after)}×", one.after, "number"),
                Cell(join(_spread_bar(one.before), _spread_bar(one.after)), one.before, "chart"),
                Cell(one.gate or "–", one.gate, "name"),
            ]
        )
        for one in graph.equalised
    ]
    columns = [
        Column("Between"),
        Column("and its readers"),
        Column("Through"),
        Column("Before", numeric=True, first="descending"),
        Column("After", numeric=True, first="descending"),
        Column("Spread before, after", numeric=True, first="descending", kind="chart"),
        Column("Sigmoid reads"),
    ]
    return table("Channels made equal", columns, rows, "Exact in float: what one layer is scaled by, its readers undo.")


def _ranges(tensors: dict[str, Range]) -> Html:
    keys = (("chosen", "chosen"), ("seen", "seen, and cut off"))
    columns = [
        Column("Tensor"),
        Column("Cut off", numeric=True, first="descending"),
        Column("Chosen within seen", numeric=True, first="descending", kind="chart"),
        Column("Chosen", numeric=True),
        Column("Seen", numeric=True),
        Column("by"),
        Column("Symmetric", numeric=True, first="descending"),
        Column("by"),
        Column("Error", numeric=True, first="descending"),
    ]
    order = sorted(tensors.items(), key=lambda item: -sentences.clipped(item[1]))
    rows = [Row(_range(name, found)) for name, found in order]
    note = (
        "The most cut off first. The tick is zero. Error: root mean square of the affine grid's error over "
        "the tensor's, behind the activation that reads it."
    )
    return join(legend(keys), table("Ranges of tensors", columns, rows, note))


def _range(name: str, found: Range) -> list[Cell]:
    cut = sentences.clipped(found)
    return [
        Cell(name, name, "name"),
        Cell(percent(round(cut, 4)), cut, "number"),
        Cell(interval((found.lowest, found.highest), (found.low, found.high)), cut, "chart"),
        Cell(_ends(found.low, found.high), found.low, "number"),
        Cell(_ends(found.lowest, found.highest), found.lowest, "number"),
        Cell(found.method, found.method, "kind"),
        Cell(f"±{number(found.limit)}", found.limit, "number"),
        Cell(found.symmetric_method, found.symmetric_method, "kind"),
        Cell(percent(found.error), found.error, "number"),
    ]


def _ends(low: float, high: float) -> str:
    return f"{number(low)} … {number(high)}"


def half_table(troubles: Sequence[HalfTrouble]) -> Html:
    """The operators that float16 cannot compute."""
    if not troubles:
        return tag("p", "Every value fits float16: nothing has to stay in float32.")
    rows = [
        Row(
            [
                Cell(one.node, one.node, "name"),
                Cell(one.tensor, one.tensor, "name"),
                Cell("overflows" if one.reason == "overflow" else "is flushed to zero", one.reason),
                Cell(number(one.largest), one.largest, "number"),
            ]
        )
        for one in troubles
    ]
    columns = [
        Column("Operator"),
        Column("Tensor"),
        Column("What happens"),
        Column("Largest value", numeric=True, first="descending"),
    ]
    told = f"{count(len(troubles), 'operator')} cannot be computed in float16 and stay in float32 in fp16 bundles."
    return join(tag("p", told), table("Operators that stay in float32", columns, rows, "float16 ends at 65,504."))


def tuning_table(tuning: Tuning | None) -> Html:
    """What fine-tuning did, or what it is."""
    if tuning is None:
        words = "None. It trains the rounded weights towards the model's own float outputs, on the calibration images: "
        return tag("p", words, command("--finetune 10min"), _class="soft")
    largest = max(tuning.before, tuning.after)
    losses = (("Before", tuning.before, "fill"), ("After", tuning.after, "fill" if tuning.kept else "fill flag"))
    rows = [
        Row([Cell(name, name), Cell(figure(number(loss), bar(loss / (largest or 1.0), kind)), loss, "chart")])
        for name, loss, kind in losses
    ]
    kept = "It is kept." if tuning.kept else "It is no better, so its result was dropped."
    told = f"{number(tuning.minutes)} minutes, {count(tuning.steps, 'step')}. {kept}"
    columns = [Column("Images held back"), Column("Loss", numeric=True, kind="chart")]
    return join(tag("p", told), table("Loss before and after fine-tuning", columns, rows))
