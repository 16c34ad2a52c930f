"""A plan as a page that a user can act on, and the plot of what each layer costs alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.calibration.plan import Advice, Layer, Plan, PlannedGraph
from edgekit.errors import UsageError
from edgekit.report.calibration import report_sentences as sentences
from edgekit.report.calibration.report_sentences import COSTLY, FLOAT, WIDE, Gains, count, duration
from edgekit.report.calibration.report_tables import damage_kind, graph_parts, half_table, tuning_table
from edgekit.report.charts import Entry, bar_plot, line_plot, svg_file
from edgekit.report.page import (
    Cell,
    Column,
    Html,
    Row,
    Section,
    bullets,
    facts,
    join,
    legend,
    number,
    page,
    percent,
    table,
    tag,
    write_text,
)

WORST = 40
"""Layers in the plot of what each costs alone."""

STEEP = 30.0
"""The plot is logarithmic when the worst layer costs so many times more than the median one."""

_ONLY_NOTE = "For every target; one without float computes the layers that stay in float in INT8 too."
_MIXED_NOTE = "For targets that may compute some layers in float."
_INTEGER_NOTE = "For targets that compute everything in integers: equalised wherever one scale would not do."


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
    if plan.integer:
        plan = msgspec.structs.replace(plan, integer=_without_floats(plan.integer))
    lead = join(
        "Model ", tag("code", plan.model[:12]), f", {count(plan.images, 'image')}, made by edgekit {plan.edgekit}."
    )
    foot = join("Model SHA-256 ", tag("code", plan.model), ". Images SHA-256 ", tag("code", plan.images_sha256), ".")
    write_text(page("Calibration report", _sections(plan, gains or {}), lead=lead, foot=foot), path)


def write_sensitivity_plot(layers: Sequence[Layer], path: Path) -> None:
    """Write the damage that each layer does alone as an SVG file: the worst `WORST`, the worst first.

    Raises:
        UsageError: no damage was measured, the name does not end in ``.svg``, or the file cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path}: the plot is an SVG drawing; give it a name that ends in .svg")
    if not sentences.measured(layers):
        raise UsageError(
            f"{path}: the damage of none of {count(len(layers), 'layer')} was measured; do it with: "
            f"{sentences.CALIBRATE} --sensitivity"
        )
    write_text(svg_file(_sensitivity_plot(layers)), path)


def _without_floats(graph: PlannedGraph) -> PlannedGraph:
    """The graph as those targets take it that have no float: why a layer would stay in it does not matter to them."""
    layers = tuple(msgspec.structs.replace(layer, float_reason="") for layer in graph.layers)
    return msgspec.structs.replace(graph, layers=layers)


def _sections(plan: Plan, gains: Gains) -> list[Section]:
    sections = [Section("summary", "Summary", _summary(plan, gains))]
    if gains:
        sections.append(Section("gains", "What it gained", _gains(gains)))
    sections.append(Section("data", "Calibration data", _data(plan.advice, plan.images)))
    if sentences.measured(plan.mixed.layers):
        sections.append(Section("sensitivity", "What each layer costs alone", _sensitivity(plan.mixed.layers)))
    if plan.integer is None:
        sections.append(Section("mixed", "Layers and ranges", graph_parts(plan.mixed), _ONLY_NOTE))
    else:
        sections.append(Section("mixed", "Mixed graph", graph_parts(plan.mixed), _MIXED_NOTE))
        sections.append(Section("integer", "Integer graph", graph_parts(plan.integer), _INTEGER_NOTE, folded=True))
    sections.append(Section("half", "float16", half_table(plan.fp16_issues)))
    sections.append(Section("tuning", "Fine-tuning", tuning_table(plan.tuning)))
    return sections


def _summary(plan: Plan, gains: Gains) -> Html:
    layers, floats = plan.mixed.layers, len(plan.mixed.float_layers)
    widest = max((layer.channel_ratio for layer in layers), default=1.0)
    known = sentences.measured(layers)
    entries = [
        ("In INT8", f"{len(layers) - floats:,}", f"of {count(len(layers), 'layer')}"),
        ("In float", f"{floats:,}", "where the target can"),
        ("Widest spread", f"{number(widest, 2)}×", f"{len(sentences.wide(plan.mixed)):,} over {WIDE:g}×"),
        ("Images", f"{plan.images:,}", _enough(plan.advice)),
        ("Time", duration(sum(plan.seconds.values())), _slowest(plan.seconds)),
    ]
    if known:
        entries.insert(3, ("Worst layer alone", number(known[0].sensitivity, 2), "damage in INT8"))
    columns = (
        tag("div", tag("h3", "What was done"), bullets(sentences.done(plan, gains))),
        tag("div", tag("h3", "What to do next"), bullets(sentences.next_steps(plan))),
    )
    return join(facts(entries), tag("div", *columns, _class="columns"))


