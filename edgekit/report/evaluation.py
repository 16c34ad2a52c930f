"""The page of a comparison of models: what each gains and costs, as a chart and as tables."""

from __future__ import annotations

from pathlib import Path

from edgekit.evaluation.comparison import Comparison, Measured
from edgekit.report.charts import Point, scatter
from edgekit.report.numbers import number, percent
from edgekit.report.render import Cell, Column, Row, Table, figure, largest, name, numeric, write_page

LOSS = 0.05
"""A class that loses more than this of its figure against the reference is highlighted."""


def write_evaluation(comparison: Comparison, data: str, path: Path) -> None:
    """Write the page of a comparison as one HTML file.

    Args:
        comparison: what was measured.
        data: what it was measured on, in words.
        path: of the file; its folder is made.

    Raises:
        UsageError: it cannot be written.
    """
    every = comparison.measured
    main = next(iter(comparison.reference.figures))
    points = [
        Point(one.candidate.name, one.inference, one.main, one.candidate.bytes, one is comparison.reference)
        for one in every
    ]
    words = "; ".join(f"{point.name}: {percent(point.accuracy)}, {number(point.latency)} ms" for point in points)
    write_page(
        "evaluation.html.j2",
        path,
        data=data,
        main=main,
        several=len(every) > 1,
        best=max(every, key=lambda one: one.main),
        fastest=min(every, key=lambda one: one.inference),
        smallest=min(every, key=lambda one: one.candidate.bytes),
        plot=scatter(points, measure=main, told=f"{main} against latency. {words}"),
        elsewhere=[one.candidate.name for one in every if one.candidate.proof not in ("", "executed")],
        models=_models(comparison),
        parts="Questions" if comparison.reference.report[0].kind == "answers" else "Classes",
        classes=_classes(comparison) if comparison.reference.report[0].per_class else None,
    )


def _models(comparison: Comparison) -> Table:
    first, *others = comparison.reference.figures
    columns = [Column("Model", kind="name"), largest(first), largest("Difference"), *map(largest, others)]
    columns += [numeric("Inference ms"), numeric("Whole ms"), numeric("MB"), Column("Runs")]
    rows = [_model(comparison, one, first, others) for one in comparison.measured]
    note = f"Difference: to {comparison.reference.candidate.name}. " if len(rows) > 1 else ""
    return Table(
        "Models", columns, rows, f"{note}{comparison.latencies.columns} MB: model files, or a source's parameters."
    )


def _model(comparison: Comparison, one: Measured, first: str, others: list[str]) -> Row:
    change = comparison.difference(one)
    return Row(
        [
            name(one.candidate.name),
            _score(one.figures[first], 4),
            Cell("" if change is None else f"{change:+.4f}", change, "number"),
            *(_score(one.figures[other], 4) for other in others),
            figure(one.inference),
            figure(one.total),
            Cell(f"{one.candidate.bytes / 1e6:.2f}", float(one.candidate.bytes), "number"),
            Cell("PyTorch" if one.candidate.source else one.candidate.proof or "unproven"),
        ]
    )


def _score(value: float | None, digits: int) -> Cell:
    return Cell("–" if value is None else f"{value:.{digits}f}", value, "number")


def _classes(comparison: Comparison) -> Table:
    reference, models = comparison.reference.report[0], comparison.measured
    part = "Question" if reference.kind == "answers" else "Class"
    rows = []
    for label, wanted in reference.per_class.items():
        values = [one.report[0].per_class.get(label) for one in models]
        lost = any(value is not None and wanted - value > LOSS for value in values)
        rows.append(Row([name(label), *(_score(value, 3) for value in values)], flagged=lost))
    note = f"Highlighted: a model loses more than {LOSS:g} against {comparison.reference.candidate.name}."
    columns = [Column(part, kind="name"), *(largest(one.candidate.name) for one in models)]
    return Table("Classes", columns, rows, note if len(models) > 1 else "")
