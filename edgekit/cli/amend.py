"""``edgekit amend``."""

from __future__ import annotations

import click

from edgekit.cli._options import imports_option, json_option, read_values
from edgekit.cli._terminal import say


@click.command(short_help="Change thresholds, class names or tracker options of a bundle, without converting.")
@click.argument("bundle")
@click.option("--score", type=float, help="Minimum score of a result, 0..1.")
@click.option("--iou", type=float, help="IoU above which NMS drops a box, 0..1.")
@click.option("--max-detections", type=int, help="Maximum number of results per image.")
@click.option("--class", "classes", multiple=True, metavar="ID=NAME", help="New name of a class: 3=lorry.")
@click.option(
    "--tracker-option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Tracker option for run --track: new_score=0.45.",
)
@imports_option
@json_option
def command(
    bundle: str,
    score: float | None,
    iou: float | None,
    max_detections: int | None,
    classes: tuple[str, ...],
    options: tuple[str, ...],
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Change settings of BUNDLE. The network and the evidence stay; info shows what was changed, and when."""
    import json

    import msgspec

    from edgekit.cli.info import change_text
    from edgekit.runtimes.amend import amend

    amended = amend(
        bundle,
        score=score,
        iou=iou,
        max_detections=max_detections,
        classes=_named(classes),
        tracker_options=read_values(options, "--tracker-option"),
    )
    last = (amended.manifest.amendments or ())[-1]
    if as_json:
        say(json.dumps({"bundle": str(amended.path), **msgspec.to_builtins(last)}, indent=2))
    else:
        say(f"{amended.path}: {', '.join(map(change_text, last.changes))}")


def _named(given: tuple[str, ...]) -> dict[int, str]:
    """``ID=NAME`` pairs."""
    from edgekit.errors import UsageError

    found: dict[int, str] = {}
    for pair in given:
        number, equals, name = pair.partition("=")
        if not (number.isdecimal() and equals):
            raise UsageError(
                f"--class {pair}: write it as ID=NAME, for example 3=lorry; edgekit info lists the classes"
            )
        if int(number) in found:
            raise UsageError(f"--class {pair}: class {number} is given twice")
        found[int(number)] = name
    return found
