"""``edgekit evidence``."""

from __future__ import annotations

import click

from edgekit.cli._terminal import say


@click.group(short_help="Add a device's self-check to a bundle.")
def command() -> None:
    """Evidence that comes from devices; edgekit info shows it."""


@command.command()
@click.argument("bundle")
@click.argument("record")
def add(bundle: str, record: str) -> None:
    """Note in BUNDLE that a device replayed its golden frames. RECORD is the output of edgekit selfcheck --json there.

    A record of another bundle, or one whose results do not agree, is refused.
    """
    from edgekit.runtimes.selfcheck import add_record

    noted = (add_record(bundle, record).manifest.executions or ())[-1]
    say(f"{bundle}: {noted.sentence()}")
