"""The page of a comparison of models: what each gains and costs, as a plot and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit import __version__
from edgekit.evaluation.comparison import Comparison, Measured
from edgekit.report.evaluation.scatter import Point, scatter_plot
from edgekit.report.page import (
    Cell,
    Column,
    Html,
    Row,
    Section,
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

LOSS = 0.05
"""A class that loses more than this of its figure against the reference is highlighted."""


def write_page(comparison: Comparison, data: str, path: Path) -> None:
    """Write the page of a comparison as one HTML file.

    Args:
        comparison: what was measured.
        data: what it was measured on, in words.
        path: of the file; its folder is made.

    Raises:
        UsageError: it cannot be written.
    """
    images = comparison.reference.report[0]
    lead = join("Measured on ", tag("code", data), f" with edgekit {__version__}, one image at a time.")
    sections = [
        Section("plot", "Accuracy, latency and size", _plot(comparison)),
        Section("models", "Models", _models(comparison)),
    ]
    if images.per_class:
        title = _parts(comparison)
        sections.append(Section("classes", title, _classes(comparison), hint=_main(comparison), folded=True))
    write_text(page("Evaluation", sections, lead=lead), path)


def _part(comparison: Comparison) -> str:
    """What the main figure is told by besides as a whole."""
    return "Question" if comparison.reference.report[0].kind == "answers" else "Class"


def _parts(comparison: Comparison) -> str:
    return {"Question": "Questions", "Class": "Classes"}[_part(comparison)]


def _main(comparison: Comparison) -> str:
    return next(iter(comparison.reference.figures))


def _plot(comparison: Comparison) -> Html:
    every = comparison.measured
    best = max(every, key=lambda one: one.main)
    fastest = min(every, key=lambda one: one.inference)
    smallest = min(every, key=lambda one: one.candidate.bytes)
    main = _main(comparison)
    told = facts(
        [
            (f"Best {main}", percent(best.main), best.candidate.name),
            ("Fastest", f"{number(fastest.inference)} ms", fastest.candidate.name),
            ("Smallest", f"{smallest.candidate.bytes / 1e6:.2f} MB", smallest.candidate.name),
        ]
    )
    points = [
        Point(one.candidate.name, one.inference, one.main, one.candidate.bytes, one is comparison.reference)
        for one in every
    ]
    words = "; ".join(f"{p.name}: {percent(p.accuracy)}, {number(p.latency)} ms" for p in points)
    drawing = scatter_plot(points, measure=main, description=f"{main} against latency. {words}")
    keys = legend(
        [
            ("chosen", "a model; the area of its circle is its size"),
            ("flag", "what they are compared with (dashed line)"),
        ]
    )
    return join(told, drawing, keys if len(points) > 1 else "", tag("p", _latencies(every), _class="note"))


def _latencies(every: Sequence[Measured]) -> str:
    said = "Latencies are medians on the computer that measured, not on the device."
    slow = [one.candidate.name for one in every if one.candidate.proof not in ("", "executed")]
    return said + (f" Not run by the device's own engine there: {', '.join(slow)}." if slow else "")


def _models(comparison: Comparison) -> Html:
    names = list(comparison.reference.figures)
    columns = [
        Column("Model", kind="name"),
        Column(names[0], numeric=True, first="descending"),
        Column("Difference", numeric=True, first="descending"),
        *(Column(name, numeric=True, first="descending") for name in names[1:]),
        Column("Inference ms", numeric=True),
        Column("Whole ms", numeric=True),
        Column("MB", numeric=True),
        Column("Runs"),
    ]
    rows = [_model_row(comparison, one, names) for one in comparison.measured]
    note = f"Difference: to {comparison.reference.candidate.name}. " if len(rows) > 1 else ""
    note += f"{comparison.latencies.columns} MB: model files, or a source's parameters."
    return table("Models", columns, rows, note)


def _model_row(comparison: Comparison, one: Measured, names: Sequence[str]) -> Row:
    change = comparison.difference(one)
    figures = [Cell(f"{one.figures[name]:.4f}", one.figures[name], "number") for name in names]
    return Row(
        [
            Cell(one.candidate.name, one.candidate.name, "name"),
            figures[0],
            Cell("" if change is None else f"{change:+.4f}", change, "number"),
            *figures[1:],
            Cell(number(one.inference), one.inference, "number"),
            Cell(number(one.total), one.total, "number"),
            Cell(f"{one.candidate.bytes / 1e6:.2f}", float(one.candidate.bytes), "number"),
            Cell("PyTorch" if one.candidate.source else one.candidate.proof or "unproven"),
        ]
    )


def _classes(comparison: Comparison) -> Html:
    truth = comparison.reference.report[0].per_class
    columns = [Column(_part(comparison), kind="name")]
    columns += [Column(one.candidate.name, numeric=True, first="descending") for one in comparison.measured]
    rows = []
    for name, reference in truth.items():
        values = [one.report[0].per_class.get(name) for one in comparison.measured]
        cells = [Cell("–" if value is None else f"{value:.3f}", value, "number") for value in values]
        lost = any(value is not None and reference - value > LOSS for value in values)
        rows.append(Row([Cell(name, name, "name"), *cells], flagged=lost))
    note = f"Highlighted: a model loses more than {LOSS:g} against {comparison.reference.candidate.name}."
    return table(_parts(comparison), columns, rows, note if len(comparison.measured) > 1 else "")
