"""The page of a comparison of models: what each gains and costs, as a chart and as tables."""

from __future__ import annotations

from pathlib import Path

from edgekit.evaluation.comparison import ModelComparison
from edgekit.report.charts import ChartPoint, scatter
from edgekit.report.numbers import number, percent
from edgekit.report.render import write_page

LOSS = 0.05
"""A class that loses more than this of its figure against the reference is highlighted."""


def write_evaluation(comparison: ModelComparison, data: str, path: Path) -> None:
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
        ChartPoint(one.candidate.name, one.inference, one.main, one.candidate.bytes, one is comparison.reference)
        for one in every
    ]
    words = "; ".join(f"{point.name}: {percent(point.accuracy)}, {number(point.latency)} ms" for point in points)
    write_page(
        "evaluation.html.j2",
        path,
        data=data,
        main=main,
        best=max(every, key=lambda one: one.main),
        fastest=min(every, key=lambda one: one.inference),
        smallest=min(every, key=lambda one: one.candidate.bytes),
        plot=scatter(points, measure=main, alt=f"{main} against latency. {words}"),
        elsewhere=[one.candidate.name for one in every if one.candidate.proof not in ("", "executed")],
        comparison=comparison,
        loss=LOSS,
    )
