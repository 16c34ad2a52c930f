"""``edgekit added``: what this plugin brought."""

from __future__ import annotations

import click


@click.command(short_help="What the plugin brought.")
def command() -> None:
    """Print one line for each kind of thing."""
    from edgekit.converters import target_names
    from edgekit.runtimes.engines import engine_names
    from edgekit.runtimes.tasks.decoders import every_decoder
    from edgekit.runtimes.tracking import tracker_names
    from edgekit.sources import every

    for names in (target_names(), engine_names(), tuple(every_decoder()), tracker_names()):
        click.echo(" ".join(names))
    click.echo("; ".join(source.kind for source in every()))
