"""``edgekit demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
        rows = [
            {"target": m.target, "precision": m.precision, "mAP": m.map, "mAP50": m.map50, "latency_ms": m.latency}
            for m in done.measured
        ]
        failed = [outcome_data(outcome) for outcome in done.conversions.outcomes if not outcome.ok]
        click.echo(json.dumps({"measured": rows, "failed": failed, "picture": str(done.picture)}, indent=2))
    else:
        _print(done)
    click.get_current_context().exit(0 if done.conversions.ok else 1)


def _print(done: Demonstration) -> None:
    from edgekit.cli._reports import table

    source = done.measured[0]
    columns = ("target", "precision", "size", "mAP", "to source", "ms", "evidence")
    rows = [_row(measured, source) for measured in done.measured]
    for outcome in done.conversions.outcomes:
        if outcome.bundle is None:
            rows.append([outcome.target, outcome.precision, "-", "-", "-", "-", f"[red]{outcome.error}[/red]"])
    table(columns, rows, right=("size", "mAP", "to source", "ms"))
    click.echo(f"mAP50-95 on {done.scenes} held-out scenes; ms: median inference here, one image at a time")
    click.echo(f"picture: {done.picture}")


def _row(measured: Measured, source: Measured) -> list[str]:
    from edgekit.cli._reports import megabytes

    outcome = measured.outcome
    size, words = "-", "the source"
    if outcome and outcome.bundle and outcome.evidence:
        decoded = outcome.evidence.decoded
        size = megabytes(outcome.bundle.bytes)
        words = f"{outcome.evidence.word}, {decoded.matched:.1%} of {decoded.detections} matched"
    change = f"{measured.map - source.map:+.4f}" if outcome else ""
    return [measured.target, measured.precision, size, f"{measured.map:.4f}", change, f"{measured.latency:.2f}", words]
