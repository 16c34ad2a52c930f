"""``edgekit demo``: the two kinds of models through the whole toolkit, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._options import json_option, split_names
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.conversion.bundle_builder import Outcome
    from edgekit.conversion.demo import Demonstration, Measured
    from edgekit.runtimes.bundle.manifest import Speed


@click.command(short_help="Convert a detector and a small BLIP-2, measure them, and show what they find.")
@click.option("--target", "targets", default="onnx,openvino,litert,ncnn", show_default=True, help="Targets, or all.")
@click.option("--precision", "precisions", default="fp32,int8", show_default=True, help="Precisions.")
@click.option("--scenes", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Held-out scenes.")
@click.option(
    "--blip2",
    type=click.Path(path_type=Path, file_okay=False),
    help="A BLIP-2 trained on shapes.  [default: the repository's examples/blip2/opt, if it is there]",
)
@click.option("--no-blip2", is_flag=True, help="Convert only the detector.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("-j", "--jobs", type=click.IntRange(1), default=2, show_default=True, help="Targets built at once.")
@json_option
def command(
    targets: str, precisions: str, scenes: int, blip2: Path | None, no_blip2: bool, out: Path, jobs: int, as_json: bool
) -> None:
    """Convert a detector of shapes, measure each bundle on scenes it has never seen, and draw what it finds.

    Then convert a small BLIP-2 and print its answers about a scene. --target all takes longer.
    """
    import json

    from edgekit.cli._progress import progress_bars
    from edgekit.cli._reports import outcome_data
    from edgekit.conversion.demo import demonstrate

    if blip2 is not None and no_blip2:
        raise click.UsageError("--blip2 and --no-blip2 exclude each other")
    blip2 = None if no_blip2 else blip2 or _shipped_blip2()
    names, wanted = split_names(targets), split_names(precisions)
    with progress_bars(_expected(names, wanted, blip2 is not None)) as watch:
        done = demonstrate(out, names, wanted, scenes, jobs, watch, blip2)
    if as_json:
        outcomes = [outcome for conversions in done.conversions for outcome in conversions.outcomes]
        document: dict[str, Any] = {
            "measured": [_data(measured) for measured in done.measured],
            "failed": [outcome_data(outcome) for outcome in outcomes if not outcome.ok],
            "skipped": [{"target": one.target, "reason": one.reason} for one in done.conversions[0].skipped],
            "picture": str(done.picture),
        }
        if done.described:
            said = done.described
            document["described"] = {
                "bundle": str(said.bundle.path),
                "picture": str(said.picture),
                "caption": said.caption,
                "question": said.question,
                "answer": said.answer,
            }
        say(json.dumps(document, indent=2))
    else:
        _print(done)
    click.get_current_context().exit(0 if done.ok else 1)


def _expected(targets: tuple[str, ...], precisions: tuple[str, ...], blip2: bool) -> dict[str, float]:
    """Seconds of each step on two cores, by the names that progress is told by."""
    from edgekit.conversion.dry_run import expected_seconds

    steps = {"scenes": 6.0, **(expected_seconds(targets, precisions) or {})}
    steps["mAP"] = 2.0 * len(steps)
    return steps | ({"blip2 prepare": 12.0, "blip2 onnx int4": 12.0} if blip2 else {})


def _shipped_blip2() -> Path | None:
    """The small BLIP-2 of the repository; a wheel does not have it."""
    import edgekit

    found = Path(edgekit.__file__).parents[1] / "examples" / "blip2" / "opt"
    return found if (found / "model.safetensors").is_file() else None


def _data(measured: Measured) -> dict[str, Any]:
    import msgspec

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
    if speed := _speed(measured):
        data["speed"] = msgspec.to_builtins(speed)
    return data


def _print(done: Demonstration) -> None:
    from edgekit.cli._reports import escape, table

    source = done.measured[0]
    columns = ("target", "precision", "size", "mAP", "to source", "ms", "to float", "evidence")
    rows = [_row(measured, source) for measured in done.measured]
    detectors, *others = done.conversions
    rows += [_text_row(outcome) for conversions in others for outcome in conversions.outcomes if outcome.bundle]
    for outcome in (outcome for conversions in done.conversions for outcome in conversions.outcomes):
        if outcome.bundle is None:
            error = f"[red]{escape(str(outcome.error))}[/red]"
            rows.append([outcome.target, outcome.precision, "-", "-", "-", "-", "", error])
    for one in detectors.skipped:
        rows.append([one.target, "-", "-", "-", "-", "-", "", f"[dim]{escape(one.reason)}[/dim]"])
    table(columns, rows, right=("size", "mAP", "to source", "ms", "to float"))
    say(f"mAP50-95 on {done.scenes} held-out scenes; ms: median inference here, one image at a time")
    speeds = [speed for measured in done.measured if (speed := _speed(measured))]
    say("to float: the time of inference over that of fp32, on one thread, both in turns")
    if not all(speed.faster for speed in speeds):
        say("where that is not clearly below 1, INT8 is smaller here, not faster")
    say(f"what each bundle finds: {done.picture}")
    if done.described:
        said = done.described
        say(f"what {said.bundle.path.name} says of a scene: {said.picture}")
        say(f"  caption: {said.caption}\n  {said.question} {said.answer}")
    elif len(done.conversions) == 1:
        say("no BLIP-2: give a folder with --blip2 (the repository has one in examples/blip2/opt)")


def _text_row(outcome: Outcome) -> list[str]:
    from edgekit.cli._reports import megabytes

    evidence, size = outcome.evidence, megabytes(outcome.bundle.bytes) if outcome.bundle else "-"
    words = "not compared"
    if evidence and evidence.texts:
        words = f"{evidence.word}, {evidence.texts.matched:.1%} of {evidence.texts.positions} tokens matched"
    return [f"{outcome.target} (BLIP-2)", outcome.precision, size, "-", "", "-", "", words]


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
    speed = _speed(measured)
    times = f"{speed.ratio:.2f}x" if speed else ""
    return [measured.target, measured.precision, size, found, change, f"{measured.latency:.2f}", times, words]


def _speed(measured: Measured) -> Speed | None:
    bundle = measured.outcome.bundle if measured.outcome else None
    return bundle.manifest.speed if bundle else None