def _enough(advice: Advice | None) -> str:
    return "" if advice is None else "enough" if advice.enough else "more would help"


def _slowest(seconds: dict[str, float]) -> str:
    if not seconds:
        return ""
    step = max(seconds, key=lambda name: seconds[name])
    return f"{step} {duration(seconds[step])}"


def _gains(gains: Gains) -> Html:
    variants = list(dict.fromkeys(variant for scores in gains.values() for variant in scores))
    rows = []
    for name, scores in gains.items():
        cells = [Cell(name, name, "name")]
        for variant in variants:
            score = scores.get(variant)
            shown = "–" if score is None else f"{score:.4f}"
            if score is not None and variant != FLOAT and FLOAT in scores:
                shown = join(shown, " ", tag("span", f"{score - scores[FLOAT]:+.4f}", _class="soft"))
            cells.append(Cell(shown, score, "number"))
        rows.append(Row(cells))
    columns = [Column("Where"), *(Column(variant, numeric=True, first="descending") for variant in variants)]
    note = "Scores from 0 to 1, higher is better, and the difference to float."
    return table("Scores by target and variant", columns, rows, note)


def _data(advice: Advice | None, images: int) -> Html:
    if advice is None:
        said = f"{count(images, 'image')}. Nothing was asked about them: this plan was made without advice."
        return tag("p", said, _class="soft")
    words = [
        tag("div", bullets(_sentence(one) for one in advice.sentences) if advice.sentences else "", _outliers(advice))
    ]
    if advice.curve:
        first, last = advice.curve[0], advice.curve[-1]
        told = (
            f"Distance of the ranges from the final ones: {percent(first[1])} after {count(first[0], 'image')}, "
            f"{percent(last[1])} after {last[0]}."
        )
        drawn = line_plot(advice.curve, x_label="images", y_label="distance from the final ranges", description=told)
        words.append(tag("div", tag("h3", "How the ranges settle"), drawn))
    return tag("div", *words, _class="columns")


def _sentence(words: str) -> str:
    """With a capital and a full stop, as what stands in a list of sentences has them."""
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


def _outliers(advice: Advice) -> Html:
    if advice.unlike > 0:
        unlike = f"Calibration and scoring images can be told apart to {percent(advice.unlike)} (0 %: not at all)."
    else:
        unlike = "No difference between calibration and scoring images was found."
    told = tag("p", unlike, _class="soft small")
    if not advice.outliers:
        return join(told, tag("p", "No image stands out from the others.", _class="soft small"))
    rows = [
        Row(
            [
                Cell(f"image {one.image}", one.image),
                Cell(f"{number(one.distance)}×", one.distance, "number"),
                Cell(one.tensor, one.tensor, "name"),
            ]
        )
        for one in sorted(advice.outliers, key=lambda one: -one.distance)
    ]
    columns = [
        Column("Unlike the others", numeric=True, kind="left"),
        Column("How far", numeric=True, first="descending"),
        Column("Tensor that says so"),
    ]
    return join(told, table("Images that are unlike the others", columns, rows))


def _sensitivity(layers: Sequence[Layer]) -> Html:
    words = (
        "Each layer was computed in INT8 with all others in float; the bar says how much of the decoded results' "
        "agreement with the source (0 to 1) this costs."
    )
    keys = (
        ("chosen", "becomes INT8"),
        ("flag", f"becomes INT8 and costs over {COSTLY:g}"),
        ("seen", "stays in float"),
    )
    return join(tag("p", words), legend(keys), tag("div", _sensitivity_plot(layers), _class="plot"))


def _sensitivity_plot(layers: Sequence[Layer]) -> Html:
    known = sentences.measured(layers)
    shown = known[:WORST]
    entries = [
        Entry(layer.name, layer.sensitivity or 0.0, "in float" if layer.float_reason else "", damage_kind(layer))
        for layer in shown
    ]
    values = sorted(entry.value for entry in entries if entry.value > 0)
    steep = bool(values) and values[-1] > STEEP * values[len(values) // 2]
    which = f"the worst {WORST} of {len(known)} layers" if len(known) > WORST else count(len(known), "layer")
    title = f"Damage of each layer alone in INT8, {which}{', logarithmic' if steep else ''}"
    told = f"{title}. Worst: " + ", ".join(f"{entry.name} {number(entry.value)}" for entry in entries[:5])
    return bar_plot(entries, title=title, description=told, logarithmic=steep)
