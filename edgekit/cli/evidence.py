"""``edgekit evidence``."""

from __future__ import annotations

import click

from edgekit.cli._terminal import say


@click.group(short_help="Note in a bundle what a device's self-check found.")
def command() -> None:
    """Evidence that comes from devices; edgekit info shows it."""


@command.command()
@click.argument("bundle")
@click.argument("record")
def add(bundle: str, record: str) -> None:
    """Note in BUNDLE that a device replayed its golden frames; RECORD is what edgekit selfcheck --json printed there.

    Refused where the record is of another bundle, or where the device's results do not agree.
    """
    from edgekit.runtimes.selfcheck import add_record

    noted = (add_record(bundle, record).manifest.executions or ())[-1]
    say(f"{bundle}: {noted.sentence()}")
