"""``edgekit demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._options import json_option, split_names

if TYPE_CHECKING:
    from edgekit.conversion.demo import Demonstration, Measured


@click.command(short_help="Convert the detector that comes with edgekit to every target here.")
@click.option("--target", "targets", default="all", show_default=True, help="Targets, comma-separated.")
@click.option("--precision", "precisions", default="fp32,fp16,int8", show_default=True, help="Precisions.")
@click.option("--scenes", type=click.IntRange(1, 100_000), default=300, show_default=True, help="Held-out scenes.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("-j", "--jobs", type=click.IntRange(1), default=2, show_default=True, help="Targets built at once.")
@json_option
def command(targets: str, precisions: str, scenes: int, out: Path, jobs: int, as_json: bool) -> None:
    """Convert a detector of shapes, measure each bundle on scenes it has never seen, and draw what it finds."""
    import json

    from edgekit.cli._reports import outcome_data, progress_bars
    from edgekit.conversion.demo import demonstrate

    with progress_bars() as watch:
        done = demonstrate(out, split_names(targets), split_names(precisions), scenes, jobs, watch)
    if as_json:
        conversions = done.conversions
        document = {
            "measured": [_data(measured) for measured in done.measured],
            "failed": [outcome_data(outcome) for outcome in conversions.outcomes if not outcome.ok],
            "skipped": [{"target": one.target, "reason": one.reason} for one in conversions.skipped],
            "picture": str(done.picture),
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _print(done)
    click.get_current_context().exit(0 if done.conversions.ok else 1)


def _data(measured: Measured) -> dict[str, Any]:
    data = {
        "target": measured.target,
        "precision": measured.precision,
        "mAP": measured.map,
        "mAP50": measured.map50,
        "latency_ms": measured.latency,
    }
    outcome = measured.outcome
    if outcome and outcome.bundle and outcome.evidence and outcome.evidence.decoded:
        decoded = outcome.evidence.decoded
        data |= {"word": outcome.evidence.word, "matched": decoded.matched, "score_drift": decoded.score_drift}
        data |= {"bytes": outcome.bundle.bytes}
    return data


def _print(done: Demonstration) -> None:
    from edgekit.cli._reports import escape, table

    source = done.measured[0]
    columns = ("target", "precision", "size", "mAP", "to source", "ms", "evidence")
    rows = [_row(measured, source) for measured in done.measured]
    for outcome in done.conversions.outcomes:
        if outcome.bundle is None:
            error = f"[red]{escape(str(outcome.error))}[/red]"
            rows.append([outcome.target, outcome.precision, "-", "-", "-", "-", error])
    for one in done.conversions.skipped:
        rows.append([one.target, "-", "-", "-", "-", "-", f"[dim]{escape(one.reason)}[/dim]"])
    table(columns, rows, right=("size", "mAP", "to source", "ms"))
    click.echo(f"mAP50-95 on {done.scenes} held-out scenes; ms: median inference here, one image at a time")
    click.echo(f"picture: {done.picture}")


def _row(measured: Measured, source: Measured) -> list[str]:
    from edgekit.cli._reports import megabytes

    outcome = measured.outcome
    size, words = "-", "the source"
    if outcome and outcome.bundle and outcome.evidence and outcome.evidence.decoded:
        decoded = outcome.evidence.decoded
        size = megabytes(outcome.bundle.bytes)
        words = f"{outcome.evidence.word}, {decoded.matched:.1%} of {decoded.detections} matched"
    found, change = "-", ""
    if measured.map is not None:
        found = f"{measured.map:.4f}"
        change = f"{measured.map - source.map:+.4f}" if outcome and source.map is not None else ""
    return [measured.target, measured.precision, size, found, change, f"{measured.latency:.2f}", words]
